"""The plan: each parameter's advice for one machine and one goal, and the memory that the goal takes. Pure.

The memory is counted, not guessed: what one socket takes from the kernel's slabs, times how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from .goal import Goal
from .machine import Machine
from .memory import Cost, memory_for
from .parameter import Advice, Group, Parameter, Verdict, advice_on
from .parameters import GROUPS


@dataclass(frozen=True, kw_only=True)
class Plan:
    machine: Machine
    goal: Goal
    groups: tuple[tuple[Group, tuple[Advice, ...]], ...]
    memory: tuple[Cost, ...]

    @property
    def advice(self) -> tuple[Advice, ...]:
        return tuple(each for _, members in self.groups for each in members)

    @property
    def unmet(self) -> tuple[Advice, ...]:
        """What the goal is not reached without."""
        return tuple(each for each in self.advice if each.verdict is Verdict.NEEDED)

    @property
    def due(self) -> tuple[Advice, ...]:
        return tuple(each for each in self.advice if each.is_due)


def plan_for(machine: Machine, goal: Goal) -> Plan:
    groups = tuple((group, tuple(_advice(machine, goal, group))) for group in GROUPS)
    return Plan(machine=machine, goal=goal, groups=groups, memory=memory_for(machine, goal))


def _advice(machine: Machine, goal: Goal, group: Group) -> Iterator[Advice]:
    for parameter in group.parameters:
        want = parameter.want(machine, goal)
        if want is None:
            continue
        for place in _places(machine, parameter):
            seen = machine.counters.get(parameter.counter, 0)
            yield advice_on(parameter, place, machine.readings.get(place), want, seen)


def _places(machine: Machine, parameter: Parameter) -> list[str]:
    if "*" not in parameter.place:
        return [parameter.place]
    return [place for place in machine.readings if fnmatch(place, parameter.place)]
