"""What the kernel must be set to for a goal, and why: the mind behind `penstock tune`.

    machine = survey()                                        # reads, changes nothing
    plan = plan_for(machine, goal_for(machine, "gateway", connections=1_000_000))
    for advice in plan.advice: ...                            # name, now, wanted, verdict, arithmetic

`machine` reads, `goal` says what is wanted, `parameters` knows each setting (one table, of which the guide
docs/kernel-parameters.md is made as well), `plan` compares: all of it pure but for the reading. Only `changes` writes.
"""

from __future__ import annotations

from pathlib import Path

from .goal import PROFILES, Goal, Profile, goal_for
from .machine import Machine, read_machine
from .parameter import Advice, By, Group, Parameter, Rule, Verdict, Want
from .parameters import GROUPS, PARAMETERS, places
from .plan import Plan, plan_for


def survey(root: Path = Path("/")) -> Machine:
    """This machine as the parameters need to know it; `root` is where its /proc and /sys are."""
    return read_machine(root, places())


__all__ = [
    "Advice",
    "By",
    "GROUPS",
    "Goal",
    "Group",
    "Machine",
    "PARAMETERS",
    "PROFILES",
    "Parameter",
    "Plan",
    "Profile",
    "Rule",
    "Verdict",
    "Want",
    "goal_for",
    "plan_for",
    "survey",
]
