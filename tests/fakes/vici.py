"""A charon that speaks the vici protocol on a Unix socket, for tests that need no strongSwan and no root.

It passes the contract in vici_contract.py, as the real charon does. Besides it can misbehave: stall, drop its
connections, refuse commands, not know an event, and send bytes of the test's choice.
"""

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from vici.protocol import FiniteStream, Message, Packet

__all__ = ["EVENTS", "FakeCharon", "child_section", "ike_section"]

EVENTS = ("ike-updown", "ike-rekey", "ike-update", "child-updown", "child-rekey", "list-sa", "control-log")
Section = dict[str, Any]
NOTHING_TO_TERMINATE: Section = {
    "success": "no",
    "matches": "0",
    "terminated": "0",
    "errmsg": "no matching SAs to terminate found",
}


def ike_section(unique_id: int, **changes: object) -> Section:
    """What list-sas says of an IKE_SA, as strongSwan 5.9.8 does; a change to None removes a field."""
    return _changed(
        {
            "uniqueid": str(unique_id),
            "version": "2",
            "state": "ESTABLISHED",
            "local-host": "10.0.1.2",
            "local-port": "500",
            "local-id": "terminal1@lab",
            "remote-host": "10.9.0.1",
            "remote-port": "500",
            "remote-id": "gateway@lab",
            "initiator": "yes",
            "initiator-spi": f"{0xA0000000000000 + unique_id:016x}",
            "responder-spi": f"{0xB0000000000000 + unique_id:016x}",
            "encr-alg": "AES_CBC",
            "encr-keysize": "128",
            "established": "3",
            "local-vips": ["10.3.0.1"],
        },
        changes,
    )


def child_section(unique_id: int, **changes: object) -> Section:
    """What list-sas says of a CHILD_SA; a change to None removes a field."""
    return _changed(
        {
            "name": "net",
            "uniqueid": str(unique_id),
            "reqid": "1",
            "state": "INSTALLED",
            "mode": "TUNNEL",
            "protocol": "ESP",
            "spi-in": f"c{unique_id:07x}",
            "spi-out": f"d{unique_id:07x}",
            "encr-alg": "AES_GCM_16",
            "bytes-in": "0",
            "local-ts": ["10.3.0.1/32"],
            "remote-ts": ["10.1.0.0/16"],
        },
        changes,
    )


def _changed(section: Section, changes: Mapping[str, object]) -> Section:
    merged = section | {key.replace("_", "-"): value for key, value in changes.items()}
    return {key: value for key, value in merged.items() if value is not None}


class FakeCharon:
    """A charon with one configured connection, `roam`, with one child, `net`. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sas: dict[int, Section] = {}
        self.children: dict[int, Section] = {}
        """CHILD_SA sections by the id of their IKE_SA."""
        self.events = set(EVENTS)
        self.refusals: dict[str, str] = {}
        self.commands: list[str] = []
        """All commands that came."""
        self.connections = 0
        """Connections there have been."""
        self.stalled = threading.Event()
        """While set, nothing is answered."""
        self.extra_listing: list[Section] = []
        """More sections that list-sas sends, whatever they hold."""
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._clients: dict[socket.socket, set[str]] = {}
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """Go, as a charon that is killed: the socket's file stays away."""
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self.path.unlink(missing_ok=True)
        self.drop()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        self._threads.clear()

    def drop(self) -> None:
        """Close all connections."""
        with self._lock:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def emit(self, event: str, message: Mapping[str, object]) -> None:
        """Raise an event on all connections that registered for it."""
        self.send_raw(event, Packet._named_request(Packet.EVENT, event, Message.serialize(message)))

    def send_raw(self, event: str, packet: bytes) -> None:
        """Send a packet to all connections that registered for an event."""
        with self._lock:
            for client, events in self._clients.items():
                if event in events:
                    _send(client, packet)

    def send_bytes(self, event: str, data: bytes) -> None:
        """Send bytes that need not be a packet to all connections that registered for an event."""
        with self._lock:
            for client, events in self._clients.items():
                if event in events:
                    client.sendall(data)

    def establish(self) -> int:
        """Set up the tunnel, with its events; returns the id of the IKE_SA."""
        ike_id, child_id = next(self._ids), next(self._ids)
        with self._lock:
            self.sas[ike_id] = ike_section(ike_id)
            self.children[ike_id] = child_section(child_id)
            sa, child = self.sas[ike_id], {f"net-{child_id}": self.children[ike_id]}
        self.emit("ike-updown", {"up": "yes", "roam": sa})
        self.emit("child-updown", {"up": "yes", "roam": sa | {"child-sas": child}})
        return ike_id

    def _spawn(self, target: Any, argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._clients[client] = set()
                self.connections += 1
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client:
            while packet := _receive(client):
                if not self.stalled.is_set():
                    self._answer(client, packet)
            with self._lock:
                del self._clients[client]

    def _answer(self, client: socket.socket, packet: bytes) -> None:
        kind, length = packet[0], packet[1]
        name, payload = packet[2 : 2 + length].decode(), packet[2 + length :]
        with self._lock, contextlib.suppress(OSError):
            if kind in (Packet.EVENT_REGISTER, Packet.EVENT_UNREGISTER):
                known = name in self.events
                if known and kind == Packet.EVENT_REGISTER:
                    self._clients[client].add(name)
                self._clients[client] -= set() if kind == Packet.EVENT_REGISTER else {name}
                _send(client, bytes([Packet.EVENT_CONFIRM if known else Packet.EVENT_UNKNOWN]))
                return
            self.commands.append(name)
            method = getattr(self, "_" + name.replace("-", "_") + "_command", None)
            if method is None:
                _send(client, bytes([Packet.CMD_UNKNOWN]))
                return
            message = {key: value.decode() for key, value in Message.deserialize(FiniteStream(payload)).items()}
            if name in self.refusals:
                answer = {"success": "no", "errmsg": self.refusals[name]}
            else:
                answer = method(client, message)
            _send(client, bytes([Packet.CMD_RESPONSE]) + Message.serialize(answer))

    def _version_command(self, _client: socket.socket, _message: Mapping[str, str]) -> Section:
        return {"daemon": "charon-systemd", "version": "5.9.8", "sysname": "Linux"}

    def _list_sas_command(self, client: socket.socket, message: Mapping[str, str]) -> Section:
        for ike_id, sa in self.sas.items():
            if message.get("ike-id", str(ike_id)) == str(ike_id):
                child = self.children[ike_id]
                listed = {"roam": sa | {"child-sas": {f"net-{child['uniqueid']}": child}}}
                _send(client, Packet._named_request(Packet.EVENT, "list-sa", Message.serialize(listed)))
        for extra in self.extra_listing:
            _send(client, Packet._named_request(Packet.EVENT, "list-sa", Message.serialize(extra)))
        return {}

    def _initiate_command(self, _client: socket.socket, message: Mapping[str, str]) -> Section:
        if (message.get("child"), message.get("ike")) != ("net", "roam"):
            return {"success": "no", "errmsg": f"CHILD_SA config '{message.get('child')}' not found"}
        self.establish()
        return {"success": "yes"}

    def _rekey_command(self, _client: socket.socket, message: Mapping[str, str]) -> Section:
        if "child-id" in message:
            return self._rekey_child(message["child-id"])
        old = int(message["ike-id"])
        if old not in self.sas:
            return {"success": "no", "matches": "0", "errmsg": "no matching SAs to rekey found"}
        new = next(self._ids)
        former, sa = self.sas.pop(old), ike_section(new)
        self.sas[new], self.children[new] = sa, self.children.pop(old)
        self.emit("ike-rekey", {"roam": {"old": former, "new": sa}})
        return {"success": "yes", "matches": "1"}

    def _rekey_child(self, child_id: str) -> Section:
        for ike_id, former in self.children.items():
            if former["uniqueid"] == child_id:
                new = self.children[ike_id] = child_section(next(self._ids))
                pair = {"net": {"old": former | {"state": "REKEYED"}, "new": new}}
                self.emit("child-rekey", {"roam": self.sas[ike_id] | {"child-sas": pair}})
                return {"success": "yes", "matches": "1"}
        return {"success": "no", "matches": "0", "errmsg": "no matching SAs to rekey found"}

    def _terminate_command(self, _client: socket.socket, message: Mapping[str, str]) -> Section:
        if "child-id" in message:
            return self._terminate_child(message["child-id"])
        ike_id = int(message["ike-id"])
        if ike_id not in self.sas:
            return NOTHING_TO_TERMINATE
        sa, child = self.sas.pop(ike_id), self.children.pop(ike_id)
        self.emit("child-updown", {"roam": sa | {"child-sas": {f"net-{child['uniqueid']}": child}}})
        self.emit("ike-updown", {"roam": sa})
        return {"success": "yes", "matches": "1", "terminated": "1"}

    def _terminate_child(self, child_id: str) -> Section:
        for ike_id, child in self.children.items():
            if child["uniqueid"] == child_id:
                self.children[ike_id] = child | {"state": "DELETED"}
                self.emit("child-updown", {"roam": self.sas[ike_id] | {"child-sas": {f"net-{child_id}": child}}})
                return {"success": "yes", "matches": "1", "terminated": "1"}
        return NOTHING_TO_TERMINATE


def _send(client: socket.socket, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # the other side left: charon does not mind either
        client.sendall(struct.pack("!I", len(packet)) + packet)


def _receive(client: socket.socket) -> bytes:
    """A packet, or nothing when the connection ended."""
    data = b""
    wanted = 4
    while len(data) < wanted:
        try:
            more = client.recv(wanted - len(data))
        except OSError:
            return b""
        if not more:
            return b""
        data += more
        if len(data) == 4 and wanted == 4:
            wanted += struct.unpack("!I", data)[0]
    return data[4:]
