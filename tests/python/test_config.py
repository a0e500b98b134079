"""ServerConfig: every setting has bounds, and one text says what was wrong with it wherever it came from."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from penstock import ConfigError, ServerConfig
from penstock.config import SETTINGS, Choice, Integer, Seconds, Switch, settings_from_environment


def test_the_defaults_are_within_their_own_bounds():
    config = ServerConfig()
    assert (config.host, config.port, config.backlog, config.timeout_keep_alive_s) == ("127.0.0.1", 8000, 4096, 5.0)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerConfig().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_flag_a_variable_and_one_line_of_help(name: str):
    known = SETTINGS[name]
    assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", known.flag)
    assert re.fullmatch(r"PENSTOCK_[A-Z]+(_[A-Z]+)*", known.variable)
    assert known.help.endswith(".")
    assert "\n" not in known.help


def test_flags_and_variables_leave_the_unit_to_the_help():
    known = SETTINGS["timeout_keep_alive_s"]
    assert (known.flag, known.variable) == ("--timeout-keep-alive", "PENSTOCK_TIMEOUT_KEEP_ALIVE")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("port", "8000"),
        ("port", True),
        ("port", None),
        ("host", None),
        ("host", "a\0b"),
        ("uds", ""),
        ("fd", -1),
        ("backlog", 0),
        ("reactors", 0),
        ("timeout_keep_alive_s", -0.1),
        ("timeout_keep_alive_s", float("nan")),
        ("timeout_graceful_shutdown_s", float("inf")),
        ("timeout_graceful_shutdown_s", "30"),
        ("lifespan", "maybe"),
        ("log_level", "loud"),
        ("poller", "kqueue2"),
        ("access_log", 1),
        ("root_path", "api"),
        ("root_path", "/api/"),
        ("root_path", "/a\nb"),
    ],
)
def test_a_wrong_value_is_refused_with_its_flag_what_was_expected_and_what_came(name: str, value: Any):
    with pytest.raises(ConfigError) as caught:
        ServerConfig(**{name: value})
    known = SETTINGS[name]
    assert str(caught.value) == f"{known.flag}: expected {known.kind.expectation}, got {value!r}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0),
        ("port", 65535),
        ("fd", 0),
        ("timeout_keep_alive_s", 0),
        ("timeout_keep_alive_s", 86_400),
        ("timeout_graceful_shutdown_s", 0.25),
        ("root_path", "/api/v1"),
        ("root_path", ""),
        ("uds", "/run/app.sock"),
        ("log_level", "trace"),
    ],
)
def test_values_at_the_bounds_are_taken(name: str, value: Any):
    assert getattr(ServerConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    "given",
    [
        {"uds": "/run/app.sock", "fd": 3},
        {"uds": "/run/app.sock", "port": 9000},
        {"uds": "/run/app.sock", "host": "0.0.0.0"},
        {"fd": 3, "port": 9000},
        {"fd": 3, "host": "::"},
    ],
)
def test_two_answers_to_where_to_listen_are_refused(given: dict[str, Any]):
    with pytest.raises(ConfigError, match="both say where to listen"):
        ServerConfig(**given)


def test_the_environment_gives_values_of_every_kind():
    given = settings_from_environment(
        {
            "PENSTOCK_PORT": "9000",
            "PENSTOCK_TIMEOUT_KEEP_ALIVE": "2.5",
            "PENSTOCK_ACCESS_LOG": "No",
            "PENSTOCK_FACTORY": "1",
            "PENSTOCK_LOG_LEVEL": "DEBUG",
            "PENSTOCK_ROOT_PATH": "/api",
            "PENSTOCK_UDS": "",
            "PENSTOCK_SOMETHING_OF_THE_APPLICATIONS": "x",
            "PORT": "1",
        }
    )
    assert given == {
        "port": 9000,
        "timeout_keep_alive_s": 2.5,
        "access_log": False,
        "factory": True,
        "log_level": "debug",
        "root_path": "/api",
    }
    assert isinstance(ServerConfig(**given), ServerConfig)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PENSTOCK_PORT", "http"),
        ("PENSTOCK_PORT", "80 80"),
        ("PENSTOCK_PORT", "٨٠"),
        ("PENSTOCK_TIMEOUT_KEEP_ALIVE", "5s"),
        ("PENSTOCK_ACCESS_LOG", "perhaps"),
        ("PENSTOCK_LIFESPAN", "sometimes"),
    ],
)
def test_a_wrong_variable_is_named_as_the_user_wrote_it(variable: str, text: str):
    with pytest.raises(ConfigError) as caught:
        settings_from_environment({variable: text})
    assert str(caught.value).startswith(f"{variable}: expected ")
    assert str(caught.value).endswith(f", got {text!r}")


def test_every_number_has_bounds_and_every_choice_knows_its_default():
    for known in SETTINGS.values():
        if isinstance(known.kind, Integer | Seconds):
            assert known.kind.minimum < known.kind.maximum
        elif isinstance(known.kind, Choice):
            assert known.default in known.kind.choices
        elif isinstance(known.kind, Switch):
            assert known.off_flag == f"--no-{known.flag[2:]}"
