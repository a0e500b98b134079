"""`TCPServer`: a protocol of one's own, on TCP ports and Unix sockets, handled on the reactors.

Rust accepts, receives, cuts frames, keeps bounds and heartbeats; a handler is called where its bytes arrived. A server
runs alone (`run`), on several event loops (`reactors`), or within a program that is running (`start`).
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from . import _core, importer, listener, logs
from .config import AcceptName, LogLevel, PollerName, ServerConfig
from .errors import AppImportError, ConfigError, StartupError
from .event_loop import EventLoop
from .protocol import AnyProtocol, Raw
from .socket_options import SocketOptions

if TYPE_CHECKING:
    from .watching import Watching

Connection = _core.Connection
# Plain functions or coroutine functions; what a plain one returns is left alone.
OnMessage = Callable[[Connection, Any], object]
OnMessages = Callable[[Connection, list[Any]], object]
OnConnect = Callable[[Connection], object]
OnClose = Callable[[Connection, "CloseReason"], object]
OnError = Callable[[Connection, Exception], object]
Handler = Callable[[Connection], Awaitable[None]]

DEFAULT_BACKLOG = 4096
# What a cancelled handler may take to leave.
_CANCEL_GRACE_S = 1.0


class CloseReason(enum.StrEnum):
    """Why a connection was closed, as `on_close` is told."""

    PEER_CLOSED = "peer closed"
    CLOSED = "closed"
    ABORTED = "aborted"
    LOST = "lost"
    SILENT = "silent"
    BAD_FRAME = "bad frame"
    SLOW_READER = "slow reader"
    HANDLER_FAILED = "handler failed"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What is done about silence: after `interval_s` of it the peer is sent `ping`, a whole frame's bytes as they go
    over the wire, if there is one; after `timeout_s` the connection is closed. Times are met to a tenth of a second.

    With `pong`, another whole frame's bytes, a `ping` that comes is answered with it at once, and a `pong` that comes
    is taken note of: neither takes the interpreter, or reaches a handler."""

    interval_s: float
    timeout_s: float
    ping: bytes | None = None
    pong: bytes | None = None

    def __post_init__(self) -> None:
        if self.pong is not None and self.ping is None:
            raise ConfigError("heartbeat: pong answers a ping, and there is none: expected both, or ping alone")
        if not 0 < self.interval_s <= self.timeout_s:
            raise ConfigError(
                f"heartbeat: expected 0 < interval_s <= timeout_s, got {self.interval_s:g} and {self.timeout_s:g}"
            )


@dataclass(frozen=True, kw_only=True)
class StreamLimits:
    """The bounds of each connection, and of their number.

    `max_held_bytes`: what waits for a handler that is busy or paused; then reading pauses. `max_unsent_bytes`: what
    waits for a peer that does not read; then `send` raises `SendBufferFull`, and a group cuts the peer off.
    `write_timeout_s`: how long a peer may read nothing of what waits for it, from a tenth of that after it had no more
    room, as buffers still fill. `max_connections`: 0 is no limit.
    """

    max_held_bytes: int = 64 * 1024
    max_unsent_bytes: int = 1 << 20
    write_timeout_s: float = 60.0
    max_connections: int = 0


@dataclass(frozen=True)
class _Handlers:
    """Everything that a stream server needs of its user, as the data plane takes it."""

    protocol: AnyProtocol
    handlers: dict[str, Any]
    heartbeat: Heartbeat | None
    limits: StreamLimits

    def attach(self, loop: EventLoop) -> _core.StreamServer:
        heartbeat, limits = self.heartbeat, self.limits
        settings = {
            "heartbeat": astuple(heartbeat) if heartbeat else None,
            "max_held_bytes": limits.max_held_bytes,
            "max_unsent_bytes": limits.max_unsent_bytes,
            "write_timeout_s": limits.write_timeout_s,
            "max_connections": limits.max_connections or (1 << 62),
        }
        return _core.StreamServer(loop.reactor, loop, self.protocol, self.handlers, settings, _report)


class _Part:
    """A server's share of one reactor."""

    def __init__(self, loop: EventLoop, server: _core.StreamServer) -> None:
        self.loop, self.server, self.thread = loop, server, threading.get_ident()

    async def stop(self, timeout_s: float) -> None:
        """Close every connection once its output has left; end what takes longer."""
        self.server.remove_listeners()
        # What is still waiting at a listener, or on its way, comes with the next turn.
        await asyncio.sleep(0)
        tasks = self.server.suspended_tasks()
        self.server.stop()
        deadline = self.loop.time() + timeout_s
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel("the server is shutting down")
            if late:
                await asyncio.wait(late, timeout=_CANCEL_GRACE_S)
        while self.server.connections and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
        self.server.abort_all()
        while self.server.connections:
            await asyncio.sleep(0)
        # The last ends have been told, too.
        await asyncio.sleep(0)
        self.server.detach()


class Group:
    """Connections that a frame is sent to at once: encoded once, held once, queued for each.

    With several reactors it has a part on each. Connections leave it when they close.
    """

    def __init__(self, server: TCPServer) -> None:
        self._server = server
        self._shards: dict[int, _core.StreamGroup] = {}

    def add(self, connection: Connection) -> None:
        """Only within a handler of the connection's own event loop."""
        self._here().add(connection)

    def discard(self, connection: Connection) -> None:
        self._here().discard(connection)

    def send(self, frame: Any, exclude: Connection | None = None) -> int:
        """Send to every member but `exclude`; how many of this reactor's have it. Peers that leave too much unread are
        cut off. Members on other reactors get it with their next turn."""
        thread, sent = threading.get_ident(), 0
        for part in self._server.parts:
            shard = self._shards.get(part.thread)
            if part.thread == thread:
                sent = self._here().send(frame, exclude)
            elif shard is not None:
                with contextlib.suppress(RuntimeError):  # Its loop is closed: it has no members any more.
                    part.loop.call_soon_threadsafe(shard.send, frame)
        return sent

    def __len__(self) -> int:
        """Members on this reactor."""
        return len(self._here())

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._here()

    def _here(self) -> _core.StreamGroup:
        thread = threading.get_ident()
        shard = self._shards.get(thread)
        if shard is None:
            part = next((part for part in self._server.parts if part.thread == thread), None)
            if part is None:
                raise RuntimeError("a group is used within a handler, or the event loop, of its server")
            shard = self._shards[thread] = part.server.group()
        return shard


class TCPServer:
    """A server for a protocol of one's own, on TCP ports and Unix stream sockets.

    Who receives the frames: `on_message(connection, frame)`, `on_messages(connection, frames)` with all that one turn
    brought, or `handler(connection)`, a coroutine that receives them itself (`async for frame in connection`) and
    whose return closes the connection. All may be coroutine functions; a connection's next frame waits for the handler
    of the one before. `on_connect(connection)`, `on_close(connection, reason)` and `on_error(connection, error)` are
    told the rest; an error closes its connection.
    """

    def __init__(
        self,
        on_message: OnMessage | None = None,
        *,
        handler: Handler | None = None,
        on_messages: OnMessages | None = None,
        protocol: AnyProtocol | None = None,
        on_connect: OnConnect | None = None,
        on_close: OnClose | None = None,
        on_error: OnError | None = None,
        heartbeat: Heartbeat | None = None,
        limits: StreamLimits | None = None,
        options: SocketOptions | None = None,
        backlog: int = DEFAULT_BACKLOG,
        timeout_graceful_shutdown_s: float = 10.0,
    ) -> None:
        if sum(each is not None for each in (on_message, on_messages, handler)) != 1:
            raise ConfigError("TCPServer: expected one of on_message, on_messages and handler, to receive the frames")
        handlers = {
            "on_message": on_message,
            "on_messages": on_messages,
            "handler": handler,
            "on_connect": on_connect,
            "on_close": on_close,
            "on_error": on_error,
        }
        self._handlers = _Handlers(protocol or Raw(), handlers, heartbeat, limits or StreamLimits())
        self.options = options or SocketOptions()
        self.backlog, self.timeout_graceful_shutdown_s = backlog, timeout_graceful_shutdown_s
        self.parts: list[_Part] = []
        self.listeners: list[socket.socket] = []

    def group(self) -> Group:
        """A set of connections that frames can be sent to at once."""
        return Group(self)

    @property
    def addresses(self) -> list[str]:
        """Where it listens: `tcp://127.0.0.1:9000`, `unix:/run/app.sock`."""
        return [describe(each) for each in self.listeners]

    def counters(self) -> dict[str, int]:
        """What has been counted, over all of this process's reactors that this thread may ask."""
        here = threading.get_ident()
        return next((part.server.counters() for part in self.parts if part.thread == here), {})

    async def start(self, *addresses: str) -> Self:
        """Listen, on the running event loop, which must be a `penstock.EventLoop`. `close` ends it."""
        loop = running_loop()
        self.listeners = self._open(addresses)
        try:
            self.add_part(loop)
        except BaseException:
            listener.close_listeners(self.listeners)
            raise
        for each in self.listeners:
            self.parts[0].server.add_listener(each.fileno())
        return self

    async def close(self, timeout_s: float | None = None) -> None:
        """Accept no more, let handlers finish and output leave, for at most `timeout_s`; then end what is left."""
        listener.close_listeners(self.listeners)
        for part in self.parts:
            await part.stop(self.timeout_graceful_shutdown_s if timeout_s is None else timeout_s)
        self.parts.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def run(
        self,
        *addresses: str,
        reactors: int = 1,
        workers: int | Literal["auto"] | None = None,
        accept: AcceptName = "shared",
        control: str | None = None,
        poller: PollerName = "auto",
        log_level: LogLevel = "info",
        metrics_bind: str | None = None,
        slow_callback_s: float = 0.0,
    ) -> None:
        """Serve at these addresses (`host:port`, `unix:/path`) until SIGINT or SIGTERM.

        On `reactors` threads, or in `workers` processes under a supervisor, which `control`, `accept` and the signals
        of docs/workers.md are for. `metrics_bind` and `slow_callback_s`: docs/metrics.md.
        """
        config = ServerConfig(
            reactors=reactors, workers=workers, accept=accept, control=control, poller=poller, log_level=log_level,
            metrics_bind=metrics_bind, slow_callback_s=slow_callback_s,
            timeout_graceful_shutdown_s=self.timeout_graceful_shutdown_s,
        )  # fmt: skip
        run_streams(self, addresses, config, self.options)

    def run_here(self, addresses: Sequence[str], config: ServerConfig) -> None:
        """In this process, which nobody replaces."""
        from .watching import Watching

        watching = Watching(config, accepts_apart=config.reactors > 1)
        self.listeners = self._open(addresses)
        try:
            with watching.shown(self.addresses), asyncio.Runner(loop_factory=watching.first_loop) as runner:
                runner.run(self._serve(watching))
        finally:
            listener.close_listeners(self.listeners)

    async def _serve(self, watching: Watching) -> None:
        from .server import end_leftovers, logging_process, stopping_on_signals

        stop = asyncio.Event()
        with logging_process(), stopping_on_signals(asyncio.get_running_loop(), stop.set):
            try:
                if watching.reactors == 1:
                    await self._serve_here(stop, watching)
                else:
                    from .stream_reactors import serve_on_threads

                    await serve_on_threads(self, watching, stop)
            finally:
                await end_leftovers()

    async def _serve_here(self, stop: asyncio.Event, watching: Watching) -> None:
        loop = running_loop()
        self.add_part(loop)
        with watching.of(loop):
            for each in self.listeners:
                self.parts[0].server.add_listener(each.fileno())
            watching.tell("ready")
            logs.log_banner(self.addresses)
            await stop.wait()
            watching.tell("draining")
            logs.error_logger.info("Shutting down")
            await self.close()

    def add_part(self, loop: EventLoop) -> _Part:
        part = _Part(loop, self._handlers.attach(loop))
        self.parts.append(part)
        return part

    def _open(self, addresses: Sequence[str]) -> list[socket.socket]:
        return open_all(addresses, self.backlog, self.options)


def run_streams(
    server: str | TCPServer,
    addresses: Sequence[str],
    config: ServerConfig,
    options: SocketOptions,
    timeout_s: float | None = None,
) -> None:
    """Serve a server, or what a name stands for, until it is stopped: as `TCPServer.run` and `penstock tcp` do.

    `options`, and the graceful time-out if there is one, count before the server's own.
    """
    logs.configure(level=config.log_level, access_log=False)
    if config.is_supervised:
        from .stream_workers import StreamTrade
        from .supervisor import supervise

        backlog = DEFAULT_BACKLOG if isinstance(server, str) else server.backlog
        supervise(server, config, StreamTrade(addresses, backlog, options))
        return
    found = load_server(server)
    found.options = found.options.replaced_by(options)
    found.timeout_graceful_shutdown_s = found.timeout_graceful_shutdown_s if timeout_s is None else timeout_s
    found.run_here(addresses, config)


def load_server(server: str | TCPServer) -> TCPServer:
    """The server that `module:attribute` names, or that it is. Raises `AppImportError`."""
    found = importer.load_object(server) if isinstance(server, str) else server
    if not isinstance(found, TCPServer):
        raise AppImportError(f"{server}: expected a penstock.TCPServer, got {type(found).__name__}")
    return found


def open_all(
    addresses: Sequence[str], backlog: int, options: SocketOptions, *, reuse_port: bool = False
) -> list[socket.socket]:
    """The listening sockets at all these addresses, or none. Raises `ConfigError` or `AddressError`."""
    if not addresses:
        raise ConfigError("expected an address to listen at, such as 127.0.0.1:9000 or unix:/run/app.sock")
    opened: list[socket.socket] = []
    try:
        for address in addresses:
            opened += listener.open_at(address, backlog, options, reuse_port=reuse_port)
    except BaseException:
        listener.close_listeners(opened)
        raise
    return opened


def running_loop() -> EventLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, EventLoop):
        raise StartupError(
            f"expected a penstock.EventLoop, got {type(loop).__name__}: run the program with "
            "asyncio.Runner(loop_factory=penstock.EventLoop), or the server in a thread with server.run()"
        )
    return loop


def describe(each: socket.socket) -> str:
    return listener.describe(each).replace("http://", "tcp://")


def _report(message: str, error: BaseException | None) -> None:
    logs.error_logger.error(message, exc_info=error)
