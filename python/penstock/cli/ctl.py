"""`penstock ctl`: ask a running supervisor how it is, who is connected, or to reload, scale or stop."""

from __future__ import annotations

import json
from typing import Any

import click

# A reload takes as long as the application's start.
_TIMEOUT_S = 600.0


@click.group("ctl", epilog="PENSTOCK_CONTROL in the environment stands for --control.")
@click.option("--control", envvar="PENSTOCK_CONTROL", required=True, metavar="PATH", help="The server's --control.")
@click.option("--timeout", default=_TIMEOUT_S, show_default=True, metavar="SECONDS", help="Wait for this long at most.")
@click.pass_context
def command(ctx: click.Context, control: str, timeout: float) -> None:
    """Ask a server with workers how it is, or to do something. Each command waits until it is done."""
    from ..supervisor.control import ask

    ctx.obj = lambda **request: ask(control, timeout, **request)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="All there is to know, for programs.")
@click.pass_obj
def status(ask: Any, as_json: bool) -> None:
    """Show the workers and what they do."""
    answer = ask(do="status")
    click.echo(json.dumps(answer, indent=2) if as_json else "\n".join(_lines(answer)))


@command.command()
@click.option(
    "--sort",
    default="oldest",
    show_default=True,
    type=click.Choice(["oldest", "newest", "queued", "bytes", "silent"]),
    help="Which come first: queued has most to be sent, bytes most that has come and left, silent the longest pause.",
)
@click.option("--state", default="", metavar="STATE", help="Only those: idle, handling, sending, ...")
@click.option("--peer", default="", metavar="ADDRESSES", help="Only those from 10.0.0.0/8,::1 or unix.")
@click.option("--rows", default=50, show_default=True, type=click.IntRange(1, 200), help="How many at the most.")
@click.option("--json", "as_json", is_flag=True, help="All there is to know, for programs.")
@click.pass_obj
def connections(ask: Any, sort: str, state: str, peer: str, rows: int, as_json: bool) -> None:
    """Show single connections: who, since when, and in the middle of what."""
    from urllib.parse import urlencode

    answer = ask(do="connections", query=urlencode({"sort": sort, "state": state, "peer": peer, "rows": rows}))
    click.echo(json.dumps(answer, indent=2) if as_json else "\n".join(_connection_lines(answer)))


@command.command()
@click.pass_obj
def reload(ask: Any) -> None:
    """Replace all workers, losing no request."""
    answer = ask(do="reload")
    click.echo(f"reloaded: {answer['workers']} workers of generation {answer['generation']}")


@command.command()
@click.argument("workers", type=click.IntRange(min=1))
@click.pass_obj
def scale(ask: Any, workers: int) -> None:
    """Have this many WORKERS."""
    click.echo(f"scaled: {ask(do='scale', workers=workers)['workers']} workers")


@command.command()
@click.pass_obj
def stop(ask: Any) -> None:
    """Stop gracefully."""
    ask(do="stop")
    click.echo("stopping")


def _lines(answer: dict[str, Any]) -> list[str]:
    listeners = ", ".join(answer["listeners"])
    head = (
        f"supervisor {answer['pid']}: {answer['wanted']} workers wanted, generation {answer['generation']}, {listeners}"
    )
    columns = ("pid", "generation", "stage", "age_s", "connections", "in_progress", "served", "resident_mib")
    return [head, *_table(columns, answer["workers"])]


def _connection_lines(answer: dict[str, Any]) -> list[str]:
    head = f"{len(answer['connections'])} of {answer['matched']} shown, {answer['open']} open"
    if answer["unanswered"]:
        head += f"; not answered: workers {', '.join(answer['unanswered'])}"
    columns = ("worker", "pid", "peer", "state", "age_s", "idle_s", "received_bytes", "sent_bytes", "queued_bytes")
    return [head, *_table((*columns, "asks"), answer["connections"])]


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> list[str]:
    cells = [columns, *(tuple(_cell(each[name]) for name in columns) for each in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)
