"""Which connections a server has, one by one: asked of every event loop, each of which looks between its own turns, and
put together here.

One survey is under way at a time, whoever asks, and what is asked meanwhile waits. A loop that does not answer in time
is told of and not waited for; it is asked no more until it has answered. Nothing is kept between two surveys.
"""

from __future__ import annotations

import json
import os
import queue
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from . import _core
from .event_loop import EventLoop

PATIENCE_S = 1.0
# What waits for its turn; more is refused.
MAX_WAITING = 64

# What one event loop has found, and what is told of all.
Found = dict[str, Any]
Told = dict[str, Any]


def look(loop: EventLoop, query: str, done: Callable[[Found], None]) -> None:
    """Look at the connections of this loop, in its thread: a little in each turn, so that nobody waits for it."""
    survey = _core.Survey(loop.reactor, query)

    def step() -> None:
        found = survey.step()
        if found is None:
            loop.call_soon(step)
        else:
            done({"pid": os.getpid(), **found})

    step()


def together(query: str, found: Mapping[str, Found], unanswered: Sequence[str]) -> Told:
    """What all event loops have found, by the names of their workers."""
    rows = [{"worker": worker, "pid": its["pid"], **row} for worker, its in found.items() for row in its["rows"]]
    rows.sort(key=lambda row: -row["rank"])
    rows = rows[: int(parse_qs(query)["rows"][0])]
    for row in rows:
        del row["rank"]
    return {
        "query": query,
        "open": sum(its["open"] for its in found.values()),
        "matched": sum(its["matched"] for its in found.values()),
        "unanswered": sorted(unanswered),
        "connections": rows,
    }


def as_json(told: Told) -> bytes:
    # A path may be anything, and a browser is not to take it for markup wherever it is shown.
    return json.dumps(told).replace("<", "\\u003c").encode() + b"\n"


# ---- in a process that serves alone

_loops: weakref.WeakSet[EventLoop] = weakref.WeakSet()


def enlist(loop: EventLoop) -> None:
    """This loop serves, and can be asked, until it is closed."""
    _loops.add(loop)


class Loops:
    """The event loops that tell of themselves in a scoreboard, for a thread that is none of theirs."""

    def __init__(self, scoreboard: _core.Scoreboard) -> None:
        self._scoreboard = scoreboard
        # Those that still owe an answer.
        self._owing: set[EventLoop] = set()

    def ask(self, query: str) -> Told:
        answers: queue.SimpleQueue[tuple[str, Found]] = queue.SimpleQueue()
        waiting, unanswered = set[str](), list[str]()
        for loop in self._present():
            worker = str(loop.slot)
            if loop in self._owing or not self._begin(loop, query, worker, answers):
                unanswered.append(worker)
            else:
                waiting.add(worker)
        found: dict[str, Found] = {}
        deadline_s = time.monotonic() + PATIENCE_S
        while waiting and (left_s := deadline_s - time.monotonic()) > 0:
            try:
                worker, its = answers.get(timeout=left_s)
            except queue.Empty:
                break
            waiting.discard(worker)
            found[worker] = its
        return together(query, found, [*unanswered, *waiting])

    def _present(self) -> Iterable[EventLoop]:
        return [loop for loop in list(_loops) if loop.scoreboard is self._scoreboard and not loop.is_closed()]

    def _begin(self, loop: EventLoop, query: str, worker: str, answers: queue.SimpleQueue[tuple[str, Found]]) -> bool:
        def done(found: Found) -> None:
            self._owing.discard(loop)
            answers.put((worker, found))

        self._owing.add(loop)
        try:
            loop.call_soon_threadsafe(look, loop, query, done)
        except RuntimeError:
            return False  # It has closed since.
        return True


# ---- in a supervisor


class Surveys:
    """The surveys of a supervisor, which asks its workers and goes on: they answer, or they do not.

    `send(query, number)` asks every worker that can be asked, but those it is given as `but`, and returns their names.
    """

    def __init__(self, send: Callable[[str, int, set[str]], Iterable[str]]) -> None:
        self._send = send
        self._waiting: deque[tuple[str, Callable[[Told], None]]] = deque()
        self._done: Callable[[Told], None] | None = None
        self._query, self._number = "", 0
        self._found: dict[str, Found] = {}
        self._asked: set[str] = set()
        self._unanswered: set[str] = set()
        # Workers that have not answered yet, whether anybody still waits for it or not.
        self._owing: set[str] = set()
        self.deadline_s: float | None = None

    def ask(self, query: str, done: Callable[[Told], None]) -> bool:
        """`done` is told in time. False: too many wait already."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append((query, done))
        self._begin_next()
        return True

    def _begin_next(self) -> None:
        while self._done is None and self._waiting:
            self._query, self._done = self._waiting.popleft()
            self._number += 1
            self._found, self._unanswered = {}, set(self._owing)
            self._asked = set(self._send(self._query, self._number, self._owing))
            self._owing |= self._asked
            self.deadline_s = time.monotonic() + PATIENCE_S
            self._finish_if_over()

    def heard(self, worker: str, number: int, found: Found) -> None:
        self._owing.discard(worker)
        if number == self._number and self._done is not None:
            self._asked.discard(worker)
            self._found[worker] = found
            self._finish_if_over()

    def gone(self, worker: str) -> None:
        """This worker is dead: it answers no more, and its successor owes nothing."""
        self._owing.discard(worker)
        if worker in self._asked:
            self._asked.discard(worker)
            self._unanswered.add(worker)
        self._finish_if_over()

    def look(self, now_s: float) -> None:
        """Wait no longer than that."""
        if self.deadline_s is not None and now_s >= self.deadline_s:
            self._unanswered |= self._asked
            self._asked = set()
            self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._done is None or self._asked:
            return
        done, self._done, self.deadline_s = self._done, None, None
        done(together(self._query, self._found, list(self._unanswered)))
        self._begin_next()
