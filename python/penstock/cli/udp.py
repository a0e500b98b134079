"""`penstock udp`: run a datagram server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import click

from ..socket_options import SocketOptions
from .protocol_options import add_settings, config_of


@click.command("udp")
@click.argument("server")
@click.option("-b", "--bind", "address", metavar="ADDRESS", default="127.0.0.1:8000", show_default=True)
@click.option(
    "--socket-option", "options", metavar="NAME=VALUE", multiple=True, help="Set a socket option. Repeatable."
)
def command(server: str, address: str, options: tuple[str, ...], **settings: str | None) -> None:
    """Run a datagram server.

    SERVER is module:attribute, as in main:server for a penstock.UDPServer called server in main.py. ADDRESS is
    127.0.0.1:5353, [::1]:5353, unix:/path or unix:@name.
    """
    config, given = config_of(settings), SocketOptions.parse(options)
    # Only now, so that help and a wrong option are answered at once.
    from ..importer import add_app_dir
    from ..udp import run_datagrams

    add_app_dir(config.app_dir)
    is_timed = settings["timeout_graceful_shutdown_s"] is not None
    run_datagrams(server, address, config, given, config.timeout_graceful_shutdown_s if is_timed else None)


# Where sockets are told apart by the kernel, there is nothing to choose about accepting.
add_settings(command, without="accept")
