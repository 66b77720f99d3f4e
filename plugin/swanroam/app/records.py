"""Records of the store: what is known of a tunnel beyond what charon and the kernel tell, and its form as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, TypeVar

from swanroam.core.tunnel import LastMove
from swanroam.model.effects import Trigger
from swanroam.model.events import Reason
from swanroam.model.path import Endpoint, IPAddress, Path
from swanroam.model.tunnel import Capability, TunnelKey

__all__ = ["Malformed", "Record", "decode_record", "encode_key", "encode_record"]

SPI_LIMIT: Final = 1 << 32
COUNT_LIMIT: Final = 1 << 64
PORT_LIMIT: Final = 1 << 16

Word = TypeVar("Word", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one tunnel. Numbers are unsigned: SPIs and ports of 32 and 16 bits, all others of 64."""

    key: TunnelKey
    capability: Capability
    highest: Mapping[int, int] = field(default_factory=dict)
    """Highest sequence number that moved the tunnel, by inbound SPI."""
    moves: int = 0
    last_move: LastMove | None = None
    """`at_s` is in seconds since the epoch here: a monotonic clock means nothing to the next process."""
    rejected: Mapping[Reason, int] = field(default_factory=dict)
    update_sequence: int = 0


class Malformed(ValueError):
    """JSON that is not a record; says where and why."""


def encode_key(key: TunnelKey) -> str:
    """The key as JSON; equal keys give equal text."""
    return json.dumps([key.name, [str(address) for address in key.inner]])


def encode_record(record: Record) -> str:
    """All of the record but its key, as JSON."""
    last = record.last_move
    return json.dumps(
        {
            "capability": record.capability,
            "highest": {str(spi): sequence for spi, sequence in record.highest.items()},
            "moves": record.moves,
            "last_move": None if last is None else _last_move(last),
            "rejected": dict(record.rejected),
            "update_sequence": record.update_sequence,
        },
        sort_keys=True,
    )


def decode_record(key: bytes, record: bytes) -> Record:
    """The record of a key. Raises Malformed for all that `encode_key` and `encode_record` do not write."""
    fields = _object(
        _json(record), "record", {"capability", "highest", "moves", "last_move", "rejected", "update_sequence"}
    )
    last = fields["last_move"]
    return Record(
        key=_decode_key(_json(key)),
        capability=_word(fields["capability"], Capability, "capability"),
        highest={
            _digits(spi): _count(sequence, "highest") for spi, sequence in _object(fields["highest"], "highest").items()
        },
        moves=_count(fields["moves"], "moves"),
        last_move=None if last is None else _decode_last_move(last),
        rejected={
            _word(reason, Reason, "rejected"): _count(number, "rejected")
            for reason, number in _object(fields["rejected"], "rejected").items()
        },
        update_sequence=_count(fields["update_sequence"], "update_sequence"),
    )


def _last_move(last: LastMove) -> dict[str, object]:
    return {
        "at_s": last.at_s,
        "old": _path(last.old),
        "new": _path(last.new),
        "trigger": last.trigger,
        "duration_s": last.duration_s,
        "validated": last.validated,
    }


def _path(path: Path) -> dict[str, object]:
    return {
        "local": [str(path.local.address), path.local.port],
        "remote": [str(path.remote.address), path.remote.port],
        "encap": path.encap,
    }


def _decode_key(value: object) -> TunnelKey:
    match value:
        case [str(name), [*inner]]:
            return TunnelKey(name, tuple(_address(address, "key") for address in inner))
    raise Malformed("key: not a name and addresses")


def _decode_last_move(value: object) -> LastMove:
    fields = _object(value, "last_move", {"at_s", "old", "new", "trigger", "duration_s", "validated"})
    validated = fields["validated"]
    if validated is not None and not isinstance(validated, bool):
        raise Malformed("last_move.validated: not true, false or null")
    return LastMove(
        at_s=_seconds(fields["at_s"], "last_move.at_s"),
        old=_decode_path(fields["old"], "last_move.old"),
        new=_decode_path(fields["new"], "last_move.new"),
        trigger=_word(fields["trigger"], Trigger, "last_move.trigger"),
        duration_s=_seconds(fields["duration_s"], "last_move.duration_s"),
        validated=validated,
    )


def _decode_path(value: object, where: str) -> Path:
    fields = _object(value, where, {"local", "remote", "encap"})
    encap = fields["encap"]
    if not isinstance(encap, bool):
        raise Malformed(f"{where}.encap: not true or false")
    return Path(_endpoint(fields["local"], where), _endpoint(fields["remote"], where), encap)


def _endpoint(value: object, where: str) -> Endpoint:
    match value:
        case [address, port]:
            return Endpoint(_address(address, where), _count(port, where, PORT_LIMIT))
    raise Malformed(f"{where}: not an address and a port")


def _json(data: bytes) -> object:
    try:
        value: object = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    return value


def _object(value: object, where: str, keys: set[str] | None = None) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Malformed(f"{where}: not an object")
    if keys is not None and value.keys() != keys:
        raise Malformed(f"{where}: keys {sorted(value)} where {sorted(keys)} belong")
    return value


def _word(value: object, words: type[Word], where: str) -> Word:
    for word in words:
        if word.value == value:
            return word
    raise Malformed(f"{where}: not one of {', '.join(words)}")


def _count(value: object, where: str, limit: int = COUNT_LIMIT) -> int:
    if type(value) is int and 0 <= value < limit:
        return value
    raise Malformed(f"{where}: not an integer from 0 to {limit - 1}")


def _digits(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= len(str(SPI_LIMIT)) and int(text) < SPI_LIMIT:
        return int(text)
    raise Malformed("highest: not an SPI")


def _seconds(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise Malformed(f"{where}: not a number")


def _address(value: object, where: str) -> IPAddress:
    if not isinstance(value, str):
        raise Malformed(f"{where}: not an address")
    try:
        return ip_address(value)
    except ValueError as error:
        raise Malformed(f"{where}: {error}") from error
