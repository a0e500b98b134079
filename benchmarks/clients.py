"""Clients of the trials: requests without a pause, and subscriptions to events. They tell what failed, and go on."""

from __future__ import annotations

import os
import select
import socket
import threading
from types import TracebackType
from typing import Any, Self

from penstock._core import run_http_load

# A round's connections end with it, so that requests on old and on new ones are among what is tried.
ROUND_S = 3.0
LAST_CHUNK = b"0\r\n\r\n"
SUBSCRIBE = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client(threading.Thread):
    """A thread that runs for as long as its block."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over.set()
        self.join()


class Traffic(Client):
    """Every connection asks again as soon as it is answered; with a rate, so many requests a second are due in all."""

    def __init__(
        self,
        port: int,
        connections: int,
        *,
        cpu: int | None = None,
        rate: float | None = None,
        round_s: float = ROUND_S,
        headers: list[tuple[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self.answers = self.failed = 0
        self.failures: list[str] = []
        self.p99_us: list[float] = []
        # Of the rounds that are over.
        self.loaded_s = 0.0
        self._cpu = cpu
        self._plan: dict[str, Any] = {
            "targets": [("/", 1, 0)],
            "connections": connections,
            "rate": rate,
            "sleeps": rate is not None,
            "duration_s": round_s,
            "headers": headers or [],
        }
        self._port = port

    def run(self) -> None:
        if self._cpu is not None:
            os.sched_setaffinity(threading.get_native_id(), {self._cpu})
        while not self.over.is_set():
            try:
                self._note(run_http_load("127.0.0.1", self._port, **self._plan))
            except ConnectionError as error:
                self.failed += 1
                self.failures.append(str(error))

    def _note(self, found: Any) -> None:
        self.answers += found["answers"]
        self.failed += found["errors"]
        self.failures += [target["first_error"] for target in found["targets"] if target["first_error"]]
        self.p99_us.append(found["latency_us"]["p99"])
        self.loaded_s += found["duration_s"]


class Subscribers(Client):
    """They follow /events as an EventSource does: who is told the end comes again. Who is cut off is counted."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__()
        self.ended = self.cut_off = 0
        self._port, self._count = port, count
        self._poll = select.epoll()
        # What each was last sent: enough to know an end by.
        self._tails: dict[int, tuple[socket.socket, bytes]] = {}

    def __enter__(self) -> Self:
        for _ in range(self._count):
            self._subscribe()
        return super().__enter__()

    def run(self) -> None:
        while not self.over.is_set():
            for descriptor, _ in self._poll.poll(0.1):
                self._hear(descriptor)
        for peer, _ in self._tails.values():
            peer.close()
        self._poll.close()

    def _subscribe(self) -> None:
        try:
            peer = socket.create_connection(("127.0.0.1", self._port), 10)
            peer.sendall(SUBSCRIBE)
        except OSError:
            self.cut_off += 1
            return
        self._poll.register(peer, select.EPOLLIN)
        self._tails[peer.fileno()] = (peer, b"")

    def _hear(self, descriptor: int) -> None:
        peer, tail = self._tails[descriptor]
        try:
            piece = peer.recv(65536)
        except OSError:
            piece = b""
        if piece:
            self._tails[descriptor] = (peer, (tail + piece)[-len(LAST_CHUNK) :])
            return
        if tail == LAST_CHUNK:
            self.ended += 1
        else:
            self.cut_off += 1
        del self._tails[descriptor]
        self._poll.unregister(peer)
        peer.close()
        self._subscribe()
