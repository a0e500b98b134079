"""What `penstock tcp` and `penstock udp` have of `ServerConfig`'s settings: the same options, with the same meaning."""

from __future__ import annotations

from typing import Any

import click

from ..config import PROTOCOL_SETTINGS, SETTINGS, ServerConfig
from .options import SettingOption


def add_settings(command: click.Command, *, without: str = "") -> None:
    """Give a command these options; their values come to it as keywords, as they were written."""
    command.params += [SettingOption(SETTINGS[name]) for name in PROTOCOL_SETTINGS if name != without]


def config_of(written: dict[str, Any]) -> ServerConfig:
    """Raises `ConfigError`."""
    given: dict[str, Any] = {name: SETTINGS[name].parse(text) for name, text in written.items() if text is not None}
    return ServerConfig(**given)
