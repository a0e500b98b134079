"""`EventLoop`: a reactor as an asyncio event loop.

CPython's own loop machinery (tasks, timers, executors, subprocesses, `ssl`, `sock_*`) runs on the reactor, which
stands where a selector would: asyncio's "select" is the reactor's turn. A server's coroutines are stepped within that
turn, where their bytes arrived; asyncio's part of an iteration is done only when asyncio has something to do.
"""

from __future__ import annotations

import asyncio
import selectors
import weakref
from collections.abc import Mapping
from typing import Any

from . import _core


class ReactorSelector(selectors.BaseSelector):
    """A reactor with a selector's face. It owns neither: the loop does."""

    def __init__(self, reactor: _core.Reactor) -> None:
        self._reactor = reactor
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._loop: weakref.ref[EventLoop] | None = None

    def drive(self, loop: EventLoop) -> None:
        """Look at this loop's callbacks and timers to know when `select` must come back."""
        self._loop = weakref.ref(loop)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = _descriptor(fileobj)
        _check(events)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} (descriptor {fd}) is registered already")
        self._reactor.watch(fd, events)
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        fd = self._registered(fileobj)
        self._reactor.unwatch(fd)
        return self._keys.pop(fd)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = self._registered(fileobj)
        _check(events)
        if events != self._keys[fd].events:
            self._reactor.watch(fd, events)
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop() if self._loop is not None else None
        assert loop is not None, "a ReactorSelector turns only within its loop"
        keys, ready = self._keys, []
        for fd, events in self._reactor.select(timeout, loop._ready, loop._scheduled):
            key = keys.get(fd)
            if key is not None and events & key.events:
                ready.append((key, events & key.events))
        return ready

    def close(self) -> None:
        self._keys.clear()
        self._reactor.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return _KeysByFile(self._keys)

    def _registered(self, fileobj: Any) -> int:
        fd = _descriptor_of_registered(fileobj, self._keys)
        if fd is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return fd


class _KeysByFile(Mapping[Any, selectors.SelectorKey]):
    """What `get_map` promises: keys found by file object or by descriptor."""

    def __init__(self, keys: dict[int, selectors.SelectorKey]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        fd = _descriptor_of_registered(fileobj, self._keys)
        if fd is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return self._keys[fd]

    def __iter__(self) -> Any:
        return iter(self._keys)


class EventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on a Penstock reactor.

    `asyncio.run(main(), loop_factory=penstock.EventLoop)` on Python 3.12 and later;
    `asyncio.Runner(loop_factory=penstock.EventLoop)` on 3.11.

    `poller` is how the reactor waits for the kernel: "auto", "epoll" or "io_uring". With a scoreboard its counters are
    those of a slot there, for others to see.
    """

    # What a selector loop of CPython has, and this one looks at (base_events.py).
    _ready: Any
    _scheduled: list[Any]
    # Until there is a reactor: asyncio looks at it when a loop goes that could not be made.
    _closed = True

    def __init__(self, poller: str = "auto", scoreboard: _core.Scoreboard | None = None, slot: int = 0) -> None:
        self.scoreboard, self.slot = scoreboard, slot
        self.reactor = _core.Reactor(poller, scoreboard, slot)
        selector = ReactorSelector(self.reactor)
        super().__init__(selector)
        selector.drive(self)

    def stop(self) -> None:
        super().stop()
        # Within a batch of the reactor's own nothing else would end the turn.
        self.reactor.wake()

    def _write_to_self(self) -> None:
        # call_soon_threadsafe wakes the loop by this; one eventfd write for any number of callbacks.
        self.reactor.wake()


def _descriptor(fileobj: Any) -> int:
    try:
        fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{fileobj!r} is no descriptor, and has none") from None
    if fd < 0:
        raise ValueError(f"{fileobj!r} has no descriptor: is it closed?")
    return fd


def _descriptor_of_registered(fileobj: Any, keys: Mapping[int, selectors.SelectorKey]) -> int | None:
    """The descriptor of something registered, even if it was closed since."""
    try:
        fd = _descriptor(fileobj)
    except (ValueError, OSError):
        return next((key.fd for key in keys.values() if key.fileobj is fileobj), None)
    return fd if fd in keys else None


def _check(events: int) -> None:
    if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
        raise ValueError(f"events must be EVENT_READ, EVENT_WRITE or both, not {events!r}")
