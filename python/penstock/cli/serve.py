"""`penstock serve`: serve an ASGI or WSGI application until Ctrl-C or SIGTERM."""

from __future__ import annotations

import os

import click

from .options import SettingsCommand, config_from


@click.command(
    "serve",
    cls=SettingsCommand,
    epilog="Every option can also be given in the environment: --timeout-keep-alive 10 is "
    "PENSTOCK_TIMEOUT_KEEP_ALIVE=10. The command line goes before it.",
)
@click.argument("app")
def command(app: str, **options: object) -> None:
    """Serve an ASGI or WSGI application.

    APP is module:attribute, as in main:app for the name app in main.py. With the module alone, its app or
    application is served.
    """
    config = config_from(options, os.environ)
    # Only now, so that help and a wrong option are answered at once.
    from ..runner import start

    start(app, config)
