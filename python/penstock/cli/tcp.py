"""`penstock tcp`: serve a `penstock.TCPServer` of a module until Ctrl-C or SIGTERM."""

from __future__ import annotations

import click

from ..socket_options import SocketOptions
from .protocol_options import add_settings, config_of


@click.command("tcp")
@click.argument("server")
@click.option(
    "-b",
    "--bind",
    "addresses",
    multiple=True,
    default=("127.0.0.1:9000",),
    metavar="ADDRESS",
    help="Listen at host:port or unix:/path; may be repeated.  [default: 127.0.0.1:9000]",
)
@click.option(
    "--socket-option", "options", metavar="NAME=VALUE", multiple=True, help="Set a socket option. Repeatable."
)
def command(server: str, addresses: tuple[str, ...], options: tuple[str, ...], **settings: str | None) -> None:
    """Serve a protocol of your own.

    SERVER is module:attribute, as in main:server for `server = penstock.TCPServer(...)` in main.py.
    """
    config, given = config_of(settings), SocketOptions.parse(options)
    # Only now, so that help and a wrong option are answered at once.
    from ..importer import add_app_dir
    from ..streams import run_streams

    add_app_dir(config.app_dir)
    is_timed = settings["timeout_graceful_shutdown_s"] is not None
    run_streams(server, addresses, config, given, config.timeout_graceful_shutdown_s if is_timed else None)


add_settings(command)
