"""What is watched of one event loop while it serves: how late its timers are, and what keeps it for too long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator

from . import slow_callbacks, surveys
from .config import ServerConfig
from .event_loop import EventLoop

# How often a timer is tried. Each costs a turn of an idle loop.
_PULSE_S = 0.25


@contextlib.contextmanager
def observed(loop: EventLoop, config: ServerConfig) -> Generator[None]:
    """Measure this loop, in its own thread, as far as the config asks for it."""
    with contextlib.ExitStack() as stack:
        if config.metrics_bind is not None:
            loop.reactor.measure()
            surveys.enlist(loop)
            stack.callback(_Pulse(loop).stop)
        stack.enter_context(slow_callbacks.logged(loop, config.slow_callback_s))
        yield


class _Pulse:
    """A timer that tells how late it is called: what any callback of this loop waits for, on top of its own time."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._begin()

    def _begin(self) -> None:
        self._due_s = self._loop.time() + _PULSE_S
        self._timer: asyncio.TimerHandle = self._loop.call_at(self._due_s, self._beat)

    def _beat(self) -> None:
        self._loop.reactor.note_lag(self._loop.time() - self._due_s)
        self._begin()

    def stop(self) -> None:
        self._timer.cancel()
