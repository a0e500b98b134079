"""What is to be done about the workers, decided from what is known of them, touching nothing.

Always replaced before retired: a worker that is to go leaves once there are as many ready ones as are wanted. A reload
is all or nothing: the former generation leaves when the whole new one is ready.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

# What a worker must have lived, ready, for its death to count as the first one.
_LIVED_S = 10.0
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 30.0


class Stage(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"


@dataclass(eq=False)
class Member:
    """A worker, as far as decisions go. Itself alone: two that are alike are two."""

    generation: int
    stage: Stage = Stage.STARTING
    # Why it is to be replaced, if it is.
    is_due: str | None = None

    @property
    def is_here(self) -> bool:
        return self.stage is not Stage.LEAVING


@dataclass(frozen=True)
class Steps:
    start: int
    retire: Sequence[Member]


def plan(members: Sequence[Member], wanted: int, generation: int) -> Steps:
    """How many workers of this generation to start, and which to retire. `members` are in the order of their start."""
    here = [member for member in members if member.is_here]
    fresh = [member for member in here if member.generation == generation and member.is_due is None]
    former = [member for member in here if member.generation != generation]
    due = [member for member in here if member.generation == generation and member.is_due is not None]
    ready = sum(member.stage is Stage.READY for member in fresh)
    # The youngest have the least to lose, and those that are not ready nothing.
    surplus = sorted(fresh, key=lambda member: member.stage is Stage.STARTING)[wanted:]
    leaving = [*surplus, *due[: max(0, ready + len(due) - wanted)]]
    if ready >= wanted:
        leaving += former
    return Steps(start=max(0, wanted - len(fresh)), retire=leaving)


class BackOff:
    """How long to wait before a worker that died is replaced: not at all at first, longer each time in a row."""

    def __init__(self) -> None:
        self._deaths = 0

    def delay_after(self, ready_for_s: float) -> float:
        """`ready_for_s`: how long it had been ready; 0 if never."""
        self._deaths = 0 if ready_for_s >= _LIVED_S else self._deaths + 1
        if self._deaths <= 1:
            return 0.0
        return min(_FIRST_DELAY_S * 2 ** (self._deaths - 2), _LONGEST_DELAY_S)


def most_requests(limit: int, jitter: int, luck: float) -> int:
    """What a worker may answer before it is replaced.

    `luck`, from 0 to 1, is its share of the jitter: workers of one age do not all go at once.
    """
    return limit + round(jitter * luck)
