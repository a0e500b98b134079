"""A stream server on several reactors of one process: an event loop and a thread each, fed by a main reactor."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from . import _core, listener, logs
from .event_loop import EventLoop

if TYPE_CHECKING:
    from .streams import TCPServer


class _Thread:
    """One reactor. `ready` has its handle and the number of its endpoint."""

    def __init__(self, server: TCPServer, poller: str, number: int) -> None:
        self._server, self._poller = server, poller
        self._home = asyncio.get_running_loop()
        self.ready: asyncio.Future[tuple[_core.ReactorHandle, int]] = self._home.create_future()
        self.ended: asyncio.Future[BaseException | None] = self._home.create_future()
        self._loop: EventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.thread = threading.Thread(target=self._run, name=f"penstock-reactor-{number}")

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None and not self.ended.done():
            _call_in(self._loop, self._stop.set)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: EventLoop(self._poller)) as runner:
                runner.run(self._main())
        except BaseException as caught:
            error = caught
        _call_in(self._home, self._tell_ended, error)

    def _tell_ended(self, error: BaseException | None) -> None:
        self.ended.set_result(error)

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        self._stop, self._loop = asyncio.Event(), loop
        part = self._server._add_part(loop)
        _call_in(self._home, self.ready.set_result, (loop.reactor.handle(), part.server.listener_number))
        await self._stop.wait()
        await part.stop(self._server._timeout_s)


async def serve_on_threads(server: TCPServer, reactors: int, poller: str, stop: asyncio.Event) -> None:
    """Serve until `stop`, or until a reactor ends; raises what ended it."""
    threads = [_Thread(server, poller, number) for number in range(reactors)]
    try:
        for each in threads:
            each.thread.start()
        await _first(asyncio.gather(*(each.ready for each in threads)), stop, threads)
        if all(each.ready.done() for each in threads) and not stop.is_set():
            await _accept(server, threads, poller, stop)
    finally:
        for each in threads:
            each.stop()
        errors = [await each.ended for each in threads]
        for each in threads:
            each.thread.join()
        server.parts.clear()
    for error in errors:
        if error is not None:
            raise error


async def _accept(server: TCPServer, threads: list[_Thread], poller: str, stop: asyncio.Event) -> None:
    # Each reactor has this one endpoint, so that the number is the same on all.
    (number,) = {each.ready.result()[1] for each in threads}
    main_reactor = _core.MainReactor([each.ready.result()[0] for each in threads], poller)
    try:
        for position, each in enumerate(server.listeners):
            main_reactor.add_listener(each.fileno(), number + 256 * position)
        logs.log_banner(server.addresses)
        await _first(None, stop, threads)
        logs.error_logger.info("Shutting down")
    finally:
        listener.close_listeners(server.listeners)
        main_reactor.stop()


async def _first(event: asyncio.Future[Any] | None, stop: asyncio.Event, threads: list[_Thread]) -> None:
    stopping = asyncio.ensure_future(stop.wait())
    events = [event] if event is not None else []
    await asyncio.wait([*events, stopping, *(each.ended for each in threads)], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


def _call_in(loop: asyncio.AbstractEventLoop, callback: object, *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *arguments)  # type: ignore[arg-type]
    except RuntimeError:
        if not loop.is_closed():
            raise
