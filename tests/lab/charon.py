"""charon in a namespace: strongSwan as it is, configured through the files its users write."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import vici
from vici.exception import CommandException

from tests.lab.conditions import eventually
from tests.lab.errors import Ended, LabError
from tests.lab.hosts import Host
from tests.lab.topology import GATEWAY_WAN, INNER_NETWORK, INNER_NETWORK6, INNER_POOL, INNER_POOL6

__all__ = ["SITE", "Charon", "ChildSa", "IkeSa", "TunnelOptions", "gateway_connection", "terminal_connection"]

# The plugins that PSK and XAUTH need: charon starts in a third of the time that all of Debian's take.
PLUGINS = (
    "random nonce aes sha1 sha2 hmac kdf gcm ccm ctr chapoly curve25519 drbg openssl kernel-netlink socket-default vici"
    " xauth-generic"
)
CONNECTION = "roam"
CHILD = "net"
USER = "user@lab"
SITE = "site"
"""A connection without virtual IP, beside the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelOptions:
    """How a tunnel is set up; the defaults are strongSwan's but for MOBIKE."""

    mobike: bool = False
    mobike_refused: bool = False
    """Whether the gateway refuses MOBIKE, which terminals offer."""
    roam_events: bool = False
    """charon.plugins.kernel-netlink.roam_events of both ends: strongSwan's default is on. With it charon renegotiates a
    tunnel without MOBIKE 100 ms after the address goes, and whoever would move it has to be faster; a story that counts
    packets must not depend on winning a race."""
    ike_version: int = 2
    ike_proposal: str = "aes128-sha256-x25519"
    esp_proposal: str = "aes128gcm16"
    dpd_delay_s: int = 0
    xauth: bool = False
    """Whether the terminal's user gives a name and a password, too: in IKEv1, between main mode and mode config."""
    encap: bool = False
    """Whether the terminal pretends to be behind a NAT, so that ESP is in UDP without one, too."""
    gateway: str = GATEWAY_WAN
    """The address of the gateway that tunnels are set up to."""
    inner: tuple[int, ...] = (4,)
    """IP versions of the terminals' inner addresses, and of what is behind the gateway."""
    asked: tuple[str, ...] = ()
    """The inner addresses that terminals ask for; by default any of each IP version."""
    pools: Mapping[str, str] = field(default_factory=lambda: {"inner": INNER_POOL, "inner6": INNER_POOL6})
    """Networks that the gateway takes inner addresses from, in this order, by the names of the pools."""
    networks: tuple[str, ...] = ()
    """Networks behind the gateway that have a CHILD_SA each; by default there is one for all that is behind it."""
    site: str = ""
    """Mode of the only CHILD_SA of SITE; without one there is no such connection."""
    connection: Mapping[str, str] = field(default_factory=dict)
    """More settings of the connection on both ends, such as rekey_time."""
    child: Mapping[str, str] = field(default_factory=dict)
    """More settings of the children on both ends."""
    child_at_terminal: Mapping[str, str] = field(default_factory=dict)
    """More settings of the children on terminals, which take the place of others."""
    child_at_gateway: Mapping[str, str] = field(default_factory=dict)
    """The same on the gateway."""
    charon: Mapping[str, str] = field(default_factory=dict)
    """More settings of charon itself on both ends, such as retransmit_tries."""

    @property
    def children(self) -> dict[str, str]:
        """The CHILD_SAs, and what is behind the gateway for each."""
        if not self.networks:
            return {CHILD: _listed(self, INNER_NETWORK, INNER_NETWORK6)}
        return {f"{CHILD}{number}": network for number, network in enumerate(self.networks, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSa:
    """A CHILD_SA as `list-sas` shows it."""

    name: str
    unique_id: int
    spi_in: int
    spi_out: int
    reqid: int
    state: str
    encap: bool
    """Whether charon takes it for ESP in UDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSa:
    """An IKE_SA as `list-sas` shows it."""

    name: str
    version: int
    unique_id: int
    state: str
    spis: tuple[str, str]
    local: str
    remote: str
    local_port: int
    remote_port: int
    nat: frozenset[str]
    """Who charon thinks is behind a NAT: of "local", "remote", "any" and "fake" (`encap = yes`)."""
    inner: tuple[str, ...]
    """Virtual IPs: of this end on the terminal, of the other on the gateway."""
    children: tuple[ChildSa, ...]
    replaced: tuple[ChildSa, ...]
    """CHILD_SAs that were rekeyed and still take packets in: in IKEv1 until they expire."""

    @property
    def superseded(self) -> bool:
        """Whether it was reauthenticated: charon keeps an IKEv1 IKE_SA for ten more seconds."""
        return self.version == 1 and self.state == "ESTABLISHED" and not self.children

    @property
    def identity(self) -> tuple[object, ...]:
        """What any negotiation changes: of a tunnel that only moved it stays the same."""
        return (
            self.unique_id,
            self.spis,
            tuple((child.unique_id, child.spi_in, child.spi_out) for child in self.children),
        )


# What the terminal and the gateway have at either side of the CHILD_SA of SITE, by the side that the gateway's is on.
SITE_SELECTORS: dict[str, dict[str, dict[str, str]]] = {
    "tunnel": {
        "remote_ts": {"local_ts": "10.8.0.0/24", "remote_ts": "10.1.0.99/32"},
        "local_ts": {"local_ts": "10.1.0.99/32", "remote_ts": "10.8.0.0/24"},
    },
    "transport": {
        "remote_ts": {"remote_ts": "dynamic[tcp/80]"},
        "local_ts": {"local_ts": "dynamic[tcp/80]"},
    },
}


XAUTH_ID = {"local": f"      xauth_id = {USER}\n", "remote": ""}
"""What else the section of the user says, on the terminal and on the gateway."""


def terminal_connection(number: int, options: TunnelOptions) -> str:
    """swanctl.conf of the terminal of a number."""
    return _swanctl(
        options,
        ends=f"remote_addrs = {options.gateway}",
        addresses=f"vips = {', '.join(options.asked) or _listed(options, '0.0.0.0', '::')}",  # noqa: S104
        local=f"terminal{number}@lab",
        remote="gateway@lab",
        side="remote_ts",
        user="local",
        child=options.child_at_terminal,
        encap=options.encap,
    )


def gateway_connection(options: TunnelOptions) -> str:
    """swanctl.conf of the gateway, for all terminals."""
    return _swanctl(
        options,
        ends=f"local_addrs = {options.gateway}",
        addresses=f"pools = {', '.join(options.pools)}",
        local="gateway@lab",
        remote="%any" if options.ike_version == 2 else "",
        side="local_ts",
        user="remote",
        child=options.child_at_gateway,
        extra=_pools(options),
    )


def _pools(options: TunnelOptions) -> str:
    sections = (f"  {name} {{\n    addrs = {network}\n  }}\n" for name, network in options.pools.items())
    return "pools {\n" + "".join(sections) + "}\n"


def _listed(options: TunnelOptions, four: str, six: str) -> str:
    """What there is of each IP version that the inner addresses have."""
    return ", ".join(four if version == 4 else six for version in options.inner)


def _swanctl(
    options: TunnelOptions,
    *,
    ends: str,
    addresses: str,
    local: str,
    remote: str,
    side: str,
    user: str,
    child: Mapping[str, str],
    encap: bool = False,
    extra: str = "",
) -> str:
    usual = {"esp_proposals": options.esp_proposal, **options.child}
    children = {name: {**usual, side: network, **child} for name, network in options.children.items()}
    roam = _connection(options, CONNECTION, f"{ends}\n    {addresses}", local, remote, children, encap=encap, user=user)
    site = {CHILD: {**usual, "mode": options.site, **SITE_SELECTORS[options.site][side]}} if options.site else {}
    whom = f"{SITE}.{remote}" if "@" in remote else remote
    beside = _connection(options, SITE, ends, f"{SITE}.{local}", whom, site) if site else ""
    return f"""connections {{
{roam}{beside}}}
secrets {{
  ike-lab {{
    secret = "a secret of the lab"
  }}
  xauth-lab {{
    id = {USER}
    secret = "a password of the lab"
  }}
}}
{extra}"""


def _connection(
    options: TunnelOptions,
    name: str,
    ends: str,
    local: str,
    remote: str,
    children: Mapping[str, Mapping[str, str]],
    *,
    encap: bool = False,
    user: str = "",
) -> str:
    connection = "".join(f"    {key} = {value}\n" for key, value in options.connection.items())
    sections = ""
    for child, settings in children.items():
        lines = "".join(f"        {key} = {value}\n" for key, value in settings.items())
        sections += f"      {child} {{\n{lines}      }}\n"
    asked = f"    {user}-user {{\n      auth = xauth\n{XAUTH_ID[user]}    }}\n" if options.xauth and user else ""
    return f"""  {name} {{
    version = {options.ike_version}
    {ends}
    proposals = {options.ike_proposal}
    mobike = {"yes" if options.mobike and not (options.mobike_refused and user == "remote") else "no"}
    encap = {"yes" if encap else "no"}
    dpd_delay = {options.dpd_delay_s}s
{connection}    local {{
      auth = psk
      id = {local}
    }}
    remote {{
      auth = psk
      {f"id = {remote}" if remote else ""}
    }}
{asked}    children {{
{sections}    }}
  }}
"""


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return {key: _text(inner) for key, inner in value.items()}
    return [_text(inner) for inner in value] if isinstance(value, list) else value


class Charon:
    """charon of one host. Its log grows over restarts."""

    def __init__(self, host: Host, options: TunnelOptions, swanctl: str) -> None:
        self._host = host
        self.socket = host.folder / "charon.vici"
        self.log = host.folder / "charon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._session: Any = None
        self.configuration = host.folder / "swanctl.conf"
        self.configure(options, swanctl)

    def configure(self, options: TunnelOptions, swanctl: str) -> None:
        """Write both configurations; charon reads its own when it starts."""
        host = self._host
        self.configuration.write_text(swanctl)
        # strongSwan 6 has the new IKE_SA first by default, which then gets another inner address.
        settings = {"make_before_break": "no", **options.charon}
        more = "".join(f"  {key} = {value}\n" for key, value in settings.items())
        (host.folder / "strongswan.conf").write_text(f"""charon-systemd {{
  load = {PLUGINS}
  filelog {{
    lab {{
      path = {self.log}
      append = yes
      flush_line = yes
      time_format = %T
      time_add_ms = yes
      default = 1
      knl = 2
      net = 0
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{self.socket}
    }}
    kernel-netlink {{
      roam_events = {"yes" if options.roam_events else "no"}
    }}
  }}
{more}}}
""")

    def start(self) -> None:
        """Start charon; `ready` waits for it."""
        environment = dict(os.environ) | {"STRONGSWAN_CONF": str(self._host.folder / "strongswan.conf")}
        with (self._host.folder / "charon.out").open("ab") as output:
            self._process = self._host.namespace.spawn(
                ["/usr/sbin/charon-systemd"], output=output, environment=environment, private_run=True
            )

    def ready(self) -> None:
        """Wait until charon answers on vici, and load the configuration with swanctl."""

        def answers() -> str:
            if not self.running:
                raise Ended(f"{self._host.name}: charon ended, see charon.out")
            return self.version

        eventually(answers, f"{self._host.name}: charon answers on vici", deadline_s=60)
        self.load()

    def load(self, swanctl: str | None = None) -> None:
        """Load the configuration with swanctl; another one, where given."""
        if swanctl is not None:
            self.configuration.write_text(swanctl)
        self._host.namespace.run(
            ["swanctl", "--load-all", "--uri", f"unix://{self.socket}", "--file", str(self.configuration)]
        )

    @property
    def version(self) -> str:
        """What charon says it is."""
        return str(self._call("version")["version"])

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def sas(self, connection: str = CONNECTION) -> tuple[IkeSa, ...]:
        """All IKE_SAs of a connection, by unique id."""
        found = []
        for listed in self._calls("list_sas", {"ike": connection}):
            for name, sa in listed.items():
                inner = sa.get("local-vips") or sa.get("remote-vips") or []
                children = [_child(child) for child in sa.get("child-sas", {}).values()]
                found.append(
                    IkeSa(
                        name=name,
                        version=int(sa["version"]),
                        unique_id=int(sa["uniqueid"]),
                        state=sa["state"],
                        spis=(sa["initiator-spi"], sa["responder-spi"]),
                        local=sa["local-host"],
                        remote=sa["remote-host"],
                        local_port=int(sa["local-port"]),
                        remote_port=int(sa["remote-port"]),
                        nat=frozenset(who for who in ("local", "remote", "any", "fake") if f"nat-{who}" in sa),
                        inner=tuple(inner),
                        children=tuple(child for child in children if child.state == "INSTALLED"),
                        replaced=tuple(child for child in children if child.state == "REKEYED"),
                    )
                )
        return tuple(sorted(found, key=lambda sa: sa.unique_id))

    def initiate(self, connection: str = CONNECTION, *, deadline_s: float = 60.0) -> None:
        """Set up the tunnel with all its CHILD_SAs and wait for it."""
        wait = {"timeout": int(deadline_s * 1000), "loglevel": 0}
        for listed in self._calls("list_conns", {"ike": connection}):
            for child in listed[connection]["children"]:
                self._calls("initiate", {"child": child, "ike": connection, **wait})

    def terminate(self, connection: str = CONNECTION, *, force: bool = False) -> None:
        """Take the tunnel down, as `swanctl --terminate --ike` does, and wait; with `force` not for an answer.

        charon calls that a failure, but the tunnel is gone.
        """
        if not force:
            self._calls("terminate", {"ike": connection, "timeout": 60000, "loglevel": 0})
            return
        with contextlib.suppress(LabError):
            self._calls("terminate", {"ike": connection, "timeout": 500, "loglevel": 0, "force": "yes"})
        eventually(lambda: not self.sas(connection), f"{self._host.name}: charon gives the tunnel up")

    def terminate_child(self, child: ChildSa) -> None:
        """Take a CHILD_SA down, and wait."""
        self._calls("terminate", {"child-id": str(child.unique_id), "timeout": 60000, "loglevel": 0})

    def rekey_child(self, child: ChildSa) -> None:
        """Have a CHILD_SA rekeyed."""
        self._call("rekey", {"child-id": str(child.unique_id)})

    def rekey_ike(self, sa: IkeSa, *, reauthenticate: bool = False) -> None:
        """Have an IKE_SA rekeyed, which in IKEv1 is a reauthentication."""
        self._call("rekey", {"ike-id": str(sa.unique_id), "reauth": "yes" if reauthenticate else "no"})

    def request(self, command: str, message: Mapping[str, Any] | None = None) -> Any:
        """Any vici command that answers once."""
        return self._call(command, message)

    def stop(self) -> None:
        """End charon in good order: it deletes its tunnels."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End charon at once; the kernel keeps its states."""
        self._end(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        if self._process is not None:
            self._process.send_signal(number)

    def restart(self) -> None:
        """Stop, start and load."""
        self.stop()
        self.start()
        self.ready()

    def _end(self, how: signal.Signals) -> None:
        self._disconnect()
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def _disconnect(self) -> None:
        if self._session is not None:
            with contextlib.suppress(OSError):
                self._session.transport.close()
            self._session = None

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            if self._session is None:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.settimeout(120)
                try:
                    connection.connect(str(self.socket))
                except OSError:
                    connection.close()
                    raise
                self._session = vici.Session(connection)
            yield self._session
        except OSError:
            self._disconnect()
            raise
        except CommandException as error:
            raise LabError(f"{self._host.name}: charon refused: {error}") from error

    def _call(self, command: str, message: Mapping[str, Any] | None = None) -> Any:
        with self._connected() as session:
            method = getattr(session, command)
            return _text(method(message) if message else method())

    def _calls(self, command: str, message: Mapping[str, Any] | None = None) -> list[Any]:
        with self._connected() as session:
            method = getattr(session, command)
            return [_text(item) for item in (method(message) if message else method())]


def _child(child: Mapping[str, str]) -> ChildSa:
    return ChildSa(
        name=child["name"],
        unique_id=int(child["uniqueid"]),
        spi_in=int(child.get("spi-in", "0"), 16),
        spi_out=int(child.get("spi-out", "0"), 16),
        reqid=int(child.get("reqid", "0")),
        state=child["state"],
        encap=child.get("encap") == "yes",
    )
