"""`penstock top`: a server's workers in a terminal, live, from its `--metrics-bind`."""

from __future__ import annotations

import contextlib
import select
import shutil
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Generator

import click

_KEYS = "q quits, s sorts, p pauses"


@click.command("top")
@click.argument("address", default="9090")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, metavar="SECONDS", help="[default: 1]")
@click.option("--once", is_flag=True, help="Print one interval as plain text, and leave.")
def command(address: str, interval: float, once: bool) -> None:
    """Watch a server: its requests, connections, event loops and workers.

    ADDRESS is the server's --metrics-bind: a port of this machine (9090 unless given), HOST:PORT or unix:PATH.
    """
    from .. import top

    source = top.Source(address)
    if once:
        before = source.ask()
        time.sleep(interval)
        click.echo("\n".join(top.lines(top.between(before, source.ask()), [], width=160, height=10_000)))
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("this is no terminal: say --once for one look as plain text")
    source.ask()
    with _screen():
        _watch(source, interval)


def _watch(source: object, interval: float) -> None:
    from .. import top
    from ..errors import ConnectFailed

    assert isinstance(source, top.Source)
    past: deque[float] = deque(maxlen=500)
    before, view, trouble, is_paused = None, None, "", False
    sorts = list(top.SORTS)
    while True:
        due = time.monotonic() + interval
        if not is_paused:
            try:
                now = source.ask()
            except ConnectFailed as error:
                trouble = str(error)
            else:
                view, before, trouble = top.between(before, now), now, ""
                if view.responses is not None:
                    past.append(view.responses)
        while True:
            _draw(view, list(past), trouble or ("paused" if is_paused else ""), sorts[0])
            key = _key_before(due)
            if key in ("q", "\x03", "\x04"):
                return
            if key == "s":
                sorts.append(sorts.pop(0))
            elif key == "p":
                is_paused = not is_paused
            elif key is None:
                break


def _draw(view: object, past: list[float], trouble: str, sort: str) -> None:
    from .. import top

    width, height = shutil.get_terminal_size()
    text: list[str] = []
    if isinstance(view, top.View):
        text = top.lines(view, past, width=width, height=height - 1, sort=sort)
        text[0] = f"{top.BOLD}{text[0]}{top.PLAIN}"
        if len(text) > top.TABLE_AT:
            text[top.TABLE_AT] = f"{top.INVERSE}{text[top.TABLE_AT]}{top.PLAIN}"
    foot = f"{_KEYS}; by {sort}"
    last = f"{top.RED}{trouble[:width]}{top.PLAIN}" if trouble else f"{top.FAINT}{foot[:width]}{top.PLAIN}"
    # Each line to its end, and what is below: no flicker, nothing left of what was there.
    sys.stdout.write("\033[H" + "".join(f"{line}\033[K\r\n" for line in text) + f"{last}\033[K\033[J")
    sys.stdout.flush()


def _key_before(due: float) -> str | None:
    readable, _, _ = select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))
    return (sys.stdin.buffer.raw.read(1) or b"q").decode("latin-1") if readable else None  # type: ignore[attr-defined]


@contextlib.contextmanager
def _screen() -> Generator[None]:
    """A screen of its own, keys as they are pressed; all as it was when the block ends."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setcbreak(stdin)
        sys.stdout.write("\033[?1049h\033[?25l")
        yield
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        sys.stdout.write("\033[?25h\033[?1049l")
        sys.stdout.flush()
