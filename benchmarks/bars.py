"""The bars that Penstock is held to, and the judging: pure functions of the figures.

Times drift from minute to minute, so figures are compared only within a round, and a bar that lies inside the
spread of the rounds is undecided: more rounds, or a quieter machine, will tell.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from works import Figures

# For each case, for each server, its figures by round.
Results = Mapping[str, Mapping[str, Mapping[int, Figures]]]


class Verdict(Enum):
    PASS = "pass"
    MISS = "miss"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and their range."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Bar:
    """One promise: a server's figure, or its ratio to another's of the same round, is at most (or least) so much."""

    case: str
    metric: str
    promise: str
    server: str = "penstock"
    versus: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    aim: float | None = None

    def __post_init__(self) -> None:
        assert (self.at_most is None) != (self.at_least is None), f"{self.promise}: one limit, not two or none"

    def values(self, results: Results) -> list[float]:
        """One for each round that has what it takes."""
        rows = results.get(self.case, {})
        own = rows.get(self.server, {})
        if self.versus is None:
            return [figures[self.metric] for figures in own.values()]
        return ratios(own, rows.get(self.versus, {}), self.metric)

    def judge(self, values: Sequence[float]) -> Verdict:
        met = [self._is_met(value) for value in values]
        if not met:
            return Verdict.NOT_MEASURED
        return Verdict.PASS if all(met) else Verdict.UNDECIDED if any(met) else Verdict.MISS

    def _is_met(self, value: float) -> bool:
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0.0)


def ratios(own: Mapping[int, Figures], other: Mapping[int, Figures], metric: str) -> list[float]:
    """Own divided by the other's, round by round; rounds that lack either, or where the other's is 0, are left out."""
    rounds = sorted(own.keys() & other.keys())
    return [own[n][metric] / other[n][metric] for n in rounds if other[n][metric] > 0]


BARS = (
    Bar("http", "cost_us", "costs at most 1.5x nginx's `return 200`", versus="nginx", at_most=1.5, aim=1.2),
    Bar("http", "cost_us", "uvicorn costs at least 2.5x", "uvicorn", "penstock", at_least=2.5, aim=3.5),
    Bar("http", "cost_us", "granian costs at least 2.5x", "granian", "penstock", at_least=2.5, aim=3.5),
    Bar("rate 20000/s", "cost_us", "costs at most 1.4x nginx's", versus="nginx", at_most=1.4, aim=1.2),
    Bar("rate 20000/s", "p99_us", "its p99 is at most 1.5x nginx's", versus="nginx", at_most=1.5, aim=1.0),
    Bar("starlette", "cost_us", "uvicorn costs at least 1.5x", "uvicorn", "penstock", at_least=1.5, aim=1.8),
    Bar("post", "cost_us", "uvicorn costs at least 1.8x", "uvicorn", "penstock", at_least=1.8, aim=2.5),
    Bar("fastapi", "cost_us", "uvicorn costs at least 1.1x", "uvicorn", "penstock", at_least=1.1, aim=1.15),
    Bar("wsgi", "cost_us", "granian costs at least 1.3x", "granian-wsgi", "penstock", at_least=1.3, aim=2.0),
    Bar("wsgi", "cost_us", "gunicorn costs at least 8x", "gunicorn", "penstock", at_least=8.0),
    Bar("log", "cost_us", "an access log adds at most 10%", "penstock-logged", "penstock", at_most=1.1),
    Bar("static 1 KiB", "cost_us", "costs at most nginx's", versus="nginx", at_most=1.0, aim=0.8),
    Bar("static 100 KiB", "cost_us", "costs at most nginx's", versus="nginx", at_most=1.0, aim=0.8),
    Bar("large", "gib_ms", "100 MiB: at most nginx's CPU per byte", versus="nginx", at_most=1.0),
    Bar("framed", "frame_us", "uvloop costs at least 3x", "uvloop", "penstock-stream", at_least=3.0),
    Bar("broadcast", "delivery_us", "uvloop costs at least 5x", "uvloop", "penstock-stream", at_least=5.0),
    Bar("idle", "bytes_per_connection", "user bytes per connection: at most 300", at_most=300, aim=160),
    Bar("idle", "idle_cpu_percent", "idle CPU: under 0.5% of a core", at_most=0.5),
    Bar("fairness", "fast_p99_ms", "p99 of the fast: at most the slow one's 50 ms plus 5", at_most=55.0),
    Bar("fairness", "fast_evenness", "no fast connection gets less than half of another's", at_least=0.5),
    Bar("fairness", "slow_rate", "the slow one is served at least 10 times a second", at_least=10.0),
)
