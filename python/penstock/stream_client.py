"""`TCPClient`: the other end of a protocol of one's own: connects, and stays connected.

Addresses are tried as RFC 8305 says (happy eyeballs), within one time-out. A connection that ends is made anew, after
waits that double, with jitter. What was given to `send` is sent, or reported to `on_unsent`; never dropped in silence.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from . import _core, listener, logs
from .errors import ConfigError, ConnectFailed, ConnectionClosed, SendBufferFull
from .protocol import AnyProtocol, Raw
from .socket_options import SocketKind, SocketOptions
from .streams import (
    CloseReason,
    Connection,
    Heartbeat,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    StreamLimits,
    _Handlers,
    running_loop,
)

# RFC 8305 section 5: how long an attempt is alone before the next address is tried beside it.
ATTEMPT_DELAY_S = 0.25
_DRAIN_POLL_S = 0.005


@dataclass(frozen=True, kw_only=True)
class Reconnect:
    """Waits between attempts: `first_s`, doubled each time up to `most_s`; of each a random half at least is waited."""

    first_s: float = 0.1
    most_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.most_s:
            raise ConfigError(f"reconnect: expected 0 < first_s <= most_s, got {self.first_s:g} and {self.most_s:g}")

    def delay_s(self, attempt: int) -> float:
        """Before the attempt of this number, from 0."""
        most = min(self.first_s * 2 ** min(attempt, 32), self.most_s)
        return most * random.uniform(0.5, 1.0)


class TCPClient:
    """A client on the running `penstock.EventLoop`.

    With `on_message(connection, frame)` frames come to it; without, `await receive()` them. `reconnect=None`: once the
    connection has ended, it stays so. `max_queued_frames` wait while there is no connection, or one that is behind;
    then `send` raises `SendBufferFull`. As many that were received wait to be taken. `on_unsent(frames)` is told of
    frames that will not be sent, or that were handed to a connection that broke before it was known that they had left.
    """

    def __init__(
        self,
        on_message: OnMessage | None = None,
        *,
        protocol: AnyProtocol | None = None,
        on_connect: OnConnect | None = None,
        on_close: OnClose | None = None,
        on_error: OnError | None = None,
        on_unsent: Callable[[list[Any]], object] | None = None,
        heartbeat: Heartbeat | None = None,
        limits: StreamLimits | None = None,
        options: SocketOptions | None = None,
        connect_timeout_s: float = 10.0,
        reconnect: Reconnect | None = Reconnect(),
        max_queued_frames: int = 1024,
    ) -> None:
        handlers = {
            "on_message": on_message or self._keep,
            "on_close": self._closed,
            "on_error": on_error,
        }
        self._handlers = _Handlers(protocol or Raw(), handlers, heartbeat, limits or StreamLimits())
        self._on_connect, self._on_close, self._on_unsent = on_connect, on_close, on_unsent
        self._options, self._timeout_s, self._reconnect = options, connect_timeout_s, reconnect
        self._max_queued = max_queued_frames
        self._queued: deque[Any] = deque()
        # What the connection was given, with its size, as far as it may not have left.
        self._in_flight: deque[tuple[Any, int]] = deque()
        self._inbox: deque[Any] = deque()
        self._server: _core.StreamServer | None = None
        self._address = ""
        self._is_closing = False
        # Attempts in a row that came to nothing, the wait before the last one, and since when that one has held.
        self._failed, self._waited_s, self._connected_s = 0, 0.0, 0.0
        self._keeping: asyncio.Task[None] | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.connection: Connection | None = None

    async def start(self, address: str) -> Self:
        """Connect to `host:port` or `unix:/path`. Raises `ConnectFailed` if the first attempt fails."""
        self._server = self._handlers.attach(running_loop())
        self._address = address
        try:
            await self._connect()
        except BaseException:
            self._server.detach()
            raise
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        return self.connection is not None and not self.connection.is_closing

    def send(self, frame: Any) -> None:
        """Send a frame, now or once there is a connection that keeps up. Raises `SendBufferFull`, `FrameError`, or
        `ConnectionClosed` if there will be none any more; then the frame is the caller's."""
        if self._is_closing or (self._reconnect is None and not self.is_connected):
            raise ConnectionClosed("the client is closed: nothing more can be sent")
        if len(self._queued) >= self._max_queued:
            raise SendBufferFull(f"{len(self._queued)} frames wait to be sent, expected at most {self._max_queued}")
        self._queued.append(frame)
        self._pump(raise_for=frame)

    async def receive(self) -> Any:
        """The next frame; None when the connection has ended for good. Only without `on_message`."""
        while not self._inbox:
            if self._is_closing or (self._reconnect is None and not self.is_connected):
                return None
            self._changed.clear()
            await self._changed.wait()
        frame = self._inbox.popleft()
        if len(self._inbox) == self._max_queued // 2 and self.connection is not None:
            self.connection.resume_reading()
        return frame

    def _keep(self, connection: Connection, frame: Any) -> None:
        """A frame that nobody has asked for yet; too many, and the server waits with further ones."""
        self._inbox.append(frame)
        if len(self._inbox) >= self._max_queued:
            connection.pause_reading()
        self._changed.set()

    async def close(self, timeout_s: float = 10.0) -> None:
        """Send what is queued if there is a connection, for at most `timeout_s`, and close. The rest is reported."""
        if self._is_closing or self._server is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.is_connected and self._connection.unsent_bytes + len(self._queued) and loop.time() < deadline:
            await asyncio.sleep(_DRAIN_POLL_S)
            self._pump()
        self._is_closing = True
        self._changed.set()
        if self._keeping is not None:
            self._keeping.cancel()
        if self.is_connected and not self._connection.unsent_bytes:
            self._in_flight.clear()
        self._server.stop()
        while self._server.connections and loop.time() < deadline:
            await asyncio.sleep(_DRAIN_POLL_S)
        self._server.abort_all()
        while self._server.connections:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._server.detach()
        self._report_unsent(everything=True)

    @property
    def _connection(self) -> Connection:
        assert self.connection is not None
        return self.connection

    def _pump(self, raise_for: Any = None) -> None:
        """Hand what is queued to the connection while that keeps up."""
        while self._queued and self.is_connected:
            connection, before = self._connection, self._connection.unsent_bytes
            self._forget_what_left(before)
            frame = self._queued.popleft()
            try:
                keeps_up = connection.send(frame)
            except (ConnectionClosed, SendBufferFull):
                self._queued.appendleft(frame)
                return
            except Exception:
                # No frame of this protocol: whoever sends it is told, now or by the report.
                if frame is raise_for:
                    raise
                self._tell_unsent([frame])
                continue
            self._in_flight.append((frame, connection.unsent_bytes - before))
            if not keeps_up:
                self._pumping = asyncio.ensure_future(self._pump_once_drained(connection))
                return

    async def _pump_once_drained(self, connection: Connection) -> None:
        with suppress(ConnectionClosed):
            await connection.drain()
            self._pump()

    def _forget_what_left(self, unsent: int) -> None:
        in_flight = sum(size for _, size in self._in_flight) if unsent else 0
        if not unsent:
            self._in_flight.clear()
        while self._in_flight and in_flight - self._in_flight[0][1] >= unsent:
            in_flight -= self._in_flight.popleft()[1]

    def _report_unsent(self, *, everything: bool) -> None:
        frames = [frame for frame, _ in self._in_flight]
        self._in_flight.clear()
        if everything:
            frames += self._queued
            self._queued.clear()
        self._tell_unsent(frames)

    def _tell_unsent(self, frames: list[Any]) -> None:
        if frames and self._on_unsent is not None:
            self._on_unsent(frames)
        elif frames:
            logs.error_logger.error("%d frames to %s were not sent, or may not have left", len(frames), self._address)

    def _closed(self, connection: Connection, reason: CloseReason) -> Any:
        if connection is self.connection:
            for_good = self._is_closing or self._reconnect is None
            self._report_unsent(everything=for_good)
            if not for_good:
                self._keeping = asyncio.ensure_future(self._connect_again())
            self._changed.set()
        return self._on_close(connection, reason) if self._on_close is not None else None

    async def _connect_again(self) -> None:
        """A server that lets everybody in and closes at once is not asked ten times a second for ever: a connection
        that did not last longer than the wait before it counts as one more attempt."""
        assert self._reconnect is not None
        if asyncio.get_running_loop().time() - self._connected_s > self._waited_s:
            self._failed = 0
        while True:
            self._waited_s = self._reconnect.delay_s(self._failed)
            self._failed += 1
            await asyncio.sleep(self._waited_s)
            try:
                await self._connect()
                return
            except ConnectFailed as error:
                logs.error_logger.warning("%s; trying again", error)
            except Exception as error:
                # Of `on_connect`: as an error of any handler, it costs its connection.
                self._report(error)
                if self.is_connected:
                    self._connection.abort()
                return

    def _report(self, error: Exception) -> None:
        on_error = self._handlers.handlers["on_error"]
        if on_error is None:
            logs.error_logger.error("Exception in on_connect", exc_info=error)
        else:
            on_error(self.connection, error)

    async def _connect(self) -> None:
        assert self._server is not None
        sock = await connect(self._address, self._timeout_s, self._options)
        try:
            self.connection = self._server.adopt(sock.fileno())
            self._connected_s = asyncio.get_running_loop().time()
        finally:
            sock.close()
        self._changed.set()
        if self._on_connect is not None:
            outcome = self._on_connect(self.connection)
            if asyncio.iscoroutine(outcome):
                await outcome
        self._pump()


async def connect(address: str, timeout_s: float, options: SocketOptions | None = None) -> socket.socket:
    """A connected, non-blocking socket: the first that succeeds. Raises `ConnectFailed`."""
    errors: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            places = await _places(address)
            sock = await _race(places, options, errors)
    except TimeoutError:
        errors.append(f"no answer within {timeout_s:g} s")
        sock = None
    except OSError as error:
        errors.append(_reason(error))
        sock = None
    if sock is None:
        raise ConnectFailed(f"cannot connect to {address}: {'; '.join(dict.fromkeys(errors))}")
    return sock


Place = tuple[socket.AddressFamily, Any]


async def _places(address: str) -> list[Place]:
    if address.startswith("unix:"):
        return [(socket.AF_UNIX, address.removeprefix("unix:"))]
    host, port = listener.host_and_port(address)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return interleaved([(family, where) for family, _, _, _, where in found])


def interleaved(places: list[Place]) -> list[Place]:
    """By turns of the families, beginning with the first one's (RFC 8305 section 4)."""
    families: dict[int, deque[Place]] = {}
    for place in dict.fromkeys(places):
        families.setdefault(place[0], deque()).append(place)
    rounds = itertools.zip_longest(*families.values())
    return [place for each in rounds for place in each if place is not None]


async def _race(places: list[Place], options: SocketOptions | None, errors: list[str]) -> socket.socket | None:
    """Try each; the next begins when the one before has failed, or has taken its time. The others are closed."""
    attempts: set[asyncio.Task[socket.socket]] = set()
    waiting = deque(places)
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.ensure_future(_attempt(waiting.popleft(), options)))
            done, attempts = await asyncio.wait(
                attempts, timeout=ATTEMPT_DELAY_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            won = [each for each in done if each.exception() is None]
            errors += [_reason(each.exception()) for each in done if each.exception() is not None]
            for late in won[1:]:
                late.result().close()
            if won:
                return won[0].result()
    finally:
        for each in attempts:
            each.cancel()
            each.add_done_callback(_close_late)
    return None


def _close_late(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _attempt(place: Place, options: SocketOptions | None) -> socket.socket:
    family, where = place
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if options is not None:
            options.set_on(sock, SocketKind.of(sock))
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error)
