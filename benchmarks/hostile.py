"""What hostile peers cost everybody else: `python benchmarks/hostile.py`.

Thousands of connections that drip a header byte a second, that never read what they ask for, and that post a byte a
second, against a server with its default limits (time-outs shortened by `--timeouts`, so that a run ends). Tells the
other requests' p99 before and during the attack, the server's memory, and when the last of the attackers was gone.
`--nginx` shows what the same attack does to nginx: how much of it is the kernel's part, which no server escapes.

Whatever else runs on the machine must not be taken for the attack: a monitor that looks through the descriptors of all
processes holds a processor for longer, the more of them there are. So server and load have real-time priority where we
may give it (root); elsewhere that is told, and figures of a machine with other work on it say little.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import load
from measure import BenchError, Cpus, affinity, process_tree, raise_descriptor_limit, running, wake_up_in_time
from peers import Peers
from provenance import ROOT
from servers import HERE, Launch, Server, Servers

NEVER_READ = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 64
KINDS = {
    "drips a header byte a second": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x"),
    "asks for 4 MiB and never reads": (NEVER_READ, b""),
    "posts a byte a second": (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", b"x"),
}
TICK_S = 0.0002
"""Bytes are dripped evenly over each second, one or two at a time, as by peers that know nothing of each other: ticks
of some milliseconds would make bursts of them."""
SETTLE_S = 1.0
"""For so long they count as coming: who asks for something is answered in turn, like anybody, thousands at once."""
IDLE_TICK_S = 0.02
"""Who sends nothing only looks whether the server has ended it."""


class Attack(threading.Thread):
    """`count` connections of one kind. It owns them, and notes when the server has ended each.

    Attackers and load share a processor here, so the attack runs only while the load sleeps, and gives way at once when
    it wakes up: else it would be the attack's own cost that is measured, and not the server's.
    """

    def __init__(self, port: int, count: int, arrival_s: float, greeting: bytes, drip: bytes) -> None:
        super().__init__(daemon=True)
        self._port, self._count, self._arrival_s, self._greeting, self._drip = port, count, arrival_s, greeting, drip
        self.opened = threading.Event()
        self.gone: list[float] = []
        self._sockets = dict[int, socket.socket]()
        # Not poll(2): asking after thousands of descriptors at once would hold the processor for milliseconds.
        self._poll = select.epoll()
        self._began = time.monotonic()

    def run(self) -> None:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        began = time.monotonic()
        for number in range(self._count):
            if (early := began + self._arrival_s * number / self._count - time.monotonic()) > 0:
                time.sleep(early)
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
            for descriptor, _ in self._poll.poll(0, 64):
                self._end(descriptor)
            time.sleep(TICK_S if self._drip else IDLE_TICK_S)

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


def put_first(pid: int) -> None:
    """Let no other program interrupt a server's threads, or ours, which load it. PermissionError: we may not."""
    for process in process_tree(pid):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))


def p99_ms(port: int, seconds: float, rate: float) -> float:
    """The p99 of ordinary requests at that rate, counted from when each was due."""
    return load.http_load(port, [load.Target()], seconds=seconds, rate=rate, sleeps=True).latency_us["p99"] / 1e3


NGINX_CONF = """
{user}daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.err crit;
events {{ worker_connections 19000; }}
http {{
  access_log off; keepalive_requests 100000000; default_type text/plain; root {directory};
  # One descriptor for all who ask for the file, or it is these that run out.
  sendfile on; open_file_cache max=10 inactive=600s; open_file_cache_valid 600s;
  client_header_timeout {timeout:g}s; client_body_timeout {timeout:g}s; send_timeout {timeout:g}s;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = / {{ return 200 "Hello, World!"; }}
    # Asks a server behind it once the body is there, as a bare `return` would not wait for it.
    location = /echo {{ proxy_pass http://127.0.0.1:{port}/; }}
  }}
}}
"""


def penstock(known: Servers, timeout_s: float) -> Server:
    def launch(port: int, directory: Path) -> Launch:
        timeouts = [f"--timeout-{what}={timeout_s:g}" for what in ("header", "body", "write")]
        options = ["--app-dir", str(HERE), "--port", str(port), "--no-access-log", *timeouts]
        return Launch([str(known.penstock_command), "serve", *options, "apps:hostile"])

    return Server("penstock", launch)


def nginx(known: Servers, timeout_s: float) -> Server:
    def launch(port: int, directory: Path) -> Launch:
        (directory / "large").write_bytes(bytes(65_536))
        configuration = directory / "nginx.conf"
        # Else its worker would be somebody who cannot enter our directories.
        user = "user root;\n" if os.geteuid() == 0 else ""
        configuration.write_text(NGINX_CONF.format(user=user, directory=directory, port=port, timeout=timeout_s))
        return Launch([str(known.nginx_command), "-c", str(configuration), "-e", str(directory / "nginx.err")])

    return Server("nginx", launch, None if known.nginx_command else "nginx is not installed")


@dataclass(frozen=True)
class Ordeal:
    """How a server is tried."""

    count: int
    rate: float
    rounds: int
    seconds: float
    timeout_s: float
    arrival_s: float
    kinds: tuple[str, ...] = tuple(KINDS)

    def of(self, server: Server, cpus: Cpus) -> bool:
        """Attack it and tell what that did; whether every attacker is gone."""
        with (
            tempfile.TemporaryDirectory() as directory,
            running(server, Path(directory), cpus.server) as process,
            affinity(cpus.load),
        ):
            print(
                f"{server.name}: {self.count} connections of each kind, {self.rate:g} ordinary requests/s", flush=True
            )
            try:
                put_first(process.pid)
            except PermissionError:
                print("  no right to real-time priority: what else runs here is measured, too", flush=True)
            before = self._p99s_ms(process.port)
            tell_p99("before", before)
            memory_before = process.own_bytes()
            attacks = {
                name: Attack(process.port, self.count, self.arrival_s, *drops)
                for name, drops in KINDS.items()
                if name in self.kinds
            }
            for attack in attacks.values():
                attack.start()
            for attack in attacks.values():
                attack.opened.wait()
            print(f"  p99 as the last have come {p99_ms(process.port, SETTLE_S, self.rate):.3f} ms", flush=True)
            during = self._p99s_ms(process.port)
            tell_p99("during", during)
            grown = process.own_bytes() - memory_before
            for attack in attacks.values():
                attack.join(self.timeout_s * 3 + 30)
            tell_p99("after", self._p99s_ms(process.port))
        print(f"  p99 during / before: {statistics.median(during) / statistics.median(before):.2f}x")
        print(
            f"  memory grown: {grown / 2**20:.1f} MiB, {grown / (len(self.kinds) * self.count):.0f} bytes a connection"
        )
        for name, attack in attacks.items():
            last = max(attack.gone, default=float("nan"))
            print(f"  {name}: {len(attack.gone)} of {self.count} gone, the last {last:.1f} s after they had come")
        return all(len(attack.gone) == self.count for attack in attacks.values())

    def _p99s_ms(self, port: int) -> list[float]:
        return [p99_ms(port, self.seconds, self.rate) for _ in range(self.rounds)]


def tell_p99(when: str, values: list[float]) -> None:
    each = ", ".join(f"{value:.3f}" for value in values)
    print(f"  p99 {when:7s} {statistics.median(values):8.3f} ms  (rounds {each})", flush=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="connections of each kind")
    parser.add_argument("--rate", type=float, default=5000, help="ordinary requests a second")
    parser.add_argument("--arrival", type=float, default=5, help="seconds over which they come; 0: all at once")
    parser.add_argument("--timeouts", type=float, default=25, help="the server's header, body and write time-outs, s")
    # Long enough for a stall of a few milliseconds not to be all of a round's p99, and for all of them to end before
    # the time-outs do.
    parser.add_argument("--rounds", type=int, default=5, help="measurements before, during and after")
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement")
    parser.add_argument("--only", choices=[name.split()[0] for name in KINDS], help="one kind of them; default: all")
    parser.add_argument("--nginx", action="store_true", help="attack nginx as well, with the same time-outs")
    options = parser.parse_args(argv)
    kinds = tuple(name for name in KINDS if options.only in (None, name.split()[0]))
    limit = raise_descriptor_limit()
    wake_up_in_time()
    count = min(options.count, (limit - 500) // len(KINDS))
    ordeal = Ordeal(count, options.rate, options.rounds, options.seconds, options.timeouts, options.arrival, kinds)
    known, cpus = Servers(Peers(ROOT / ".venv-peers")), Cpus.choose()
    try:
        all_gone = ordeal.of(penstock(known, options.timeouts), cpus)
        if options.nginx:
            beside = nginx(known, options.timeouts)
            if beside.missing:
                raise BenchError(beside.missing)
            ordeal.of(beside, cpus)
    except BenchError as error:
        print(f"hostile: {error}", file=sys.stderr)
        return 2
    return 0 if all_gone else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
