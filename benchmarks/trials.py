"""The trials of `workers.py`: functions that yield what they found. A new trial is one function and one entry."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from clients import Subscribers, Traffic
from measure import BenchError, answers, cpu_seconds, free_port, own_bytes, process_tree, stop
from servers import Launch, Server, Servers
from supervised import PATIENCE_S, Place, Workers, wait_until

MIB = 1 << 20


@dataclass(frozen=True)
class Finding:
    """A figure, and what was promised of it; None: it is told, not judged."""

    what: str
    found: float
    unit: str = ""
    at_most: float | None = None

    @property
    def is_missed(self) -> bool:
        return self.at_most is not None and self.found > self.at_most

    def __str__(self) -> str:
        verdict = "-" if self.at_most is None else "MISS" if self.is_missed else "pass"
        bound = "" if self.at_most is None else f" (at most {self.at_most:g})"
        return f"{verdict:4s} {self.what}: {self.found:,.4g} {self.unit}".rstrip() + bound


@dataclass(frozen=True)
class Scale:
    """How much is tried."""

    start_s: float
    """What the application takes to start."""
    reloads: int
    subscribers: int
    connections: int
    """That ask all the time."""
    rate: float | None
    """How often, all together; None: as soon as they are answered."""
    held: int
    """Connections that are to be spread."""
    seconds: float
    """Of a measurement."""
    starts: int
    soak_s: float
    reload_every_s: float


FULL = Scale(3.0, 10, 100, 64, None, 2000, 10.0, 10, 1800.0, 60.0)
QUICK = Scale(0.2, 2, 10, 8, 2000.0, 200, 0.5, 1, 3.0, 1.0)


class Trier(Place):
    """What all trials have: where they are made, how much is tried, and which servers are here."""

    def __init__(self, servers: Servers, scale: Scale, scratch: Path, accept: str = "shared") -> None:
        super().__init__(servers, scratch, accept)
        self.servers, self.scale = servers, scale


def told(load: Traffic, within: str) -> Iterator[Finding]:
    yield Finding(f"requests that failed {within}", load.failed, f"of {load.answers + load.failed:,}", at_most=0)
    for failure in sorted(set(load.failures))[:3]:
        print(f"       {failure}")


Findings = Generator[Finding, None, None]


def reload(trier: Trier) -> Findings:
    """SIGHUPs in a row under a closed loop, with subscriptions to events open and an application that starts slowly."""
    scale = trier.scale
    with (
        trier.workers(2, start_s=scale.start_s) as server,
        Subscribers(server.port, scale.subscribers) as subscribers,
        Traffic(server.port, scale.connections, rate=scale.rate) as load,
    ):
        for _ in range(scale.reloads):
            server.reload()
        server.wait_until_alone()
    yield from told(load, f"in {scale.reloads} reloads")
    yield Finding("subscriptions cut off", subscribers.cut_off, at_most=0)
    yield Finding("subscriptions ended in good order, and taken up again", subscribers.ended)


def upgrade(trier: Trier) -> Findings:
    """SIGUSR2 under a closed loop: another supervisor takes over."""
    scale = trier.scale
    with trier.workers(2, start_s=scale.start_s) as server:
        with Traffic(server.port, scale.connections, rate=scale.rate) as load:
            former = server.process.pid
            os.kill(former, signal.SIGUSR2)
            wait_until(lambda: is_gone(former), "the former supervisor left")
            server.wait_until_new()
        successor = server.status()["pid"]
        yield from told(load, "while another supervisor took over")
        server.ask(do="stop")
        wait_until(lambda: is_gone(successor), "the new supervisor left")


def scale(trier: Trier) -> Findings:
    """From 1 worker to 4 and back under a closed loop, by `penstock ctl`'s means."""
    with (
        trier.workers(1, start_s=trier.scale.start_s) as server,
        Traffic(server.port, trier.scale.connections, rate=trier.scale.rate) as load,
    ):
        for wanted in (4, 1):
            server.ask(do="scale", workers=wanted)
        server.wait_until_alone()
    yield from told(load, "while scaling from 1 to 4 to 1")


def kill(trier: Trier) -> Findings:
    """kill -9 of a worker under a closed loop, and then of the supervisor."""
    scale = trier.scale
    with trier.workers(2, start_s=scale.start_s) as server:
        with Traffic(server.port, scale.connections, rate=scale.rate, round_s=scale.start_s + 3) as load:
            wait_until(lambda: sum(server.connections()) >= scale.connections, "the load had its connections")
            victim, *_ = former = server.here()
            os.kill(victim["pid"], signal.SIGKILL)
            nobody_new = {None, *(worker["pid"] for worker in former)}
            took_s = wait_until(lambda: pid_that_answers(server.port) not in nobody_new, "a new one served")
        held = victim["connections"]
        yield Finding("requests that failed beyond those it held", max(0, load.failed - held), at_most=0)
        yield Finding("requests that failed", load.failed, f"of {held} connections that it held")
        yield Finding("a new one serves after the application's own start and", took_s - scale.start_s, "s", at_most=1)
        before, began = cpu_seconds(server.process.pid), time.monotonic()
        time.sleep(min(scale.seconds, 2.0))
        share = (cpu_seconds(server.process.pid) - before) / (time.monotonic() - began)
        yield Finding("the supervisor's share of a CPU after that", share * 100, "%", at_most=1)
        workers = server.pids()
        os.kill(server.process.pid, signal.SIGKILL)
        took_s = wait_until(lambda: all(map(is_gone, workers)), "the workers left")
        yield Finding("after the supervisor was killed its workers were gone within", took_s, "s", at_most=1)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", server.port))
            again.listen()


def balance(trier: Trier) -> Findings:
    """Many connections on 4 workers under a closed loop: the busiest beside the idlest, by count and by CPU time."""
    scale = trier.scale
    with trier.workers(4) as server:
        with Traffic(server.port, scale.held, round_s=scale.seconds + 2) as load:
            wait_until(lambda: sum(server.connections()) >= scale.held, "the load had its connections")
            fewest, *_, most = server.connections()
            yield Finding(f"{scale.held} connections, busiest over idlest", most / fewest, at_most=1.05)
            before = {pid: cpu_seconds(pid) for pid in server.pids()}
            time.sleep(scale.seconds)
            spent = sorted(cpu_seconds(pid) - before_s for pid, before_s in before.items())
        yield Finding("CPU time, busiest over idlest", spent[-1] / spent[0], at_most=1.2)
    yield from told(load, "over all of them")


def accept(trier: Trier) -> Findings:
    """A connection for each request on 4 workers: what each way to share listeners costs, and how even it is."""
    scale = trier.scale
    for mode in ("shared", "reuseport"):
        with trier.workers(4, accept=mode) as server:
            before = server.process.cpu_seconds()
            with Traffic(
                server.port, scale.connections, round_s=scale.seconds, headers=[("Connection", "close")]
            ) as load:
                time.sleep(scale.seconds / 2)
            spent_s = server.process.cpu_seconds() - before
            yield Finding(f"{mode}: CPU for a connection and its request", spent_s / max(load.answers, 1) * 1e6, "us")
            yield Finding(f"{mode}: p99", statistics.median(load.p99_us) / 1e3, "ms")
            yield from told(load, f"with {mode}")
        with trier.workers(4, accept=mode) as server, contextlib.ExitStack() as stack:
            for _ in range(scale.held):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            wait_until(lambda: sum(server.connections()) >= scale.held, "all were let in")
            fewest, *_, most = server.connections()
            yield Finding(f"{mode}: {scale.held} idle connections, busiest over idlest", most / max(fewest, 1))
    yield Finding("handing over: CPU for a descriptor's way alone (SCM_RIGHTS, both ends)", handed_over_us(), "us")


def handed_over_us(count: int = 20_000, together: int = 64) -> float:
    """Descriptors through a socket pair, so many a message; receiving, and closing what was sent, are part of it."""
    one, other = socket.socketpair()
    with one, other, socket.socket() as example:
        began = time.process_time()
        for _ in range(count // together):
            socket.send_fds(one, [b"x"], [example.fileno()] * together)
            for descriptor in socket.recv_fds(other, 1, together)[1]:
                os.close(descriptor)
        return (time.process_time() - began) / (count // together * together) * 1e6


def start(trier: Trier) -> Findings:
    """From the command to the first answer, of one process and of two workers, beside uvicorn."""
    for workers in (1, 2):
        servers = [
            trier.servers.penstock(
                "penstock", lambda _, n=workers: ["--workers", str(n), "--no-access-log", "apps:asgi"]
            )
            if workers > 1
            else trier.servers.get("penstock", "apps:asgi"),
            with_option(trier.servers.get("uvicorn", "apps:asgi"), "--workers", workers),
        ]
        found: dict[str, list[float]] = {server.name: [] for server in servers}
        for _ in range(trier.scale.starts):
            for server in servers:
                if server.missing is None:
                    found[server.name].append(start_s(server, trier.directory()))
        of = "one process" if workers == 1 else f"{workers} workers"
        own_s = statistics.median(found["penstock"])
        yield Finding(f"{of}: start to first answer", own_s * 1e3, "ms")
        if found["uvicorn"]:
            theirs_s = statistics.median(found["uvicorn"])
            yield Finding(f"{of}: uvicorn's", theirs_s * 1e3, "ms")
            yield Finding(f"{of}: beside uvicorn's", own_s / theirs_s, "times", at_most=1)
        else:
            print("  uvicorn is not installed: nothing to compare with")


def with_option(server: Server, name: str, value: int) -> Server:
    def launch(port: int, directory: Path) -> Launch:
        launched = server.launch(port, directory)
        return Launch([*launched.argv[:1], name, str(value), *launched.argv[1:]], launched.environment)

    return Server(server.name, launch if value > 1 else server.launch, server.missing)


def start_s(server: Server, directory: Path) -> float:
    port = free_port()
    launched = server.launch(port, directory)
    began = time.monotonic()
    process = subprocess.Popen(
        launched.argv,
        cwd=directory,
        env={**os.environ, **launched.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not answers(port):
            if time.monotonic() - began > PATIENCE_S:
                raise BenchError(f"{server.name} did not answer within {PATIENCE_S:g} s")
            time.sleep(0.001)
        return time.monotonic() - began
    finally:
        stop(process)


def soak(trier: Trier) -> Findings:
    """80% of the load that it can take, with a reload each minute: memory and descriptors stay flat."""
    scale = trier.scale
    with trier.workers(2) as server:
        with Traffic(server.port, scale.connections, round_s=min(5.0, scale.soak_s / 4)) as full:
            pass
        rate = 0.8 * full.answers / full.loaded_s
        samples: list[Sample] = []
        with Traffic(server.port, scale.connections, rate=rate) as load:
            ends = time.monotonic() + scale.soak_s
            while time.monotonic() < ends:
                time.sleep(scale.reload_every_s)
                server.reload()
                server.wait_until_alone()
                samples.append(Sample.of(server))
                print(f"       {samples[-1]}", flush=True)
    yield Finding("requests a second", rate)
    yield from told(load, f"in {scale.soak_s / 60:g} minutes with {len(samples)} reloads")
    # The first few fill caches and pools.
    settled = samples[len(samples) // 4 :]
    half = len(settled) // 2
    first, last = settled[: max(half, 1)], settled[half:]
    for what in ("supervisor_mib", "worker_mib"):
        grown = statistics.median(getattr(each, what) for each in last) - statistics.median(
            getattr(each, what) for each in first
        )
        yield Finding(f"{what.removesuffix('_mib')}'s own memory, second half over first", grown, "MiB", at_most=1)
    grown = max(each.descriptors for each in last) - max(each.descriptors for each in first)
    yield Finding("the supervisor's descriptors, second half over first", grown, at_most=0)


@dataclass(frozen=True)
class Sample:
    """When nobody is on the way in or out. Workers are a minute old: it is the supervisor that grows old."""

    supervisor_mib: float
    worker_mib: float
    descriptors: int

    @classmethod
    def of(cls, server: Workers) -> Sample:
        pid = server.status()["pid"]
        workers = [own_bytes(worker) for worker in process_tree(pid)[1:]]
        return cls(own_bytes(pid) / MIB, max(workers, default=0) / MIB, len(os.listdir(f"/proc/{pid}/fd")))


def is_gone(pid: int) -> bool:
    """Or dead, and not yet reaped by whoever has inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def pid_that_answers(port: int) -> int | None:
    """Of a new connection."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"GET /pid HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
        if found := re.search(rb"\r\n\r\n(\d+)$", answer):
            return int(found[1])
    return None


TRIALS: dict[str, Callable[[Trier], Findings]] = {
    trial.__name__: trial for trial in (reload, upgrade, scale, kill, balance, accept, start, soak)
}
