"""The answer of `swanroam status --json`, which others rely on: these keys, these types, and nothing else."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv6Address

import pytest

from swanroam.app.report import report
from swanroam.app.status import ChildStatus, MoveStatus, Status, TunnelStatus
from swanroam.core.table import Table
from swanroam.core.tunnel import LastMove, Tunnel
from swanroam.model.effects import LeftAlone, Trigger
from swanroam.model.events import Reason
from swanroam.model.path import Endpoint, Path
from swanroam.model.tunnel import Capability, Nat, Role, TunnelKey
from tests.support.values import GATEWAY, INNER, KEY, OTHER_INNER, SECOND, A, B, ike_sa, path, with_spis

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC).timestamp()
BOOTED_S = 5000.0
"""What the monotonic clock shows at noon."""


def tunnel(role: Role = Role.GATEWAY, **changes: object) -> Tunnel:
    fresh = Tunnel(
        key=KEY, role=role, sas=(ike_sa(role),), path=path(role), capability=Capability.NEGOTIATED, nat=Nat.NONE
    )
    return replace(fresh, **changes)  # type: ignore[arg-type]  # names and types are the caller's to mind


def moved(role: Role = Role.GATEWAY, **changes: object) -> Tunnel:
    last = LastMove(
        at_s=BOOTED_S - 60.25,
        old=path(role, A),
        new=path(role, B),
        trigger=Trigger.PACKET,
        duration_s=0.0117238,
        validated=True,
    )
    return tunnel(role, path=path(role, B), moves=12, last_move=replace(last, **changes))  # type: ignore[arg-type]  # as above


def status_of(*tunnels: Tunnel, role: Role = Role.GATEWAY, connected: bool = True, version: str = "5.9.8") -> Status:
    table = Table()
    for each in tunnels:
        table.put(each)
    return report(role, table, connected=connected, version=version, epoch_s=NOON - BOOTED_S)


def test_a_tunnel_is_told_in_the_words_of_the_contract() -> None:
    answer = status_of(
        replace(moved(), rejected={Reason.OLD_SEQUENCE: 3, Reason.BAD_ICV: 1}), connected=True, version="5.9.8"
    )
    assert json.loads(json.dumps(answer, allow_nan=False)) == {
        "role": "gateway",
        "charon": {"version": "5.9.8", "connected": True},
        "tunnels": [
            {
                "name": "home",
                "inner": ["10.3.0.1"],
                "local": {"address": "203.0.113.1", "port": 500},
                "remote": {"address": "198.51.100.20", "port": 500},
                "encap": False,
                "mobike": False,
                "ike_version": 2,
                "nat": "none",
                "capability": "negotiated",
                "children": [{"name": "net", "spi_in": "c0000001", "spi_out": "d0000001", "reqid": 1}],
                "moves": 12,
                "last_move": {
                    "at": "2026-05-01T11:58:59.750+00:00",
                    "from": "192.0.2.10",
                    "to": "198.51.100.20",
                    "trigger": "packet",
                    "duration_ms": 11.724,
                    "validated": True,
                },
                "rejected": {"bad-icv": 1, "old-sequence": 3},
            }
        ],
        "rejected": {},
        "left_alone": [],
    }


def test_without_tunnels_and_without_charon_there_is_an_answer_all_the_same() -> None:
    expected: Status = {
        "role": "terminal",
        "charon": {"version": "", "connected": False},
        "tunnels": [],
        "rejected": {},
        "left_alone": [],
    }
    assert status_of(role=Role.TERMINAL, connected=False, version="") == expected


def test_the_types_are_those_of_the_contract() -> None:
    (told,) = json.loads(json.dumps(status_of(moved())))["tunnels"]
    assert told.keys() == TunnelStatus.__annotations__.keys()
    assert told["last_move"].keys() == MoveStatus.__annotations__.keys()
    assert all(child.keys() == ChildStatus.__annotations__.keys() for child in told["children"])
    assert {type(told[name]) for name in ("encap", "mobike")} == {bool}
    assert {type(told[name]) for name in ("ike_version", "moves")} == {int}
    assert type(told["last_move"]["duration_ms"]) is float
    assert datetime.fromisoformat(told["last_move"]["at"]).tzinfo is not None


def test_a_tunnel_that_never_moved_has_no_last_move() -> None:
    (told,) = status_of(tunnel())["tunnels"]
    assert (told["moves"], told["last_move"], told["rejected"]) == (0, None, {})


@pytest.mark.parametrize("validated", [True, False, None])
def test_the_word_of_the_other_end_is_true_false_or_not_known(validated: bool | None) -> None:
    (told,) = status_of(moved(validated=validated))["tunnels"]
    assert told["last_move"] is not None
    assert told["last_move"]["validated"] is validated


def test_of_a_move_to_another_address_of_the_gateway_both_ends_tell_that_address_unless_the_terminal_moved_too() -> (
    None
):
    for role in Role:
        for outer, ends in ((A, (GATEWAY, SECOND)), (B, (A, B))):
            new = path(role, outer)
            gateway = "remote" if role is Role.TERMINAL else "local"
            new = replace(new, **{gateway: Endpoint(SECOND, 500)})  # type: ignore[arg-type]  # one of the two
            (told,) = status_of(moved(role, new=new, trigger=Trigger.GATEWAY), role=role)["tunnels"]
            assert told["last_move"] is not None
            assert (told["last_move"]["from"], told["last_move"]["to"]) == tuple(map(str, ends))


def test_a_terminal_tells_its_own_addresses_as_those_that_moved() -> None:
    (told,) = status_of(moved(Role.TERMINAL, trigger=Trigger.ADDRESS), role=Role.TERMINAL)["tunnels"]
    assert told["last_move"] is not None
    assert (told["last_move"]["from"], told["last_move"]["to"]) == (str(A), str(B))
    assert told["last_move"]["trigger"] == "address"
    assert told["local"] == {"address": str(B), "port": 500}
    assert told["remote"] == {"address": str(GATEWAY), "port": 500}


def test_a_return_to_the_last_path_says_so() -> None:
    (told,) = status_of(moved(trigger=Trigger.REVERT))["tunnels"]
    assert told["last_move"] is not None
    assert told["last_move"]["trigger"] == "revert"


def test_every_capability_nat_and_reason_has_its_word() -> None:
    words = {status_of(tunnel(capability=each))["tunnels"][0]["capability"] for each in Capability}
    assert words == {"negotiated", "configured", "none", "pending"}
    words = {status_of(tunnel(nat=each))["tunnels"][0]["nat"] for each in Nat}
    assert words == {"none", "local", "remote", "both", "unknown"}
    (told,) = status_of(tunnel(rejected=dict.fromkeys(Reason, 2)))["tunnels"]
    assert told["rejected"] == {reason.value: 2 for reason in Reason}


def test_mobike_and_the_version_of_ike_are_those_of_the_newest_ike_sa() -> None:
    old, new = ike_sa(Role.GATEWAY), replace(ike_sa(Role.GATEWAY, unique_id=2), version=1)
    (told,) = status_of(tunnel(sas=(new, old)))["tunnels"]
    assert (told["ike_version"], told["mobike"]) == (1, False)
    behind_nat = replace(old, nat_remote=True, remote=Endpoint(A, 4500), local=Endpoint(GATEWAY, 4500))
    assert status_of(tunnel(sas=(behind_nat,)))["tunnels"][0]["mobike"] is None
    switched = replace(old, remote=Endpoint(A, 4500), local=Endpoint(GATEWAY, 4500))
    assert status_of(tunnel(sas=(switched,)))["tunnels"][0]["mobike"] is True


def test_spis_have_eight_digits_and_every_child_sa_is_told() -> None:
    two = with_spis(ike_sa(Role.GATEWAY), (0x1, 0x2), (0xFFFFFFFF, 0xABC))
    (told,) = status_of(tunnel(sas=(two,)))["tunnels"]
    spis = [(child["spi_in"], child["spi_out"]) for child in told["children"]]
    assert spis == [("00000001", "00000002"), ("ffffffff", "00000abc")]


def test_the_path_is_that_of_the_kernel_also_where_charon_differs() -> None:
    six = Path(Endpoint(IPv6Address("2001:db8::1"), 4500), Endpoint(IPv6Address("2001:db8::2"), 61000), encap=True)
    (told,) = status_of(tunnel(path=six))["tunnels"]
    assert told["local"] == {"address": "2001:db8::1", "port": 4500}
    assert told["remote"] == {"address": "2001:db8::2", "port": 61000}
    assert told["encap"] is True


def test_tunnels_come_in_the_order_of_names_and_inner_addresses() -> None:
    keys = [
        TunnelKey("work", (INNER,)),
        TunnelKey("home", (OTHER_INNER,)),
        TunnelKey("home", (INNER, IPv6Address("fd00::1"))),
    ]
    told = status_of(*(tunnel(key=key) for key in keys))["tunnels"]
    assert [(each["name"], each["inner"]) for each in told] == [
        ("home", ["10.3.0.1", "fd00::1"]),
        ("home", ["10.3.0.2"]),
        ("work", ["10.3.0.1"]),
    ]


def test_refusals_that_belong_to_no_tunnel_are_told_with_those_of_the_packet_filter() -> None:
    answer = report(
        Role.GATEWAY,
        Table(),
        connected=True,
        version="",
        epoch_s=0.0,
        rejected={Reason.UNKNOWN_SPI: 2, Reason.WRONG_TUNNEL: 1},
        filtered={"floods": 7, "impossible": 0, "strangers": 3, "dummies": 4, "unproven": 5},
    )
    assert answer["rejected"] == {"not-validated": 5, "rate-limited": 7, "unknown-spi": 2, "wrong-tunnel": 4}


def test_what_is_left_alone_is_told_with_the_reason_tunnels_first() -> None:
    table = Table()
    table.put(tunnel(capability=Capability.NONE, because="no answer to HELLO"))
    site = LeftAlone(name="site", inner=(), reason="it has no virtual IP")
    answer = report(Role.GATEWAY, table, connected=True, version="", epoch_s=0.0, bystanders=[site])
    assert answer["left_alone"] == [
        {"name": "home", "inner": ["10.3.0.1"], "reason": "no answer to HELLO"},
        {"name": "site", "inner": [], "reason": "it has no virtual IP"},
    ]
