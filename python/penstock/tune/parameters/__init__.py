"""Every parameter, in the order in which to see to them: a limit that is met earlier hides those behind it.

A new parameter is an entry in its group's file. The command, its files and docs/kernel-parameters.md follow.
"""

from __future__ import annotations

from . import accepting, conntrack, descriptors, liveness, memory, packets, ports

GROUPS = (
    descriptors.GROUP,
    accepting.GROUP,
    ports.GROUP,
    memory.GROUP,
    liveness.GROUP,
    packets.GROUP,
    conntrack.GROUP,
)
PARAMETERS = {parameter.name: parameter for group in GROUPS for parameter in group.parameters}


def places() -> tuple[str, ...]:
    """The files that the parameters are read from."""
    own = (parameter.place for parameter in PARAMETERS.values())
    beside = (place for parameter in PARAMETERS.values() for place in parameter.beside)
    return tuple(dict.fromkeys(place for place in (*own, *beside) if " " not in place))
