"""Memory: what the machine has, what TCP may take of it, and what one connection may."""

from __future__ import annotations

import math

from ..arithmetic import counted, many, power_of_two, size
from ..goal import Goal
from ..machine import MEMORY, Machine
from ..memory import memory_for
from ..parameter import By, Group, Parameter, Rule, Want
from . import sources

TCP_MEM = "/proc/sys/net/ipv4/tcp_mem"
HASH_TABLE = "/proc/sys/net/ipv4/tcp_ehash_entries"
# Sockets that a packet is compared with before it finds its own, at the most that costs little.
CHAIN = 2
# The kernel grants at most this share of memory to TCP's buffers here, whatever the goal: the rest has to live too.
LARGEST_SHARE = 0.5
SMALLEST_WINDOW = 64 << 10
# What a UDP server asks for its one socket: all its clients share it.
DATAGRAMS = 8 << 20


def _memory(machine: Machine, goal: Goal) -> Want:
    *costs, total = memory_for(machine, goal)
    told = " + ".join(size(cost.bytes) for cost in costs)
    return Want(value=str(total.bytes), arithmetic=f"{told} = {size(total.bytes)} (see Memory)", needed=True)


def _hash_table(machine: Machine, goal: Goal) -> Want | None:
    """A namespace that shares its parent's table shows a negative number, and has nothing to set."""
    if machine.number(HASH_TABLE, 0) < 0:
        return None
    value = power_of_two(math.ceil(goal.sockets / CHAIN))
    return Want(
        value=str(value),
        arithmetic=f"{many(goal.sockets)} sockets / {CHAIN} in a chain",
        cost=f"{many(value)} x 8 B = {size(value * 8)}",
    )


def _tcp_mem(machine: Machine, goal: Goal) -> Want:
    pages = max(1, goal.sockets * goal.profile.buffered // machine.page_size)
    most = int(machine.memory * LARGEST_SHARE) // machine.page_size
    high = min(pages * 3 // 2, most) if most else pages * 3 // 2
    pressure = high * 2 // 3
    told = f"{many(goal.sockets)} sockets x {size(goal.profile.buffered)} / {many(machine.page_size)} B a page"
    bounded = ", and half of memory at the most" if high < pages * 3 // 2 else ""
    return Want(
        value=f"{pressure * 3 // 4} {pressure} {high}",
        arithmetic=f"pressure = {told} = {many(pages)}{bounded}",
        needed=_highest(machine) < pressure,
        cost=f"{many(high)} pages = {size(high * machine.page_size)} at the most, when buffers are full",
    )


def _highest(machine: Machine) -> int:
    return (machine.numbers(TCP_MEM) or (0,))[-1]


def largest_buffer(goal: Goal) -> int:
    return max(SMALLEST_WINDOW, power_of_two(2 * goal.window))


def _window_told(goal: Goal) -> str:
    return f"2 x {many(goal.mbit)} Mbit/s x {many(goal.rtt_ms)} ms = {size(2 * goal.window)}"


def _buffers(goal: Goal, initial: int) -> Want:
    """A gateway's connections are bounded; where throughput is the goal, more than is asked for does no harm."""
    largest = largest_buffer(goal)
    return Want(
        value=f"4096 {initial} {max(initial, largest)}",
        arithmetic=f"largest = {_window_told(goal)}",
        rule=Rule.EXACTLY if goal.profile.many_idle else Rule.AT_LEAST,
        cost=f"{size(max(initial, largest))} a connection at the most, while it is full",
    )


def _rmem(_: Machine, goal: Goal) -> Want:
    return _buffers(goal, 131_072)


def _wmem(_: Machine, goal: Goal) -> Want:
    return _buffers(goal, 16_384)


def _core_max(_: Machine, goal: Goal) -> Want:
    value = max(DATAGRAMS, largest_buffer(goal))
    return Want(
        value=str(value),
        arithmetic=f"{size(DATAGRAMS)} for a UDP server, or {_window_told(goal)}",
        cost="nothing until a socket asks for it",
    )


def _udp_mem(machine: Machine, goal: Goal) -> Want:
    pages = goal.workers * 2 * max(DATAGRAMS, largest_buffer(goal)) // machine.page_size
    return Want(
        value=f"{pages * 3 // 4} {pages} {pages * 3 // 2}",
        arithmetic=f"{counted(goal.workers, 'worker')} x 2 sockets x net.core.rmem_max",
        cost=f"{size(pages * 3 // 2 * machine.page_size)} at the most",
    )


def _overcommit(machine: Machine, _: Goal) -> Want:
    """0 and 1 are both well; only 2 refuses what is mapped and never touched."""
    now = machine.number("/proc/sys/vm/overcommit_memory", 0)
    return Want(value="1" if now == 1 else "0", arithmetic="not 2", rule=Rule.EXACTLY)


def _huge_pages(*_: object) -> Want:
    return Want(value="madvise", arithmetic="only for who asks", rule=Rule.EXACTLY)


GROUP = Group(
    title="Memory",
    teaches="""\
A socket at rest takes the kernel over 4 KB, nearly all of it structures; its buffers are empty and take nothing. So
a million connections at rest are nearly 5 GiB before a byte is sent, and what is sent comes on top: `net.ipv4.tcp_mem`
bounds the buffers of all connections together, **in pages, not bytes**, and `tcp_rmem` and `tcp_wmem` those of one.

Beyond tcp_mem's second number the kernel is under pressure: windows shrink, and everybody is slow. Beyond the third
it drops what arrives and refuses what is sent, on every connection of the machine at once: `TCP: out of memory --
consider tuning tcp_mem`. A gateway therefore bounds what one connection may have, since a million times 6 MB is not
there.

In a container all of it, structures and buffers, is charged to the cgroup, and counts against its `memory.max`.

`tcp_rmem` and `tcp_wmem` are three numbers: what each socket gets even under pressure, what it begins with, and how
far the kernel's tuning may go. Setting SO_RCVBUF or SO_SNDBUF on a socket turns that tuning off for it. A path is
full when its bandwidth times its round trip is on its way, and half of a buffer is the kernel's own overhead: hence
the 2.""",
    parameters=(
        Parameter(
            name="memory",
            place=MEMORY,
            by=By.HAND,
            want=_memory,
            formula="sockets x (5,130 B + what each has buffered + 300 B) + TIME_WAIT + workers x 40 MiB",
            reason="What the goal takes in all: the machine's memory, or the lowest limit of the cgroups that this "
            "process is in.",
            cost="It is the cost.",
            symptom="The kernel ends a process (`Out of memory: Killed process`), or a container does.",
            look="`free -h`, `cat /proc/net/sockstat`, `slabtop -s c`, `cat /sys/fs/cgroup/memory.stat`",
            source=sources.CGROUP,
        ),
        Parameter(
            name="TCP's hash table",
            place=HASH_TABLE,
            by=By.HAND,
            want=_hash_table,
            formula="sockets / 2, a power of two; `thash_entries=N` on the kernel's command line",
            reason="Every packet looks its socket up by its addresses, in a table that is made at boot, by the memory "
            "that there is. With more sockets than places each look-up walks a chain through memory that is in no "
            "cache: with two million sockets in 262,144 places (a million connections, both ends on one machine) that "
            "was a sixth of all CPU time. Sockets of a network namespace made after "
            "`net.ipv4.tcp_child_ehash_entries` was set have a table of their own, of that size.",
            cost="8 bytes a place, from boot on.",
            symptom="`__inet_lookup_established` at the top of `perf top`.",
            look="`sysctl net.ipv4.tcp_ehash_entries`, `ss -s`",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="net.ipv4.tcp_mem",
            want=_tcp_mem,
            formula="pressure = sockets x bytes buffered / page; low = 3/4 of it, high = 3/2, at most half of memory",
            reason="Pages that all TCP buffers may take together: relaxed, under pressure, at the end. The kernel's "
            "default is about 9% of memory, meant for machines that do other things as well.",
            cost="As many pages as it says, when buffers are full; nothing while connections are idle.",
            symptom="`TCP: out of memory -- consider tuning tcp_mem` in the kernel's log; all connections stall "
            "at once.",
            look="`cat /proc/net/sockstat` (mem, in pages), `nstat -az TcpExtTCPMemoryPressures`",
            source=sources.IP_SYSCTL,
            counter="TcpExt:TCPMemoryPressures",
        ),
        Parameter(
            name="net.ipv4.tcp_rmem",
            want=_rmem,
            formula="4096 131072 and 2 x bandwidth x round trip, a power of two from 64 KiB",
            reason="The receive buffer of one connection: what the peer may have on its way to us. Too small a largest "
            "one, and a fast, long path stays half empty; too large a one, and slow readers take memory from all.",
            cost="Up to its third number for each connection whose data is not read.",
            symptom="Throughput stops at buffer / round trip on a path that could do more.",
            look="`ss -tmi` (skmem rb, rcv_space), `nstat -az TcpExtTCPRcvCollapsed TcpExtPruneCalled`",
            source=sources.IP_SYSCTL,
            counter="TcpExt:PruneCalled",
        ),
        Parameter(
            name="net.ipv4.tcp_wmem",
            want=_wmem,
            formula="4096 16384 and 2 x bandwidth x round trip, a power of two from 64 KiB",
            reason="The send buffer of one connection: what was sent and is not acknowledged. Penstock leaves at most "
            "64 KiB beyond what is on its way in the kernel (TCP_NOTSENT_LOWAT).",
            cost="Up to its third number for each connection whose peer is slow.",
            symptom="Throughput stops at buffer / round trip; `ss -tmi` says sndbuf_limited.",
            look="`ss -tmi` (skmem tb, sndbuf_limited)",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="net.core.rmem_max",
            want=_core_max,
            formula="8 MiB, or 2 x bandwidth x round trip",
            reason="How much a program may ask for with SO_RCVBUF. TCP's own tuning does not heed it; UDP has no "
            "other way, and all clients of a UDP server share one socket's buffer.",
            cost="Nothing until a socket asks.",
            symptom="Datagrams are lost in bursts while the CPU is idle.",
            look="`nstat -az UdpRcvbufErrors`, `ss -numi`",
            source=sources.SYSCTL_NET,
            counter="Udp:RcvbufErrors",
        ),
        Parameter(
            name="net.core.wmem_max",
            want=_core_max,
            formula="as net.core.rmem_max",
            reason="The same for SO_SNDBUF.",
            cost="Nothing until a socket asks.",
            symptom="UDP: sends fail with EAGAIN in bursts.",
            look="`nstat -az UdpSndbufErrors`",
            source=sources.SYSCTL_NET,
            counter="Udp:SndbufErrors",
        ),
        Parameter(
            name="net.ipv4.udp_mem",
            want=_udp_mem,
            formula="pressure = workers x 2 x net.core.rmem_max / page",
            reason="Pages that all UDP buffers may take together. Sockets are few, buffers large.",
            cost="As many pages as it says, when buffers are full.",
            symptom="Datagrams are lost on every socket of the machine at once.",
            look="`cat /proc/net/sockstat` (UDP mem, in pages), `nstat -az UdpMemErrors`",
            source=sources.IP_SYSCTL,
            counter="Udp:MemErrors",
        ),
        Parameter(
            name="vm.overcommit_memory",
            want=_overcommit,
            formula="0 or 1, not 2",
            reason="2 refuses to map more than there is, also what is never touched: slots that are mapped in chunks, "
            "threads' stacks, a fork of a large process.",
            cost="Nothing.",
            symptom="With 2: `Cannot allocate memory` (ENOMEM) while memory is free.",
            look="`grep Commit /proc/meminfo`",
            source=sources.SYSCTL_VM,
        ),
        Parameter(
            name="transparent huge pages",
            place="/sys/kernel/mm/transparent_hugepage/enabled",
            by=By.FILE,
            want=_huge_pages,
            formula="madvise",
            reason="With `always` a worker that touches a little of each 2 MiB is given all of it: resident memory "
            "grows for nothing, and the kernel's compaction shows in p99.9. `madvise` gives huge pages to who asks.",
            cost="Programs that gain from huge pages must ask for them.",
            symptom="Resident memory far above what is in use, rare long pauses.",
            look="`grep AnonHugePages /proc/PID/smaps_rollup`",
            source=sources.HUGE_PAGES,
        ),
    ),
)
