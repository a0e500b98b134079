"""A thread with an event loop of its own, for a server of one's own protocol that has several."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from .event_loop import EventLoop

if TYPE_CHECKING:
    from .watching import Watching

# What is done there: with its loop, until the event is set, having told what others wait for.
Work = Callable[[EventLoop, asyncio.Event, Callable[[Any], None]], Awaitable[None]]


class ReactorThread:
    """One reactor. `ready` has what its work told; `ended` what ended it, if that was an error."""

    def __init__(self, work: Work, watching: Watching, number: int) -> None:
        self._work, self._watching, self._number = work, watching, number
        self._home = asyncio.get_running_loop()
        self.ready: asyncio.Future[Any] = self._home.create_future()
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
            with asyncio.Runner(loop_factory=self._make_loop) as runner:
                runner.run(self._main())
        except BaseException as caught:
            error = caught
        _call_in(self._home, self._tell_ended, error)

    def _make_loop(self) -> EventLoop:
        return self._watching.loop_at(self._number)

    def _tell_ended(self, error: BaseException | None) -> None:
        self.ended.set_result(error)

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        self._stop, self._loop = asyncio.Event(), loop
        with self._watching.of(loop):
            await self._work(loop, self._stop, lambda told: _call_in(self._home, self.ready.set_result, told))


async def run_threads(
    works: Sequence[Work],
    watching: Watching,
    stop: asyncio.Event,
    once_ready: Callable[[list[ReactorThread]], Awaitable[None]],
) -> None:
    """Run these works until `stop`, or until one ends; raises what ended it. `once_ready` is awaited when all are."""
    threads = [ReactorThread(work, watching, number) for number, work in enumerate(works)]
    try:
        for each in threads:
            each.thread.start()
        await first_of(asyncio.gather(*(each.ready for each in threads)), stop, threads)
        if all(each.ready.done() for each in threads) and not stop.is_set():
            watching.tell("ready")
            await once_ready(threads)
            watching.tell("draining")
    finally:
        for each in threads:
            each.stop()
        errors = [await each.ended for each in threads]
        for each in threads:
            each.thread.join()
    for error in errors:
        if error is not None:
            raise error


async def first_of(event: asyncio.Future[Any] | None, stop: asyncio.Event, threads: list[ReactorThread]) -> None:
    """Wait for the first of these: the event, the stop, the end of a thread."""
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
