"""Command-line options made from the settings of `ServerConfig`, and the reading of them back into one.

A value is looked for on the command line, then in the environment, then in a gunicorn.conf.py if there is one, then in
the config's default. It stays text until the setting itself reads it, so that a wrong one is told the same way wherever
it came from. Options of other servers are read by `foreign`, into the same settings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import click

from .. import env_file
from ..config import (
    ENVIRONMENT_PREFIX,
    SETTINGS,
    WHERE_SETTINGS,
    Choice,
    ServerConfig,
    Setting,
    Switch,
    contradictions,
    variable_of,
)
from ..errors import ConfigError
from . import foreign
from .foreign import Foreign, ForeignOption

CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"


class SettingOption(click.Option):
    """One setting as an option; its value is None where it is not on the command line."""

    def __init__(self, known: Setting) -> None:
        flags = f"{known.flag}/{known.off_flag}" if known.off_flag else known.flag
        many = known.kind.is_repeatable
        super().__init__([flags, known.name], default=None, help=known.help, multiple=many)
        self.setting = known

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return _spelling(self.setting), self.setting.help + _default_told(self.setting)


class SettingsCommand(click.Command):
    """A command with an option for every setting, shown in the settings' groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [SettingOption(known) for known in SETTINGS.values()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        for group, members in groupby((each for each in options if not each.hidden), key=_group):
            with formatter.section(group):
                formatter.write_dl([record for each in members if (record := each.get_help_record(ctx))])


class ServeCommand(SettingsCommand):
    """With the options of other servers, too, which help does not show."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += foreign.options()


@dataclass(frozen=True)
class Given:
    """A setting's value, and what its user knows it by: a flag, a variable, a name in a file."""

    value: object
    called: str


@dataclass
class Choices:
    """What the command line, the environment and a file ask for, before a config is made of it."""

    given: dict[str, Given] = field(default_factory=dict[str, Given])
    # What is taken without effect, and the like: to be told once logging is set up.
    notes: list[str] = field(default_factory=list[str])
    errors: list[ConfigError] = field(default_factory=list[ConfigError])
    # The application that a file names.
    app: str | None = None

    def read(self, name: str, called: str, written: object) -> None:
        """Take a value as it is written: text, several of them, or a Python object."""
        try:
            self.give(name, called, _value(SETTINGS[name], written, called))
        except ConfigError as error:
            self.errors.append(error)

    def give(self, name: str, called: str, value: Any) -> None:
        already = self.given.get(name)
        if already is None:
            self.given[name] = Given(value, called)
        elif SETTINGS[name].kind.is_repeatable:
            self.given[name] = Given((*_tuple(already.value), *value), already.called)
        else:
            self.errors.append(ConfigError(f"{already.called} and {called} are the same setting: give one of them"))

    def take(self, known: Foreign, called: str, written: object) -> None:
        """Take an option of another server's."""
        if known.is_refused:
            self.errors.append(ConfigError(f"{called}: {known.word}"))
        elif known.setting is None:
            self.notes.append(f"{called} {known.note}")
        else:
            self.read(known.setting, called, known.turn(written) if known.turn else written)

    def over(self, lower: Choices) -> Choices:
        """Both, where what is said here goes before."""
        says_where = not self.given.keys().isdisjoint(WHERE_SETTINGS)
        left = {name: each for name, each in lower.given.items() if not (says_where and name in WHERE_SETTINGS)}
        return Choices(left | self.given, self.notes + lower.notes, self.errors + lower.errors, self.app or lower.app)

    def config(self) -> ServerConfig:
        """Raises the first `ConfigError`."""
        for error in self.all_errors():
            raise error
        return ServerConfig(**self._values())

    def all_errors(self) -> list[ConfigError]:
        called = {name: each.called for name, each in self.given.items()}
        return self.errors + contradictions(self._values(), called)

    def _values(self) -> dict[str, Any]:
        return {name: each.value for name, each in self.given.items()}


def choices_from(options: Mapping[str, object], environment: MutableMapping[str, str]) -> Choices:
    """What the command line, the environment and the files that they name ask for. An env file's variables are put
    into the environment."""
    choices = _from_command_line(options)
    _load_env_file(choices, environment)
    _add_environment(choices, environment)
    path = options.get("config_file") or environment.get(CONFIG_VARIABLE)
    if isinstance(path, str) and path:
        from . import gunicorn_file

        return choices.over(gunicorn_file.read(path))
    if os.path.exists("gunicorn.conf.py"):
        choices.notes.append("gunicorn.conf.py is here, and is read only with -c gunicorn.conf.py")
    return choices


def config_from(options: Mapping[str, object], environment: MutableMapping[str, str]) -> ServerConfig:
    """The config that they ask for. Raises `ConfigError`."""
    return choices_from(options, environment).config()


def print_config(choices: Choices) -> Iterator[str]:
    """Every setting with its value, and where that came from; lines that TOML would read."""
    config = choices.config()
    for group, members in groupby(SETTINGS.values(), key=lambda known: known.group):
        yield f"# {group}"
        for known in members:
            came = choices.given.get(known.name)
            line = f"{known.name} = {_as_toml(getattr(config, known.name))}"
            yield f"{line:<40}  # {came.called if came else 'default'}"
        yield ""


def _as_toml(value: object) -> str:
    if value is None:
        return '""'
    return json.dumps(value, default=str, ensure_ascii=False)


def _from_command_line(options: Mapping[str, object]) -> Choices:
    choices = Choices()
    for name, value in options.items():
        if name in SETTINGS and value not in (None, ()):
            choices.read(name, _flag_as_written(SETTINGS[name], value), value)
    for flag, known in foreign.BY_FLAG.items():
        value = options.get(ForeignOption.parameter_name(flag))
        if isinstance(value, tuple) and value:
            repeats = known.setting is not None and SETTINGS[known.setting].kind.is_repeatable
            choices.take(known, flag, value if repeats else value[-1])
        elif value is True:
            choices.take(known, flag, True)
    return choices


def _flag_as_written(known: Setting, value: object) -> str:
    return known.off_flag if value is False and known.off_flag else known.flag


def _load_env_file(choices: Choices, environment: MutableMapping[str, str]) -> None:
    path = choices.given["env_file"].value if "env_file" in choices.given else environment.get(_ENV_FILE_VARIABLE)
    if isinstance(path, str) and path:
        try:
            env_file.load(path, environment)
        except ConfigError as error:
            choices.errors.append(error)


_ENV_FILE_VARIABLE = SETTINGS["env_file"].variable


def _add_environment(choices: Choices, environment: Mapping[str, str]) -> None:
    """What the command line does not override, whose variable then does not matter, not even if wrong."""
    for name, known in SETTINGS.items():
        variable = None if name in choices.given else variable_of(known, environment)
        if variable is not None:
            choices.read(name, variable, environment[variable])
    choices.notes += _of_other_servers(environment)


def _of_other_servers(environment: Mapping[str, str]) -> Iterator[str]:
    """Variables that other servers take settings from; each is known by another name here."""
    if environment.get("GUNICORN_CMD_ARGS"):
        yield "GUNICORN_CMD_ARGS is not read: give its options to penstock serve"
    for variable in sorted(environment):
        ours = ENVIRONMENT_PREFIX + variable.removeprefix("UVICORN_")
        if variable.startswith("UVICORN_") and environment[variable]:
            is_known = any(known.variable == ours for known in SETTINGS.values())
            yield f"{variable} is not read" + (f": here it is {ours}" if is_known else "")


def _value(known: Setting, written: object, called: str) -> object:
    """What was written, as the setting reads it: several times, if it may be."""
    if isinstance(written, str):
        return known.parse(written, called=called)
    if isinstance(written, tuple | list) and known.kind.is_repeatable:
        # Each is one already: of the command line, or of a Python list.
        values = [_one(known, each, called) for each in written]
        return tuple(each for value in values for each in value)
    known.check(written, called=called)
    return written


def _one(known: Setting, written: object, called: str) -> tuple[Any, ...]:
    if isinstance(written, str):
        return known.parse_one(written, called=called)
    known.check((written,), came=written, called=called)
    return (written,)


def _tuple(value: object) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _group(option: click.Option) -> str:
    return option.setting.group if isinstance(option, SettingOption) else "Help"


def _spelling(known: Setting) -> str:
    if known.off_flag:
        return f"--[no-]{known.flag[2:]}"
    names = ", ".join([*_short(foreign.other_names(known.name)), known.flag])
    return f"{names} {'|'.join(known.kind.choices) if isinstance(known.kind, Choice) else known.kind.metavar}"


def _short(flags: Iterable[str]) -> Iterator[str]:
    return (flag for flag in flags if len(flag) == 2)


def _default_told(known: Setting) -> str:
    if known.default in (None, "", ()):
        return ""
    if isinstance(known.kind, Switch):
        return f"  [default: {'on' if known.default else 'off'}]"
    told = f"{known.default:g}" if isinstance(known.default, float) else known.default
    return f"  [default: {told}]"
