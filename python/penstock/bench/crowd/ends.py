"""What the two processes of a pair do: a server with a Python handler, and a client in Rust. Both do as they are told
over their channel, and leave when it ends.

Servers do not show that they are being measured: a `penstock.TCPServer`, and the worker that `penstock serve` has.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import select
import signal
from collections.abc import Callable
from socket import socket
from typing import Any, NoReturn

from ... import _core, listener
from ...config import ServerConfig
from ...event_loop import EventLoop
from ...protocol import LengthPrefixed
from ...server import Worker
from ...socket_options import SocketOptions
from ...streams import Connection, Group, Heartbeat, TCPServer
from ...supervisor.channel import Channel
from .plan import CrowdLoad, Pair

BACKLOG = 4096
# Longer than any run: who is silent here is asleep by order.
PATIENCE_S = 86_400.0
# As many answers are on their way at once as one turn has buffers for at no cost.
AT_A_TIME = 32


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


PING, PONG = _frame(b"ping"), _frame(b"pong")
MESSAGE = _frame(b"are you still there?")
NEWS = b"one frame for everybody"

# What is asked of whom: every connection through its handler, and as a heartbeat.
CHECKS: dict[str, str | tuple[bytes, bytes]] = {"tcp": (MESSAGE, MESSAGE), "http": "/"}
BEATS: dict[str, str | tuple[bytes, bytes]] = {"tcp": (PING, PONG), "http": "/"}


def begin(cpu: int) -> None:
    """In the forked child. A pair shares a processor, and neither end interrupts the other at each message: who is
    woken finds all that has come by then."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A terminal's Ctrl-C reaches all; the parent says what follows.
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def serve(line: Channel, load: CrowdLoad) -> None:
    """Say where it listens, and then do as told."""
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(_TcpServer(line).main() if load.protocol == "tcp" else _serve_http(line))


class _TcpServer:
    """Sends back each frame, and news to everybody."""

    def __init__(self, line: Channel) -> None:
        self._line = line
        self._group: Group | None = None
        self._has_ended = asyncio.Event()

    def on_connect(self, connection: Connection) -> None:
        assert self._group is not None
        self._group.add(connection)

    def on_message(self, connection: Connection, frame: bytes) -> None:
        connection.send(frame)

    async def main(self) -> None:
        server = TCPServer(
            self.on_message,
            on_connect=self.on_connect,
            protocol=LengthPrefixed(header_bytes=4, max_frame_bytes=65_536),
            heartbeat=Heartbeat(interval_s=PATIENCE_S, timeout_s=2 * PATIENCE_S, ping=PING, pong=PONG),
            backlog=BACKLOG,
        )
        self._group = server.group()
        await server.start("127.0.0.1:0")
        loop = asyncio.get_running_loop()
        loop.add_reader(self._line.end, self._hear, server)
        _tell_ready(self._line, server.listeners[0])
        await self._has_ended.wait()

    def _hear(self, server: TCPServer) -> None:
        assert self._group is not None
        for message in self._line.receive():
            if message is None:
                self._has_ended.set()
            elif "broadcast" in message:
                self._line.send(done={"sent": self._group.send(NEWS)})
            elif "count" in message:
                self._line.send(done=server.counters())


async def _app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


class _HttpWorker(Worker):
    def __init__(self, line: Channel, listeners: list[socket], config: ServerConfig) -> None:
        super().__init__(_app, listeners, config)
        self._line = line

    def let_in(self, loop: EventLoop) -> None:
        super().let_in(loop)
        _tell_ready(self._line, self.listeners[0])


async def _serve_http(line: Channel) -> None:
    # Connections come first and ask later, so none may be cut off for that.
    config = ServerConfig(
        lifespan="off", access_log=False, timeout_keep_alive_s=PATIENCE_S, timeout_header_s=PATIENCE_S
    )
    worker = _HttpWorker(line, listener.open_at("127.0.0.1:0", BACKLOG, SocketOptions()), config)
    serving = asyncio.ensure_future(worker.serve())
    has_ended = asyncio.Event()

    def hear() -> None:
        for message in line.receive():
            if message is None:
                has_ended.set()
            elif "count" in message:
                line.send(done=asyncio_reactor().counters())

    def asyncio_reactor() -> _core.Reactor:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        return loop.reactor

    asyncio.get_running_loop().add_reader(line.end, hear)
    await has_ended.wait()
    serving.cancel()


def _tell_ready(line: Channel, listening: socket) -> None:
    gc.collect()
    gc.freeze()
    host, port = listening.getsockname()[:2]
    line.send(ready={"host": host, "port": port})


def connect(line: Channel, load: CrowdLoad, pair: Pair) -> None:
    """Wait for where the server is, and then hold its connections as told."""
    client: _Client | None = None
    while True:
        select.select([line.end], [], [])
        for message in line.receive():
            if message is None:
                return
            [(what, how)] = message.items()
            if what == "connect":
                client = _Client(line, load, pair, how["host"], how["port"])
                line.send(ready=True)
            elif what != "release":  # That one has ended the hold already.
                assert client is not None
                client.do(what)


class _Client:
    def __init__(self, line: Channel, load: CrowdLoad, pair: Pair, host: str, port: int) -> None:
        self._line, self._load = line, load
        self._crowd = _core.Crowd(
            host,
            port,
            sources=pair.sources,
            connections=pair.connections,
            answer_timeout_s=load.answer_timeout_s,
        )

    def do(self, what: str) -> None:
        self._line.send(done=getattr(self, f"_{what}")())

    def _open(self) -> _core.CrowdReport:
        return self._crowd.open(BEATS[self._load.protocol], self._tell)

    def _check(self) -> _core.CrowdReport:
        return self._crowd.ask_all(CHECKS[self._load.protocol], AT_A_TIME, self._tell)

    def _hold(self) -> _core.CrowdReport:
        interval_s = self._load.heartbeat_s or None
        return self._crowd.hold(self._line.end.fileno(), BEATS[self._load.protocol], interval_s, self._tell)

    def _expect(self) -> _core.CrowdReport:
        return self._crowd.expect(_frame(NEWS), self._tell)

    def _close(self) -> dict[str, int]:
        self._crowd.close()
        return {}

    def _tell(self, opened: int, answered: int, lost: int) -> None:
        self._line.send(far=(opened, answered, lost))


def leave(status: int) -> NoReturn:
    """Nothing of the interpreter's end: it would close a hundred thousand objects one by one."""
    os._exit(status)
