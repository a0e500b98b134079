"""UDPServer and UDPClient: datagrams over IPv4, IPv6 and Unix sockets, on a reactor.

    import penstock

    def on_datagram(peer, datagram):
        return datagram                       # bytes are the answer; None is none; a coroutine is run as a task

    penstock.UDPServer(on_datagram).run("0.0.0.0:5353")

A socket belongs to the event loop that it was opened in, which must be a `penstock.EventLoop`; a server's methods are
for that loop's thread. Datagrams that the network loses are lost, as ever; what *this* side drops or cannot send is
counted, and told to `on_error`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import inspect
import os
import socket
import stat
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from . import _core, logs
from .config import LogLevel, PollerName, ServerConfig
from .errors import (
    AddressError,
    AddressForbidden,
    AddressInUse,
    AddressUnavailable,
    ConfigError,
    PenstockError,
)
from .event_loop import EventLoop
from .socket_options import SocketKind, SocketOptions

if TYPE_CHECKING:
    from .watching import Watching

Peer = _core.DatagramPeer
Answer = bytes | bytearray | memoryview | None
Handler = Callable[[Peer, bytes], "Answer | Coroutine[Any, Any, Answer]"]
ErrorHandler = Callable[["Peer | None", Exception], Any]

MAX_DATAGRAM_BYTES = 65_535
# What arrives while handlers are busy waits here; the system's default holds a few hundred small datagrams.
_RECEIVE_BUFFER_BYTES = 4 << 20
_SOCKET_MODE = 0o666


def _check(name: str, value: Any, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ConfigError(f"{name}: expected a number from {least:g} to {most:g}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """How a server's peers are remembered: one `Peer` each, from its first datagram until it was silent for too long.

    `when_full` says what becomes of a newcomer: it is refused (and counted), or a peer that was not heard of lately
    makes way. Until `peer.verified` is set, at most `amplification_limit` bytes are sent for each that came (RFC 9000
    section 8.1): whoever asks with somebody else's address must not have that one flooded. None is no limit.
    """

    idle_timeout_s: float = 60.0
    max_peers: int = 10_000
    when_full: Literal["refuse", "evict"] = "refuse"
    amplification_limit: int | None = 3

    def __post_init__(self) -> None:
        _check("idle_timeout_s", self.idle_timeout_s, 0.1, 86_400)
        _check("max_peers", self.max_peers, 1, 1 << 24)
        if self.when_full not in ("refuse", "evict"):
            raise ConfigError(f"when_full: expected 'refuse' or 'evict', got {self.when_full!r}")
        if self.amplification_limit is not None:
            _check("amplification_limit", self.amplification_limit, 1, 1000)


# Without sessions a peer is remembered as long as that is convenient: so that its object is made once.
_FORGETFUL = Sessions(max_peers=16_384, when_full="evict", amplification_limit=None)


@dataclass(frozen=True, kw_only=True)
class Multicast:
    """Groups to join (`239.1.2.3`, `ff02::1234`), through which interface, and how one's own datagrams leave."""

    groups: Sequence[str] = ()
    # A name or a number; None is the one that routing finds.
    interface: str | int | None = None
    # Routers that a datagram may pass; None is the system's 1: this network only.
    hops: int | None = None
    # Whether this machine hears its own; None is the system's yes.
    loop: bool | None = None


@dataclass(frozen=True)
class _Limits:
    max_datagram_bytes: int
    max_queued_bytes: int
    max_tasks: int
    gather_s: float = 0.0

    def __post_init__(self) -> None:
        _check("max_datagram_bytes", self.max_datagram_bytes, 1, MAX_DATAGRAM_BYTES)
        _check("max_queued_bytes", self.max_queued_bytes, 65_536, 1 << 40)
        _check("max_tasks", self.max_tasks, 1, 1 << 30)
        _check("gather_s", self.gather_s, 0, 0.001)


class _Endpoint:
    """One open socket on a loop: what server and client have in common."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        *,
        on_datagram: Handler,
        on_open: Callable[[Peer], Any] | None,
        on_close: Callable[[Peer, str], Any] | None,
        on_error: ErrorHandler | None,
        sessions: Sessions,
        limits: _Limits,
    ) -> None:
        self.loop = loop
        self.gone: asyncio.Future[None] = loop.create_future()
        self._on_error = on_error
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._max_tasks = limits.max_tasks
        self._is_full = False
        self._drained: list[asyncio.Future[None]] = []
        self.native = _core.DatagramEndpoint(
            loop.reactor,
            sock.fileno(),
            on_datagram=on_datagram,
            on_open=None if on_open is None else self._told(on_open),
            on_close=None if on_close is None else self._told(on_close),
            on_error=self.report,
            on_coroutine=self._begin,
            on_drained=self._tell_drained,
            on_gone=self._go,
            max_datagram_bytes=limits.max_datagram_bytes,
            max_queued_bytes=limits.max_queued_bytes,
            gather_s=limits.gather_s,
            idle_timeout_s=sessions.idle_timeout_s,
            max_peers=sessions.max_peers,
            evicts=sessions.when_full == "evict",
            amplification=sessions.amplification_limit,
        )
        # The reactor has a descriptor of its own.
        self._file = sock.let_go() if isinstance(sock, UnixSocket) else None
        sock.close()

    def report(self, peer: Peer | None, error: Exception) -> None:
        """Tell `on_error`; what that raises itself is logged, as is everything without one."""
        if self._on_error is not None:
            try:
                self._let_run(peer, self._on_error(peer, error))
                return
            except Exception as raised:
                error = raised
        told = error if isinstance(error, OSError | PenstockError) else None
        logs.error_logger.error("Datagram socket: %s", told or "a handler raised", exc_info=None if told else error)

    def _told(self, handler: Callable[..., Any]) -> Callable[..., None]:
        """A handler of events, which may be async."""

        def tell(peer: Peer, *told: Any) -> None:
            self._let_run(peer, handler(peer, *told))

        return tell

    def _let_run(self, peer: Peer | None, returned: Any) -> None:
        if inspect.iscoroutine(returned):
            task = self.loop.create_task(returned)
            self._tasks.add(task)
            task.add_done_callback(lambda task: self._end(None, task))

    def _begin(self, peer: Peer, coroutine: Coroutine[Any, Any, Answer]) -> None:
        """A handler was async: run it; with as many as may run, take no more datagrams."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._end(peer, task))
        if len(self._tasks) >= self._max_tasks and not self._is_full:
            self._is_full = True
            self.native.pause()

    def _end(self, peer: Peer | None, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        if self._is_full and len(self._tasks) <= self._max_tasks // 2 and not self.gone.done():
            self._is_full = False
            self.native.resume()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            if not isinstance(error, Exception):
                raise error
            self.report(peer, error)
        elif peer is not None and (answer := task.result()) is not None:
            try:
                peer.send(answer)
            except Exception as refused:
                self.report(peer, refused)

    def _tell_drained(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def drain(self) -> None:
        """Wait until little is left to be sent."""
        if not self.native.queued_bytes:
            return
        future = self.loop.create_future()
        self._drained.append(future)
        self.native.want_drained()
        await future

    def _go(self) -> None:
        if self._file is not None:
            self._file.remove()
        self._tell_drained()
        if not self.gone.done():
            self.gone.set_result(None)

    async def close(self, timeout_s: float) -> None:
        """Take no more, let handlers end within the time, send what is queued (for two seconds at most)."""
        if self._tasks and timeout_s > 0:
            self._is_full = False  # So that no end of a handler resumes.
            self.native.pause()
            await asyncio.wait(self._tasks, timeout=timeout_s)
        self.native.close()
        await self.gone
        for task in self._tasks:
            task.cancel("the datagram socket is closed")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)


class UDPServer:
    """A datagram server: `on_datagram(peer, datagram)` is called for each that arrives.

    Bytes that it returns are sent back; so are those that a coroutine returns, which runs as a task of its own, at most
    `max_tasks` at once. `on_error(peer, error)` is told what a handler raised, what the network refused (`OSError`),
    and what was too long; without it that is logged. With `sessions`, `on_open(peer)` and `on_close(peer, reason)` tell
    when one begins and ends ("idle", "evicted", "closed").

    At most `max_queued_bytes` wait to be sent: beyond half of that nothing is received, and beyond all `send` raises
    `DatagramQueueFull`. A datagram longer than `max_datagram_bytes` is dropped and told.

    A socket that is so busy that it pays (eight datagrams or more in that time) is left alone for `gather_s`, 50
    microseconds, before it is looked at again: what came meanwhile shares the costs of one look. 0 is never.

    Addresses are written `127.0.0.1:5353`, `[::1]:5353`, `name:5353`, `unix:/path` or `unix:@name`.
    """

    def __init__(
        self,
        on_datagram: Handler,
        *,
        on_open: Callable[[Peer], Any] | None = None,
        on_close: Callable[[Peer, str], Any] | None = None,
        on_error: ErrorHandler | None = None,
        sessions: Sessions | None = None,
        multicast: Multicast | None = None,
        options: SocketOptions | None = None,
        max_datagram_bytes: int = MAX_DATAGRAM_BYTES,
        max_queued_bytes: int = 16 << 20,
        max_tasks: int = 1000,
        gather_s: float = 50e-6,
        timeout_graceful_shutdown_s: float = 10.0,
    ) -> None:
        if not callable(on_datagram):
            raise ConfigError(f"on_datagram: expected a function of (peer, datagram), got {on_datagram!r}")
        if sessions is None and (on_open is not None or on_close is not None):
            raise ConfigError("on_open and on_close speak of sessions: give sessions=penstock.Sessions(), too")
        self.options = options or SocketOptions()
        self._on_open, self._on_close, self._on_error = on_open, on_close, on_error
        self._on_datagram = on_datagram
        self._sessions = sessions or _FORGETFUL
        self._multicast = multicast
        self._limits = _Limits(max_datagram_bytes, max_queued_bytes, max_tasks, gather_s)
        self.timeout_graceful_shutdown_s = timeout_graceful_shutdown_s
        # By the thread that each is served in.
        self._endpoints: dict[int, _Endpoint] = {}

    async def start(self, address: str | tuple[Any, ...]) -> None:
        """Open the socket in the running loop. Raises `AddressError` or `SocketOptionRefused`."""
        _running_loop()
        self.adopt(bind_datagram(address, self.options))

    def adopt(self, sock: socket.socket) -> None:
        """Serve a socket that somebody else has bound, in this thread. It is the server's from now on."""
        here = threading.get_ident()
        if here in self._endpoints:
            sock.close()
            raise RuntimeError("this server is open already: make another for another address")
        try:
            loop = _running_loop()
            self._endpoints[here] = _Endpoint(
                loop,
                sock,
                on_datagram=self._on_datagram,
                on_open=self._on_open,
                on_close=self._on_close,
                on_error=self._on_error,
                sessions=self._sessions,
                limits=self._limits,
            )
            if self._multicast is not None:
                self._set_multicast(self._multicast)
        except BaseException:
            endpoint = self._endpoints.pop(here, None)
            if endpoint is None:
                sock.close()
            else:
                endpoint.native.close()
            raise

    def check_shared(self, address: str | tuple[Any, ...]) -> None:
        """Whether several may serve it side by side. Raises `ConfigError`."""
        if self._multicast is not None:
            raise ConfigError("multicast: each of several reactors or workers would get every datagram; have one")
        if self._sessions is not _FORGETFUL and _written(address).startswith("unix:"):
            raise ConfigError("sessions at a Unix socket: a peer's datagrams come to any reactor or worker; have one")

    def _set_multicast(self, wanted: Multicast) -> None:
        interface = _interface_number(wanted.interface)
        if (wanted.hops, wanted.loop, wanted.interface) != (None, None, None):
            self._open.native.set_multicast(wanted.hops, wanted.loop, interface or None)
        for group in wanted.groups:
            self._open.native.set_membership(group, interface, True)

    @property
    def _open(self) -> _Endpoint:
        endpoint = self._endpoints.get(threading.get_ident())
        if endpoint is None:
            raise RuntimeError("this server is not open in this thread: await start(address) first")
        return endpoint

    @property
    def address(self) -> Any:
        """Where it is bound, in the form of the socket module."""
        return self._open.native.address

    @property
    def known_peers(self) -> int:
        return self._open.native.known_peers

    def peer(self, address: str | tuple[Any, ...]) -> Peer:
        """Somebody at an address, heard of or not, to send to."""
        return self._open.native.peer_at(_written(address))

    def send(self, datagram: bytes | bytearray | memoryview, peer: Peer | str | tuple[Any, ...]) -> None:
        """Queue a datagram for a peer, or for an address; it leaves with this turn of the loop.

        Raises `DatagramTooLong`, `DatagramQueueFull`, `AmplificationLimited` or `PeerGone`. What the network makes of
        it comes to `on_error`, if anything comes.
        """
        self._open.native.send(datagram, peer if isinstance(peer, Peer) else self.peer(peer))

    async def drain(self) -> None:
        """Wait until little is left to be sent."""
        await self._open.drain()

    def join(self, group: str, interface: str | int | None = None) -> None:
        """Join a multicast group. Raises OSError where the kernel refuses."""
        self._open.native.set_membership(group, _interface_number(interface), True)

    def leave(self, group: str, interface: str | int | None = None) -> None:
        """Leave a multicast group."""
        self._open.native.set_membership(group, _interface_number(interface), False)

    def counters(self) -> dict[str, int]:
        """What the reactor has counted, by name; `datagrams_*` concern its datagram sockets."""
        return self._open.loop.reactor.counters()

    async def close(self, timeout_s: float | None = None) -> None:
        """Take no more, let handlers end within the time, and send what is queued. Handlers that take longer are
        cancelled."""
        endpoint = self._endpoints.get(threading.get_ident())
        if endpoint is not None:
            await endpoint.close(self.timeout_graceful_shutdown_s if timeout_s is None else timeout_s)
            self._endpoints.pop(threading.get_ident(), None)

    def run(
        self,
        address: str | tuple[Any, ...],
        *,
        reactors: int = 1,
        workers: int | Literal["auto"] | None = None,
        control: str | None = None,
        poller: PollerName = "auto",
        log_level: LogLevel = "info",
        metrics_bind: str | None = None,
        slow_callback_s: float = 0.0,
    ) -> None:
        """Serve until SIGINT or SIGTERM, on loops of its own: on `reactors` threads, or in `workers` processes under a
        supervisor, which `control` and the signals of docs/workers.md are for. `metrics_bind` and `slow_callback_s`:
        docs/metrics.md.

        Raises `PenstockError` for what a user can put right.
        """
        config = ServerConfig(
            reactors=reactors, workers=workers, control=control, poller=poller, log_level=log_level,
            metrics_bind=metrics_bind, slow_callback_s=slow_callback_s,
            timeout_graceful_shutdown_s=self.timeout_graceful_shutdown_s,
        )  # fmt: skip
        run_datagrams(self, address, config, self.options)

    def run_here(self, address: str | tuple[Any, ...], config: ServerConfig) -> None:
        """In this process, which nobody replaces."""
        from .watching import Watching

        watching, is_shared = Watching(config), config.reactors > 1
        if is_shared:
            self.check_shared(address)
        sock = bind_datagram(address, self.options, reuse_port=is_shared)
        try:
            with watching.shown([describe(sock)]), asyncio.Runner(loop_factory=watching.first_loop) as runner:
                runner.run(self._serve(sock, watching))
        finally:
            sock.close()

    async def _serve(self, sock: socket.socket, watching: Watching) -> None:
        from .server import end_leftovers, logging_process, stopping_on_signals

        stop = asyncio.Event()
        with logging_process(), stopping_on_signals(asyncio.get_running_loop(), stop.set):
            try:
                if watching.reactors == 1:
                    await self._serve_here(sock, stop, watching)
                else:
                    from .datagram_workers import serve_on_threads

                    await serve_on_threads(self, sock, watching, stop)
            finally:
                await end_leftovers()

    async def _serve_here(self, sock: socket.socket, stop: asyncio.Event, watching: Watching) -> None:
        where, loop = describe(sock), asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        with watching.of(loop):
            self.adopt(sock)
            watching.tell("ready")
            logs.log_banner([where])
            await stop.wait()
            watching.tell("draining")
            logs.error_logger.info("Shutting down")
            await self.close()


def run_datagrams(
    server: str | UDPServer,
    address: str | tuple[Any, ...],
    config: ServerConfig,
    options: SocketOptions,
    timeout_s: float | None = None,
) -> None:
    """Serve a server, or what a name stands for, until it is stopped: as `UDPServer.run` and `penstock udp` do.

    `options`, and the graceful time-out if there is one, count before the server's own.
    """
    from .datagram_workers import DatagramTrade, load_server

    logs.configure(level=config.log_level, access_log=False)
    if config.is_supervised:
        from .supervisor import supervise

        supervise(server, dataclasses.replace(config, accept="reuseport"), DatagramTrade(address, options))
        return
    found = load_server(server)
    found.options = found.options.replaced_by(options)
    found.timeout_graceful_shutdown_s = found.timeout_graceful_shutdown_s if timeout_s is None else timeout_s
    found.run_here(address, config)


class UDPClient:
    """A connected datagram socket: it talks to one address, and hears when nobody is there.

        async with penstock.UDPClient("127.0.0.1:5353") as client:
            client.send(b"question")
            answer = await client.receive(timeout_s=1.0)

    Datagrams are taken with `receive`, or `async for`; up to `max_received` wait, and more stay in the kernel, which
    drops what it has no room for. With `on_datagram` they are given to that instead, as a server's are. An ICMP error,
    such as `ConnectionRefusedError`, is raised by a `receive` that waits; else it is told to `on_error`, or raised by
    the next `receive`.
    """

    def __init__(
        self,
        address: str | tuple[Any, ...],
        on_datagram: Handler | None = None,
        *,
        on_error: ErrorHandler | None = None,
        local_address: str | tuple[Any, ...] | None = None,
        options: SocketOptions | None = None,
        max_datagram_bytes: int = MAX_DATAGRAM_BYTES,
        max_queued_bytes: int = 16 << 20,
        max_received: int = 1024,
        max_tasks: int = 1000,
    ) -> None:
        _check("max_received", max_received, 1, 1 << 30)
        self.options = options or SocketOptions()
        self._address, self._local_address = address, local_address
        self._on_datagram, self._on_error = on_datagram, on_error
        self._limits = _Limits(max_datagram_bytes, max_queued_bytes, max_tasks)
        self._max_received = max_received
        self._received: deque[bytes] = deque()
        self._errors: deque[Exception] = deque(maxlen=16)
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._is_paused = False
        self._endpoint: _Endpoint | None = None

    async def connect(self) -> None:
        """Open the socket. Nothing is sent: whether anybody is there shows with the first datagram."""
        if self._endpoint is not None:
            raise RuntimeError("this client is open already")
        loop = _running_loop()
        sock = await loop.run_in_executor(None, self._open_socket) if self._needs_look_up() else self._open_socket()
        try:
            self._endpoint = _Endpoint(
                loop,
                sock,
                on_datagram=self._on_datagram or self._keep,
                on_open=None,
                on_close=None,
                on_error=self._take_error,
                sessions=_FORGETFUL,
                limits=self._limits,
            )
        except BaseException:
            sock.close()
            raise

    def _needs_look_up(self) -> bool:
        return any(
            address is not None and not _written(address).startswith("unix:") and not _is_numeric(address)
            for address in (self._address, self._local_address)
        )

    def _open_socket(self) -> socket.socket:
        return _connect_datagram(self._address, self._local_address, self.options)

    @property
    def _open(self) -> _Endpoint:
        if self._endpoint is None:
            raise RuntimeError("this client is not open: await connect() first, or use `async with`")
        return self._endpoint

    @property
    def address(self) -> Any:
        """This end, in the form of the socket module."""
        return self._open.native.address

    def send(self, datagram: bytes | bytearray | memoryview) -> None:
        """Queue a datagram; it leaves with this turn of the loop. Raises `DatagramTooLong` or `DatagramQueueFull`."""
        peer = self._open.native.peer
        assert peer is not None, "a connected socket has a peer"
        peer.send(datagram)

    async def drain(self) -> None:
        """Wait until little is left to be sent."""
        await self._open.drain()

    async def receive(self, timeout_s: float | None = None) -> bytes:
        """The next datagram. Raises TimeoutError, or what the network told of the ones sent."""
        async with asyncio.timeout(timeout_s):
            while not self._received:
                if self._errors:
                    raise self._errors.popleft()
                waiter = self._open.loop.create_future()
                self._waiters.append(waiter)
                try:
                    await waiter
                finally:
                    with suppress(ValueError):
                        self._waiters.remove(waiter)
        datagram = self._received.popleft()
        if self._is_paused and len(self._received) <= self._max_received // 2:
            self._is_paused = False
            self._open.native.resume()
        return datagram

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._endpoint is not None:
            yield await self.receive()

    def _keep(self, peer: Peer, datagram: bytes) -> None:
        self._received.append(datagram)
        if len(self._received) >= self._max_received:
            self._is_paused = True
            self._open.native.pause()
        self._wake()

    def _take_error(self, peer: Peer | None, error: Exception) -> Any:
        if self._on_error is not None and not self._waiters:
            return self._on_error(peer, error)
        self._errors.append(error)
        self._wake()
        return None

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def close(self) -> None:
        """Send what is queued, and close."""
        if self._endpoint is not None:
            endpoint = self._endpoint
            await endpoint.close(0)
            self._endpoint = None
            self._errors.append(ConnectionAbortedError(errno.ECONNABORTED, "the client was closed"))
            while self._waiters:
                self._wake()

    async def __aenter__(self) -> UDPClient:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def bind_datagram(address: str | tuple[Any, ...], options: SocketOptions, *, reuse_port: bool = False) -> socket.socket:
    """A datagram socket bound to an address. Raises `AddressError`, `ConfigError` or `SocketOptionRefused`.

    With `reuse_port` it can have twins, unless it is a Unix socket.
    """
    written = _written(address)
    if written.startswith("unix:"):
        return _bind_unix(written, options)
    last: PenstockError | None = None
    for family, resolved in _look_up(address, passive=True):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _prepare(sock, options)
            sock.bind(resolved)
            return sock
        except OSError as error:
            sock.close()
            last = last or _address_error(written, error)
        except BaseException:
            sock.close()
            raise
    assert last is not None, "a name that was found has an address"
    raise last


def is_reusable(sock: socket.socket) -> bool:
    """Whether it can have twins."""
    is_internet = sock.family in (socket.AF_INET, socket.AF_INET6)
    return is_internet and sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1


def bind_twin(sock: socket.socket, options: SocketOptions) -> socket.socket:
    """Another socket at the same address, which gets its share of the peers."""
    return bind_datagram(sock.getsockname(), options, reuse_port=True)


def _connect_datagram(
    address: str | tuple[Any, ...], local: str | tuple[Any, ...] | None, options: SocketOptions
) -> socket.socket:
    written = _written(address)
    is_unix = written.startswith("unix:")
    ends = [(socket.AF_UNIX, _unix_name(written))] if is_unix else _look_up(address, passive=False)
    last: PenstockError | None = None
    for family, resolved in ends:
        sock = UnixSocket() if is_unix else socket.socket(family, socket.SOCK_DGRAM)
        try:
            _prepare(sock, options)
            if isinstance(sock, UnixSocket):
                # A server can answer only to a name; an abstract one of the kernel's choice vanishes with the socket.
                sock.bind_name("" if local is None else _unix_name(_written(local)))
            elif local is not None:
                sock.bind(next(name for known, name in _look_up(local, passive=True) if known == family))
            sock.connect(resolved)
            return sock
        except (OSError, StopIteration) as error:
            sock.close()
            failed = error if isinstance(error, OSError) else OSError(errno.EAFNOSUPPORT, "no such local address")
            last = last or _address_error(written, failed)
        except BaseException:
            sock.close()
            raise
    assert last is not None, "a name that was found has an address"
    raise last


@dataclass(frozen=True)
class SocketFile:
    """The file of a Unix socket, which the process that made it removes, if it is still the same."""

    path: str
    identity: tuple[int, int]
    owner_pid: int

    def remove(self) -> None:
        if self.owner_pid == os.getpid():
            with suppress(OSError):
                if _identity(self.path) == self.identity:
                    os.unlink(self.path)


class UnixSocket(socket.socket):
    """A bound Unix datagram socket, which removes its file when it is closed, unless it has let it go."""

    def __init__(self, fileno: int | None = None) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM, fileno=fileno)
        self._file: SocketFile | None = None

    @staticmethod
    def inherit(fd: int) -> socket.socket:
        """A datagram socket that another process gives away, with its file if it has one."""
        sock = socket.socket(fileno=fd)
        if sock.family != socket.AF_UNIX:
            return sock
        path = os.fsdecode(sock.getsockname())
        own = UnixSocket(sock.detach())
        with suppress(OSError):  # An abstract name, or a file that somebody has removed.
            own._file = SocketFile(os.path.abspath(path), _identity(path), os.getpid())
        return own

    def bind_name(self, name: str | bytes) -> None:
        self.bind(name)
        if name and isinstance(name, str):
            # Absolute: the program may change the working directory.
            self._file = SocketFile(os.path.abspath(name), _identity(name), os.getpid())
            os.chmod(name, _SOCKET_MODE)

    def let_go(self) -> SocketFile | None:
        """Leave the file to somebody else."""
        file, self._file = self._file, None
        return file

    def close(self) -> None:
        file = self.let_go()
        if file is not None:
            file.remove()
        super().close()


def _bind_unix(written: str, options: SocketOptions) -> socket.socket:
    name = _unix_name(written)
    sock = UnixSocket()
    try:
        _prepare(sock, options)
        if isinstance(name, str):
            _remove_stale(name, written)
        sock.bind_name(name)
        return sock
    except OSError as error:
        sock.close()
        raise _address_error(written, error) from None
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: str, written: str) -> None:
    """Remove a socket's file if nobody has it any more; refuse to touch anything else."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressInUse(f"{written}: a file that is no socket is there; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise _address_error(written, error) from None
        else:
            raise AddressInUse(f"{written} is already in use: find by whom with ss -xap, or choose another path")


def _prepare(sock: socket.socket, options: SocketOptions) -> None:
    kind = SocketKind.of(sock)
    if kind is SocketKind.UDP:
        if sock.family == socket.AF_INET6:
            options = options.or_else(v6_only=True)
        if options.receive_buffer_bytes is None:
            # As much of it as the system grants: nobody has asked for a certain size.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    options.set_on(sock, kind)
    sock.setblocking(False)


def _look_up(address: str | tuple[Any, ...], *, passive: bool) -> list[tuple[int, Any]]:
    host, port = _host_and_port(address)
    flags = socket.AI_PASSIVE if passive else 0
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AddressUnavailable(f"cannot find an address for {host!r}: {reason}") from None
    return list(dict.fromkeys((int(family), name) for family, _, _, _, name in found))


def _host_and_port(address: str | tuple[Any, ...]) -> tuple[str, int]:
    if isinstance(address, tuple):
        host, port, *rest = address
        scope = f"%{rest[1]}" if len(rest) > 1 and rest[1] else ""
        return f"{host}{scope}", int(port)
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"expected an address such as 127.0.0.1:5353, [::1]:5353 or unix:/path, got {address!r}")
    return host, int(port)


def _is_numeric(address: str | tuple[Any, ...]) -> bool:
    host, _ = _host_and_port(address)
    with suppress(OSError):
        return bool(socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST))
    return False


def _written(address: str | tuple[Any, ...]) -> str:
    """An address as text: of the socket module's tuples, too."""
    if isinstance(address, str):
        return address
    host, port = _host_and_port(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unix_name(written: str) -> str | bytes:
    name = written.removeprefix("unix:")
    if not name:
        raise ConfigError("expected unix:/path or unix:@name, got 'unix:'")
    return b"\0" + os.fsencode(name[1:]) if name.startswith("@") else name


def describe(sock: socket.socket) -> str:
    """Where a datagram socket is bound, as a person would write it."""
    name: Any = sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return f"udp://{_written((name[0], name[1]))}"
    path = os.fsdecode(name)
    return f"unix:@{path[1:]}" if path.startswith("\0") else f"unix:{path}"


def _address_error(written: str, error: OSError) -> AddressError:
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.EADDRINUSE:
        look = "ss -xap" if written.startswith("unix:") else "ss -lunp"
        return AddressInUse(f"{written} is already in use: find by whom with {look}, or choose another address")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AddressForbidden(f"not allowed to use {written}: {reason}; choose another address")
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENOENT, errno.ENOTDIR, errno.ENETUNREACH):
        return AddressUnavailable(f"{written} is not to be had on this machine: {reason}")
    return AddressError(f"cannot use {written}: {reason}")


def _interface_number(interface: str | int | None) -> int:
    if interface is None or isinstance(interface, int):
        return interface or 0
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise ConfigError(f"expected a network interface of {known}, got {interface!r}") from None


def _running_loop() -> EventLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, EventLoop):
        factory = "asyncio.run(main(), loop_factory=penstock.EventLoop)"
        if sys.version_info < (3, 12):
            factory = "asyncio.Runner(loop_factory=penstock.EventLoop)"
        raise RuntimeError(f"datagram sockets need a penstock.EventLoop, and this is {type(loop).__name__}: {factory}")
    return loop


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
