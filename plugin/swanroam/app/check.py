"""What this machine lacks for a role, and what to do about it: pure judgement over what probes found."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypedDict

from swanroam.model.tunnel import Role

__all__ = [
    "PACKAGES",
    "Charon",
    "Check",
    "CheckStatus",
    "Level",
    "Probes",
    "Report",
    "evaluate",
    "immovable",
    "obstacles",
    "passed",
    "report",
]


class Level(StrEnum):
    """Whether the role can run without it."""

    REQUIRED = "required"
    ADVICE = "advice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    level: Level = Level.REQUIRED
    found: str
    remedy: str
    """What to do about it; empty when it is ok."""


class CheckStatus(TypedDict):
    """A finding as `swanroam check --json` has it."""

    name: str
    ok: bool
    level: str
    found: str
    remedy: str


class Report(TypedDict):
    """All of `swanroam check --json`."""

    role: str | None
    """None when the configuration does not say."""
    ok: bool
    checks: list[CheckStatus]


@dataclass(frozen=True, slots=True)
class Charon:
    """The answer to vici's `version` command, or why there is none."""

    version: str = ""
    problem: str = ""
    remedy: str = ""


class Probes(Protocol):
    """Asks the machine. Nothing is changed by it, but the kernel may load modules. Methods do not raise."""

    def release(self) -> str:
        """The running kernel."""

    def option(self, name: str) -> str | None:
        """`y`, `m` or `n` from the kernel's configuration, None where that cannot be read."""

    def module(self, name: str) -> bool:
        """Whether a module is loaded or can be loaded."""

    def loaded(self, name: str) -> bool:
        """Whether a module is loaded."""

    def xfrm(self) -> str:
        """Why a socket for XFRM cannot be opened; empty when it can."""

    def migrate(self) -> bool | None:
        """Whether the kernel knows XFRM_MSG_MIGRATE; None when this process may not ask."""

    def nft(self) -> str | None:
        """What the nft program says of its version, None without it."""

    def rules(self, role: Role | None) -> str | None:
        """Why the kernel would not take swanroam's rules; empty when it would, None when this process may not ask."""

    def capabilities(self) -> int | None:
        """The effective capabilities of this process as a bit set, None when they cannot be read."""

    def charon(self) -> Charon:
        """What answers on the vici socket."""

    def roam_events(self) -> tuple[bool | None, str]:
        """The setting of charon, None when it cannot be read, and where it was looked for."""

    def package(self, name: str) -> str | None:
        """The version of an installed Python package."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A part of the kernel that may be missing, or be a module."""

    option: str
    module: str
    purpose: str
    level: Level = Level.REQUIRED


FEATURES: Final = (
    Feature("INET_ESP", "esp4", "ESP over IPv4"),
    Feature("INET6_ESP", "esp6", "ESP over IPv6", Level.ADVICE),
    Feature("NF_TABLES", "nf_tables", "the packet filter"),
    Feature("NFT_QUEUE", "nft_queue", "packets that the daemon reads"),
    Feature("NETFILTER_NETLINK_QUEUE", "nfnetlink_queue", "packets that the daemon reads"),
    Feature("NFT_LIMIT", "nft_limit", "bounds on what a flood may ask of the daemon"),
    Feature("NFT_FIB_INET", "nft_fib_inet", "telling addresses of this machine from others"),
    Feature("NFT_XFRM", "nft_xfrm", "telling packets that came out of a tunnel from others"),
)
OFFLOADS: Final = ("esp4_offload", "esp6_offload")
PACKAGES: Final = (
    ("vici", (5, 9)),
    ("pyroute2", (0, 9)),
    ("cryptography", (38,)),
    ("pluggy", (1, 3)),
    ("click", (8, 1)),
    ("rich", (13,)),
)
"""Python packages and the least versions, as pyproject.toml has them."""
CAPABILITIES: Final = (("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13))  # include/uapi/linux/capability.h
RULES: Final = "packet filter rules"
AS_ROOT: Final = "run it as root, or by the systemd unit, which gives it just this"


def evaluate(role: Role | None, probes: Probes) -> tuple[Check, ...]:
    """All findings; for both roles when the role is not known."""
    return (
        *_kernel(probes),
        *_packet_filter(role, probes),
        *_capabilities(probes),
        *_charon(role, probes),
        *(_package(name, least, probes.package(name)) for name, least in PACKAGES),
    )


def passed(checks: tuple[Check, ...]) -> bool:
    """Whether all that is required is there."""
    return all(check.ok for check in checks if check.level is Level.REQUIRED)


def obstacles(probes: Probes) -> str:
    """What a daemon that the kernel refused lacks, in a few words; empty when it has all that can be told from inside.

    The limits of its unit hide modules from it: of the kernel's parts only those count that were not built.
    """
    other = _another_kernel(probes)
    absent = (feature for feature in FEATURES if probes.option(feature.option) == "n")
    checks = (
        *_capabilities(probes),
        *_xfrm(probes, other),
        *(_feature(feature, probes, other) for feature in absent if feature.level is Level.REQUIRED),
        *_packet_filter(None, probes),
    )
    return ", ".join(f"{check.name} {check.found}" for check in checks if not check.ok and check.name != RULES)


def immovable(probes: Probes) -> str:
    """Why no tunnel could ever be moved here, in a sentence; empty when nothing is known that speaks against it."""
    lacking = [check for check in _xfrm(probes, _another_kernel(probes)) if not check.ok]
    return "; ".join(f"{check.name}: {check.found}; {check.remedy}" for check in lacking)


def report(role: Role | None, checks: tuple[Check, ...]) -> Report:
    """The findings for programs."""
    return {
        "role": role.value if role else None,
        "ok": passed(checks),
        "checks": [
            {
                "name": check.name,
                "ok": check.ok,
                "level": check.level.value,
                "found": check.found,
                "remedy": check.remedy,
            }
            for check in checks
        ],
    }


def _check(name: str, *, ok: bool, found: str, remedy: str, level: Level = Level.REQUIRED) -> Check:
    return Check(name=name, ok=ok, level=level, found=found, remedy="" if ok else remedy)


def _another_kernel(probes: Probes) -> str:
    return f"use a kernel that has it ({probes.release()} runs now)"


def _xfrm(probes: Probes, other: str) -> Iterator[Check]:
    problem = probes.xfrm()
    yield _check(
        "kernel: XFRM_USER", ok=not problem, found=problem or "answers", remedy=f"modprobe xfrm_user, or {other}"
    )
    migrate, option = probes.migrate(), probes.option("XFRM_MIGRATE")
    if migrate is not None:
        found = "answers" if migrate else "the kernel does not know the message"
    else:
        found = {"y": "built in", "n": "not built", "m": "built in"}.get(option or "", "cannot be told without root")
    yield _check(
        "kernel: XFRM_MIGRATE",
        ok=migrate if migrate is not None else option != "n",
        found=found,
        remedy=f"tunnels cannot be moved without CONFIG_XFRM_MIGRATE: {other}",
    )


def _kernel(probes: Probes) -> Iterator[Check]:
    other = _another_kernel(probes)
    yield from _xfrm(probes, other)
    for feature in FEATURES:
        yield _feature(feature, probes, other)
    loaded = [name for name in OFFLOADS if probes.loaded(name)]
    yield _check(
        "kernel: ESP offload",
        ok=not loaded,
        level=Level.ADVICE,
        found=f"{', '.join(loaded)} loaded" if loaded else "not loaded",
        remedy="a gateway may not see held packets (GRO takes ESP off before nftables): `ethtool -K DEVICE gro off`",
    )


def _feature(feature: Feature, probes: Probes, other: str) -> Check:
    option, present = probes.option(feature.option), probes.module(feature.module)
    match option:
        case "y":
            ok, found = True, "built in"
        case "n":
            ok, found = present, f"module {feature.module}" if present else "not built"
        case "m":
            ok, found = present, f"module {feature.module}{'' if present else ' is not installed'}"
        case _:
            ok, found = True, f"module {feature.module}" if present else "cannot be told: no kernel configuration"
    install = f"install the kernel's modules package (module {feature.module})" if option == "m" else other
    return _check(
        f"kernel: {feature.option}", ok=ok, level=feature.level, found=found, remedy=f"{feature.purpose}: {install}"
    )


def _packet_filter(role: Role | None, probes: Probes) -> Iterator[Check]:
    version = probes.nft()
    yield _check(
        "nft program",
        ok=version is not None,
        found=version or "not found",
        remedy="install nftables, with the program nft in the path",
    )
    if version is None:
        return
    problem = probes.rules(role)
    yield _check(
        RULES,
        ok=not problem,
        found="cannot be told without root" if problem is None else problem or "the kernel would take them",
        remedy="see the kernel's parts above, and use nftables 1.0 or newer",
    )


def _capabilities(probes: Probes) -> Iterator[Check]:
    effective = probes.capabilities()
    for name, bit in CAPABILITIES:
        ok = effective is None or bool(effective >> bit & 1)
        found = "cannot be told" if effective is None else "effective" if ok else "not effective"
        yield _check(name, ok=ok, found=found, remedy=AS_ROOT)


def _charon(role: Role | None, probes: Probes) -> Iterator[Check]:
    charon = probes.charon()
    yield _check(
        "strongSwan",
        ok=not charon.problem,
        found=charon.problem or f"version {charon.version}",
        remedy=charon.remedy,
    )
    if role is Role.GATEWAY:
        return
    setting, where = probes.roam_events()
    yield _check(
        "roam_events",
        ok=setting is False,
        level=Level.ADVICE,
        found=f"cannot be read: {where}" if setting is None else f"{'yes' if setting else 'no'} ({where})",
        remedy="swanroam has to be faster than charon's reauthentication, 100 ms after the address went; "
        "set charon.plugins.kernel-netlink.roam_events = no in strongswan.conf and restart charon, unless your tunnels "
        "have MOBIKE, which needs roam events",
    )


def _package(name: str, least: tuple[int, ...], version: str | None) -> Check:
    wanted = ".".join(map(str, least))
    return _check(
        f"Python package {name}",
        ok=version is not None and _numbers(version) >= least,
        found=version or "not installed",
        remedy=f"install {name} {wanted} or newer",
    )


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("."):
        if not (part.isascii() and part.isdigit()):
            break
        numbers.append(int(part))
    return tuple(numbers)
