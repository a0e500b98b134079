"""One server process: an application, its listeners, a reactor; from start-up to a stop that loses nothing it can keep.

`serve` is synchronous and owns everything it opens. `Worker.main` runs inside a real `run_until_complete`, so that
what anyio and others tie to the root task outlives single requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
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
            runner.run(Worker(application, listeners, config).main())
    finally:
        listener.close_listeners(listeners)


class Worker:
    """Serves one application on one reactor, the one of the running loop."""

    def __init__(self, app: Callable[..., Any], listeners: list[socket.socket], config: ServerConfig) -> None:
        self.app, self.listeners, self.config = app, listeners, config
        self._stop = asyncio.Event()
        self._quiet = asyncio.Event()
        self._hurry = asyncio.Event()

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        logs.error_logger.info("Started server process [%d]", os.getpid())
        lifespan = Lifespan(self.app, self.config.lifespan)
        with self._stopping_on_signals(loop):
            await lifespan.start_up()
            server = self._attach(loop, lifespan.state)
            logs.log_banner(listener.describe(each) for each in self.listeners)
            # What start-up made stays; the collector need not look at it again for every generation.
            gc.collect()
            gc.freeze()
            await self._stop.wait()
            logs.error_logger.info("Shutting down")
            await self._drain(loop, server)
            await lifespan.shut_down()
        logs.error_logger.info("Finished server process [%d]", os.getpid())

    def stop(self) -> None:
        """Stop gracefully; asked again, without waiting for requests under way."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _attach(self, loop: EventLoop, state: dict[str, Any]) -> _core.AsgiServer:
        config = self.config
        server = _core.AsgiServer(
            loop.reactor,
            self.app,
            loop,
            config,
            listeners=[("http", _scope_address(each)) for each in self.listeners],
            report=_report,
            on_quiet=self._quiet.set,
            state=state,
            access_log=_access_log(config),
        )
        loop.reactor.attach_asgi(server)
        for each in self.listeners:
            loop.reactor.add_listener(each.fileno())
        return server

    async def _drain(self, loop: EventLoop, server: _core.AsgiServer) -> None:
        """Accept no more, let the requests under way finish, and end those that take too long."""
        loop.reactor.remove_listeners()
        loop.reactor.drain()
        if loop.reactor.requests_in_progress:
            logs.error_logger.info("Waiting for connections to close. (CTRL+C to force quit)")
        if await self._is_quiet_within(self.config.timeout_graceful_shutdown_s):
            return
        logs.error_logger.warning(
            "Cancelling %d requests that did not finish in time", loop.reactor.requests_in_progress
        )
        for task in server.suspended_tasks():
            task.cancel("the server is shutting down")
        self._hurry.clear()
        await self._is_quiet_within(_CANCEL_GRACE_S)

    async def _is_quiet_within(self, timeout_s: float) -> bool:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._quiet, self._hurry)]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return self._quiet.is_set()

    @contextlib.contextmanager
    def _stopping_on_signals(self, loop: EventLoop) -> Generator[None]:
        """Only the main thread may handle signals; elsewhere whoever started the server stops it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for each in _STOP_SIGNALS:
            loop.add_signal_handler(each, self.stop)
        try:
            yield
        finally:
            for each in _STOP_SIGNALS:
                loop.remove_signal_handler(each)


def _report(message: str, error: BaseException | None) -> None:
    logs.error_logger.error(message, exc_info=error)


def _scope_address(each: socket.socket) -> tuple[str, int | None] | None:
    """A listener's address as the scope's `server` has it: (host, port), or (path, None) of a Unix socket."""
    name = each.getsockname()
    if each.family in (socket.AF_INET, socket.AF_INET6):
        return (str(name[0]), int(name[1]))
    return (os.fsdecode(name), None)


def _access_log(config: ServerConfig) -> tuple[int, bool] | None:
    """Where the access log goes, and whether that is a terminal."""
    if not config.access_log or not logs.access_logger.isEnabledFor(logs.LEVELS["info"]):
        return None
    try:
        fd = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    return fd, logs.is_colourful(sys.stdout)
