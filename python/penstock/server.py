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

from . import _core, importer, listener, logs
from .config import ServerConfig
from .event_loop import EventLoop
from .lifespan import Lifespan

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What a request may take to notice its cancellation once its time is up.
_CANCEL_GRACE_S = 1.0


def serve(app: str | Callable[..., Any], config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises `PenstockError` for what its user can put right."""
    application = importer.load_app(app, factory=config.factory)
    listeners = listener.open_listeners(config)
    try:
        with asyncio.Runner(loop_factory=lambda: EventLoop(config.poller)) as runner:
            runner.run(_serve(application, listeners, config))
    finally:
        listener.close_listeners(listeners)
        logs.await_last_records()


async def _serve(app: Callable[..., Any], listeners: list[socket.socket], config: ServerConfig) -> None:
    if config.reactors > 1:
        from .reactors import ReactorGroup

        await ReactorGroup(app, listeners, config).main()
    else:
        worker = Worker(app, listeners, config)
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

    def __init__(self, app: Callable[..., Any], listeners: list[socket.socket], config: ServerConfig) -> None:
        self.app, self.listeners, self.config = app, listeners, config
        self._stop = asyncio.Event()
        self._quiet = asyncio.Event()
        self._hurry = asyncio.Event()

    async def main(self) -> None:
        with logging_process():
            await self.serve()

    async def serve(self) -> None:
        """From the application's start-up to its shutdown."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        lifespan = Lifespan(self.app, self.config.lifespan)
        if not await _ends_unless(self._stop, lifespan.start_up()):
            logs.error_logger.info("Stopped before the application had started")
            return
        server = self._attach(loop, lifespan.state)
        self.let_in(loop)
        await self._stop.wait()
        self.let_nobody_in(loop)
        await self._drain(loop, server)
        self._hurry.clear()
        if not await _ends_unless(self._hurry, lifespan.shut_down()):
            logs.error_logger.warning("Leaving before the application's shutdown has ended")

    def stop(self) -> None:
        """Stop gracefully; asked again, without waiting for requests under way."""
        if self._stop.is_set():
            self._hurry.set()
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

    def let_in(self, loop: EventLoop) -> None:
        """The application has started: connections may come."""
        for each in self.listeners:
            loop.reactor.add_listener(each.fileno())
        log_open(self.listeners)

    def let_nobody_in(self, loop: EventLoop) -> None:
        """It is time to stop: connections come no more."""
        logs.error_logger.info("Shutting down")
        # The reactor's own descriptors are the last of a listener, if no other process has it: it lets nobody in from
        # here on, and takes those who wait.
        is_last = listener.is_last_holder(self.listeners)
        listener.close_listeners(self.listeners)
        loop.reactor.remove_listeners(last=is_last)

    async def _drain(self, loop: EventLoop, server: _core.AsgiServer) -> None:
        """Let the requests under way finish, and end those that take too long."""
        loop.reactor.drain()
        if loop.reactor.requests_in_progress:
            logs.error_logger.info("Waiting for connections to close. (CTRL+C to force quit)")
        if await self._have_ended_within(server, self.config.timeout_graceful_shutdown_s):
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

    async def _have_ended_within(self, server: _core.AsgiServer, timeout_s: float) -> bool:
        """Whether all requests have ended, before the time is up and before somebody hurries."""
        return await _ends_unless(self._hurry, self._have_ended(server), timeout_s)

    async def _have_ended(self, server: _core.AsgiServer) -> None:
        await self._quiet.wait()
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
