"""The lifespan of an ASGI application: its start-up before the first request, its shutdown after the last.

One task runs the application's lifespan coroutine from start to end, as the specification asks, so what it opens in
a task group or a context manager it closes in the same task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from . import logs
from .config import Lifespan as Mode
from .errors import StartupError


class Lifespan:
    """Runs `app`'s lifespan in `mode`. `state` is what the application put there, to be copied into each scope."""

    def __init__(self, app: Callable[..., Any], mode: Mode) -> None:
        self.state: dict[str, Any] = {}
        self._app, self._mode = app, mode
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure: str | None = None
        self._error: BaseException | None = None
        self._answered = False
        self._task: asyncio.Task[None] | None = None

    async def start_up(self) -> None:
        """Raises `StartupError` if the application refuses, or if `on` was asked and it has no lifespan."""
        if self._mode == "off":
            return
        logs.error_logger.info("Waiting for application startup.")
        self._task = asyncio.create_task(self._run(), name="lifespan")
        self._messages.put_nowait({"type": "lifespan.startup"})
        await self._started.wait()
        if self._failure is not None:
            raise _startup_error(self._failure)
        if self._error is not None and not self._answered:
            self._unsupported(self._error)
        logs.error_logger.info("Application startup complete.")

    def _unsupported(self, error: BaseException) -> None:
        if self._mode == "on":
            logs.error_logger.error("Exception in lifespan startup", exc_info=error)
            raise StartupError(
                "--lifespan on: the application raised instead of answering lifespan.startup; see the traceback above"
            )
        logs.error_logger.debug("ASGI 'lifespan' protocol appears unsupported: %r", error)

    async def shut_down(self) -> None:
        """Tell the application, and wait until it is done. What it raises is logged."""
        if self._task is None or self._task.done():
            return
        logs.error_logger.info("Waiting for application shutdown.")
        self._messages.put_nowait({"type": "lifespan.shutdown"})
        await self._stopped.wait()
        if self._failure is not None:
            logs.error_logger.error("Application shutdown failed: %s", self._failure)
        elif self._error is None:
            logs.error_logger.info("Application shutdown complete.")
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._messages.get, self._send)
        except BaseException as error:
            self._error = error
            if self._answered and self._failure is None and not isinstance(error, asyncio.CancelledError):
                # It had begun, so this is no "not supported": something of the application's own has ended.
                logs.error_logger.error("Exception in the application's lifespan", exc_info=error)
            if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        phase, _, outcome = kind.removeprefix("lifespan.").partition(".")
        known = phase in ("startup", "shutdown") and outcome in ("complete", "failed")
        if not known or not kind.startswith("lifespan."):
            raise RuntimeError(f"a lifespan sends lifespan.startup.complete and the like, not {kind!r}")
        self._answered = True
        if outcome == "failed":
            self._failure = str(message.get("message", ""))
        (self._started if phase == "startup" else self._stopped).set()


def _startup_error(failure: str) -> StartupError:
    """One line; of a whole traceback (Starlette sends one) the last, with the rest above it."""
    lines = failure.strip().splitlines()
    reason = f": {lines[-1]}" if lines else ""
    return StartupError(f"application startup failed{reason}", details=failure.strip() if len(lines) > 1 else None)
