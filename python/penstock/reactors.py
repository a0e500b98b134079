"""Several reactors in one process: each an event loop on a thread of its own, with connections from a main reactor.

The main thread handles signals and owns the listeners; it runs no application. The main reactor accepts, on a thread
that knows no Python, and hands each connection to the reactor with the fewest. Every reactor has a worker, and so a
lifespan, of its own. If one of them ends, all are stopped: a server is whole, or it is gone.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

from . import _core, listener, logs, metrics
from .config import ServerConfig
from .event_loop import EventLoop
from .server import Worker, end_leftovers, log_open, logging_process, stopping_on_signals


class FedWorker(Worker):
    """A worker whose reactor is handed its connections by somebody else."""

    def __init__(
        self,
        app: Callable[..., Any],
        listeners: list[socket.socket],
        config: ServerConfig,
        on_started: Callable[[EventLoop], None],
    ) -> None:
        super().__init__(app, listeners, config)
        self._on_started = on_started

    def let_in(self, loop: EventLoop) -> None:
        self._on_started(loop)

    def let_nobody_in(self, loop: EventLoop) -> None:
        """Whoever stops this one has seen to it that nothing is on its way any more."""


class ReactorThread:
    """A worker on an event loop and a thread of its own. It belongs to the loop that it is made in.

    `started` is done once its application has started, `ended` once its thread has nothing more to do: with the error
    that ended it, or None.
    """

    def __init__(
        self,
        number: int,
        app: Callable[..., Any],
        listeners: list[socket.socket],
        config: ServerConfig,
        board: metrics.Board,
    ) -> None:
        self._home = asyncio.get_running_loop()
        self.started: asyncio.Future[_core.ReactorHandle] = self._home.create_future()
        self.ended: asyncio.Future[BaseException | None] = self._home.create_future()
        self._app, self._listeners, self._config = app, listeners, config
        self._board, self._slot = board, number
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: FedWorker | None = None
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=f"penstock-reactor-{number}")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop gracefully; asked again, without waiting for requests under way."""
        # First the flag, then a look at the worker; the thread makes the worker first, and then looks at the flag.
        self._is_stopping = True
        if self._worker is not None and self._loop is not None:
            _call_in(self._loop, self._worker.stop)

    async def wait(self) -> BaseException | None:
        """Wait for its end, if it ever began; returns the error that ended it, if one did."""
        if self._thread.ident is None:
            return None
        error = await self.ended
        self._thread.join()
        return error

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            loop_factory = lambda: EventLoop(self._config.poller, self._board.scoreboard, self._slot)  # noqa: E731
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(self._main())
        except BaseException as caught:
            error = caught
        _call_in(self._home, lambda: self.ended.set_result(error))

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = FedWorker(self._app, self._listeners, self._config, self._tell_started)
        if self._is_stopping:
            self._worker.stop()
        try:
            await self._worker.serve()
        finally:
            await end_leftovers()

    def _tell_started(self, loop: EventLoop) -> None:
        handle = loop.reactor.handle()
        _call_in(self._home, lambda: self.started.done() or self.started.set_result(handle))


class ReactorGroup:
    """Serves one application on `config.reactors` threads."""

    def __init__(
        self, app: Callable[..., Any], listeners: list[socket.socket], config: ServerConfig, board: metrics.Board
    ) -> None:
        self.listeners, self.config, self._board = listeners, config, board
        self._stop = asyncio.Event()
        self._threads = [ReactorThread(number, app, listeners, config, board) for number in range(config.reactors)]

    async def main(self) -> None:
        """Serve until stopped, or until a reactor ends; raises what ended it."""
        with logging_process(), stopping_on_signals(asyncio.get_running_loop(), self.stop):
            await self._run()

    async def _run(self) -> None:
        try:
            for thread in self._threads:
                thread.start()
            if await self._until(asyncio.gather(*(thread.started for thread in self._threads))):
                await self._serve()
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.stop()
            errors = [await thread.wait() for thread in self._threads]
        for error in errors:
            if error is not None:
                raise error

    def stop(self) -> None:
        """Stop gracefully; asked again, without waiting for requests under way."""
        if self._stop.is_set():
            for thread in self._threads:
                thread.stop()
        self._stop.set()

    async def _serve(self) -> None:
        """Let connections in until it is time to stop. On return everybody who was let in has a reactor."""
        handles = [thread.started.result() for thread in self._threads]
        main_reactor = _core.MainReactor(handles, self.config.poller, self._board.scoreboard, self._board.main_slot)
        try:
            for number, each in enumerate(self.listeners):
                main_reactor.add_listener(each.fileno(), number)
            self._board.tell("ready")
            log_open(self.listeners)
            await self._until(None)
            self._board.tell("draining")
            logs.error_logger.info("Shutting down")
        finally:
            # The main reactor's own descriptors are the last of a listener, if no other process has it: it lets nobody
            # in from here on, and takes those who wait.
            is_last = listener.is_last_holder(self.listeners)
            listener.close_listeners(self.listeners)
            main_reactor.stop(last=is_last)

    async def _until(self, event: asyncio.Future[Any] | None) -> bool:
        """Wait for the event, for the time to stop, or for the end of a reactor. Whether it was the event."""
        stop = asyncio.ensure_future(self._stop.wait())
        events = [event] if event is not None else []
        await asyncio.wait(
            [*events, stop, *(thread.ended for thread in self._threads)], return_when=asyncio.FIRST_COMPLETED
        )
        stop.cancel()
        return event is not None and event.done()


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[[], Any]) -> None:
    """Call in another thread's loop, unless that is closed already."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if not loop.is_closed():
            raise
