"""What hostile peers cost everybody else: `python benchmarks/hostile.py`.

Thousands of connections that drip a header byte a second, that never read what they ask for, and that post a byte a
second, against a server with its default limits (time-outs shortened by `--timeouts`, so that a run ends). Tells the
other requests' p99 before and during the attack, the server's memory, and when the last of the attackers was gone.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import load
from measure import Cpus, affinity, raise_descriptor_limit, running
from servers import HERE, Launch, Server

NEVER_READ = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 64
KINDS = {
    "drips a header byte a second": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x"),
    "asks for 4 MiB and never reads": (NEVER_READ, b""),
    "posts a byte a second": (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", b"x"),
}
TICK_S = 0.002
"""Bytes are dripped evenly over each second, as peers that know nothing of each other would."""


class Attack(threading.Thread):
    """`count` connections of one kind. It owns them, and notes when the server has ended each.

    Attackers and load share a processor here, so the attack runs only while the load sleeps, and gives way at once when
    it wakes up: else it would be the attack's own cost that is measured, and not the server's.
    """

    def __init__(self, port: int, count: int, greeting: bytes, drip: bytes) -> None:
        super().__init__(daemon=True)
        self._port, self._count, self._greeting, self._drip = port, count, greeting, drip
        self.opened = threading.Event()
        self.gone: list[float] = []
        self._sockets = dict[int, socket.socket]()
        # Not poll(2): asking after thousands of descriptors at once would hold the processor for milliseconds.
        self._poll = select.epoll()
        self._began = time.monotonic()

    def run(self) -> None:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        for _ in range(self._count):
            peer = socket.create_connection(("127.0.0.1", self._port), 10)
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                peer.send(self._greeting)
            # No EPOLLIN: what is never read must not wake us. An error or a hang-up is always told.
            self._poll.register(peer, select.EPOLLRDHUP)
            self._sockets[peer.fileno()] = peer
        self._began = time.monotonic()
        self.opened.set()
        while self._sockets:
            self._drip_for_a_second()
        self._poll.close()

    def _drip_for_a_second(self) -> None:
        peers, began, sent = list(self._sockets.values()), time.monotonic(), 0
        while (passed := time.monotonic() - began) < 1:
            due = min(len(peers), int(len(peers) * (passed + TICK_S))) if self._drip else 0
            for peer in peers[sent:due]:
                self._send_to(peer)
            sent = max(sent, due)
            for descriptor, _ in self._poll.poll(TICK_S, 64):
                self._end(descriptor)

    def _send_to(self, peer: socket.socket) -> None:
        try:
            peer.send(self._drip)
        except BlockingIOError:
            pass
        except OSError:
            self._end(peer.fileno())

    def _end(self, descriptor: int) -> None:
        if descriptor in self._sockets:
            self._poll.unregister(descriptor)
            self._sockets.pop(descriptor).close()
            self.gone.append(time.monotonic() - self._began)


def p99_ms(port: int, seconds: float, rate: float) -> float:
    """The p99 of ordinary requests at that rate, counted from when each was due."""
    return load.http_load(port, [load.Target()], seconds=seconds, rate=rate, sleeps=True).latency_us["p99"] / 1e3


def wake_up_in_time() -> None:
    """Let this thread's sleeps end when they are due, not up to 50 us later: see PR_SET_TIMERSLACK in prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(29, 1)


def penstock(timeout_s: float) -> Server:
    def launch(port: int, directory: Path) -> Launch:
        timeouts = [f"--timeout-{what}={timeout_s:g}" for what in ("header", "body", "write")]
        command = str(Path(sys.executable).parent / "penstock")
        return Launch(
            [
                command,
                "serve",
                "--app-dir",
                str(HERE),
                "--port",
                str(port),
                "--no-access-log",
                *timeouts,
                "apps:hostile",
            ]
        )

    return Server("penstock", launch)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="connections of each kind")
    parser.add_argument("--rate", type=float, default=5000, help="ordinary requests a second")
    parser.add_argument("--timeouts", type=float, default=20, help="the server's header, body and write time-outs, s")
    parser.add_argument("--rounds", type=int, default=15, help="measurements before, during and after")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a measurement")
    options = parser.parse_args(argv)
    limit = raise_descriptor_limit()
    wake_up_in_time()
    count = min(options.count, (limit - 500) // len(KINDS))
    cpus = Cpus.choose()
    with (
        tempfile.TemporaryDirectory() as directory,
        running(penstock(options.timeouts), Path(directory), cpus.server) as server,
        affinity(cpus.load),
    ):
        before = [p99_ms(server.port, options.seconds, options.rate) for _ in range(options.rounds)]
        memory_before = server.own_bytes()
        attacks = {name: Attack(server.port, count, *drops) for name, drops in KINDS.items()}
        for attack in attacks.values():
            attack.start()
            attack.opened.wait()
        during = [p99_ms(server.port, options.seconds, options.rate) for _ in range(options.rounds)]
        memory_during = server.own_bytes()
        for attack in attacks.values():
            attack.join(options.timeouts * 3 + 30)
        after = [p99_ms(server.port, options.seconds, options.rate) for _ in range(options.rounds)]
    print(f"{count} connections of each kind, {options.rate:g} ordinary requests/s, time-outs {options.timeouts:g} s")
    for name, values in (("before", before), ("during", during), ("after", after)):
        print(f"  p99 {name:7s} {statistics.median(values):8.3f} ms  ({min(values):.3f}-{max(values):.3f})")
    print(f"  p99 during / before: {statistics.median(during) / statistics.median(before):.2f}x")
    grown = memory_during - memory_before
    print(f"  memory grown: {grown / 2**20:.1f} MiB, {grown / (3 * count):.0f} bytes a connection")
    left = 0
    for name, attack in attacks.items():
        left += count - len(attack.gone)
        last = max(attack.gone, default=float("nan"))
        print(f"  {name}: {len(attack.gone)} of {count} gone, the last {last:.1f} s after they had come")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
