"""Ports, and connections that have ended: what limits those whom this machine calls, and what stays behind."""

from __future__ import annotations

import math

from ..arithmetic import counted, many, power_of_two, size
from ..goal import Goal
from ..machine import Machine
from ..memory import TIME_WAIT
from ..parameter import By, Group, Parameter, Rule, Want
from . import sources

WIDE = (10_240, 65_535)
RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
TIME_WAIT_S = 60
DEFAULT_RANGE = (32_768, 60_999)
# `connect` tries every second port first, and the others only when none of those is free: with half of a range in use
# each call looks through thousands.
QUICK = 0.5


def _ports(low: int, high: int) -> int:
    return high - low + 1


def _quick_ports(low: int, high: int) -> int:
    """What one pair of addresses has before connecting becomes slow."""
    return int(_ports(low, high) * QUICK)


def _range(_: Machine, goal: Goal) -> Want | None:
    if not goal.outgoing:
        return None
    enough = goal.outgoing > _quick_ports(*DEFAULT_RANGE)
    low, high = WIDE if enough else DEFAULT_RANGE
    told = f"{many(goal.outgoing)} outgoing, {many(_ports(low, high))} ports for each pair of addresses"
    return Want(value=f"{low} {high}", arithmetic=told, rule=Rule.EXACTLY, needed=enough)


def _addresses(machine: Machine, goal: Goal) -> Want | None:
    """How many pairs of addresses the outgoing connections need; nothing says how many there are."""
    if goal.outgoing <= _quick_ports(*WIDE):
        return None
    pairs = math.ceil(goal.outgoing / _quick_ports(*WIDE))
    return Want(
        value=f"{pairs} pairs of addresses",
        arithmetic=f"{many(goal.outgoing)} outgoing / {many(_quick_ports(*WIDE))}, half of the range's ports",
        rule=Rule.EXACTLY,
    )


def _reuse(_: Machine, goal: Goal) -> Want | None:
    if not goal.outgoing:
        return None
    return Want(value="1", arithmetic=f"{many(goal.outgoing)} outgoing", rule=Rule.EXACTLY)


def _tw_buckets(_: Machine, goal: Goal) -> Want:
    value = power_of_two(goal.opened_per_s * TIME_WAIT_S)
    return Want(
        value=str(value),
        arithmetic=f"{many(goal.opened_per_s)} closed a second x {TIME_WAIT_S} s",
        cost=f"{many(value)} x {TIME_WAIT} B = {size(value * TIME_WAIT)} at the most",
    )


def _fin_timeout(*_: object) -> Want:
    return Want(value="60", arithmetic="the default", rule=Rule.AT_MOST)


def _orphans(_: Machine, goal: Goal) -> Want:
    value = power_of_two(math.ceil(goal.connections / goal.workers))
    return Want(
        value=str(value),
        arithmetic=f"{many(goal.connections)} / {counted(goal.workers, 'worker')}: all of one that ends",
        cost="up to 64 KiB each, for one round trip as a rule",
    )


GROUP = Group(
    title="Ports and TIME_WAIT",
    teaches="""\
A connection is told by four numbers: two addresses, two ports. A server's port is the same for all its connections,
so *accepting takes no ports*, and a server that is called by a million clients never runs out of them. Ports run out
where this machine calls: a proxy and its one backend, a load test, a crowd behind one address. Then one pair of
addresses has as many connections as there are ports in the range, and a second address on either side gives as many
again.

Whoever closes first keeps the four numbers for 60 s, so that a late packet finds no stranger: TIME_WAIT. The 60 s are
compiled into the kernel. `tcp_fin_timeout` does not change them, though half the web says so; it is about FIN_WAIT_2,
connections that this side has closed and the other has not. On a server TIME_WAIT costs 256 bytes each and nothing
else; on whoever calls, it holds ports.""",
    parameters=(
        Parameter(
            name="net.ipv4.ip_local_port_range",
            want=_range,
            formula="10240 65535, where more than half of the default range is needed",
            reason="The ports that `connect` takes from. Services that listen in it may find their port taken when "
            "they start: name theirs in net.ipv4.ip_local_reserved_ports. The first and the last number should not "
            "both be even, or both odd.",
            cost="Nothing; but listening ports above 10,240 must be reserved.",
            symptom="`connect: Cannot assign requested address` (EADDRNOTAVAIL).",
            look="`ss -nt state established dst ADDRESS | wc -l`",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="address pairs",
            place="(addresses of this machine, and of whom it calls)",
            by=By.HAND,
            want=_addresses,
            formula="outgoing connections / 27,648: half of the ports of the widest range",
            reason="Beyond the widest range only more addresses help, on either side. They do long before: `connect` "
            "tries every second port of the range, and the others only when none of those is free, so once half of a "
            "range is in use between two addresses, each further call looks through thousands of ports, with the CPU "
            "to match. So count half of it. Bind the source address with "
            "IP_BIND_ADDRESS_NO_PORT, so that the port is chosen when the destination is known. On loopback each of "
            "127.0.0.0/8 is an address of its own.",
            cost="An address.",
            symptom="EADDRNOTAVAIL although the range is wide; before that, `connect` takes longer and longer, in the "
            "kernel (`__inet_hash_connect` in a profile).",
            look="`ip -brief address`, `ss -nt dst ADDRESS | wc -l`",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="net.ipv4.tcp_tw_reuse",
            want=_reuse,
            formula="1, where this machine calls others",
            reason="Lets `connect` take a port whose last connection is in TIME_WAIT, after a second, if timestamps "
            "tell the two apart. It concerns who calls, never who accepts. 2, the default, does so on loopback alone.",
            cost="Nothing; it needs TCP timestamps, which are on by default.",
            symptom="EADDRNOTAVAIL while `ss -s` counts tens of thousands in timewait.",
            look="`ss -s`, `nstat -az TcpExtTWRecycled`",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="net.ipv4.tcp_max_tw_buckets",
            want=_tw_buckets,
            formula="connections closed a second x 60 s, a power of two",
            reason="How many connections may be in TIME_WAIT. Beyond it they are forgotten at once, and their "
            "protection from late packets with them.",
            cost="256 bytes for each that is in TIME_WAIT.",
            symptom="`TCP: time wait bucket table overflow` in the kernel's log.",
            look="`ss -s`, `nstat -az TcpExtTCPTimeWaitOverflow`",
            source=sources.IP_SYSCTL,
            counter="TcpExt:TCPTimeWaitOverflow",
        ),
        Parameter(
            name="net.ipv4.tcp_fin_timeout",
            want=_fin_timeout,
            formula="60 or less",
            reason="How long a connection that this side has closed waits for the other side to close too. Lower it "
            "only where `ss -nt state fin-wait-2` shows heaps of them. It does not shorten TIME_WAIT.",
            cost="A client that is slower than this to close is reset.",
            symptom="Thousands of connections in FIN_WAIT_2.",
            look="`ss -nt state fin-wait-2 | wc -l`",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="net.ipv4.tcp_max_orphans",
            want=_orphans,
            formula="connections / workers, a power of two",
            reason="Connections that no process has any more while their last bytes are on their way. When a worker "
            "ends, all of its connections are orphans for a round trip; beyond the bound they are reset, and clients "
            "lose the end of a response.",
            cost="Up to 64 KiB each of memory that cannot be swapped.",
            symptom="`TCP: too many orphaned sockets` in the kernel's log, resets when a worker ends.",
            look="`grep TCP: /proc/net/sockstat` (orphan), `nstat -az TcpExtTCPAbortOnMemory`",
            source=sources.IP_SYSCTL,
            counter="TcpExt:TCPAbortOnMemory",
        ),
    ),
)
