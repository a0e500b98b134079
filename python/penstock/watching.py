"""What is measured and watched of a stream server that is its program's all: its metrics, and what keeps its loops."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

from . import listener, metrics, observing
from .event_loop import EventLoop


class Watching:
    """One for a server, made before its event loops; what is not asked for costs nothing."""

    def __init__(self, metrics_bind: str | None, slow_callback_s: float, reactors: int) -> None:
        metrics.check_place(metrics_bind)
        self._metrics_bind, self._slow_callback_s = metrics_bind, slow_callback_s
        self.board = metrics.Board(reactors)

    @contextlib.contextmanager
    def shown(self, served_at: Sequence[str], settings: Sequence[tuple[str, Any, Any]]) -> Generator[None]:
        """Show the metrics until the block ends. `settings`: name, value and default of each."""
        rows = [
            {"name": name, "flag": name, "value": value, "is_default": value == default, "help": ""}
            for name, value, default in settings
        ]
        described = {"groups": [{"name": "Streams", "settings": rows}]}
        own = metrics.open_listeners(self._metrics_bind)
        try:
            with metrics.shown(self.board, own, served_at, described):
                yield
        finally:
            listener.close_listeners(own)

    def event_loop(self, poller: str, slot: int | None) -> EventLoop:
        """One that counts in this slot; without one in a place that nobody sees."""
        return EventLoop(poller) if slot is None else EventLoop(poller, self.board.scoreboard, slot)

    def of(self, loop: EventLoop) -> contextlib.AbstractContextManager[None]:
        """Measure and watch this loop, in its own thread, while the block runs."""
        return observing.observed(loop, measures=self._metrics_bind is not None, slow_callback_s=self._slow_callback_s)

    def tell(self, state: Any) -> None:
        """How far the server is."""
        self.board.tell(state)
