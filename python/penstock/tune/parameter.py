"""One setting of the kernel: where it is, what it should be and why, what it costs, and how a wrong value shows.

A `Parameter` is knowledge, and the same on every machine. Asked about one machine and one goal it gives a `Want`, and
that beside what was read is an `Advice`. Nothing here reads or writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum

from .goal import Goal
from .machine import Machine


class By(StrEnum):
    """Who sets it."""

    SYSCTL = "sysctl"
    FILE = "file"  # below /sys
    UNIT = "systemd unit"
    HAND = "by hand"


class Rule(Enum):
    """When what is there is good enough."""

    AT_LEAST = "at least"
    AT_MOST = "at most"
    EXACTLY = "exactly"


class Verdict(StrEnum):
    OK = "ok"
    NEEDED = "needed"  # the goal is not reached without
    BETTER = "better"  # it would help
    ABSENT = "absent"  # this kernel or namespace does not have it


@dataclass(frozen=True, kw_only=True)
class Want:
    """What a goal asks of one parameter, with the arithmetic written out."""

    value: str
    arithmetic: str
    rule: Rule = Rule.AT_LEAST
    needed: bool = False
    cost: str = ""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What is known of one setting. A `place` with * is several: a file for each queue of each interface."""

    name: str
    want: Callable[[Machine, Goal], Want | None]
    formula: str
    reason: str
    cost: str
    symptom: str
    look: str
    source: str
    place: str = ""
    by: By = By.SYSCTL
    # What the kernel has counted of this parameter's symptom, as `TcpExt:ListenOverflows`.
    counter: str = ""
    # Read for the arithmetic.
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.place:
            object.__setattr__(self, "place", "/proc/sys/" + self.name.replace(".", "/"))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that are thought of together, with what there is to understand first."""

    title: str
    teaches: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One setting of one machine: what it is, what it should be, and what follows."""

    parameter: Parameter
    place: str
    now: str | None
    want: Want
    verdict: Verdict
    wanted: str  # what would be written: the want's value, and never less than what is there where more is welcome
    seen: int = 0  # of the parameter's counter

    @property
    def name(self) -> str:
        """As a reader knows it; a queue's file by interface and queue."""
        if "*" not in self.parameter.place:
            return self.parameter.name
        _, _, _, _, interface, _, queue, file = self.place.split("/")
        return f"{interface} {queue} {file}"

    @property
    def is_due(self) -> bool:
        return self.verdict in (Verdict.NEEDED, Verdict.BETTER)

    @property
    def can_be_written(self) -> bool:
        return self.parameter.by in (By.SYSCTL, By.FILE)


def canonical(place: str, text: str) -> str:
    """A value as it is compared: however the kernel chooses to print it."""
    if place.endswith("/rps_cpus"):
        return f"{int(text.replace(',', '') or '0', 16):x}"
    if "[" in text:  # "always [madvise] never" is madvise
        return text.partition("[")[2].partition("]")[0]
    return " ".join(text.split())


def advice_on(parameter: Parameter, place: str, now: str | None, want: Want, seen: int = 0) -> Advice:
    """Compare. A value that is no row of numbers can only be the same or not."""
    current = None if now is None else canonical(place, now)
    wanted = want.value if current is None else _merged(current, want)
    if current is None:
        verdict = Verdict.ABSENT
    elif current == canonical(place, wanted):
        verdict = Verdict.OK
    else:
        verdict = Verdict.NEEDED if want.needed else Verdict.BETTER
    return Advice(parameter=parameter, place=place, now=current, want=want, verdict=verdict, wanted=wanted, seen=seen)


def _merged(now: str, want: Want) -> str:
    """What to write over `now`: where at least is enough no number is lowered, where at most is, none raised."""
    pairs = list(zip(now.split(), want.value.split(), strict=False))
    if want.rule is Rule.EXACTLY or len(pairs) != len(want.value.split()):
        return want.value
    choose = max if want.rule is Rule.AT_LEAST else min
    try:
        return " ".join(str(choose(int(one), int(other))) for one, other in pairs)
    except ValueError:
        return want.value
