"""`penstock serve`: serve an application until Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import sys

import click

from .options import Choices, ServeCommand, choices_from, print_config


@click.command(
    "serve",
    cls=ServeCommand,
    epilog="Every option can also be given in the environment: --timeout-keep-alive 10 is "
    "PENSTOCK_TIMEOUT_KEEP_ALIVE=10. The command line goes before it. Options of uvicorn and gunicorn mean here what "
    "they mean there, or say what to use instead.",
)
@click.argument("app", required=False)
@click.option(
    "-c",
    "--config",
    "config_file",
    metavar="FILE",
    help="Take settings from a gunicorn.conf.py, by gunicorn's names or by Penstock's, unless the command line or the "
    "environment has them.",
)
@click.option("--check-config", is_flag=True, help="Say what is wrong with the settings and the application, and end.")
@click.option("--print-config", "printing", is_flag=True, help="Print every setting and where it came from, and end.")
def command(app: str | None, check_config: bool, printing: bool, **options: object) -> int:
    """Serve an application.

    APP is module:attribute, as in main:app for the name app in main.py. With the module alone, its app or
    application is served.
    """
    choices = choices_from(options, os.environ)
    app = app or choices.app
    if printing:
        click.echo("\n".join(print_config(choices)).rstrip())
        return 0
    if app is None:
        raise click.MissingParameter(ctx=click.get_current_context(), param=_app_parameter())
    if check_config:
        return _check(app, choices)
    config = choices.config()
    # Only now, so that help and a wrong option are answered at once.
    from ..runner import start

    start(app, config, notes=choices.notes)
    return 0


def _app_parameter() -> click.Parameter:
    return next(each for each in click.get_current_context().command.params if each.name == "app")


def _check(app: str, choices: Choices) -> int:
    """Each mistake in a line, and the status of the first, with which a start would end."""
    for note in choices.notes:
        print(f"penstock: note: {note}", file=sys.stderr)
    mistakes = list(choices.all_errors())
    if not mistakes:
        from ..check import find_mistakes

        mistakes = list(find_mistakes(app, choices.config()))
    for mistake in mistakes:
        if mistake.details:
            print(mistake.details, file=sys.stderr)
        print(f"penstock: error: {mistake}", file=sys.stderr)
    if mistakes:
        return mistakes[0].exit_status
    click.echo(f"penstock: {app} can be served")
    return 0
