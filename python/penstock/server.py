"""One server process: an application, its listeners, a reactor; from start-up to a stop that loses nothing it can keep.

`serve` is synchronous and owns everything it opens. `Worker.main` runs inside a real `run_until_complete`, so that
what anyio and others tie to the root task outlives single requests. More than one reactor: see `reactors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from . import _core, identity, importer, listener, logs, metrics, observing, systemd, tracing
from .config import ServerConfig
from .event_loop import EventLoop
from .interface import interface_of
from .lifespan import Lifespan
from .wsgi import ErrorStream, WsgiThreads

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What a request may take to notice its cancellation once its time is up.
_CANCEL_GRACE_S = 1.0


def serve(app: str | Callable[..., Any], config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises `PenstockError` for what its user can put right."""
    if config.is_supervised:
        from .supervisor import supervise

        supervise(app, config)
    else:
        serve_alone(app, config)


def serve_alone(app: str | Callable[..., Any], config: ServerConfig) -> None:
    """Serve in this process, which nobody replaces."""
    identity.check(config)
    listeners: list[socket.socket] = []
    board, shown_at = metrics.Board(config), metrics.open_listeners(config)
    try:
        if identity.is_asked(config):
            # Sockets may need the rights that the application shall not have.
            listeners = listener.open_listeners(config)
        identity.become(config)
        application = importer.load_app(app, factory=config.factory)
        listeners = listeners or listener.open_listeners(config)
        # With several event loops this one serves nobody, and is nobody's to see.
        seen = board.scoreboard if config.reactors == 1 else None
        loop_factory = lambda: EventLoop(config.poller, seen)  # noqa: E731
        with (
            identity.pid_file(config.pid),
            metrics.shown(config, board, shown_at, listeners),
            tracing.exporting(config),
            asyncio.Runner(loop_factory=loop_factory) as runner,
        ):
            runner.run(_serve(application, listeners, config, board))
    finally:
        listener.close_listeners([*listeners, *shown_at])
        logs.await_last_records()


async def _serve(
    app: Callable[..., Any], listeners: list[socket.socket], config: ServerConfig, board: metrics.Board
) -> None:
    if config.reactors > 1:
        from .reactors import ReactorGroup

        await ReactorGroup(app, listeners, config, board).main()
    else:
        worker = Worker(app, listeners, config, board)
        with stopping_on_signals(asyncio.get_running_loop(), worker.stop):
            try:
                await worker.main()
            finally:
                await end_leftovers()


async def end_leftovers() -> None:
    """When a server ends, whatever else its application has left running on the loop must end, too.

    Cancel it; asyncio.Runner would wait forever for one that ignores it."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel("the server is shutting down")
    if left:
        _, left = await asyncio.wait(left, timeout=_CANCEL_GRACE_S)
    for task in left:
        logs.error_logger.warning("Leaving without a task that ignores its cancellation: %r", task)
        _disown(task)


class Worker:
    """Serves one application on one reactor, the one of the running loop, which accepts from the listeners itself."""

    def __init__(
        self,
        app: Callable[..., Any],
        listeners: list[socket.socket],
        config: ServerConfig,
        board: metrics.Board | None = None,
    ) -> None:
        self.listeners, self.config = listeners, config
        # Where a server that is alone says how far it is.
        self.board = board
        self._interface = interface_of(app, config.interface)
        self.app = tracing.traced(app, self._interface, config)
        # Of a WSGI application, once it is attached.
        self.threads: WsgiThreads | None = None
        self._stop = asyncio.Event()
        self._quiet = asyncio.Event()
        self._hurry = asyncio.Event()
        # Leaving has time: somebody else serves already.
        self._has_patience = False

    async def main(self) -> None:
        with logging_process():
            await self.serve()

    async def serve(self) -> None:
        """From the application's start-up to its shutdown."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        with observing.observed(loop, self.config):
            await self._serve(loop)

    async def _serve(self, loop: EventLoop) -> None:
        lifespan = Lifespan(self.app, self.config.lifespan if self._interface == "asgi" else "off")
        if not await _ends_unless(self._stop, lifespan.start_up()):
            logs.error_logger.info("Stopped before the application had started")
            return
        server = self._attach(loop, lifespan.state) if self._interface == "asgi" else self._attach_wsgi(loop)
        self.let_in(loop)
        self._watch_dog(loop)
        await self._stop.wait()
        self.let_nobody_in(loop)
        await self._drain(loop, server)
        self._hurry.clear()
        if not await _ends_unless(self._hurry, lifespan.shut_down()):
            logs.error_logger.warning("Leaving before the application's shutdown has ended")

    def stop(self) -> None:
        """Stop gracefully; asked again, without waiting for requests under way."""
        if self._stop.is_set() and not self._has_patience:
            self._hurry.set()
        self._has_patience = False
        self._stop.set()

    def _attach(self, loop: EventLoop, state: dict[str, Any]) -> _core.AsgiServer:
        with logs.access_log_plan(self.config) as access_log:
            server = _core.AsgiServer(
                loop.reactor,
                self.app,
                loop,
                self.config,
                listeners=[("http", _scope_address(each)) for each in self.listeners],
                report=_report,
                on_quiet=self._quiet.set,
                state=state,
                access_log=access_log,
            )
            loop.reactor.attach_asgi(server)
        return server

    def _attach_wsgi(self, loop: EventLoop) -> WsgiThreads:
        config = self.config
        with logs.access_log_plan(config) as access_log:
            server = _core.WsgiServer(
                self.app,
                config,
                listeners=[("http", _scope_address(each)) for each in self.listeners],
                errors=ErrorStream(),
                report=_report,
                on_quiet=self._quiet.set,
                multithread=config.threads > 1 or config.reactors > 1,
                multiprocess=config.workers not in (None, 1),
                access_log=access_log,
            )
            loop.reactor.attach_wsgi(server)
        self.threads = WsgiThreads(server, config.threads)
        return self.threads

    def let_in(self, loop: EventLoop) -> None:
        """The application has started: connections may come."""
        for each in self.listeners:
            loop.reactor.add_listener(each.fileno())
        if self.board is not None:
            self.board.tell("ready")
        log_open(self.listeners)

    def _watch_dog(self, loop: EventLoop) -> None:
        """Tell systemd, if it asks, that the loop comes round. In a worker it does not ask."""
        interval_s = systemd.watchdog_interval_s()
        if interval_s is not None:
            systemd.alive()
            loop.call_later(interval_s, self._watch_dog, loop)

    def let_nobody_in(self, loop: EventLoop) -> None:
        """It is time to stop: connections come no more."""
        if self.board is not None:
            self.board.tell("draining")
        # The reactor's own descriptors are the last of a listener, if no other process has it: it lets nobody in from
        # here on, and takes those who wait.
        is_last = listener.is_last_holder(self.listeners)
        listener.close_listeners(self.listeners)
        loop.reactor.remove_listeners(last=is_last)
        systemd.stopping()
        # Only now: whoever reads it may rely on it.
        logs.error_logger.info("Shutting down")

    async def _drain(self, loop: EventLoop, server: _core.AsgiServer | WsgiThreads) -> None:
        """Let the requests under way finish, and end those that take too long."""
        loop.reactor.drain(self._has_patience)
        if loop.reactor.requests_in_progress:
            logs.error_logger.info("Waiting for connections to close. (CTRL+C to force quit)")
        if await self._have_ended_within(server, self.config.timeout_graceful_shutdown_s):
            return
        if isinstance(server, WsgiThreads):
            server.leave_behind()
            return
        tasks = server.suspended_tasks()
        if not tasks:
            logs.error_logger.warning("Closing connections that did not finish in time")
            return
        logs.error_logger.warning("Cancelling %d requests that did not finish in time", len(tasks))
        for task in tasks:
            task.cancel("the server is shutting down")
        self._hurry.clear()
        await self._have_ended_within(server, _CANCEL_GRACE_S)

    async def _have_ended_within(self, server: _core.AsgiServer | WsgiThreads, timeout_s: float) -> bool:
        """Whether all requests have ended, before the time is up and before somebody hurries."""
        return await _ends_unless(self._hurry, self._have_ended(server), timeout_s)

    async def _have_ended(self, server: _core.AsgiServer | WsgiThreads) -> None:
        await self._quiet.wait()
        if isinstance(server, WsgiThreads):
            await server.end()
            return
        # All is answered; what applications still do after their responses is part of their requests.
        while tasks := server.suspended_tasks():
            await asyncio.wait(tasks)


@contextlib.contextmanager
def stopping_on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Generator[None]:
    """Only the main thread may handle signals; elsewhere whoever started the server stops it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {**dict.fromkeys(_STOP_SIGNALS, stop), signal.SIGUSR1: _core.reopen_access_logs}
    for each, handler in handlers.items():
        loop.add_signal_handler(each, handler)
    try:
        yield
    finally:
        for each in handlers:
            loop.remove_signal_handler(each)


@contextlib.contextmanager
def logging_process() -> Generator[None]:
    logs.error_logger.info("Started server process [%d]", os.getpid())
    yield
    logs.error_logger.info("Finished server process [%d]", os.getpid())


def log_open(listeners: list[socket.socket]) -> None:
    """Everything has started, and connections are let in."""
    logs.log_banner(listener.describe(each) for each in listeners)
    systemd.ready()
    # What start-up made stays; the collector need not look at it again for every generation.
    gc.collect()
    gc.freeze()


async def _ends_unless(event: asyncio.Event, work: Coroutine[Any, Any, None], timeout_s: float | None = None) -> bool:
    """Whether `work` came to its end before the event and within the time; otherwise it is cancelled."""
    working, told = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((working, told), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        working.cancel()
        told.cancel()


def _disown(task: Any) -> None:
    """Let nobody wait for the task, or complain of it."""
    asyncio.tasks._unregister_task(task)
    task._log_destroy_pending = False


def _report(message: str, error: BaseException | None) -> None:
    logs.error_logger.error(message, exc_info=error)


def _scope_address(each: socket.socket) -> tuple[str, int | None] | None:
    """A listener's address as the scope's `server` has it: (host, port), or (path, None) of a Unix socket."""
    name = each.getsockname()
    if each.family in (socket.AF_INET, socket.AF_INET6):
        return (str(name[0]), int(name[1]))
    return (os.fsdecode(name), None)
