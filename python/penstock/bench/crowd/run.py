"""One run: open, ask everybody, hold, tell everybody, ask everybody again, close. Each counts every connection."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from .crew import Crew, Far, Hand
from .memory import Memory, PerConnection, cpu_s, machine_busy_s
from .plan import CrowdLoad, Plan

# Servers whose pages still move after a phase are not looked at yet.
SETTLE_S = 0.5
# How many points a phase's course is told with, at most.
POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What one phase came to, over all clients. `buckets` are latencies: at most so many microseconds, and how many."""

    name: str
    elapsed_s: float
    asked: int
    answered: int
    open: int
    lost: dict[str, int]
    first_lost: str | None
    buckets: list[tuple[float, int]]
    # CPU seconds of the servers, of the clients, and of the whole machine.
    server_cpu_s: float
    client_cpu_s: float
    machine_busy_s: float
    # (seconds, how far): connections open, or answers.
    course: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    @property
    def lost_in_all(self) -> int:
        return sum(self.lost.values())

    @property
    def cores(self) -> float:
        """Processors that both ends kept busy together."""
        return (self.server_cpu_s + self.client_cpu_s) / self.elapsed_s if self.elapsed_s else 0.0

    def percentile_us(self, percent: float) -> float | None:
        """What so many did not exceed, to the bucket."""
        total, seen = sum(count for _, count in self.buckets), 0
        for limit, count in self.buckets:
            seen += count
            if total and seen >= total * percent / 100:
                return limit
        return None


@dataclass(kw_only=True)
class CrowdFound:
    """`memory` are bytes a connection at the moments when they were looked at, in order."""

    phases: list[Phase] = field(default_factory=list[Phase])
    memory: dict[str, PerConnection] = field(default_factory=dict[str, PerConnection])
    broadcast_sent: int | None = None
    # What the servers counted: heartbeats that they answered, connections that they have.
    pings_answered: int = 0
    server_connections: int = 0

    def phase(self, name: str) -> Phase | None:
        return next((phase for phase in self.phases if phase.name == name), None)

    @property
    def lost(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for phase in self.phases:
            total.update(phase.lost)
        return dict(total)


# Shows a phase: its name, and how many it is to reach.
Show = Callable[[str, int], AbstractContextManager[Far | None]]


def run(load: CrowdLoad, plan: Plan, show: Show) -> CrowdFound:
    """Raises `BenchError` if a process dies. Connections that are lost are counted."""
    with Crew(load, plan) as crew:
        return _Run(load, crew, show).main()


class _Run:
    def __init__(self, load: CrowdLoad, crew: Crew, show: Show) -> None:
        self._load, self._crew, self._show = load, crew, show
        self._found = CrowdFound()
        self._before = self._memory()

    def main(self) -> CrowdFound:
        crew, load = self._crew, self._load
        # Both ends of as many pairs as there are processors are at work; more would only take turns.
        self._phase("open", load.target, lambda far: crew.do("open", crew.clients, far, at_once=self._cpus()))
        self._look("opened")
        self._check("check")
        self._look("asked")
        if load.hold_s:
            self._phase("hold", self._beats(), self._hold)
            self._look("held")
        if load.broadcast:
            self._phase("broadcast", load.target, self._broadcast)
            self._look("told")
        if load.hold_s or load.broadcast:
            self._check("check again")
        self._count()
        crew.do("close", crew.clients)
        return self._found

    def _cpus(self) -> int:
        return len(os.sched_getaffinity(0))

    def _check(self, name: str) -> None:
        crew = self._crew
        self._phase(name, self._load.target, lambda far: crew.do("check", crew.clients, far, at_once=2 * self._cpus()))

    def _beats(self) -> int:
        load = self._load
        return round(load.target * load.hold_s / load.heartbeat_s) if load.heartbeat_s else 0

    def _hold(self, far: Far | None) -> list[dict[str, Any]]:
        crew = self._crew
        crew.begin("hold", crew.clients)
        crew.listen(self._load.hold_s, far)
        crew.tell("release", crew.clients)
        return crew.gather(crew.clients, far)

    def _broadcast(self, far: Far | None) -> list[dict[str, Any]]:
        crew = self._crew
        crew.begin("expect", crew.clients)
        sent = crew.do("broadcast", crew.servers, far)
        self._found.broadcast_sent = sum(each["sent"] for each in sent)
        return crew.gather(crew.clients, far)

    def _phase(self, name: str, most: int, act: Callable[[Far | None], Sequence[dict[str, Any]]]) -> None:
        pids = self._pids(self._crew.servers), self._pids(self._crew.clients)
        before, began = (cpu_s(pids[0]), cpu_s(pids[1]), machine_busy_s()), time.monotonic()
        course = _Course(began, opening=name == "open")
        with self._show(name, most) as far:
            tallies = act(course.through(far))
        elapsed_s = time.monotonic() - began
        after = cpu_s(pids[0]), cpu_s(pids[1]), machine_busy_s()
        self._found.phases.append(
            _phase(name, elapsed_s, tallies, [late - early for early, late in zip(before, after, strict=True)], course)
        )

    def _pids(self, hands: Sequence[Hand]) -> list[int]:
        return self._crew.pids(hands)

    def _memory(self) -> Memory:
        time.sleep(SETTLE_S)
        return Memory.now(self._pids(self._crew.servers), self._pids(self._crew.clients))

    def _look(self, when: str) -> None:
        opened = self._found.phases[-1].open
        if opened:
            self._found.memory[when] = PerConnection.of(self._before, self._memory(), opened)

    def _count(self) -> None:
        counts = self._crew.do("count", self._crew.servers)
        self._found.pings_answered = sum(each.get("pings_answered", 0) for each in counts)
        self._found.server_connections = sum(
            each.get("connections", each.get("connections_open", 0)) for each in counts
        )


def _phase(
    name: str, elapsed_s: float, tallies: Sequence[dict[str, Any]], used: Sequence[float], course: _Course
) -> Phase:
    lost: Counter[str] = Counter()
    buckets: Counter[float] = Counter()
    for tally in tallies:
        lost.update(tally["lost"])
        buckets.update(dict(tally["histogram_us"]))
    return Phase(
        name=name,
        elapsed_s=elapsed_s,
        asked=sum(tally["asked"] for tally in tallies),
        answered=sum(tally["answered"] for tally in tallies),
        open=sum(tally["open"] for tally in tallies),
        lost=dict(lost),
        first_lost=next((tally["first_lost"] for tally in tallies if tally["first_lost"]), None),
        buckets=sorted(buckets.items()),
        server_cpu_s=used[0],
        client_cpu_s=used[1],
        machine_busy_s=used[2],
        course=course.points,
    )


class _Course:
    """How a phase went, in so many points at the most: every other one goes when there are too many."""

    def __init__(self, began: float, *, opening: bool) -> None:
        self._began, self._opening = began, opening
        self._step_s = 0.1
        self.points: list[tuple[float, int]] = []

    def through(self, far: Far | None) -> Far:
        def told(opened: int, answered: int, lost: int) -> None:
            now = time.monotonic() - self._began
            if not self.points or now - self.points[-1][0] >= self._step_s:
                self.points.append((round(now, 3), opened if self._opening else answered))
                if len(self.points) > POINTS:
                    del self.points[1::2]
                    self._step_s *= 2
            if far is not None:
                far(opened, answered, lost)

        return told
