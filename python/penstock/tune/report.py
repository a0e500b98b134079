"""A plan as text: columns for people, JSON for programs, and files for sysctl.d, systemd and tmpfiles.d. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .arithmetic import counted, many, size
from .machine import MEMORY, Machine
from .parameter import Advice, By, Verdict
from .parameters.descriptors import per_worker
from .plan import Plan

# Colours by what a verdict asks for; text stays readable without.
COLOURS = {Verdict.OK: "green", Verdict.NEEDED: "red", Verdict.BETTER: "yellow", Verdict.ABSENT: "bright_black"}
SHORTEST_WHY = 40

Paint = Callable[[str, Verdict], str]


def _plainly(text: str, _: Verdict) -> str:
    return text


def table(plan: Plan, *, width: int = 120, paint: Paint = _plainly) -> str:
    """The machine, the goal, its memory and every setting, in columns."""
    lines = [*_head(plan), "", *_memory(plan), ""]
    columns = _widths(plan.advice)
    for group, advice in plan.groups:
        if advice:
            lines += [group.title, *(line for each in advice for line in _row(each, columns, width, paint)), ""]
    return "\n".join([*lines, _conclusion(plan)])


def _head(plan: Plan) -> Iterator[str]:
    machine, goal = plan.machine, plan.goal
    hardware = f"{counted(machine.cpus, 'CPU')}, {size(machine.memory)}{_limits_told(machine)}"
    yield f"Machine  Linux {machine.kernel}, {hardware}"
    outgoing = f", {many(goal.outgoing)} outgoing" if goal.outgoing else ""
    yield (
        f"Goal     {goal.profile.name}: {many(goal.connections)} connections{outgoing}, "
        f"{many(goal.opened_per_s)} opened a second, {counted(goal.workers, 'worker')}, "
        f"{many(goal.mbit)} Mbit/s at {many(goal.rtt_ms)} ms for one"
    )


def _limits_told(machine: Machine) -> str:
    limits = [
        f"a cgroup's limit, of {size(machine.memory_total)}" if machine.memory < machine.memory_total else "",
        f"{machine.cpu_quota:g} CPUs' time by a cgroup" if machine.cpu_quota else "",
        f"{machine.numa_nodes} NUMA nodes" if machine.numa_nodes > 1 else "",
    ]
    return "".join(f", {limit}" for limit in limits if limit)


def _memory(plan: Plan) -> Iterator[str]:
    what = max(len(cost.what) for cost in plan.memory)
    how = max(len(cost.arithmetic) for cost in plan.memory)
    for title, cost in zip(["Memory", *[""] * (len(plan.memory) - 1)], plan.memory, strict=True):
        yield f"{title:<9}{cost.what:<{what}}  {cost.arithmetic:>{how}}  {size(cost.bytes):>10}"


def shown(advice: Advice, value: str | None) -> str:
    """A value as it is read best."""
    if value is None:
        return "-"
    return size(int(value)) if advice.place == MEMORY else value


def _widths(advice: Iterable[Advice]) -> tuple[int, int, int]:
    rows = [(each.name, shown(each, each.now), _wanted(each)) for each in advice]
    names, now, wanted = (max((len(row[at]) for row in rows), default=0) for at in range(3))
    return names, now, wanted


def _wanted(advice: Advice) -> str:
    return f"-> {shown(advice, advice.wanted)}" if advice.is_due else ""


def _row(advice: Advice, columns: tuple[int, int, int], width: int, paint: Paint) -> Iterator[str]:
    names, now, wanted = columns
    verdict = paint(f"{advice.verdict:<6}", advice.verdict)
    left = f"{advice.name:<{names}}  {shown(advice, advice.now):>{now}}  {_wanted(advice):<{wanted}}"
    indent = 2 + 6 + 2 + len(left) + 2
    if width - indent >= SHORTEST_WHY:
        first, *rest = textwrap.wrap(why(advice), width - indent) or [""]
        yield f"  {verdict}  {left}  {first}".rstrip()
        yield from (" " * indent + line for line in rest)
    else:
        yield f"  {verdict}  {left}".rstrip()
        yield from (" " * 10 + line for line in textwrap.wrap(why(advice), max(width - 10, SHORTEST_WHY)))


def why(advice: Advice) -> str:
    """The arithmetic, who sets it where `--apply` does not, and what the kernel has counted."""
    told = advice.want.arithmetic
    if advice.verdict is Verdict.ABSENT:
        return "not in this kernel, or hidden from here"
    if advice.is_due and not advice.can_be_written:
        told += f" ({advice.parameter.by})"
    if advice.is_due and advice.seen:
        told += f"; {advice.parameter.counter.replace(':', ' ')} counted {many(advice.seen)} since the boot"
    return told


def _conclusion(plan: Plan) -> str:
    needed = len(plan.unmet)
    better = len(plan.due) - needed
    if not plan.due:
        return "Everything is as the goal wants it."
    return (
        f"{counted(needed, 'setting')} short of the goal, {many(better)} that would help. "
        "Why and at what cost: --explain NAME. To set them: --apply, or --print sysctl, systemd, tmpfiles."
    )


def explanation(advice: Advice, *, width: int = 100) -> str:
    """All that is known of one setting, and what it should be here."""
    parameter = advice.parameter
    facts = {
        "now": shown(advice, advice.now),
        "should be": f"{advice.want.rule.value} {shown(advice, advice.want.value)}",
        "verdict": advice.verdict,
        "because": advice.want.arithmetic,
        "formula": parameter.formula,
        "costs": "; ".join(filter(None, (advice.want.cost, parameter.cost))),
        "if wrong": parameter.symptom,
        "look": parameter.look.replace("`", ""),
        "counted": f"{parameter.counter} {many(advice.seen)} since the boot" if parameter.counter else "",
        "is at": advice.place,
        "set by": parameter.by,
        "source": parameter.source,
    }
    lines = [advice.name, "", *textwrap.wrap(parameter.reason, width), ""]
    for name, fact in facts.items():
        if fact:
            lines += textwrap.wrap(fact, width, initial_indent=f"{name:<11}", subsequent_indent=" " * 11)
    return "\n".join(lines)


def as_json(plan: Plan) -> str:
    machine, goal = plan.machine, plan.goal
    told: Mapping[str, Any] = {
        "machine": {
            "kernel": machine.kernel,
            "cpus": machine.cpus,
            "memory": machine.memory,
            "numa_nodes": machine.numa_nodes,
            "nofile": machine.nofile_hard,
            "interfaces": list(machine.interfaces),
        },
        "goal": {**vars(goal), "profile": goal.profile.name},
        "memory": [vars(cost) for cost in plan.memory],
        "advice": [_advice_told(group.title, each) for group, members in plan.groups for each in members],
        "met": not plan.unmet,
    }
    return json.dumps(told, indent=2)


def _advice_told(group: str, advice: Advice) -> Mapping[str, Any]:
    return {
        "name": advice.name,
        "group": group,
        "place": advice.place,
        "now": advice.now,
        "wanted": advice.wanted,
        "rule": advice.want.rule.value,
        "verdict": advice.verdict,
        "because": advice.want.arithmetic,
        "cost": advice.want.cost or advice.parameter.cost,
        "by": advice.parameter.by,
        "counter": advice.parameter.counter or None,
        "counted": advice.seen if advice.parameter.counter else None,
    }


def sysctl_file(plan: Plan) -> str:
    """A file for /etc/sysctl.d. A leading - has systemd-sysctl go on where a key is not there."""
    return "\n".join([*_file_head(plan, "/etc/sysctl.d/60-penstock.conf, then: sysctl --system"), *_sysctls(plan), ""])


def _sysctls(plan: Plan) -> Iterator[str]:
    for group, members in plan.groups:
        lines = [line for each in members if each.parameter.by is By.SYSCTL for line in _sysctl(each)]
        if lines:
            yield from ["", f"# {group.title}", *lines]


def _sysctl(advice: Advice) -> Iterator[str]:
    yield from _comment(f"{advice.name}: {advice.want.arithmetic}")
    if advice.is_due:
        yield f"{'-' if '.netfilter.' in advice.name else ''}{advice.name} = {advice.wanted}"
    else:
        yield f"# {advice.name} = {advice.now} is enough" if advice.now else f"# {advice.name} is not here"


def systemd_file(plan: Plan) -> str:
    """A drop-in for the unit of the server."""
    total = plan.memory[-1].bytes
    lines = [
        *_file_head(plan, "/etc/systemd/system/NAME.service.d/60-penstock.conf, then: systemctl daemon-reload"),
        "",
        "[Service]",
        *_comment(f"Descriptors of each worker: {_arithmetic_of(plan, 'RLIMIT_NOFILE')}"),
        f"LimitNOFILE={per_worker(plan.goal)}",
        *_comment(
            f"The kernel's memory for sockets counts against the unit's limits, so that a MemoryMax= of less than "
            f"{size(total)} is met before the goal is."
        ),
        f"MemoryLow={total}",
        *_comment("A worker that is ended for its memory takes its connections with it: others go first."),
        "OOMScoreAdjust=-500",
        "",
    ]
    return "\n".join(lines)


def _arithmetic_of(plan: Plan, name: str) -> str:
    return next(each.want.arithmetic for each in plan.advice if each.parameter.name == name)


def tmpfiles_file(plan: Plan) -> str:
    """A file for /etc/tmpfiles.d: what is below /sys is no sysctl, and is written at every boot by this."""
    lines = _file_head(plan, "/etc/tmpfiles.d/60-penstock.conf, then: systemd-tmpfiles --create")
    for each in plan.advice:
        if each.parameter.by is By.FILE and each.now is not None:
            lines += _comment(f"{each.name}: {each.want.arithmetic}")
            lines.append(f"w {each.place} - - - - {each.wanted}")
    return "\n".join([*lines, ""])


def _file_head(plan: Plan, where: str) -> list[str]:
    goal = plan.goal
    told = f"{many(goal.connections)} connections, profile {goal.profile.name}, {counted(goal.workers, 'worker')}"
    return [f"# {where}", f"# Made by penstock tune for {told}."]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="#   ")


FILES: Mapping[str, Callable[[Plan], str]] = {
    "sysctl": sysctl_file,
    "systemd": systemd_file,
    "tmpfiles": tmpfiles_file,
}
