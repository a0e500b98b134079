"""What a run found, for people and for programs. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from ...tune.arithmetic import many
from .memory import PerConnection
from .plan import CrowdLoad, Plan
from .run import CrowdFound, Phase

_TITLES = {
    "open": "Opened",
    "check": "Asked",
    "hold": "Held",
    "broadcast": "Told",
    "check again": "Asked again",
}


def text(load: CrowdLoad, plan: Plan, found: CrowdFound) -> str:
    lines = [load.title, *plan.lines, ""]
    for phase in found.phases:
        lines += _phase(load, found, phase)
    lines += ["", *_memory(found.memory), "", *_end(load, found)]
    return "\n".join(lines)


def _phase(load: CrowdLoad, found: CrowdFound, phase: Phase) -> Iterator[str]:
    title = f"{_TITLES[phase.name]:<12}"
    rate = phase.answered / phase.elapsed_s if phase.elapsed_s else 0.0
    used = f"{phase.cores:.2f} processors busy with both ends"
    if phase.name == "open":
        rate = phase.open / phase.elapsed_s
        yield f"{title}{many(phase.open)} in {phase.elapsed_s:.1f} s, {rate:,.0f} a second"
    elif phase.name == "hold":
        yield f"{title}{many(phase.open)} for {phase.elapsed_s:.0f} s"
        if load.heartbeat_s:
            yield (
                f"{'':<12}{many(phase.answered)} of {many(phase.asked)} heartbeats answered, {rate:,.0f} a second; "
                f"{phase.cores:.0%} of one processor for both ends (servers {phase.server_cpu_s / phase.elapsed_s:.0%})"
            )
        else:
            yield f"{'':<12}{used}"
    elif phase.name == "broadcast":
        yield (
            f"{title}{many(phase.answered)} of {many(found.broadcast_sent or 0)} frames arrived within "
            f"{phase.elapsed_s:.1f} s, {rate:,.0f} a second"
        )
    else:
        yield (
            f"{title}{many(phase.answered)} of {many(phase.asked)} answered by the handler in {phase.elapsed_s:.1f} s, "
            f"{rate:,.0f} a second"
        )
    if phase.lost:
        kinds = ", ".join(f"{many(count)} {kind.replace('_', ' ')}" for kind, count in phase.lost.items())
        yield f"{'':<12}lost: {kinds}; the first: {phase.first_lost}"


def _memory(memory: dict[str, PerConnection]) -> Iterator[str]:
    yield f"{'Bytes each':<12}{'server':>8}  {'(PSS)':>8}  {'client':>8}  {'kernel, both ends':>18}  {'of it slab':>10}"
    for when, each in memory.items():
        yield (
            f"{when:<12}{each.server:>8,.0f}  {each.server_pss:>8,.0f}  {each.client:>8,.0f}  "
            f"{each.kernel:>18,.0f}  {each.kernel_slab:>10,.0f}"
        )


def _end(load: CrowdLoad, found: CrowdFound) -> Iterator[str]:
    lost = load.target - found.phases[-1].open
    yield f"{'Lost':<12}{'none' if lost == 0 else many(lost)} of {many(load.target)}"


def as_dict(load: CrowdLoad, plan: Plan, found: CrowdFound) -> dict[str, object]:
    phases = [{**asdict(phase), "cores": phase.cores} for phase in found.phases]
    return {
        "load": asdict(load),
        "plan": {
            "processes": 2 * len(plan.pairs),
            "most_connections_a_process": max(pair.connections for pair in plan.pairs),
            "source_addresses": sum(len(pair.sources) for pair in plan.pairs),
            "memory_needed": plan.memory_needed,
            "memory_available": plan.memory_there,
        },
        "phases": phases,
        "memory": {when: asdict(each) for when, each in found.memory.items()},
        "broadcast_sent": found.broadcast_sent,
        "pings_answered": found.pings_answered,
        "server_connections": found.server_connections,
        "lost": found.lost,
        "open_at_the_end": found.phases[-1].open,
    }


def as_json(load: CrowdLoad, plan: Plan, found: CrowdFound) -> str:
    return json.dumps(as_dict(load, plan, found), indent=1)
