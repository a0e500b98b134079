"""`penstock tcp`: serve a `penstock.TCPServer` of a module until Ctrl-C or SIGTERM."""

from __future__ import annotations

import click


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
@click.option("--reactors", type=click.IntRange(1, 1024), default=1, help="Event loops, one thread each.  [default: 1]")
@click.option("--poller", type=click.Choice(["auto", "epoll", "io_uring"]), default="auto", help="[default: auto]")
@click.option("--app-dir", default=".", metavar="DIR", help="Look for the module in this directory.  [default: .]")
def command(server: str, addresses: tuple[str, ...], reactors: int, poller: str, app_dir: str) -> None:
    """Serve a protocol of your own.

    SERVER is module:attribute, as in main:server for `server = penstock.TCPServer(...)` in main.py.
    """
    from .. import importer
    from ..errors import AppImportError
    from ..streams import TCPServer

    importer.add_app_dir(app_dir)
    found = importer.load_object(server)
    if not isinstance(found, TCPServer):
        raise AppImportError(f"{server}: expected a penstock.TCPServer, got {type(found).__name__}")
    found.run(*addresses, reactors=reactors, poller=poller)
