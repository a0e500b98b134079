"""A worker process from inside: what it undoes of the supervisor that forked it, and how it serves."""

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from socket import socket
from typing import Any, NoReturn

from .. import _core, identity, listener, logs, surveys, tracing
from ..config import ServerConfig
from ..errors import PenstockError
from ..event_loop import EventLoop
from ..server import Worker, end_leftovers, stopping_on_signals
from .channel import MAX_LINE_BYTES, Channel
from .trade import Trade

# How long a worker may take to go when its supervisor is gone.
_ORPHAN_GRACE_S = 0.6
# Asks for every thread's stack; the worker goes on.
STACKS_SIGNAL = signal.SIGQUIT
_MAX_DETAILS = MAX_LINE_BYTES // 4


@dataclass(frozen=True)
class Place:
    """Where a worker stands: its slot in the scoreboard, its generation, and the line to its supervisor."""

    scoreboard: _core.Scoreboard
    slot: int
    generation: int
    channel: Channel
    trade: Trade
    app: Any
    listeners: list[socket]
    config: ServerConfig


def run(place: Place) -> NoReturn:
    """Serve, and leave. In the forked child, with all signals blocked and what is the supervisor's alone closed."""
    atexit._clear()  # What the parent wants done at its own end.
    _reset_signals()
    place.scoreboard.claim(place.slot, os.getpid(), place.generation)
    _core.exit_after_hang_up(place.channel.end.fileno(), _ORPHAN_GRACE_S, 1)
    status = 1
    try:
        status = _serve(place)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        logs.error_logger.exception("The worker failed")
    _leave(status)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    # It is the supervisor that systemd hears.
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        os.environ.pop(name, None)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):
        signal.signal(number, signal.SIG_IGN if number != signal.SIGWINCH else signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A terminal's Ctrl-C reaches all; the supervisor says what follows. A handler, unlike SIG_IGN, is not inherited by
    # what the application executes.
    signal.signal(signal.SIGINT, lambda *_: None)
    faulthandler.register(STACKS_SIGNAL, file=2, all_threads=True, chain=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _serve(place: Place) -> int:
    try:
        identity.become(place.config)
        app = place.trade.load(place.app, place.config)
        loop_factory = lambda: EventLoop(place.config.poller, place.scoreboard, place.slot)  # noqa: E731
        with tracing.exporting(place.config), asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_main(place, app))
    except PenstockError as error:
        place.channel.send(
            failed={
                "kind": type(error).__name__,
                "message": str(error)[:_MAX_DETAILS],
                "details": error.details and error.details[-_MAX_DETAILS:],
            }
        )
        return error.exit_status
    return 0


async def _main(place: Place, app: Any) -> None:
    loop = asyncio.get_running_loop()
    worker = place.trade.worker(place, app)
    loop.add_reader(place.channel.end, worker.listen_to_supervisor)
    with stopping_on_signals(loop, worker.stop):
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        try:
            await worker.main()
        finally:
            loop.remove_reader(place.channel.end)
            await end_leftovers()


class Supervised(ABC):
    """What any worker is to its supervisor: told to retire or to stop; telling that it is ready, and alive."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._loop = asyncio.get_running_loop()
        self._sees_off = self._is_last = False
        timeout_s = place.config.timeout_worker_s or 3600.0
        self._beat_s = min(max(timeout_s / 4, 0.05), 5.0)

    @abstractmethod
    async def main(self) -> None:
        """Serve until it is stopped, or leaves."""

    @abstractmethod
    def stop(self) -> None:
        """Stop gracefully; asked again, without waiting for what is under way."""

    @abstractmethod
    def leave(self) -> None:
        """Stop with patience: others serve already."""

    def listen_to_supervisor(self) -> None:
        for message in self.place.channel.receive():
            if message is None:
                self._stop_as_orphan()
            elif "stop" in message:
                self._is_last = message["stop"]["is_last"]
                self.stop()
            elif "retire" in message:
                # Whether its listeners go with it, so that who waits there is to be taken along.
                self._sees_off = self._is_last = message["retire"]["sees_off"]
                self.leave()
            elif "survey" in message:
                self._survey(**message["survey"])

    def _survey(self, query: str, number: int) -> None:
        """Tell of the connections, in a while."""
        if isinstance(self._loop, EventLoop):
            surveys.look(self._loop, query, lambda found: self._tell_found({"number": number, "found": found}))

    def _tell_found(self, survey: dict[str, Any]) -> None:
        self.place.channel.send(survey=survey)
        self._flush_channel()

    def _flush_channel(self) -> None:
        """What was found may be more than the kernel takes at once."""
        end = self.place.channel.end
        if self.place.channel.flush():
            self._loop.remove_writer(end)
        else:
            self._loop.add_writer(end, self._flush_channel)

    def _stop_as_orphan(self) -> None:
        logs.error_logger.error("The supervisor is gone: leaving")
        self._loop.remove_reader(self.place.channel.end)
        self.stop()
        self._loop.call_later(_ORPHAN_GRACE_S / 2, self.stop)

    def report(self, loop: EventLoop) -> None:
        """Before it listens: tell in the scoreboard how many connections there are, and leave some to others."""
        config = self.place.config
        is_shared = config.accept == "shared" and config.workers not in (None, 1)
        loop.reactor.report_to(self.place.scoreboard, self.place.slot, is_shared)

    def tell_ready(self, loop: EventLoop) -> None:
        place = self.place
        gc.collect()
        gc.freeze()
        place.scoreboard.set_state(place.slot, "ready")
        self._beat()
        # In the turn after the next: by then the listeners are being waited for.
        loop.call_soon(loop.call_soon, lambda: place.channel.send(ready=True))

    def tell_leaving(self) -> None:
        logs.error_logger.info("Shutting down")
        self.place.scoreboard.set_state(self.place.slot, "draining")

    def _beat(self) -> None:
        """Nothing but a turn of the loop, which the scoreboard counts."""
        self._loop.call_later(self._beat_s, self._beat)


class SupervisedWorker(Worker, Supervised):
    """A worker that serves an application, and shares its listeners."""

    def __init__(self, place: Place, app: Callable[..., Any]) -> None:
        Worker.__init__(self, app, place.listeners, place.config)
        Supervised.__init__(self, place)

    def leave(self) -> None:
        """Idle connections stay as long as they would be kept alive."""
        if not self._stop.is_set():
            self._has_patience = True
            self._stop.set()

    def stop(self) -> None:
        had_patience = self._has_patience
        super().stop()
        if had_patience and isinstance(self._loop, EventLoop):
            self._loop.reactor.drain()

    def let_in(self, loop: EventLoop) -> None:
        self.report(loop)
        for each in self.listeners:
            loop.reactor.add_listener(each.fileno())
        self.tell_ready(loop)

    def let_nobody_in(self, loop: EventLoop) -> None:
        self.tell_leaving()
        listener.close_listeners(self.listeners)
        if self._has_patience and not self._sees_off:
            loop.reactor.leave_listeners()
        else:
            loop.reactor.remove_listeners(last=self._is_last)


def _leave(status: int) -> NoReturn:
    """What the interpreter does at its end, without returning to whoever called the supervisor."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(status)
