"""The check: what is missing is found, the remedy is said, and the role can run exactly when all required is there."""

import gzip
import socket
import threading
import tomllib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from swanroam.app.check import FEATURES, PACKAGES, Charon, Check, Level, evaluate, immovable, obstacles, passed, report
from swanroam.app.probes import MachineProbes
from swanroam.app.strongswan_conf import Settings, read_settings
from swanroam.model.tunnel import Role

DEADLINE_S = 20.0
MODULES = frozenset(feature.module for feature in FEATURES)


@dataclass(frozen=True)
class Machine:
    """A machine that has everything, but for what a test takes away."""

    options: Mapping[str, str] | None = field(
        default_factory=lambda: {"XFRM_MIGRATE": "y"} | {feature.option: "m" for feature in FEATURES}
    )
    modules: frozenset[str] = MODULES
    loaded_modules: frozenset[str] = frozenset()
    xfrm_problem: str = ""
    migrates: bool | None = True
    nft_version: str | None = "nftables v1.0.6"
    rules_problem: str | None = ""
    effective: int | None = (1 << 41) - 1
    answer: Charon = field(default_factory=lambda: Charon("5.9.8"))
    roams: tuple[bool | None, str] = (False, "strongswan.conf")
    packages: Mapping[str, str] = field(
        default_factory=lambda: {name: ".".join(map(str, least)) for name, least in PACKAGES}
    )

    def release(self) -> str:
        return "6.1.0-test"

    def option(self, name: str) -> str | None:
        return None if self.options is None else self.options.get(name, "n")

    def module(self, name: str) -> bool:
        return name in self.modules

    def loaded(self, name: str) -> bool:
        return name in self.loaded_modules

    def xfrm(self) -> str:
        return self.xfrm_problem

    def migrate(self) -> bool | None:
        return self.migrates

    def nft(self) -> str | None:
        return self.nft_version

    def rules(self, role: Role | None) -> str | None:
        assert role in (None, Role.GATEWAY, Role.TERMINAL)
        return self.rules_problem

    def capabilities(self) -> int | None:
        return self.effective

    def charon(self) -> Charon:
        return self.answer

    def roam_events(self) -> tuple[bool | None, str]:
        return self.roams

    def package(self, name: str) -> str | None:
        return self.packages.get(name)


WHOLE = Machine()


def failing(machine: Machine, role: Role | None = Role.TERMINAL) -> list[Check]:
    checks = evaluate(role, machine)
    assert all(check.found for check in checks)
    assert all(bool(check.remedy) is not check.ok for check in checks)
    assert len({check.name for check in checks}) == len(checks)
    return [check for check in checks if not check.ok]


@pytest.mark.parametrize("role", [*Role, None])
def test_a_machine_that_has_everything_passes(role: Role | None) -> None:
    assert failing(WHOLE, role) == []
    assert passed(evaluate(role, WHOLE))


@pytest.mark.parametrize(
    ("machine", "name", "words"),
    [
        (replace(WHOLE, xfrm_problem="Protocol not supported"), "kernel: XFRM_USER", "modprobe xfrm_user"),
        (replace(WHOLE, migrates=False), "kernel: XFRM_MIGRATE", "CONFIG_XFRM_MIGRATE"),
        (replace(WHOLE, migrates=None, options={}, modules=MODULES), "kernel: XFRM_MIGRATE", "6.1.0-test"),
        (replace(WHOLE, modules=MODULES - {"esp4"}), "kernel: INET_ESP", "modules package (module esp4)"),
        (replace(WHOLE, modules=MODULES - {"nft_queue"}), "kernel: NFT_QUEUE", "module nft_queue"),
        (replace(WHOLE, nft_version=None), "nft program", "install nftables"),
        (replace(WHOLE, rules_problem="Could not process rule"), "packet filter rules", "nftables 1.0"),
        (replace(WHOLE, effective=1 << 13), "CAP_NET_ADMIN", "root"),
        (replace(WHOLE, effective=1 << 12), "CAP_NET_RAW", "root"),
        (replace(WHOLE, answer=Charon("", "nobody answers", "start it")), "strongSwan", "start it"),
        (replace(WHOLE, packages={**WHOLE.packages, "vici": "5.8.1"}), "Python package vici", "vici 5.9 or newer"),
        (replace(WHOLE, packages={}), "Python package rich", "install rich 13"),
    ],
)
def test_each_missing_part_is_found_with_its_remedy(machine: Machine, name: str, words: str) -> None:
    found = {check.name: check for check in failing(machine)}
    assert name in found
    assert found[name].level is Level.REQUIRED
    assert words in found[name].remedy
    assert not passed(evaluate(Role.TERMINAL, machine))


def test_a_kernel_without_esp_says_so() -> None:
    options = {**(WHOLE.options or {}), "INET_ESP": "n"}
    (check,) = failing(replace(WHOLE, options=options, modules=MODULES - {"esp4"}))
    assert (check.name, check.found) == ("kernel: INET_ESP", "not built")


def test_esp_over_ipv6_is_advice_only() -> None:
    machine = replace(WHOLE, modules=MODULES - {"esp6"})
    (check,) = failing(machine)
    assert (check.name, check.level) == ("kernel: INET6_ESP", Level.ADVICE)
    assert passed(evaluate(Role.GATEWAY, machine))


def test_offloaded_esp_is_advice_for_it_may_pass_the_filter_unseen(tmp_path: Path) -> None:
    checks = evaluate(Role.GATEWAY, Machine(loaded_modules=frozenset({"esp4_offload"})))
    found = next(check for check in checks if check.name == "kernel: ESP offload")
    assert not found.ok
    assert "esp4_offload" in found.found
    assert "ethtool" in found.remedy
    assert passed(checks)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/modules").write_text("esp4_offload 16384 0 - Live 0x0\n")
    assert machine(tmp_path).loaded("esp4_offload")
    assert not machine(tmp_path).loaded("esp6_offload")


def test_what_cannot_be_told_does_not_keep_the_role_from_running() -> None:
    machine = replace(WHOLE, options=None, modules=frozenset(), migrates=None, rules_problem=None, effective=None)
    checks = evaluate(Role.GATEWAY, machine)
    assert passed(checks)
    assert sum("cannot be told" in check.found for check in checks) == len(FEATURES) + 4


@pytest.mark.parametrize("setting", [True, None])
def test_roam_events_is_advice_for_a_terminal_only(setting: bool | None) -> None:
    machine = replace(WHOLE, roams=(setting, "the default"))
    (check,) = failing(machine, Role.TERMINAL)
    assert check.level is Level.ADVICE
    assert "roam_events = no" in check.remedy
    assert "100 ms" in check.remedy
    assert passed(evaluate(Role.TERMINAL, machine))
    assert failing(machine, Role.GATEWAY) == []


def test_a_daemon_that_was_refused_tells_what_can_be_told_from_inside_its_unit() -> None:
    assert obstacles(WHOLE) == ""
    hidden = replace(
        WHOLE, options=None, modules=frozenset(), rules_problem="Operation not permitted", effective=1 << 13
    )
    assert obstacles(hidden) == "CAP_NET_ADMIN not effective"
    assert obstacles(replace(hidden, nft_version=None)) == "CAP_NET_ADMIN not effective, nft program not found"


def test_a_daemon_that_was_refused_names_the_parts_that_its_kernel_was_built_without() -> None:
    options = {**(WHOLE.options or {}), "NFT_QUEUE": "n", "INET6_ESP": "n", "NFT_LIMIT": "m"}
    old = replace(WHOLE, options=options, modules=frozenset(), rules_problem="No such file or directory")
    assert obstacles(old) == "kernel: NFT_QUEUE not built"


def test_a_kernel_that_cannot_move_states_is_told_in_a_sentence_with_the_remedy() -> None:
    assert immovable(WHOLE) == ""
    assert immovable(replace(WHOLE, migrates=None, options=None)) == ""
    old = immovable(replace(WHOLE, migrates=False))
    assert old.startswith("kernel: XFRM_MIGRATE: the kernel does not know the message; tunnels cannot be moved without")
    assert "use a kernel that has it" in old


def test_the_report_for_programs_has_the_names_of_the_contract() -> None:
    checks = evaluate(Role.TERMINAL, replace(WHOLE, nft_version=None))
    answer = report(Role.TERMINAL, checks)
    assert answer.keys() == {"role", "ok", "checks"}
    assert (answer["role"], answer["ok"]) == ("terminal", False)
    for check in answer["checks"]:
        assert check.keys() == {"name", "ok", "level", "found", "remedy"}
        assert check["level"] in ("required", "advice")


def test_the_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = dict(line.split(">=") for line in project["dependencies"])
    assert {name: ".".join(map(str, least)) for name, least in PACKAGES} == wanted


# The probes, against a file system of our own and real sockets.


def machine(root: Path, **files: str | bytes) -> MachineProbes:
    for name, content in files.items():
        file = root / name.replace("__", "/").replace("RELEASE", MachineProbes(root).release())
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return MachineProbes(root / "vici", root=root, environment={})


def test_options_come_from_the_running_kernels_configuration(tmp_path: Path) -> None:
    packed = gzip.compress(b"CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=64\n")
    probes = machine(tmp_path)
    assert probes.option("A") is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(packed)
    probes = machine(tmp_path)
    assert [probes.option(name) for name in "ABCDE"] == ["y", "m", "n", "n", "n"]


def test_a_configuration_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_A=y\n")[:-6])
    (tmp_path / "boot").mkdir()
    (tmp_path / f"boot/config-{MachineProbes(tmp_path).release()}").write_text("CONFIG_A=m\n")
    assert machine(tmp_path).option("A") == "m"


def test_modules_are_those_loaded_installed_or_built_in(tmp_path: Path) -> None:
    release = MachineProbes(tmp_path).release()
    folder = tmp_path / "lib/modules" / release
    folder.mkdir(parents=True)
    (folder / "modules.dep").write_text("kernel/net/ipv4/esp4.ko.xz: kernel/net/xfrm/xfrm_algo.ko.xz\nkernel/a-b.ko:\n")
    (folder / "modules.builtin").write_text("kernel/net/netfilter/nf_tables.ko\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/modules").write_text("nft_queue 16384 0 - Live 0x0000000000000000\n")
    probes = machine(tmp_path)
    assert all(probes.module(name) for name in ("esp4", "a_b", "nf_tables", "nft_queue"))
    assert not probes.module("esp6")


def test_capabilities_come_from_proc(tmp_path: Path) -> None:
    assert machine(tmp_path).capabilities() is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000003000\nCapBnd:\t1\n")
    assert machine(tmp_path).capabilities() == 0x3000


def test_this_machine_can_be_asked() -> None:
    probes = MachineProbes(Path("/nonexistent"))
    checks = evaluate(None, probes)
    assert len(checks) > 15
    assert probes.package("pytest") is not None
    assert probes.package("surely-not-installed") is None


def vici(path: Path, serve: Callable[[socket.socket], None]) -> tuple[socket.socket, threading.Thread]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        for _ in range(2):  # whether somebody is there, and then the question
            connection, _ = listener.accept()
            with closing(connection):
                serve(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener, thread


def test_charon_that_answers_tells_its_version(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        if connection.recv(1000):
            # CMD_RESPONSE, then KEY_VALUE "version" = "5.9.8" (strongSwan vici/README.md)
            packet = b"\x01" + b"\x03" + bytes([7]) + b"version" + (5).to_bytes(2, "big") + b"5.9.8"
            connection.sendall(len(packet).to_bytes(4, "big") + packet)

    listener, thread = vici(tmp_path / "vici", serve)
    with closing(listener):
        assert MachineProbes(tmp_path / "vici").charon() == Charon("5.9.8")
        thread.join(DEADLINE_S)


def test_what_is_not_charon_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    listener, thread = vici(tmp_path / "vici", lambda _: None)
    with closing(listener):
        answer = MachineProbes(tmp_path / "vici").charon()
        thread.join(DEADLINE_S)
    assert answer.problem
    assert answer.remedy


def test_an_absent_and_a_dead_vici_socket_are_told_apart(tmp_path: Path) -> None:
    assert "no vici socket" in MachineProbes(tmp_path / "vici").charon().problem
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(tmp_path / "vici"))
    assert "charon is not running" in MachineProbes(tmp_path / "vici").charon().problem
    assert MachineProbes(Path("/" + "x" * 200)).charon().problem


# strongswan.conf.


def parsed(files: Mapping[str, str]) -> Settings:
    def expand(folder: Path, pattern: str) -> list[Path]:
        return sorted(Path(name) for name in files if Path(name).match(str(folder / pattern)))

    return read_settings(Path("/etc/main.conf"), lambda file: files[str(file)], expand)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("charon { plugins { kernel-netlink { roam_events = no } } }", "no"),
        ("charon.plugins.kernel-netlink.roam_events = no", "no"),
        ("charon {\n plugins.kernel-netlink {\n # roam_events = yes\n roam_events = no # a reason\n }\n}", "no"),
        ('charon { plugins { kernel-netlink { roam_events = "no" } } }', "no"),
        ("charon { plugins { kernel-netlink { roam_events = yes\n roam_events = no } } }", "no"),
        ("charon { plugins { kernel-netlink { roam_events = no } } }\ncharon { a = b }", "no"),
        ("charon : base { }\nbase { plugins { kernel-netlink { roam_events = no } } }", "no"),
        ("charon : base { }\nbase : deep { }\ndeep.plugins.kernel-netlink.roam_events = no", "no"),
        ("charon : charon { }", None),
        ("charon { plugins { kernel-netlink { } } }", None),
        ("charon { x = a{b }\n}", None),
        ("", None),
        ("# include nothing", None),
        ("charon { plugins { include conf.d/*.conf } }", "from conf.d"),
        ('charon { plugins { include "conf.d/*.conf" } }', "from conf.d"),
        ("charon { plugins { include nothing/*.conf\n } }", None),
    ],
)
def test_a_setting_is_found_where_charon_would_find_it(text: str, value: str | None) -> None:
    included = "kernel-netlink { roam_events = from conf.d\n}"
    files = {"/etc/main.conf": text, "/etc/conf.d/a.conf": included}
    assert parsed(files).get("charon.plugins.kernel-netlink.roam_events") == value


def test_files_that_include_each_other_end() -> None:
    assert parsed({"/etc/main.conf": "a = 1\ninclude main.conf\n"}).get("a") == "1"


def test_what_is_no_strongswan_conf_is_named_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"/etc/main\.conf: line 2"):
        parsed({"/etc/main.conf": "a = 1\n= 2"})


@pytest.mark.parametrize(
    ("word", "meaning"), [("no", False), ("0", False), ("Disabled", False), ("YES", True), ("1", True), ("maybe", True)]
)
def test_words_mean_what_they_mean_to_charon(word: str, meaning: bool) -> None:
    assert Settings({"a": word}).boolean("a", default=True) is meaning


def test_roam_events_is_read_from_the_files_of_the_machine(tmp_path: Path) -> None:
    folder = tmp_path / "etc/strongswan.d"
    folder.mkdir(parents=True)
    (tmp_path / "etc/strongswan.conf").write_text("charon { }\ninclude strongswan.d/*.conf\n")
    probes = machine(tmp_path)
    assert probes.roam_events() == (True, "the default")
    (folder / "a.conf").write_text("charon { plugins { kernel-netlink { roam_events = no } } }\n")
    setting, where = probes.roam_events()
    assert setting is False
    assert "charon.plugins.kernel-netlink.roam_events in" in where
    (folder / "b.conf").write_text("charon-systemd.plugins.kernel-netlink.roam_events = yes\n")
    assert probes.roam_events()[0] is True


def test_a_strongswan_conf_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    setting, where = machine(tmp_path).roam_events()
    assert setting is None
    assert "No such file" in where
