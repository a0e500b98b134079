"""What a goal costs in memory, line by line: counted from the kernel's own object sizes.

Sizes are those of Linux 6.18 on x86-64, from /proc/slabinfo: the bytes of a slab by the objects in it. They differ by
a few percent between kernels, and by what security modules keep.
"""

from __future__ import annotations

from dataclasses import dataclass

from .arithmetic import many, size
from .goal import Goal
from .machine import Machine

# What one socket takes that has been used and rests, in a poller, by the growth of `Slab` over two million of
# them: TCP 2,521 + sock_inode_cache 862 + filp 195 + dentry 195 + eventpoll_epi 128 + eventpoll_pwq 64 + ep_head 16 +
# lsm_inode_cache 32 + lsm_file_cache 24, and of one that connects tcp_bind2_bucket 128; the rest is slabs that are not
# full. TCPv6 is 128 more. (Whoever lists /proc/PID/fd meanwhile adds 940 for each descriptor, until it is reclaimed.)
SOCKET = 5_130
TIME_WAIT = 256
HALF_OPEN = 320
CONNTRACK = 256
HASH_BUCKET = 8
# Of user space, and of the interpreter that a worker starts with.
CONNECTION_OF_PENSTOCK = 300
WORKER = 40 << 20

CONNTRACK_MAX = "/proc/sys/net/netfilter/nf_conntrack_max"
CONNTRACK_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"


@dataclass(frozen=True, kw_only=True)
class Cost:
    what: str
    arithmetic: str
    bytes: int


def memory_for(machine: Machine, goal: Goal) -> tuple[Cost, ...]:
    """What everything takes at the goal's peak; the last line is the sum of those before."""
    closing = goal.opened_per_s * 60
    costs = [
        _times("sockets at rest (kernel)", goal.sockets, SOCKET),
        _times(f"their buffers at the peak of {goal.profile.name} (kernel)", goal.sockets, goal.profile.buffered),
        _times("connections in TIME_WAIT (kernel)", closing, TIME_WAIT),
        _times("connections in Penstock", goal.sockets, CONNECTION_OF_PENSTOCK),
        _times("workers, without your application", goal.workers, WORKER),
    ]
    if CONNTRACK_MAX in machine.readings:
        costs.insert(3, _times("connection tracking (kernel)", goal.sockets, CONNTRACK + HASH_BUCKET))
    total = sum(cost.bytes for cost in costs)
    return (*costs, Cost(what="in all", arithmetic=f"of {size(machine.memory)}", bytes=total))


def _times(what: str, count: int, each: int) -> Cost:
    told = f"{many(each)} B" if each < 1 << 20 else size(each)
    return Cost(what=what, arithmetic=f"{many(count)} x {told}", bytes=count * each)
