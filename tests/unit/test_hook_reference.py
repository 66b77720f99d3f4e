"""hooks/README.md says what the code does: every hook with its real arguments, every option, every field."""

import inspect
import re
from pathlib import Path
from types import UnionType
from typing import Final, get_args

import pytest

from swanroam import hookplugin, hookspecs
from swanroam.hookhost import Limits
from swanroam.model.effects import Trigger
from swanroam.model.tunnel import Capability
from swanroam.testing import (
    immediate_host,
    make_address,
    make_capability,
    make_key,
    make_move,
    make_path,
    make_rejection,
)
from swanroam_hooks.fields import fields_of
from swanroam_hooks.journal import Journal
from swanroam_hooks.metered import Metered
from swanroam_hooks.run_parts import RunParts

REFERENCE: Final = (Path(__file__).parents[2] / "hooks" / "README.md").read_text(encoding="utf-8")
SPECS: Final = tuple(name for name in vars(hookspecs) if name.startswith("swanroam_"))
SHIPPED: Final = {"journal": Journal, "metered": Metered, "run-parts": RunParts}


def shown(annotation: object) -> str:
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, UnionType):
        return " | ".join(shown(part) for part in get_args(annotation))
    return annotation.__name__ if type(annotation) is type else str(annotation).rpartition("abc.")[2]


def signature_of(hook: str) -> str:
    signature = inspect.signature(getattr(hookspecs, hook))
    arguments = ", ".join(f"{name}: {shown(value.annotation)}" for name, value in signature.parameters.items())
    return f"{hook}({arguments}) -> {shown(signature.return_annotation)}"


def section(title: str) -> str:
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", REFERENCE, re.DOTALL | re.MULTILINE)
    assert found, f"no section {title!r}"
    return found[1]


def test_the_host_calls_every_spec_and_nothing_else() -> None:
    assert sorted(hookplugin.SPECS) == sorted(SPECS)
    for hook, argument in hookplugin.HEARD.values():
        assert list(inspect.signature(getattr(hookspecs, hook)).parameters) == [argument]


@pytest.mark.parametrize("hook", SPECS)
def test_every_hook_is_in_the_reference_with_its_real_arguments(hook: str) -> None:
    assert re.match(r"\nSince \d+\.\d+\.\d+\. ", section(f"`{signature_of(hook)}`"))


def test_the_reference_has_no_hook_that_does_not_exist() -> None:
    assert sorted(re.findall(r"^### `(\w+)\(", REFERENCE, re.MULTILINE)) == sorted(SPECS)


@pytest.mark.parametrize("hook", SPECS)
def test_every_spec_says_when_on_which_thread_what_it_returns_and_since_when(hook: str) -> None:
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    for word in ("When", "Thread", "Returns", "Since"):
        assert re.search(rf"^{word}: \S", text, re.MULTILINE), f"{hook} does not say {word}"
    since = re.search(r"Since: (\S+)", text)
    assert since
    assert f"Since {since[1]}." in section(f"`{signature_of(hook)}`")


@pytest.mark.parametrize("hook", SPECS)
def test_every_hook_has_a_real_user_among_those_shipped(hook: str) -> None:
    with immediate_host(SHIPPED, options={"metered": {"interfaces": ["wwan*"]}}) as host:
        assert [status.name for status in host.status if hook in status.hooks]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_option_of_the_shipped_hooks_is_in_the_reference(name: str) -> None:
    plugin = SHIPPED[name]()
    with pytest.raises(ValueError, match="unknown option; known are ") as caught:
        plugin.swanroam_configure({"no-such-option": 1})
    known = str(caught.value).partition("known are ")[2].split(", ")
    options = section(name).partition("Journal fields")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", options, re.MULTILINE)) == known


def test_every_field_is_in_the_reference_with_the_events_that_have_it() -> None:
    expected: dict[str, set[str]] = {}
    for announcement in (make_move(), make_capability(), make_rejection()):
        fields = fields_of(announcement)
        for name in fields:
            expected.setdefault(name, set()).add(fields["SWANROAM_EVENT"])
    documented: dict[str, set[str]] = {}
    for names, events in re.findall(r"^\| (`SWANROAM_.*?) \| ([a-z, ]+) \|", REFERENCE, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            documented[name] = {"moved", "capability", "rejected"} if events == "all" else set(events.split(", "))
    assert documented == expected


def test_every_trigger_and_capability_is_in_the_reference() -> None:
    for value in (*Trigger, *Capability):
        assert f"`{value}`" in REFERENCE


def test_the_limits_in_the_reference_and_in_the_specs_are_those_of_the_host() -> None:
    limits = Limits()
    vetoes, ranks = f"{limits.veto_s * 1000:g} ms", f"{limits.rank_s * 1000:g} ms"
    assert f"waits at most {vetoes} for vetoes and {ranks} for ranks" in REFERENCE
    assert f"at most {vetoes} for all plugins" in (hookspecs.swanroam_veto_move.__doc__ or "")
    assert f"at most {ranks} for all plugins" in (hookspecs.swanroam_rank_path.__doc__ or "")
    assert f"at most {limits.load_s:g} s" in (hookspecs.swanroam_configure.__doc__ or "")
    assert f"at most {limits.load_s:g} s" in section(f"`{signature_of('swanroam_configure')}`")
    assert f"{limits.waiting} calls wait at most" in (hookspecs.swanroam_moved.__doc__ or "")


def test_the_example_in_the_reference_works() -> None:
    code = re.search(r"```python\n(.*?)```", REFERENCE, re.DOTALL)
    assert code
    names: dict[str, object] = {}
    exec(compile(code[1], "hooks/README.md", "exec"), names)  # noqa: S102 - it is ours
    with immediate_host({"office": names["Office"]}) as host:
        assert host.rank_path(make_address(interface="enp1s0")) == 50
        assert host.rank_path(make_address(interface="wlan0")) == 0
        to_guests = host.veto_move(make_key(), make_path("198.51.100.10"), make_path("192.0.2.10"))
        assert to_guests == "office: the guest network is for guests"
        assert host.veto_move(make_key(), make_path("192.0.2.10"), make_path("198.51.100.10")) is None
        assert not host.errors
