"""Very many connections, both ends on this machine: what `penstock bench connections` runs, for programs.

    load = CrowdLoad(target=1_000_000)
    plan = plan_for(load, room())        # pure: processes, addresses, memory; raises what the machine cannot hold
    found = run(load, plan)

`plan` decides, `ends` is what a server and a client process do, `crew` starts them and talks to them, `memory` reads
what the kernel says of both, `run` goes through the phases, `report` tells. The connections themselves are in Rust
(src/load/crowd.rs).
"""

from __future__ import annotations

from .plan import CrowdLoad, Plan, Room, plan_for, room
from .run import CrowdFound, Phase, run

__all__ = ["CrowdFound", "CrowdLoad", "Phase", "Plan", "Room", "plan_for", "room", "run"]
