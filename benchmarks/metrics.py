"""What metrics cost: `python benchmarks/metrics.py`.

Two servers of one build, one with `--metrics-bind` and one without, take turns on one processor, the load on another.
Tells the server's CPU time per request, on against off, in a closed loop and at a fixed rate; then the p99 at that
rate while nobody scrapes and while somebody does a hundred times a second. Ratios are paired round by round.

On a machine that is not quiet those say little. `--only instructions` counts instead: the instructions outside the
kernel for a request, by valgrind's callgrind, which nothing else on the machine can change.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import load
from measure import BenchError, Cpus, Running, affinity, cpu_seconds, free_port, running, wake_up_in_time
from servers import HERE, Launch, Server

SCRAPES_PER_S = 100


def penstock(name: str, extra: Sequence[str]) -> Server:
    def launch(port: int, directory: Path) -> Launch:
        command = [str(Path(sys.executable).parent / "penstock"), "serve", "--app-dir", str(HERE), "--port", str(port)]
        return Launch([*command, "--no-access-log", *extra, "apps:asgi"])

    return Server(name, launch)


def cpu_us(server: Running, seconds: float, rate: float | None) -> float:
    """The server's CPU time for a request."""
    before = cpu_seconds(server.pid)
    answers = load.http_load(server.port, [load.Target()], seconds=seconds, rate=rate).answers
    return (cpu_seconds(server.pid) - before) / answers * 1e6


def p99_us(server: Running, seconds: float, rate: float) -> float:
    """Of a load that sleeps between requests: beside one that spins a scraper on the same processor gets nothing done,
    or takes whole time slices from it, and it is these that would be measured."""
    return load.http_load(server.port, [load.Target()], seconds=seconds, rate=rate, sleeps=True).latency_us["p99"]


def scrape(port: int, per_s: float) -> None:
    """Read /metrics on one connection, that often, until killed."""
    # What the scraper itself costs is not the server's: it gives way to the load, whose processor it is on.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    wake_up_in_time()
    connection = socket.create_connection(("127.0.0.1", port))
    due = time.monotonic()
    while True:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        head, _, body = connection.recv(1 << 20).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        left = length - len(body)
        while left:
            left -= len(connection.recv(left))
        due += 1 / per_s
        time.sleep(max(0.0, due - time.monotonic()))


def instructions(extra: Sequence[str], connections: int, rounds: int) -> float:
    """For a request: what a long run has more of than a short one, so that starting and stopping are none of it."""
    short, long = (_instructions_of(extra, connections, each) for each in (rounds // 10, rounds))
    return (long - short) / ((rounds - rounds // 10) * connections)


def _instructions_of(extra: Sequence[str], connections: int, rounds: int) -> int:
    """Of a server's whole life, in which each connection has so many requests, one after the other."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        told = Path(directory, "callgrind")
        callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={told}", sys.executable, "-m"]
        launch = penstock("counted", ["--lifespan", "off", *extra]).launch(port, Path(directory))
        server = subprocess.Popen(
            [*callgrind, "penstock", *launch.argv[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with contextlib.ExitStack() as stack:
                open_all = [stack.enter_context(_connected(port)) for _ in range(connections)]
                for _ in range(rounds):
                    for each in open_all:
                        each.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                    for each in open_all:
                        each.recv(4096)
        finally:
            server.terminate()
            server.wait()
        found = re.search(r"^(?:summary|totals): (\d+)", told.read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])


def _connected(port: int) -> socket.socket:
    """Once the server listens: valgrind takes its time."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def scraping(port: int, cpu: int) -> Generator[None]:
    """Somebody scrapes `SCRAPES_PER_S` times a second. Raises BenchError if much fewer were answered."""
    with affinity(cpu):
        scraper = subprocess.Popen([sys.executable, __file__, "--scrape", str(port)])
    try:
        time.sleep(0.3)
        began, before = time.monotonic(), scrapes(port)
        yield
        rate = (scrapes(port) - before) / (time.monotonic() - began)
    finally:
        scraper.kill()
        scraper.wait()
    if rate < 0.9 * SCRAPES_PER_S:
        raise BenchError(f"{rate:.0f} scrapes a second were answered, not {SCRAPES_PER_S}: is the machine quiet?")


def scrapes(port: int) -> int:
    """How many the server has counted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = re.search(r"^penstock_scrapes_total (\d+)", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def paired(rounds: int, one: Callable[[], float], other: Callable[[], float]) -> list[tuple[float, float]]:
    """Both in each round, in turns the one first and the other."""
    found: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second, first = other(), one()
        else:
            first, second = one(), other()
        found.append((first, second))
    return found


def tell(what: str, unit: str, pairs: list[tuple[float, float]]) -> None:
    ratios = sorted(other / one - 1 for one, other in pairs)
    middle = statistics.median(ratios)
    low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
    one, other = (statistics.median(values) for values in zip(*pairs, strict=True))
    spread = f"half of {len(pairs)} rounds: {low:+.1%} to {high:+.1%}"
    print(f"{what}: {one:.2f} -> {other:.2f} {unit}  {middle:+.1%} ({spread})")
    # What else the machine does adds to both, and never takes away: the quietest rounds are nearest to the truth.
    few = max(1, len(pairs) // 4)
    one, other = (statistics.mean(sorted(values)[:few]) for values in zip(*pairs, strict=True))
    print(f"    the quietest quarter of each: {one:.2f} -> {other:.2f} {unit}  {other / one - 1:+.1%}", flush=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rate", type=float, default=10_000, help="requests a second, where it is fixed")
    parser.add_argument("--workers", type=int, help="with so many workers under a supervisor")
    parser.add_argument("--only", choices=["closed", "rate", "scrapes", "instructions"])
    parser.add_argument("--scrape", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.scrape:
        scrape(options.scrape, SCRAPES_PER_S)
    if options.only == "instructions":
        for connections, rounds in ((1, 2000), (64, 60)):
            off, on = (instructions(extra, connections, rounds) for extra in ([], ["--metrics-bind", "0"]))
            print(f"instructions a request, {connections} connections: {off:.0f} -> {on:.0f}  {on / off - 1:+.1%}")
        return 0
    wake_up_in_time()
    cpus, shown_at = Cpus.choose(), free_port()
    workers = [] if options.workers is None else ["--workers", str(options.workers)]
    with (
        tempfile.TemporaryDirectory() as directory,
        running(penstock("off", workers), Path(directory, "off"), cpus.server) as off,
        running(penstock("on", [*workers, "--metrics-bind", str(shown_at)]), Path(directory, "on"), cpus.server) as on,
        affinity(cpus.load),
    ):
        rounds, seconds, rate = options.rounds, options.seconds, options.rate
        if options.only in (None, "closed") and not workers:
            pairs = paired(rounds, lambda: cpu_us(off, seconds, None), lambda: cpu_us(on, seconds, None))
            tell("CPU per request, 64 connections, closed loop, off -> on", "us", pairs)
        if options.only in (None, "rate") and not workers:
            pairs = paired(rounds, lambda: cpu_us(off, seconds, rate), lambda: cpu_us(on, seconds, rate))
            tell(f"CPU per request at {rate:g}/s, off -> on", "us", pairs)
        if options.only in (None, "scrapes"):

            def scraped() -> float:
                with scraping(shown_at, cpus.load):
                    return p99_us(on, seconds, rate)

            pairs = paired(rounds, lambda: p99_us(on, seconds, rate), scraped)
            tell(f"p99 at {rate:g}/s, unread -> {SCRAPES_PER_S} scrapes a second", "us", pairs)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BenchError as error:
        sys.exit(f"metrics: {error}")
