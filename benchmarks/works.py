"""The works: what each server is asked to do, and what is read off it. A new work is one function and one entry.

A work's figures are a flat mapping of metric to number; METRICS says what each means and how it is shown.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from load import CONNECTIONS, Load, Target, UdpLoad, http_load, stream_echo, udp_load
from measure import BenchError, Running
from servers import FILES, RESP, UDP_ECHO
from stream_load import FRAME, Audience, echo_one_frame, redis_benchmark

Figures = dict[str, float]

POST_BYTES = 10 * 1024


@dataclass(frozen=True)
class Metric:
    label: str
    decimals: int
    # What is judged first, and divided by Penstock's in the tables.
    is_cost: bool = False


METRICS = {
    "cost_us": Metric("server CPU per request, us", 2, is_cost=True),
    "frame_us": Metric("server CPU per frame, us", 3, is_cost=True),
    "command_us": Metric("server CPU per command, us", 3, is_cost=True),
    "delivery_us": Metric("server CPU per delivery, us", 3, is_cost=True),
    "gib_ms": Metric("server CPU per GiB, ms", 1, is_cost=True),
    "bytes_per_connection": Metric("user bytes per connection", 0, is_cost=True),
    "fast_p99_ms": Metric("p99 of the fast, ms", 1, is_cost=True),
    "rate": Metric("answers/s", 0),
    "p50_us": Metric("p50, us", 0),
    "p99_us": Metric("p99, us", 0),
    "p99_9_us": Metric("p99.9, us", 0),
    "max_us": Metric("max, us", 0),
    "fast_max_ms": Metric("slowest of the fast, ms", 1),
    "fast_evenness": Metric("least served fast connection / most served", 2),
    "slow_p50_ms": Metric("p50 of the slow, ms", 1),
    "slow_rate": Metric("slow answers/s", 1),
    "connections": Metric("connections held", 0),
    "lost_percent": Metric("datagrams lost, %", 3),
    "idle_cpu_percent": Metric("idle CPU, % of a core", 2),
}


@dataclass(frozen=True)
class Effort:
    """How much is spent on each measurement."""

    seconds: float
    warm_up_s: float
    idle_connections: int
    # How long a server may tidy up before its memory is read.
    settle_s: float


@dataclass(frozen=True)
class Case:
    """One row of servers side by side, such as one rate of the work `rate`."""

    name: str
    rate: float | None = None
    path: str = "/"


@dataclass(frozen=True)
class Work:
    name: str
    title: str
    app: str
    servers: tuple[str, ...]
    measure: Callable[[Running, Case, Effort], Figures]
    cases: tuple[Case, ...]
    # What its plot shows.
    plotted: tuple[str, ...] = ("cost_us",)
    # On one processor, with the load on the other.
    pinned: bool = True
    # The same in every round, so that one is enough.
    once: bool = False


def measure_load(server: Running, targets: list[Target], rate: float | None, effort: Effort) -> Figures:
    """Warm the server up, then load it: CPU time of its whole tree for each answer, and latencies."""
    http_load(server.port, targets, seconds=effort.warm_up_s, rate=rate)
    before_s = server.cpu_seconds()
    load = http_load(server.port, targets, seconds=effort.seconds, rate=rate)
    spent_s = server.cpu_seconds() - before_s
    latency = load.latency_us
    return {
        "cost_us": spent_s / load.answers * 1e6,
        "rate": load.rate,
        "p50_us": latency["p50"],
        "p99_us": latency["p99"],
        "p99_9_us": latency["p99_9"],
        "max_us": latency["max"],
    }


# What the smallest buffer of a server has room for, so that nothing has to be lost.
UDP_FLOWS, UDP_WINDOW, UDP_BYTES = 16, 8, 64
# Each datagram is a packet of its own; or what a client sends together leaves as one (GSO).
UDP_SINGLE, UDP_RUNS = Case("udp"), Case("udp in runs")


def measure_udp(server: Running, case: Case, effort: Effort) -> Figures:
    """Datagrams of 64 bytes: CPU time of the server for each echo."""

    def load(seconds: float) -> UdpLoad:
        return udp_load(
            server.port,
            flows=UDP_FLOWS,
            window=UDP_WINDOW,
            datagram_bytes=UDP_BYTES,
            in_runs=case is UDP_RUNS,
            seconds=seconds,
        )

    load(effort.warm_up_s)
    before_s = server.cpu_seconds()
    found = load(effort.seconds)
    return {
        "cost_us": (server.cpu_seconds() - before_s) / found.answers * 1e6,
        "rate": found.rate,
        "p50_us": found.latency_us["p50"],
        "p99_us": found.latency_us["p99"],
        "lost_percent": 100 * found.lost / (found.answers + found.lost),
    }


def measure_get(server: Running, case: Case, effort: Effort) -> Figures:
    return measure_load(server, [Target(case.path)], case.rate, effort)


# Few enough for each to be answered several times in a measurement.
LARGE_CONNECTIONS = 4
# On one machine it is chance, but for as long as connections live, whether the server's own sends carry a file's bytes
# to the other end, or the acknowledgements of that end do, in its time: 55 or 290 ms of nginx's for a GiB. So each
# measurement is of many sets of connections, and each server has its share of both.
LARGE_SETS = 8


def measure_large(server: Running, case: Case, effort: Effort) -> Figures:
    """A large file, over and over: CPU time for the bytes of whole answers."""

    def load(seconds: float) -> Load:
        return http_load(server.port, [Target(case.path)], seconds=seconds, connections=LARGE_CONNECTIONS)

    load(effort.warm_up_s)
    before_s = server.cpu_seconds()
    loads = [load(effort.seconds) for _ in range(LARGE_SETS)]
    spent_s = server.cpu_seconds() - before_s
    gib = sum(load.answers for load in loads) * FILES[case.path.rpartition("/")[2]] / 2**30
    return {"gib_ms": spent_s / gib * 1e3, "rate": sum(load.rate for load in loads) / LARGE_SETS}


def measure_post(server: Running, case: Case, effort: Effort) -> Figures:
    return measure_load(server, [Target("/", body_bytes=POST_BYTES)], case.rate, effort)


def measure_fairness(server: Running, case: Case, effort: Effort) -> Figures:
    """One connection asks for 50 ms of CPU, again and again; the 63 others for a greeting."""
    targets = [Target("/slow", weight=1), Target("/fast", weight=CONNECTIONS - 1)]
    http_load(server.port, targets, seconds=effort.warm_up_s)
    slow, fast = http_load(server.port, targets, seconds=effort.seconds).targets
    return {
        "fast_p99_ms": fast.latency_us["p99"] / 1e3,
        "fast_max_ms": fast.latency_us["max"] / 1e3,
        "fast_evenness": fast.fewest_on_one / max(fast.most_on_one, 1),
        "slow_p50_ms": slow.latency_us["p50"] / 1e3,
        "slow_rate": slow.answers / effort.seconds,
        "rate": fast.answers / effort.seconds,
    }


STREAM_BYTES = {"1 KiB": 1024, "10 KiB": 10_240}


def measure_stream(server: Running, case: Case, effort: Effort) -> Figures:
    """A message there and back, as it arrives, on each of 64 connections."""
    message = bytes(at % 251 for at in range(STREAM_BYTES[case.name.removeprefix("stream ")]))
    stream_echo(server.port, message, effort.warm_up_s)
    before_s = server.cpu_seconds()
    found = stream_echo(server.port, message, effort.seconds)
    return {"cost_us": (server.cpu_seconds() - before_s) / found.answers * 1e6, "rate": found.rate}


def measure_resp(server: Running, case: Case, effort: Effort) -> Figures:
    """SET and GET by redis-benchmark, 16 commands at once on each of 50 connections."""
    count = max(round(RESP_COMMANDS_A_SECOND * effort.seconds), 1000)
    redis_benchmark(server.port, count // 4)
    before_s = server.cpu_seconds()
    redis_benchmark(server.port, count)
    return {"command_us": (server.cpu_seconds() - before_s) / (2 * count) * 1e6}


# Of each kind; about what one processor does.
RESP_COMMANDS_A_SECOND = 150_000


FRAMES_IN_FLIGHT = 16


def measure_framed(server: Running, case: Case, effort: Effort) -> Figures:
    """Frames of 64 bytes, 16 in flight on each of 64 connections: as one message for the load, so that the server, and
    not the load, has no more to give."""
    message = FRAME * FRAMES_IN_FLIGHT
    stream_echo(server.port, message, effort.warm_up_s)
    before_s = server.cpu_seconds()
    found = stream_echo(server.port, message, effort.seconds)
    frames = found.answers * FRAMES_IN_FLIGHT
    return {"frame_us": (server.cpu_seconds() - before_s) / frames * 1e6, "rate": found.rate * FRAMES_IN_FLIGHT}


# What is said at once, so that a connection's share of it leaves together.
BROADCAST_TOGETHER = 16


def measure_broadcast(server: Running, case: Case, effort: Effort) -> Figures:
    """100 bytes to every connection, 16 times at once, until all have heard all."""
    members = max(effort.idle_connections * 2 // 3, 10)
    with Audience(server.port, members) as audience:
        audience.broadcast(1, BROADCAST_TOGETHER)
        before_s = server.cpu_seconds()
        deliveries = audience.broadcast(max(round(effort.seconds), 1), BROADCAST_TOGETHER)
        spent_s = server.cpu_seconds() - before_s
    return {"delivery_us": spent_s / deliveries * 1e6, "connections": members}


IDLE_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GREETING = b"Hello, World!"
IDLE_BATCH = 50
IDLE_STEPS = 3


Ask = Callable[[list[socket.socket]], None]


def measure_idle(server: Running, case: Case, effort: Effort) -> Figures:
    return hold_idle(server, effort, ask)


def measure_idle_frames(server: Running, case: Case, effort: Effort) -> Figures:
    return hold_idle(server, effort, echo_one_frame)


def hold_idle(server: Running, effort: Effort, ask: Ask) -> Figures:
    """Open connections in steps, each asking once; what the server grew by; then every one must answer again."""
    connections: list[socket.socket] = []
    try:
        for first in open_connections(server.port, IDLE_BATCH, ask):
            first.close()
        time.sleep(effort.settle_s)
        before_bytes = server.own_bytes()
        for step in range(1, IDLE_STEPS + 1):
            while (lacking := effort.idle_connections * step // IDLE_STEPS - len(connections)) > 0:
                connections += open_connections(server.port, min(IDLE_BATCH, lacking), ask)
            time.sleep(effort.settle_s)
        grown_bytes = server.own_bytes() - before_bytes
        idle_cpu = idle_cpu_share(server, effort.seconds)
        for start in range(0, len(connections), IDLE_BATCH):
            ask(connections[start : start + IDLE_BATCH])
    finally:
        for connection in connections:
            connection.close()
    return {
        "bytes_per_connection": grown_bytes / len(connections),
        "connections": len(connections),
        "idle_cpu_percent": idle_cpu * 100,
    }


def open_connections(port: int, count: int, ask: Ask) -> list[socket.socket]:
    opened = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(count)]
    ask(opened)
    return opened


def ask(connections: list[socket.socket]) -> None:
    """One request on each, then one answer from each."""
    for connection in connections:
        connection.sendall(IDLE_REQUEST)
    for connection in connections:
        check_greeting(connection)


def check_greeting(connection: socket.socket) -> None:
    """A whole greeting, which some servers send in two parts."""
    answer = b""
    while not (answer.startswith(b"HTTP/1.1 200") and answer.endswith(GREETING)):
        part = connection.recv(4096)
        answer += part
        if not part:
            raise BenchError("closed an idle connection, which was expected to answer again")
        if len(answer) > 4096:
            raise BenchError(f"an idle connection answered {answer[:40]!r}, expected HTTP/1.1 200 and {GREETING!r}")


def idle_cpu_share(server: Running, seconds: float) -> float:
    before_s, began = server.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (server.cpu_seconds() - before_s) / (time.monotonic() - began)


ASGI_SERVERS = ("penstock", "uvicorn", "granian")

WORKS = {
    work.name: work
    for work in (
        Work(
            "http",
            "GET of 13 bytes, closed loop over 64 connections",
            "apps:asgi",
            ("penstock", "nginx", "uvicorn", "granian", "granian-rsgi", "socketify"),
            measure_get,
            (Case("http"),),
        ),
        Work(
            "rate",
            "GET of 13 bytes at the same rate for every server",
            "apps:asgi",
            ("penstock", "nginx", "uvicorn", "granian", "socketify"),
            measure_get,
            (Case("rate 5000/s", rate=5_000), Case("rate 20000/s", rate=20_000)),
            plotted=("cost_us", "p99_us"),
        ),
        Work(
            "post",
            "POST of 10 KiB, echoed by an ASGI application",
            "apps:asgi",
            ASGI_SERVERS,
            measure_post,
            (Case("post"),),
        ),
        Work(
            "starlette",
            "GET from a Starlette route",
            "framework_apps:starlette_app",
            ASGI_SERVERS,
            measure_get,
            (Case("starlette"),),
        ),
        Work(
            "fastapi",
            "GET from a FastAPI route with a response model",
            "framework_apps:fastapi_app",
            ASGI_SERVERS,
            measure_get,
            (Case("fastapi"),),
        ),
        Work(
            "wsgi",
            "GET of 13 bytes from a WSGI application",
            "apps:wsgi",
            ("penstock", "granian-wsgi", "gunicorn"),
            measure_get,
            (Case("wsgi"),),
        ),
        Work(
            "log",
            "GET of 13 bytes, with an access log in a file and without one",
            "apps:asgi",
            ("penstock", "penstock-logged"),
            measure_get,
            (Case("log"),),
        ),
        Work(
            "static",
            "GET of a file",
            "files",
            ("penstock", "nginx"),
            measure_get,
            (Case("static 1 KiB", path="/files/1k"), Case("static 100 KiB", path="/files/100k")),
        ),
        Work(
            "large",
            "GET of a file of 100 MiB over 4 connections",
            "files",
            ("penstock", "nginx"),
            measure_large,
            (Case("large", path="/files/100m"),),
            plotted=("gib_ms",),
        ),
        Work(
            "idle",
            "idle keep-alive connections, each after one request",
            "apps:asgi",
            ("penstock", "nginx", "uvicorn", "granian", "socketify"),
            measure_idle,
            (Case("idle"),),
            plotted=("bytes_per_connection",),
            pinned=False,
            once=True,
        ),
        Work(
            "fairness",
            "63 fast handlers beside one that burns 50 ms of CPU each time",
            "apps:fairness",
            ASGI_SERVERS,
            measure_fairness,
            (Case("fairness"),),
            plotted=("fast_p99_ms",),
        ),
        Work(
            "udp",
            "UDP echo of 64 bytes through a handler, 16 clients with 8 datagrams under way each",
            UDP_ECHO,
            ("penstock", "uvloop"),
            measure_udp,
            (UDP_SINGLE, UDP_RUNS),
        ),
        Work(
            "stream",
            "messages echoed through a handler as they arrive, one at a time on each of 64 connections",
            "echo",
            ("penstock-stream", "uvloop", "bare loop"),
            measure_stream,
            tuple(Case(f"stream {size}") for size in STREAM_BYTES),
        ),
        Work(
            "framed",
            "length-prefixed frames of 64 bytes echoed, 16 in flight on each of 64 connections",
            "framed",
            ("penstock-stream", "uvloop", "bare loop"),
            measure_framed,
            (Case("framed"),),
            plotted=("frame_us",),
        ),
        Work(
            "broadcast",
            "100 bytes to 10,000 connections, 16 times at once",
            "broadcast",
            ("penstock-stream", "uvloop", "bare loop"),
            measure_broadcast,
            (Case("broadcast"),),
            plotted=("delivery_us",),
        ),
        Work(
            "idle framed",
            "idle connections of a length-prefixed protocol, each after one frame",
            "framed",
            ("penstock-stream", "uvloop"),
            measure_idle_frames,
            (Case("idle framed"),),
            plotted=("bytes_per_connection",),
            pinned=False,
            once=True,
        ),
        Work(
            "resp",
            "SET and GET by redis-benchmark, 16 commands at once on each of 50 connections",
            RESP,
            ("penstock", "redis"),
            measure_resp,
            (Case("resp"),),
            plotted=("command_us",),
        ),
    )
}
