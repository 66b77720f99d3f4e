"""The configuration file: what it accepts, and what it says of what it does not."""

import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from swanroam.app.config import Changes, Config, LogLevel, diff, load, parse
from swanroam.core.settings import Agreement
from swanroam.errors import ConfigError
from swanroam.model.tunnel import Role

FILE = Path("/etc/swanroam/swanroam.toml")


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    assert str(FILE) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_role_is_all_that_a_plain_install_needs() -> None:
    config = parse('role = "gateway"', FILE)
    assert config == Config(settings=config.settings)
    assert config.role is Role.GATEWAY
    assert config.settings.of("home").agreement is Agreement.NEGOTIATE
    assert config.settings.of("home").path_validation


def test_every_key_is_taken_over() -> None:
    config = parse(
        """
        role = "terminal"
        vici = "/run/a"
        control_socket = "/run/b"
        state_dir = "/var/c"
        port = 1
        queue = 0
        log_level = "debug"
        preference = { "eth*" = 20, "wlan*" = 10, "*" = -5 }
        [tunnels.home]
        capability = "configured"
        path_validation = "off"
        allow = ["192.0.2.0/24", "2001:db8::/32"]
        gateway_addresses = ["192.0.2.1", "2001:db8::1"]
        [hooks]
        disable = ["metered"]
        [hooks.run-parts]
        directory = "/etc/swanroam/hooks.d"
        """,
        FILE,
    )
    assert (config.vici, config.control_socket, config.state_dir) == (Path("/run/a"), Path("/run/b"), Path("/var/c"))
    assert (config.port, config.queue, config.log_level) == (1, 0, LogLevel.DEBUG)
    assert config.settings.of("home").agreement is Agreement.CONFIGURED
    assert not config.settings.of("home").path_validation
    assert config.settings.of("home").gateways == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert config.settings.of("home").allow == (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    assert config.hooks_disabled == {"metered"}
    assert config.hook_options == {"run-parts": {"directory": "/etc/swanroam/hooks.d"}}
    assert [config.preference_of(name) for name in ("eth0", "wlan1", "wwan0")] == [20, 10, -5]


def test_the_first_pattern_that_matches_an_interface_gives_its_preference() -> None:
    config = parse('role = "terminal"\npreference = { "e*" = 1, "eth0" = 2 }', FILE)
    assert config.preference_of("eth0") == 1
    assert config.preference_of("wlan0") == 0


def test_a_connection_takes_from_the_star_what_is_not_said_of_it() -> None:
    config = parse(
        """
        role = "gateway"
        [tunnels.home]
        capability = "negotiate"
        [tunnels."*"]
        capability = "off"
        path_validation = "off"
        """,
        FILE,
    )
    assert config.settings.of("home").agreement is Agreement.NEGOTIATE
    assert not config.settings.of("home").path_validation
    assert config.settings.of("another").agreement is Agreement.OFF


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("", "role", ["required", '"terminal"', '"gateway"']),
        ("role = 7", "role", ["an integer, 7", '"terminal"']),
        ('role = "gatewy"', "role", ['did you mean "gateway"?']),
        ('role = "Gateway"', "role", ['did you mean "gateway"?']),
        ('rule = "gateway"\nrole = "gateway"', "rule", ["not known", "accepted here", 'did you mean "role"?']),
        ('role = "gateway"\nport = 0', "port", ["an integer, 0", "1 to 65535"]),
        ('role = "gateway"\nport = 65536', "port", ["1 to 65535"]),
        ('role = "gateway"\nport = true', "port", ["a boolean, true", "an integer"]),
        ('role = "gateway"\nport = "4555"', "port", ["a string, '4555'", "an integer"]),
        ('role = "gateway"\nqueue = -1', "queue", ["0 to 65531"]),
        ('role = "gateway"\nqueue = 1.5', "queue", ["a float, 1.5"]),
        ('role = "gateway"\nlog_level = "loud"', "log_level", ['"debug", "info", "warning", "error"']),
        ('role = "gateway"\nvici = 3', "vici", ["an integer, 3", "a string"]),
        ('role = "gateway"\nvici = "unix:///run/charon.vici"', "vici", ["an absolute path"]),
        ('role = "gateway"\nvici = "/run/\\u0000"', "vici", ["an absolute path"]),
        ('role = "gateway"\nstate_dir = ""', "state_dir", ["an absolute path"]),
        ('role = "gateway"\ncontrol_socket = "/run/charon.vici"', "control_socket", ["same as vici"]),
        (f'role = "gateway"\ncontrol_socket = "/{"x" * 107}"', "control_socket", ["108 bytes", "at most 107"]),
        (f'role = "gateway"\nvici = "/{"é" * 54}"', "vici", ["109 bytes"]),
        ('role = "gateway"\ntunnels = "home"', "tunnels", ["a table"]),
        ('role = "gateway"\ntunnels.home = 1', "tunnels.home", ["an integer, 1", "a table"]),
        ('role = "gateway"\n[tunnels.home]\ncapabilty = "off"', "tunnels.home.capabilty", ['mean "capability"?']),
        ('role = "gateway"\n[tunnels.home]\nallow = "192.0.2.0/24"', "tunnels.home.allow", ["an array of strings"]),
        (
            'role = "terminal"\n[tunnels.home]\ngateway_addresses = ["gw"]',
            "tunnels.home.gateway_addresses",
            ["'gw'", "an address"],
        ),
        ('role = "gateway"\n[tunnels.home]\nallow = []', "tunnels.home.allow", ["is empty", "no such key"]),
        ('role = "gateway"\n[tunnels.home]\nallow = ["192.0.2.1/24"]', "tunnels.home.allow", ["'192.0.2.1/24'"]),
        ('role = "gateway"\n[tunnels.home]\ncapability = "on"', "tunnels.home.capability", ['"off"']),
        ('role = "gateway"\n[tunnels.home]\ncapability = false', "tunnels.home.capability", ["a boolean, false"]),
        ('role = "gateway"\n[tunnels."my home"]\nx = 1', 'tunnels."my home".x', ["not known"]),
        ('role = "gateway"\n[tunnels."h*"]', 'tunnels."h*"', ['"*"']),
        ('role = "gateway"\n[tunnels.a]\npath_validation = true', "tunnels.a.path_validation", ['"after", "off"']),
        ('role = "gateway"\npreference = { "eth*" = 1 }', "preference", ["for a terminal"]),
        ('role = "terminal"\npreference = { "eth*" = "high" }', 'preference."eth*"', ["an integer"]),
        ('role = "terminal"\npreference = []', "preference", ["an array", "a table"]),
        ('role = "gateway"\n[hooks]\ndisable = "metered"', "hooks.disable", ["an array of strings"]),
        ('role = "gateway"\n[hooks]\ndisable = ["a", 2]', "hooks.disable", ["an integer, 2 at index 1"]),
        ('role = "gateway"\n[hooks]\nmetered = false', "hooks.metered", ["a table"]),
        ('role = "gateway"\nport = inf', "port", ["a float"]),
        ('role = "gateway"\nport = 2026-01-01', "port", ["a date"]),
    ],
)
def test_a_bad_value_is_named_with_its_key_and_what_is_accepted(text: str, where: str, words: list[str]) -> None:
    error = refused(text)
    assert error.where == where
    for word in words:
        assert word in error.problem


def test_all_problems_are_named_at_once() -> None:
    message = str(refused('role = "gatway"\nport = 0\n[tunnels.home]\ncapability = 1\n[hook]\n'))
    for key in ("role", "port", "tunnels.home.capability", "hook"):
        assert re.search(rf"(?:^|[:;] ){re.escape(key)}: ", message), key


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('role = "gateway"\nport = = 3\n', "line 2"),
        ('role = "gateway"\n\n[tunnels\n', "line 3"),
        ('role = "gateway"\nrole = "terminal"\n', "line 2"),
        ("a = " + "[" * 100_000, ""),
        ("a = " + "9" * 5_000, ""),
        ('a = "', "line 1"),
    ],
)
def test_what_is_not_toml_is_named_with_its_line(text: str, where: str) -> None:
    error = refused(text)
    assert error.where == where
    assert "not valid TOML" in error.problem


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "swanroam.toml"
    file.write_text('role = "terminal"\n')
    assert load(file).role is Role.TERMINAL


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        load(tmp_path / "none.toml")
    assert caught.value.file == tmp_path / "none.toml"


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


def test_a_path_with_a_nul_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Path("/etc/\0"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "swanroam.toml"
    file.touch(mode=0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load(file)


def test_a_file_that_is_not_utf_8_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "swanroam.toml"
    file.write_bytes(b'role = "gateway"\n# caf\xe9\n')
    with pytest.raises(ConfigError, match=r"line 2: is not UTF-8: byte 0xe9"):
        load(file)


def test_an_endless_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(Path("/dev/zero"))


def test_a_reload_tells_what_takes_effect_and_what_needs_a_restart() -> None:
    old = parse('role = "gateway"', FILE)
    new = parse('role = "terminal"\nport = 1\nlog_level = "debug"\n[tunnels.a]\n[hooks]\ndisable = ["x"]', FILE)
    assert diff(old, old) == Changes(live=(), restart=())
    assert diff(old, new) == Changes(live=("log_level", "tunnels", "hooks"), restart=("role", "port"))
