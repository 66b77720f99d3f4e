"""The metered hook: which links it avoids, and how it says that its options are wrong."""

import re
from collections.abc import Mapping

import pytest

from swanroam.errors import HookError
from swanroam.hookhost import HookHost, PluginState
from swanroam.model.path import LocalAddress
from swanroam.testing import immediate_host, make_address, make_key, make_path
from swanroam_hooks.metered import REMEMBERED, Metered

CABLE = make_address("192.0.2.10", "eth0")
MOBILE = make_address("198.51.100.10", "wwan0")
OTHER_MOBILE = make_address("198.51.100.11", "lte0")


def veto(host: HookHost, old: LocalAddress, new: LocalAddress) -> str | None:
    return host.veto_move(make_key(), make_path(str(old.address)), make_path(str(new.address)))


def options(**table: object) -> Mapping[str, Mapping[str, object]]:
    return {"metered": {"interfaces": ["wwan*", "lte*"], **table}}


def test_addresses_of_metered_interfaces_rank_lower() -> None:
    with immediate_host({"metered": Metered}, options=options(preference=-7)) as host:
        assert host.rank_path(CABLE) == 0
        assert host.rank_path(MOBILE) == host.rank_path(OTHER_MOBILE) == -7
    with immediate_host({"metered": Metered}, options=options()) as host:
        assert host.rank_path(MOBILE) == -100


def test_a_move_onto_a_metered_interface_is_vetoed_only_when_told() -> None:
    for told, reason in ((True, "metered: wwan0 is metered"), (False, None)):
        with immediate_host({"metered": Metered}, options=options(veto=told)) as host:
            for address in (CABLE, MOBILE):
                host.rank_path(address)
            assert veto(host, CABLE, MOBILE) == reason
            assert veto(host, MOBILE, CABLE) is None
            assert not host.errors


def test_a_tunnel_that_is_on_a_metered_interface_may_move_to_another_one() -> None:
    with immediate_host({"metered": Metered}, options=options(veto=True)) as host:
        for address in (MOBILE, OTHER_MOBILE):
            host.rank_path(address)
        assert veto(host, MOBILE, OTHER_MOBILE) is None


def test_an_address_counts_where_it_was_seen_last() -> None:
    with immediate_host({"metered": Metered}, options=options(veto=True)) as host:
        host.rank_path(CABLE)
        host.rank_path(MOBILE)
        host.rank_path(make_address(str(MOBILE.address), "eth1"))
        assert veto(host, CABLE, MOBILE) is None


def test_an_address_that_was_never_seen_is_not_vetoed() -> None:
    with immediate_host({"metered": Metered}, options=options(veto=True)) as host:
        assert veto(host, CABLE, MOBILE) is None


def test_it_remembers_a_bounded_number_of_addresses_the_newest_ones() -> None:
    with immediate_host({"metered": Metered}, options=options(veto=True)) as host:
        host.rank_path(MOBILE)
        for number in range(REMEMBERED):
            host.rank_path(make_address(f"2001:db8::{number:x}", "wwan1"))
        assert veto(host, CABLE, MOBILE) is None
        assert veto(host, CABLE, make_address("2001:db8::0")) == "metered: wwan1 is metered"


def test_an_address_that_is_seen_again_is_among_the_newest() -> None:
    with immediate_host({"metered": Metered}, options=options(veto=True)) as host:
        host.rank_path(MOBILE)
        for number in range(REMEMBERED - 2):
            host.rank_path(make_address(f"2001:db8::{number:x}", "wwan1"))
        host.rank_path(MOBILE)
        host.rank_path(CABLE)
        host.rank_path(OTHER_MOBILE)
        assert veto(host, CABLE, MOBILE) == "metered: wwan0 is metered"


def test_without_interfaces_it_has_nothing_to_do() -> None:
    with immediate_host({"metered": Metered}) as host:
        assert host.status[0].state is PluginState.IDLE


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"interfaces": "wwan0"}, "interfaces: a list of strings is needed, not 'wwan0'"),
        ({"interfaces": ["a", 5]}, "interfaces[1]: a string is needed, not 5"),
        ({"interfaces": [""]}, "interfaces[0]: is empty"),
        ({"veto": 1}, "veto: true or false is needed, not 1"),
        ({"preference": True}, "preference: a whole number is needed, not True"),
        ({"preference": 1.5}, "preference: a whole number is needed, not 1.5"),
        ({"interface": ["wwan0"]}, "interface: unknown option; known are interfaces, preference, veto"),
    ],
)
def test_wrong_options_are_named(table: dict[str, object], says: str) -> None:
    with (
        pytest.raises(HookError, match=re.escape(f"hook swanroam_configure of metered: {says}")),
        immediate_host({"metered": Metered}, options={"metered": table}),
    ):
        pass
