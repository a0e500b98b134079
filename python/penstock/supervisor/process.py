"""A worker process as its supervisor has it: forked, told, waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NoReturn

from .channel import Channel
from .plan import Member


@dataclass(eq=False, kw_only=True)
class Process(Member):
    """One worker. Times are of the monotonic clock."""

    pid: int
    slot: int
    # Which listeners it has; its successor has the same.
    seat: int
    channel: Channel
    began_s: float
    ready_s: float | None = None
    # When its patience with us ends, and it is killed.
    kill_at_s: float | None = None
    # What it told of why it could not start.
    failure: dict[str, str | int | None] | None = None
    # Its own share of the jitter, from 0 to 1.
    luck: float = 0.0
    ticks: int = -1
    ticked_s: float = 0.0
    is_hung: bool = False

    def ready_for(self, now_s: float) -> float:
        return 0.0 if self.ready_s is None else now_s - self.ready_s

    def signal(self, number: int) -> None:
        """It is ours until it is reaped, so the number is no other's."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def reap(self) -> int | None:
        """The status that it has left with, as `os.waitstatus_to_exitcode` tells it; None while it runs."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0  # Somebody else has waited for it: how it left is not known.
        return os.waitstatus_to_exitcode(status) if pid else None

    def resident_bytes(self) -> int:
        """proc(5), statm; 0 where there is none."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0


def fork(child: Callable[[], NoReturn]) -> int:
    """Run `child` in a new process, whose number is returned. No signal of the supervisor's reaches it on the way."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    with _signals_blocked():
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                # Whatever goes wrong in the child must not go on as a second supervisor.
                os._exit(70)
        return pid


@contextlib.contextmanager
def _signals_blocked() -> Generator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def describe_exit(status: int) -> str:
    if status >= 0:
        return f"left with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
