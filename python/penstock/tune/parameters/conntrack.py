"""Connection tracking: the firewall's own table of all connections."""

from __future__ import annotations

from ..arithmetic import many, power_of_two, size
from ..goal import Goal
from ..machine import Machine
from ..memory import CONNTRACK, CONNTRACK_COUNT, CONNTRACK_MAX, HASH_BUCKET
from ..parameter import Group, Parameter, Rule, Want
from . import sources

CLOSED_S = 30
LONGEST_S = 86_400


def _is_there(machine: Machine) -> bool:
    return CONNTRACK_MAX in machine.readings


def _entries(goal: Goal) -> int:
    return power_of_two(goal.sockets + goal.opened_per_s * CLOSED_S)


def _max(machine: Machine, goal: Goal) -> Want | None:
    if not _is_there(machine):
        return None
    tracked = machine.number(CONNTRACK_COUNT, 0)
    note = "" if tracked else "; nothing is tracked now, so it does not bind unless a rule wants it"
    return Want(
        value=str(_entries(goal)),
        arithmetic=f"{many(goal.sockets)} + {many(goal.opened_per_s)} closed a second x {CLOSED_S} s{note}",
        needed=tracked > 0,
        cost=f"{many(_entries(goal))} x {CONNTRACK} B = {size(_entries(goal) * CONNTRACK)} at the most",
    )


def _buckets(machine: Machine, goal: Goal) -> Want | None:
    if not _is_there(machine):
        return None
    value = _entries(goal)
    return Want(
        value=str(value),
        arithmetic="as many as entries: each is in the table twice",
        cost=f"{many(value)} x {HASH_BUCKET} B = {size(value * HASH_BUCKET)}, at once",
    )


def _established(machine: Machine, _: Goal) -> Want | None:
    return Want(value=str(LONGEST_S), arithmetic="a day", rule=Rule.AT_MOST) if _is_there(machine) else None


def _time_wait(machine: Machine, _: Goal) -> Want | None:
    return Want(value=str(CLOSED_S), arithmetic=f"{CLOSED_S} s", rule=Rule.AT_MOST) if _is_there(machine) else None


GROUP = Group(
    title="Connection tracking",
    teaches="""\
A firewall with states, NAT, Docker and Kubernetes keep a table of every connection that passes, also of those to this
machine itself. When it is full, packets of new connections are dropped: `nf_conntrack: table full, dropping packet`.
It is the limit that surprises, because nothing of it shows in the server. The best cure is not to track: `iptables -t
raw -A PREROUTING -p tcp --dport 443 -j NOTRACK` (and the same for OUTPUT) spares the entry and about a microsecond a
packet.

Entries are made only where a rule asks for them: `nf_conntrack_count` at 0 with connections open means that none
does.""",
    parameters=(
        Parameter(
            name="net.netfilter.nf_conntrack_max",
            want=_max,
            formula="sockets + connections closed a second x 30 s, a power of two",
            reason="How many connections are tracked, those that ended a moment ago included.",
            cost="256 bytes or more an entry, when it is used.",
            symptom="`nf_conntrack: table full, dropping packet`; new connections time out, old ones are well.",
            look="`sysctl net.netfilter.nf_conntrack_count`, `conntrack -S` (drop, early_drop)",
            source=sources.CONNTRACK,
            beside=(CONNTRACK_COUNT,),
        ),
        Parameter(
            name="net.netfilter.nf_conntrack_buckets",
            want=_buckets,
            formula="as nf_conntrack_max",
            reason="The hash table's size. The default is 262,144 at the most; with four million entries that is "
            "chains of 32 for every packet. Only the host's own network namespace may set it.",
            cost="8 bytes a bucket, at once.",
            symptom="`perf top` shows __nf_conntrack_find_get.",
            look="`sysctl net.netfilter.nf_conntrack_buckets`",
            source=sources.CONNTRACK,
        ),
        Parameter(
            name="net.netfilter.nf_conntrack_tcp_timeout_established",
            want=_established,
            formula="86400 or less",
            reason="How long an idle connection is remembered. The default is five days, for which a client that "
            "vanished keeps its entry. It must be longer than the longest silence of a live one.",
            cost="A connection that is silent for longer is cut off.",
            symptom="The table grows from day to day.",
            look="`conntrack -L | awk '{print $4}' | sort | uniq -c`",
            source=sources.CONNTRACK,
        ),
        Parameter(
            name="net.netfilter.nf_conntrack_tcp_timeout_time_wait",
            want=_time_wait,
            formula="30 or less",
            reason="How long an entry outlives its connection. At many connections a second these are most of "
            "the table.",
            cost="None that was seen.",
            symptom="Most entries are TIME_WAIT.",
            look="`conntrack -L | grep -c TIME_WAIT`",
            source=sources.CONNTRACK,
        ),
    ),
)
