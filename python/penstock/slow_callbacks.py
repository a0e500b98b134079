"""Notices when Python keeps an event loop for too long, and logs the stack that is running.

A thread of its own waits in the data plane, without the interpreter, until that has happened; an event loop that is
never kept costs it a look at a number now and then.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Generator

from . import logs
from .event_loop import EventLoop

_MAX_FRAMES = 64


@contextlib.contextmanager
def logged(loop: EventLoop, threshold_s: float) -> Generator[None]:
    """Log what keeps this loop, which runs in this thread, for longer than the threshold; 0 is never."""
    if not threshold_s:
        yield
        return
    watcher = threading.Thread(
        target=_watch, args=(loop, threading.get_ident(), threshold_s), name="penstock-slow-callbacks", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        loop.reactor.stop_watching()
        watcher.join()


def _watch(loop: EventLoop, thread: int, threshold_s: float) -> None:
    reactor = loop.reactor
    while (stalled_s := reactor.wait_for_stall(threshold_s)) is not None:
        frame = sys._current_frames().get(thread)
        # The interpreter may have been kept as well, until all was over.
        if frame is not None and reactor.is_stalled:
            stack = "".join(traceback.format_stack(frame, limit=_MAX_FRAMES)).rstrip()
            logs.error_logger.warning(
                "Python has kept the event loop for %.3g s (--slow-callback %g). It runs:\n%s",
                stalled_s,
                threshold_s,
                stack,
            )
        del frame
        took_s = reactor.wait_for_end_of_stall()
        if took_s is not None:
            logs.error_logger.warning("The event loop goes on: Python had kept it for %.3g s", took_s)
