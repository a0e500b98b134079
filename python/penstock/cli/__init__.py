"""The `penstock` command: a group whose commands are one file each, imported only when wanted.

Whatever a user can put right ends as one line `penstock: error: ...` on stderr and an exit status (see `errors`);
only Penstock's own bugs end in a traceback. A new command is a new module here with a `command`, and its line in
`COMMANDS`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from ..errors import PenstockError

# Each command and the module of this package that holds it as `command`.
COMMANDS = {
    "serve": "serve",
    "static": "static",
    "tcp": "tcp",
    "ctl": "ctl",
    "tune": "tune",
    "bench": "bench",
    "top": "top",
}

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it.


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"{__name__}.{COMMANDS[cmd_name]}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS:
            raise click.UsageError(f"unknown command {name}{_command_hint(name)}", ctx)
        return super().resolve_command(ctx, args)


def _command_hint(name: str) -> str:
    if ":" in name:
        return f"; to serve an application: penstock serve {name}"
    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else f"; the commands are {', '.join(COMMANDS)}"


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import platform

    from .. import __version__

    click.echo(
        f"penstock {__version__} ({platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()})"
    )
    ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="penstock COMMAND --help says more about each.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
@click.pass_context
def penstock(ctx: click.Context) -> None:
    """A network engine for Python: Rust moves the bytes, Python decides."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the status that the process should exit with."""
    try:
        outcome = penstock.main(argv, prog_name="penstock", standalone_mode=False)
    except PenstockError as error:
        return _fail(str(error), error.exit_status, details=error.details)
    except click.ClickException as error:
        return _fail(_in_one_line(error), error.exit_code)
    except click.Abort:
        return EXIT_INTERRUPTED
    return outcome if isinstance(outcome, int) else 0


def _fail(message: str, status: int, *, details: str | None = None) -> int:
    if details:
        print(details, file=sys.stderr)
    print(f"penstock: error: {message}", file=sys.stderr)
    return status


def _in_one_line(error: click.ClickException) -> str:
    """Click's complaint in our form: no capital, no full stop, and where to read on."""
    if isinstance(error, click.NoSuchOption):
        known = [name for parameter in error.ctx.command.params for name in _names(parameter)] if error.ctx else []
        nearest = difflib.get_close_matches(error.option_name, known, n=1)
        message = f"unknown option {error.option_name}" + (f"; did you mean {nearest[0]}?" if nearest else "")
    elif isinstance(error, click.MissingParameter) and error.param is not None:
        message = f"expected {error.param.human_readable_name}, got nothing"
    else:
        message = " ".join(error.format_message().split()).rstrip(".")
        message = message[:1].lower() + message[1:]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f" (see {error.ctx.command_path} --help)"
    return message


def _names(parameter: click.Parameter) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]
