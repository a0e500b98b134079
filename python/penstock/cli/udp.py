"""`penstock udp`: run a datagram server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import dataclasses

import click

from ..config import SETTINGS


@click.command("udp")
@click.argument("server")
@click.option("--bind", "address", metavar="ADDRESS", default="127.0.0.1:8000", show_default=True)
@click.option(
    "--socket-option", "options", metavar="NAME=VALUE", multiple=True, help="Set a socket option. Repeatable."
)
@click.option("--app-dir", default=".", show_default=True, help=SETTINGS["app_dir"].help)
@click.option("--poller", default="auto", show_default=True, help=SETTINGS["poller"].help)
@click.option("--log-level", default="info", show_default=True, help=SETTINGS["log_level"].help)
def command(server: str, address: str, options: tuple[str, ...], app_dir: str, poller: str, log_level: str) -> None:
    """Run a datagram server.

    SERVER is module:attribute, as in main:server for a penstock.UDPServer called server in main.py. ADDRESS is
    127.0.0.1:5353, [::1]:5353, unix:/path or unix:@name.
    """
    poller, log_level = (
        str(SETTINGS[name].parse(text)) for name, text in (("poller", poller), ("log_level", log_level))
    )
    # Only now, so that help and a wrong option are answered at once.
    from ..errors import AppImportError
    from ..importer import add_app_dir, load_object
    from ..socket_options import SocketOptions
    from ..udp import UDPServer

    given = SocketOptions.parse(options)
    add_app_dir(app_dir)
    found = load_object(server)
    if not isinstance(found, UDPServer):
        raise AppImportError(f"{server}: expected a penstock.UDPServer, got {type(found).__name__}")
    written = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    found.options = dataclasses.replace(
        found.options, **{name: value for name, value in written.items() if value is not None}
    )
    found.run(address, poller=poller, log_level=log_level)
