"""Command-line options made from the settings of `ServerConfig`, and the reading of them back into one.

A value is looked for on the command line, then in the environment, then in the config's default. It stays text until
the setting itself reads it, so that a wrong one is told the same way wherever it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import click

from ..config import SETTINGS, Choice, ServerConfig, Setting, Switch, refuse_contradictions, settings_from_environment


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
        for group, members in groupby(options, key=_group):
            with formatter.section(group):
                formatter.write_dl([record for each in members if (record := each.get_help_record(ctx))])


def config_from(options: Mapping[str, object], environment: Mapping[str, str]) -> ServerConfig:
    """The config that the command line and the environment ask for. Raises `ConfigError`."""
    written = {name: value for name, value in options.items() if value not in (None, ())}
    called = dict(_called(written))
    given = settings_from_environment(_without(environment, written))
    given |= {name: _value(SETTINGS[name], value) for name, value in written.items()}
    refuse_contradictions(given, {name: called.get(name, SETTINGS[name].variable) for name in given})
    return ServerConfig(**given)


def _value(known: Setting, written: object) -> object:
    """What was written, as the setting reads it: several times, if it may be."""
    if isinstance(written, tuple):
        values = (known.parse(each) for each in written)
        return tuple(each for value in values if isinstance(value, tuple) for each in value)
    return known.parse(written) if isinstance(written, str) else written


def _called(written: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    return ((name, SETTINGS[name].flag) for name in written)


def _without(environment: Mapping[str, str], written: Mapping[str, object]) -> dict[str, str]:
    """The environment without what the command line overrides, whose value then does not matter, not even if wrong."""
    overridden = {variable for name in written for variable in (SETTINGS[name].variable, SETTINGS[name].other_variable)}
    return {name: value for name, value in environment.items() if name not in overridden}


def _group(option: click.Option) -> str:
    return option.setting.group if isinstance(option, SettingOption) else "Help"


def _spelling(known: Setting) -> str:
    if known.off_flag:
        return f"--[no-]{known.flag[2:]}"
    return f"{known.flag} {'|'.join(known.kind.choices) if isinstance(known.kind, Choice) else known.kind.metavar}"


def _default_told(known: Setting) -> str:
    if isinstance(known.kind, Switch):
        return f"  [default: {'on' if known.default else 'off'}]"
    if known.default in (None, "", ()):
        return ""
    told = f"{known.default:g}" if isinstance(known.default, float) else known.default
    return f"  [default: {told}]"
