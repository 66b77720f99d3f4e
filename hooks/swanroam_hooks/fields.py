"""What is told of an announcement, as names and texts: journal fields and environment variables are the same."""

from ipaddress import IPv4Address, IPv6Address
from typing import assert_never

from swanroam.model.effects import Announcement, CapabilityChanged, PacketRejected, TunnelMoved
from swanroam.model.path import Path

__all__ = ["describe", "fields_of", "printable"]


def fields_of(announcement: Announcement) -> dict[str, str]:
    """Names begin with SWANROAM_; values are one printable line each, empty where nothing is known."""
    key = announcement.key
    fields = {
        "TUNNEL": str(key) if key else "",
        "CONNECTION": key.name if key else "",
        "INNER": ",".join(str(address) for address in key.inner) if key else "",
    }
    match announcement:
        case TunnelMoved():
            fields |= {"EVENT": "moved", "TRIGGER": announcement.trigger}
            fields |= {"DURATION_MS": f"{announcement.duration_s * 1000:.1f}"}
            fields |= _path_fields("OLD", announcement.old) | _path_fields("NEW", announcement.new)
        case CapabilityChanged():
            fields |= {"EVENT": "capability", "CAPABILITY": announcement.capability, "DETAIL": announcement.detail}
        case PacketRejected():
            fields |= {"EVENT": "rejected", "REASON": announcement.reason, "DETAIL": announcement.detail}
            fields |= {"SOURCE": _text(announcement.source)}
        case _:
            assert_never(announcement)
    return {f"SWANROAM_{name}": printable(value) for name, value in fields.items()}


def describe(announcement: Announcement) -> str:
    """One line for people."""
    name = str(announcement.key) if announcement.key else "no tunnel"
    match announcement:
        case TunnelMoved(old=old, new=new, trigger=trigger, duration_s=duration_s):
            line = f"{name}: moved from {old} to {new} in {duration_s * 1000:.1f} ms ({trigger})"
        case CapabilityChanged(capability=capability, detail=detail):
            line = f"{name}: capability {capability}" + (f" ({detail})" if detail else "")
        case PacketRejected(reason=reason, source=source, detail=detail):
            origin = f" from {source}" if source else ""
            line = f"{name}: rejected{origin}: {reason}" + (f" ({detail})" if detail else "")
        case _:
            assert_never(announcement)
    return printable(line)


def printable(text: str) -> str:
    """Text that cannot begin a line, a field or a terminal sequence of its own."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _path_fields(name: str, path: Path) -> dict[str, str]:
    return {
        name: str(path),
        f"{name}_LOCAL": str(path.local.address),
        f"{name}_REMOTE": str(path.remote.address),
        f"{name}_ENCAP": "1" if path.encap else "0",
    }


def _text(address: IPv4Address | IPv6Address | None) -> str:
    return str(address) if address is not None else ""
