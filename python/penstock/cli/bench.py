"""`penstock bench`: load a server, and tell what it answered."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..bench.echo import TcpLoad, UdpLoad
    from ..bench.figures import Figures
    from ..bench.iperf import Carried
    from ..bench.outcome import Found, Load
    from ..bench.trust import Trust

FC = TypeVar("FC", bound=Callable[..., Any])
T = TypeVar("T")

EXIT_ERRORS = 1
MOST_BODY = 64 << 20
TOOLS = ("wrk", "h2load", "ab")
ECHO_TOOLS = ("iperf3",)
FRAMES = ("raw", "line", "length1", "length2", "length4", "varint")
_SHOWN: Any = {"show_default": True}


@click.group("bench")
def command() -> None:
    """Load a server, and tell what it answered."""


def _paced(connections: int, timeout_s: float) -> Callable[[FC], FC]:
    """The options that every load has, with a protocol's own defaults."""
    options = (
        click.option("-c", "--connections", metavar="N", type=click.IntRange(1, 65_536), default=connections, **_SHOWN),
        click.option("-d", "--duration", metavar="SECONDS", type=click.FloatRange(0.1, 86_400), default=10.0, **_SHOWN),
        click.option(
            "--warm-up",
            metavar="SECONDS",
            type=click.FloatRange(0, 3600),
            default=1.0,
            help="Load that comes before, and is not measured.",
            **_SHOWN,
        ),
        click.option(
            "--rate",
            metavar="N",
            type=click.FloatRange(0.01, 10e6),
            help="Requests due a second, in all, whatever the server does; latencies count from then. Without it each "
            "connection asks again once it was answered.",
        ),
        click.option(
            "--pipeline",
            metavar="N",
            type=click.IntRange(1, 1024),
            default=1,
            help="Requests that one connection may have unanswered.",
            **_SHOWN,
        ),
        click.option(
            "--timeout",
            metavar="SECONDS",
            type=click.FloatRange(0.01, 3600),
            default=timeout_s,
            help="An answer that takes longer is an error.",
            **_SHOWN,
        ),
        click.option("--json", "as_json", is_flag=True, help="Tell it to a program."),
        click.option("--progress/--no-progress", default=None, help="Show how far it is.  [default: on a terminal]"),
    )

    def add(function: FC) -> FC:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _trusting(function: FC) -> FC:
    """The options of every load that may go over TLS."""
    cacert = click.option(
        "--cacert",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Trust the certificates in this file (PEM), and none of the machine's own authorities.",
    )
    insecure = click.option("-k", "--insecure", is_flag=True, help="Take any certificate.")
    return cacert(insecure(function))


_BESIDE_ECHO = click.option(
    "--beside",
    metavar="TOOLS",
    help="See what iperf3 carries on the same path, with a server of its own: on this machine one is started, "
    "elsewhere it has to be there.",
)


@command.command("http")
@click.argument("url")
@_paced(64, 10.0)
@click.option("--method", metavar="NAME", help="GET, or POST with a body, if it is not said.")
@click.option("-H", "--header", "headers", metavar="NAME:VALUE", multiple=True, help="Sent with every request.")
@click.option("--body", metavar="TEXT|@FILE", help="What every request posts.")
@click.option("--body-size", metavar="BYTES", type=click.IntRange(1, MOST_BODY), help="Post so many bytes instead.")
@_trusting
@click.option(
    "--beside", metavar="TOOLS", help=f"Give the same load to {', '.join(TOOLS)} (a list), one after another."
)
def http(
    url: str,
    connections: int,
    duration: float,
    warm_up: float,
    rate: float | None,
    pipeline: int,
    method: str | None,
    headers: tuple[str, ...],
    body: str | None,
    body_size: int | None,
    cacert: Path | None,
    insecure: bool,
    timeout: float,
    beside: str | None,
    as_json: bool,
    progress: bool | None,
) -> int:
    """Load an HTTP/1.1 server, over TLS if the URL is https: as fast as it answers, or at a rate.

    An answer is good if its status is from 200 to 399. Exits with 1 if any request failed, since figures of a load that
    failed are of something else.
    """
    tools = _tools(beside, TOOLS)
    posted = _body(body, body_size)
    written = [_header(each) for each in headers]
    # Only now, so that help and a wrong option are answered at once.
    from ..bench import http as bench

    target = bench.Target.of(url)
    load = bench.HttpLoad(
        target=target,
        trust=_trust(cacert, insecure, is_tls=target.name is not None, how="ask an https URL"),
        connections=connections,
        duration_s=duration,
        warm_up_s=warm_up,
        rate=rate,
        pipeline=pipeline,
        method=method.upper() if method else None,
        headers=written,
        body=posted,
        answer_timeout_s=timeout,
    )
    shown = sys.stderr.isatty() if progress is None else progress
    with _bar(load, shown) as told:
        found = bench.run(load, told)
    from ..bench.beside import run_beside

    others, left_out = _beside(load, tools, shown, lambda name: run_beside(name, load))
    return _tell(load, found, as_json, others, left_out)


@command.command("tcp")
@click.argument("address")
@_paced(64, 10.0)
@click.option("--size", metavar="BYTES", type=click.IntRange(1, MOST_BODY), default=64, help="Of a message.", **_SHOWN)
@click.option(
    "--frame",
    type=click.Choice(FRAMES),
    default="raw",
    help="What goes around it: nothing, a newline after it, or before it its length in so many bytes (big-endian), or "
    "as a varint.",
    **_SHOWN,
)
@click.option("--tls", is_flag=True, help="Over TLS.")
@_trusting
@_BESIDE_ECHO
def tcp(
    address: str,
    size: int,
    frame: str,
    tls: bool,
    cacert: Path | None,
    insecure: bool,
    beside: str | None,
    as_json: bool,
    progress: bool | None,
    **paced: Any,
) -> int:
    """Load a TCP server that sends back what it is sent, byte for byte. ADDRESS is HOST:PORT."""
    tools = _tools(beside, ECHO_TOOLS)
    trust = _trust(cacert, insecure, is_tls=tls, how="say --tls")
    from ..bench import echo

    endpoint = echo.Endpoint.of(address)
    load = echo.TcpLoad(endpoint=endpoint, size=size, frame=frame, tls=tls, trust=trust, **_pace(paced))
    shown = sys.stderr.isatty() if progress is None else progress
    with _bar(load, shown) as told:
        found = echo.run_tcp(load, told)
    return _tell(load, found, as_json, *_beside_echo(load, tools, shown))


@command.command("udp")
@click.argument("address")
@_paced(16, 1.0)
@click.option("--size", metavar="BYTES", type=click.IntRange(8, 65_507), default=64, help="Of a datagram.", **_SHOWN)
@_BESIDE_ECHO
def udp(address: str, size: int, beside: str | None, as_json: bool, progress: bool | None, **paced: Any) -> int:
    """Load a UDP server that sends back each datagram. ADDRESS is HOST:PORT.

    A connection is a socket with a port of its own. A datagram that is not back within the timeout is lost.
    """
    tools = _tools(beside, ECHO_TOOLS)
    from ..bench import echo

    endpoint = echo.Endpoint.of(address, kind=socket.SOCK_DGRAM)
    load = echo.UdpLoad(endpoint=endpoint, size=size, **_pace(paced))
    shown = sys.stderr.isatty() if progress is None else progress
    with _bar(load, shown) as told:
        found = echo.run_udp(load, told)
    return _tell(load, found, as_json, *_beside_echo(load, tools, shown))


@command.command("connections")
@click.option("--target", metavar="N", type=click.IntRange(1, 16_000_000), default=10_000, help="How many.", **_SHOWN)
@click.option(
    "--protocol",
    type=click.Choice(["tcp", "http"]),
    default="tcp",
    help="Framed TCP to a Python handler, or HTTP keep-alive behind an ASGI application.",
    **_SHOWN,
)
@click.option(
    "--hold",
    metavar="SECONDS",
    type=click.FloatRange(0, 86_400),
    default=10.0,
    help="How long they are held once all have answered.",
    **_SHOWN,
)
@click.option(
    "--heartbeat",
    metavar="SECONDS",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    help="Each asks once in so long while it is held; 0 is never. Over TCP the reactor answers, without Python.",
    **_SHOWN,
)
@click.option("--broadcast", is_flag=True, help="Send one frame to everybody, and wait until it is there (TCP).")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    help="A connection that takes longer to open or to answer is lost.",
    **_SHOWN,
)
@click.option("--json", "as_json", is_flag=True, help="Tell it to a program.")
@click.option("--progress/--no-progress", default=None, help="Show how far it is.  [default: on a terminal]")
def connections(
    target: int,
    protocol: Literal["tcp", "http"],
    hold: float,
    heartbeat: float,
    broadcast: bool,
    timeout: float,
    as_json: bool,
    progress: bool | None,
) -> int:
    """Hold very many connections, both ends on this machine, and see whether every single one still answers.

    Spreads over as many server and client processes as the limit of descriptors asks for, and as many addresses of
    127.64.0.0/10 as their ports do. What it will take is said first, and refused where the machine cannot hold it.
    Exits with 1 if a connection was lost.
    """
    from ..bench import crowd
    from ..bench.crowd import report

    load = crowd.CrowdLoad(
        target=target,
        protocol=protocol,
        hold_s=hold,
        heartbeat_s=heartbeat,
        broadcast=broadcast,
        answer_timeout_s=timeout,
    )
    plan = crowd.plan_for(load, crowd.room())
    shown = sys.stderr.isatty() if progress is None else progress
    if shown:
        click.echo("\n".join([load.title, *plan.lines]), err=True)
    found = crowd.run(load, plan, _phases if shown else _no_phases)
    tell = report.as_json if as_json else report.text
    click.echo(tell(load, plan, found))
    return EXIT_ERRORS if found.phases[-1].open < target else 0


@contextmanager
def _phases(name: str, most: int) -> Generator[Callable[[int, int, int], None] | None]:
    """A bar for each phase: connections while they are opened, answers afterwards."""
    if not most:
        click.echo(name, err=True)
        yield None
        return
    with click.progressbar(length=most, label=f"{name:<12}", file=sys.stderr, item_show_func=str) as bar:

        def far(opened: int, answered: int, lost: int) -> None:
            reached = min(opened if name == "open" else answered, most)
            failed = f", {lost:,} lost" if lost else ""
            bar.update(max(0, reached - bar.pos), f"{reached:,}{failed}")

        yield far


@contextmanager
def _no_phases(name: str, most: int) -> Generator[None]:
    yield None


def _pace(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `_paced` as the fields of a load."""
    names = {"duration": "duration_s", "warm_up": "warm_up_s", "timeout": "answer_timeout_s"}
    return {names.get(name, name): value for name, value in options.items()}


def _tell(load: Load, found: Found, as_json: bool, others: Sequence[Figures | Carried], left_out: Sequence[str]) -> int:
    from ..bench import report

    tell = report.as_json if as_json else report.text
    click.echo(tell(load, found, others, left_out))
    return EXIT_ERRORS if found.figures.errors or not found.figures.answers else 0


def _tools(beside: str | None, offered: Sequence[str]) -> list[str]:
    tools = [name for name in (beside or "").replace(",", " ").split() if name]
    for name in tools:
        if name not in offered:
            raise ConfigError(f"--beside: expected some of {', '.join(offered)}, got {name!r}")
    return tools


def _trust(cacert: Path | None, insecure: bool, *, is_tls: bool, how: str) -> Trust:
    """What it cannot do is refused, or somebody would believe that a certificate was looked at."""
    if cacert is not None and insecure:
        raise ConfigError("--cacert and --insecure both say whom to trust: give one of them")
    if not is_tls and (cacert is not None or insecure):
        raise ConfigError(f"--cacert and --insecure are for TLS: {how}, or leave them out")
    from ..bench.trust import Trust

    return Trust(cacert=cacert, insecure=insecure)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f"--header: expected NAME:VALUE, got {text!r}")
    return name.strip(), value.strip()


def _body(body: str | None, size: int | None) -> bytes | None:
    if body is not None and size is not None:
        raise ConfigError("--body and --body-size both say what to post: give one of them")
    if size is not None:
        return b"x" * size
    if body is None or not body.startswith("@"):
        return None if body is None else body.encode()
    try:
        content = Path(body[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"--body: {body[1:]}: {error.strerror}") from error
    if len(content) > MOST_BODY:
        raise ConfigError(f"--body: expected at most {MOST_BODY} bytes, got {len(content)}")
    return content


def _beside(load: Load, tools: Sequence[str], shown: bool, run: Callable[[str], T]) -> tuple[list[T], list[str]]:
    from ..bench.tool import LeftOut

    found: list[T] = []
    left_out: list[str] = []
    for name in tools:
        if shown:
            click.echo(f"{name}: {load.duration_s:g} s", err=True)
        try:
            found.append(run(name))
        except LeftOut as reason:
            left_out.append(str(reason))
    return found, left_out


def _beside_echo(load: TcpLoad | UdpLoad, tools: Sequence[str], shown: bool) -> tuple[list[Carried], list[str]]:
    from ..bench.iperf import run_iperf3

    return _beside(load, tools, shown, lambda _: run_iperf3(load))


@contextmanager
def _bar(load: Load, shown: bool) -> Generator[Callable[[float, int, int], None] | None]:
    """A bar of the time that has passed, with the answers so far."""
    if not shown:
        yield None
        return
    steps = round((load.warm_up_s + load.duration_s) * 1000)
    with click.progressbar(length=steps, label="loading", file=sys.stderr, item_show_func=str) as bar:
        yield _Teller(bar)
        bar.update(steps - bar.pos, "")


class _Teller:
    """What the load calls ten times a second."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def __call__(self, elapsed_s: float, answers: int, errors: int) -> None:
        failed = f", {errors:,} errors" if errors else ""
        self.bar.update(
            max(0, min(round(elapsed_s * 1000), self.bar.length) - self.bar.pos), f"{answers:,} answers{failed}"
        )
