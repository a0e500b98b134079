"""The Python side of WSGI: the threads that call the application, and `wsgi.errors`. The pool itself is the core's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable

from . import _core, logs


class WsgiThreads:
    """The threads of one server's pool. It belongs to the loop that it is made in.

    They are daemons: an application that does not come back keeps no process from leaving.
    """

    def __init__(self, server: _core.WsgiServer, count: int) -> None:
        self.server = server
        self._home = asyncio.get_running_loop()
        self._running = count
        self._ended = asyncio.Event()
        for number in range(count):
            threading.Thread(target=self._run, name=f"penstock-wsgi-{number}", daemon=True).start()

    async def end(self) -> None:
        """Let each thread go when its request is done, and wait for the last."""
        self.server.close()
        await self._ended.wait()

    def leave_behind(self) -> None:
        """Go on without those that are not done. A thread cannot be ended from outside; it ends with its process."""
        self.server.close()
        if busy := self.server.figures()["busy"]:
            logs.error_logger.warning("Leaving %d requests behind that did not finish in time", busy)

    def _run(self) -> None:
        try:
            self.server.run_thread()
        finally:
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                self._home.call_soon_threadsafe(self._one_less)

    def _one_less(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._ended.set()


class ErrorStream:
    """`wsgi.errors`: each line is one of the error log. A line's beginning waits for its end, for each thread apart."""

    def __init__(self) -> None:
        self._begun = threading.local()

    def write(self, text: object) -> int:
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes text, not {type(text).__name__}")
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest
        for line in lines:
            self._log(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        rest, self._begun.text = getattr(self._begun, "text", ""), ""
        self._log(rest)

    def _log(self, line: str) -> None:
        if line.strip():
            logs.error_logger.error("%s", line)
