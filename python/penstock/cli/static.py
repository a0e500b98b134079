"""`penstock static`: serve a directory's files, without an application, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import click

from ..config import APPLICATION, DEVELOPMENT, SETTINGS
from ..errors import ConfigError
from ..static import StaticMount
from .options import SettingOption, SettingsCommand, config_from

# There is no application here.
_NOT_HERE = (APPLICATION, DEVELOPMENT)


class StaticCommand(SettingsCommand):
    """The settings that concern a server without an application, and how its one directory is served."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [each for each in self.params if not _concerns_application(each)]


def _concerns_application(parameter: click.Parameter) -> bool:
    return isinstance(parameter, SettingOption) and parameter.setting.group in _NOT_HERE


@click.command(
    "static",
    cls=StaticCommand,
    epilog="Every option but the directory's own can also be given in the environment: --port 80 is PENSTOCK_PORT=80. "
    "The command line goes before it.",
)
@click.argument("directory", default=".")
@click.option("--listing/--no-listing", default=True, help="List directories that have no index.html.  [default: on]")
@click.option("--hidden", is_flag=True, help="Serve names that begin with a dot, too.")
@click.option("--cache-control", metavar="VALUE", help="Send this Cache-Control with every file.")
def command(directory: str, listing: bool, hidden: bool, cache_control: str | None, **options: object) -> None:
    """Serve the files of DIRECTORY, by default the current one.

    With --static other directories can be served beside it.
    """
    root = StaticMount(prefix="/", directory=directory, listing=listing, hidden=hidden, cache_control=cache_control)
    config = config_from(options, {name: each for name, each in os.environ.items() if name not in _NOT_ASKED})
    if any(isinstance(mount, StaticMount) and mount.prefix == "/" for mount in config.static):
        raise ConfigError("--static /: the directory of the command itself is there; mount others below a prefix")
    from ..runner import start

    start(_nothing_else, dataclasses.replace(config, static=(root, *config.static), lifespan="off"))


# Of the application's settings nothing is asked here, so nothing is wrong with them either.
_NOT_ASKED = {known.variable for known in SETTINGS.values() if known.group in _NOT_HERE}


async def _nothing_else(scope: Any, receive: Any, send: Any) -> None:
    """The application of a server whose every path is a file's: never called for a path."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
