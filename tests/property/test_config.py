"""The configuration file: whatever it holds, it is a configuration or a ConfigError."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.app.config import Config, load, parse
from swanroam.app.strongswan_conf import read_settings
from swanroam.errors import ConfigError

KEYS = ["role", "vici", "control_socket", "port", "queue", "preference", "tunnels", "hooks", "log_level", '"*"', "x.y"]
VALUES = ['"gateway"', '"terminal"', "1", "-1", "true", "[]", "{}", '"/run/x"', "1.0", "nan", "1979-05-27", "[{}]"]
LINES = st.one_of(
    st.builds("{} = {}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.builds("[{}]".format, st.sampled_from(["tunnels.home", 'tunnels."*"', "hooks", "hooks.a", "preference", "x"])),
    st.text(max_size=20),
)
FILE = Path("/etc/swanroam/swanroam.toml")


def outcome(text: str) -> Config | ConfigError:
    try:
        return parse(text, FILE)
    except ConfigError as error:
        return error


@given(st.lists(LINES, max_size=8).map("\n".join))
def test_any_text_is_a_configuration_or_a_config_error_on_one_line(text: str) -> None:
    result = outcome(text)
    assert isinstance(result, Config) or len(str(result).splitlines()) == 1


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any-bytes.toml"
    file.write_bytes(data)
    try:
        config = load(file)
    except ConfigError:
        return
    assert isinstance(config, Config)


@given(st.integers())
def test_a_port_is_accepted_exactly_when_udp_has_it(port: int) -> None:
    result = outcome(f'role = "gateway"\nport = {port}')
    if 1 <= port <= 65535:
        assert isinstance(result, Config)
        assert result.port == port
    else:
        assert isinstance(result, ConfigError)
        assert result.where == "port"


@given(st.text(alphabet='abz.{}=:#"\\ \n,*', max_size=60))
def test_any_strongswan_conf_is_settings_or_a_value_error_that_names_the_line(text: str) -> None:
    try:
        settings = read_settings(FILE, lambda _: text, lambda _folder, _pattern: [FILE])
    except ValueError as error:
        assert f"{FILE}: line " in str(error)  # noqa: PT017 - both outcomes are right
        return
    assert all(settings.get(name) is not None for name in settings.values)
