"""The processes of a run: started, told what to do, heard, and ended whatever happens. Owned by whoever runs it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ... import _core
from ...supervisor.channel import Channel
from ...supervisor.process import describe_exit, fork
from ..outcome import BenchError
from . import ends
from .plan import CrowdLoad, Pair, Plan

# How long a process may take to start, and how long a phase may go on without a word from anybody.
START_TIMEOUT_S = 60.0
SILENCE_TIMEOUT_S = 120.0
# How long a client outlives its parent.
_ORPHAN_GRACE_S = 1.0

# Connections open, answers of this phase, connections lost so far: of all clients together.
Far = Callable[[int, int, int], object]


@dataclass(eq=False)
class Hand:
    """One process of the crew."""

    role: str
    number: int
    pid: int
    line: Channel
    far: tuple[int, int, int] = (0, 0, 0)
    # What it came to, once it is.
    done: dict[str, Any] | None = None

    def begin_phase(self) -> None:
        self.far = (self.far[0], 0, self.far[2])
        self.done = None

    def take_done(self) -> dict[str, Any]:
        assert self.done is not None
        done, self.done = self.done, None
        return done

    def __str__(self) -> str:
        return f"{self.role} {self.number + 1} (process {self.pid})"


class Crew:
    """Servers and clients of a plan. A context: at its end there is no process left."""

    def __init__(self, load: CrowdLoad, plan: Plan) -> None:
        self._load, self._plan = load, plan
        self._cpus = sorted(os.sched_getaffinity(0))
        self._hands: dict[int, Hand] = {}
        self._selector = selectors.DefaultSelector()
        self.servers: list[Hand] = []
        self.clients: list[Hand] = []

    def __enter__(self) -> Crew:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        for pair in self._plan.pairs:
            self.servers.append(self._fork("server", pair, lambda line, _: ends.serve(line, self._load)))
        for pair in self._plan.pairs:
            self.clients.append(self._fork("client", pair, lambda line, mine: ends.connect(line, self._load, mine)))
        ready = self._wait_for("ready", self.servers, START_TIMEOUT_S)
        for client, where in zip(self.clients, ready, strict=True):
            client.line.send(connect=where)
        self._wait_for("ready", self.clients, START_TIMEOUT_S)

    def _fork(self, role: str, pair: Pair, work: Callable[[Channel, Pair], None]) -> Hand:
        ours, theirs = Channel.pair()

        def child() -> NoReturn:
            status = 1
            try:
                ours.close()
                for other in self._hands.values():
                    other.line.close()
                self._selector.close()
                ends.begin(self._cpus[pair.number % len(self._cpus)])
                _core.exit_after_hang_up(theirs.end.fileno(), _ORPHAN_GRACE_S, 1)
                work(theirs, pair)
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            ends.leave(status)

        pid = fork(child)
        theirs.close()
        hand = Hand(role, pair.number, pid, ours)
        self._hands[pid] = hand
        self._selector.register(ours.end, selectors.EVENT_READ, hand)
        return hand

    def do(
        self, what: str, who: Sequence[Hand], far: Far | None = None, *, at_once: int | None = None
    ) -> list[dict[str, Any]]:
        """Have all do it, so many at a time, and wait for what each has to say. Raises `BenchError` if one dies."""
        waiting = list(who)
        for hand in waiting:
            hand.begin_phase()
        first, waiting[:] = waiting[: at_once or len(who)], waiting[at_once or len(who) :]
        self.tell(what, first)

        def hear(hand: Hand, message: dict[str, Any]) -> None:
            if "done" in message and waiting and hand in who:
                self.tell(what, [waiting.pop(0)])

        self._hear_until(lambda: all(hand.done is not None for hand in who), hear, far, what)
        return [hand.take_done() for hand in who]

    def begin(self, what: str, who: Iterable[Hand]) -> None:
        """Tell them to, without waiting."""
        for hand in who:
            hand.begin_phase()
            self.tell(what, [hand])

    def tell(self, what: str, who: Iterable[Hand]) -> None:
        for hand in who:
            hand.line.send(**{what: True})

    def listen(self, seconds: float, far: Far | None) -> None:
        """Hear how far everybody is, for so long. Raises `BenchError` if one dies."""
        until = time.monotonic() + seconds
        self._hear_until(lambda: time.monotonic() >= until, lambda *_: None, far, "hold", until)

    def gather(self, who: Sequence[Hand], far: Far | None = None) -> list[dict[str, Any]]:
        """Wait for what each has to say of what was begun; some have said it while others were heard."""
        self._hear_until(lambda: all(hand.done is not None for hand in who), lambda *_: None, far, "gather")
        return [hand.take_done() for hand in who]

    def _wait_for(self, what: str, who: Sequence[Hand], timeout_s: float) -> list[dict[str, Any]]:
        told: dict[int, dict[str, Any]] = {}

        def hear(hand: Hand, message: dict[str, Any]) -> None:
            if what in message:
                told[hand.pid] = message[what]

        until = time.monotonic() + timeout_s
        self._hear_until(lambda: len(told) == len(who), hear, None, "start", until)
        if len(told) < len(who):
            late = next(hand for hand in who if hand.pid not in told)
            raise BenchError(f"{late} did not start within {timeout_s:g} s")
        return [told[hand.pid] for hand in who]

    def _hear_until(
        self,
        is_done: Callable[[], bool],
        hear: Callable[[Hand, dict[str, Any]], None],
        far: Far | None,
        doing: str,
        until: float | None = None,
    ) -> None:
        heard = time.monotonic()
        while not is_done():
            now = time.monotonic()
            if until is not None and now >= until:
                return
            events = self._selector.select(0.1 if until is None else min(0.1, until - now))
            for key, _ in events:
                heard = now
                self._hear(key.data, hear)
            if until is None and now - heard > SILENCE_TIMEOUT_S:
                raise BenchError(f"nobody has said a word for {SILENCE_TIMEOUT_S:g} s ({doing}): is the machine stuck?")
            if far is not None:
                opened, answered, lost = (sum(each) for each in zip(*(hand.far for hand in self.clients), strict=True))
                far(opened, answered, lost)

    def _hear(self, hand: Hand, hear: Callable[[Hand, dict[str, Any]], None]) -> None:
        for message in hand.line.receive():
            if message is None:
                self._selector.unregister(hand.line.end)
                _, status = os.waitpid(hand.pid, 0)
                del self._hands[hand.pid]
                raise BenchError(f"{hand} {describe_exit(os.waitstatus_to_exitcode(status))} in the middle of the run")
            if "far" in message:
                opened, answered, lost = message["far"]
                hand.far = (opened, answered, lost)
            else:
                hand.done = message.get("done", hand.done)
                hear(hand, message)

    def pids(self, hands: Iterable[Hand]) -> list[int]:
        return [hand.pid for hand in hands]

    def _end(self) -> None:
        """Nothing is lost by killing them: who wanted to close in good order has done so."""
        for hand in self._hands.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(hand.pid, signal.SIGKILL)
        for hand in self._hands.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(hand.pid, 0)
            hand.line.close()
        self._hands.clear()
        self._selector.close()
