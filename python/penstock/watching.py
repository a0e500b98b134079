"""What is measured and watched of a process that serves a protocol of one's own alone."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

from . import _core, listener, metrics
from .config import PROTOCOL_SETTINGS as PROTOCOL_SETTINGS
from .config import ServerConfig
from .event_loop import EventLoop
from .observing import observed


class Watching:
    """One for a server; it makes the event loops, each with its place to count in. What is not asked for costs nothing.

    `accepts_apart`: a main reactor accepts for the others.
    """

    def __init__(self, config: ServerConfig, *, accepts_apart: bool = False) -> None:
        self.reactors = config.reactors
        self._config, self._board = config, metrics.Board(config.reactors, accepts_apart=accepts_apart)

    @contextlib.contextmanager
    def shown(self, served_at: Sequence[str]) -> Generator[None]:
        """Show the metrics until the block ends. Raises `AddressError`."""
        own = metrics.open_listeners(self._config.metrics_bind)
        try:
            with metrics.shown(self._board, own, served_at, metrics.described(self._config, PROTOCOL_SETTINGS)):
                yield
        finally:
            listener.close_listeners(own)

    def first_loop(self) -> EventLoop:
        """The main thread's: where there are others, it serves nobody and is nobody's to see."""
        return self.loop_at(0) if self.reactors == 1 else EventLoop(self._config.poller)

    def loop_at(self, number: int) -> EventLoop:
        return EventLoop(self._config.poller, self._board.scoreboard, number)

    def main_reactor(self, handles: list[_core.ReactorHandle]) -> _core.MainReactor:
        board = self._board
        return _core.MainReactor(handles, self._config.poller, board.scoreboard, board.main_slot)

    def of(self, loop: EventLoop) -> contextlib.AbstractContextManager[None]:
        """Measure and watch this loop, in its own thread, while the block runs."""
        return observed(loop, self._config)

    def tell(self, state: Any) -> None:
        """How far the server is."""
        self._board.tell(state)
