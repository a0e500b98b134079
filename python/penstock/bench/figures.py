"""What one tool found of one server, in the same units whichever tool it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# As reports name them, with the percentage of answers that took no longer.
PERCENTILES: Mapping[str, float] = {
    "p50": 50.0,
    "p75": 75.0,
    "p90": 90.0,
    "p99": 99.0,
    "p99_9": 99.9,
    "p99_99": 99.99,
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """`rate` in answers a second; latencies in microseconds, by name; a figure that a tool does not tell is missing.

    `cpu_us` is the client's own CPU time for each answer, in user space and in the kernel.
    """

    tool: str
    answers: int
    rate: float
    cpu_us: float | None = None
    latency_us: Mapping[str, float] = field(default_factory=dict[str, float])
    errors: int = 0
