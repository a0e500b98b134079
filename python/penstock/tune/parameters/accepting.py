"""Accepting: the two queues between a SYN and `accept`."""

from __future__ import annotations

from ..arithmetic import many, power_of_two, size
from ..goal import Goal
from ..machine import Machine
from ..memory import HALF_OPEN
from ..parameter import Group, Parameter, Rule, Want
from . import sources

# How long a worker may be away from its listener: a long handler, a garbage collection, a busy neighbour.
AWAY_S = 0.25


def _somaxconn(_: Machine, goal: Goal) -> Want:
    value = min(65_535, max(4096, power_of_two(int(goal.opened_per_s * AWAY_S))))
    told = f"{many(goal.opened_per_s)} opened a second x {AWAY_S} s; serve with --backlog {value}"
    return Want(
        value=str(value),
        arithmetic=told,
        cost=f"nothing until they wait; then a whole socket each, {many(value)} at the most",
    )


def _syn_backlog(_: Machine, goal: Goal) -> Want:
    value = max(1024, power_of_two(int(goal.opened_per_s * goal.rtt_ms / 1000 * 2)))
    return Want(
        value=str(value),
        arithmetic=f"{many(goal.opened_per_s)} opened a second x {many(goal.rtt_ms)} ms round trip x 2",
        cost=f"{many(value)} x {HALF_OPEN} B = {size(value * HALF_OPEN)} a listener in a flood",
    )


def _syncookies(*_: object) -> Want:
    return Want(value="1", arithmetic="on, but only when the queue is full")


def _abort(*_: object) -> Want:
    return Want(value="0", arithmetic="off", rule=Rule.EXACTLY)


def _fast_open(_: Machine, goal: Goal) -> Want | None:
    if goal.profile.many_idle:
        return None
    return Want(value="1", arithmetic="clients may use it; a server's side (2) only for a listener that asks for it")


GROUP = Group(
    title="Accepting",
    teaches="""\
Two queues lie between a client's SYN and the server's `accept`. The first holds connections that are half open, for
one round trip; the second those that are open and wait to be accepted. Both are as long as the *least* of three
numbers: what the server asked of `listen(2)` (`--backlog`), `net.core.somaxconn`, and for the first queue, where SYN
cookies are off, `net.ipv4.tcp_max_syn_backlog`.

When the second is full the kernel drops the last packet of the handshake without a word. The client believes that it
is connected and waits; it is a second or more until a retransmission finds room. So an overflow is not seen as an
error but as latency of 1, 3 or 7 seconds in a few connections out of a thousand. `ss -lnt` shows the queue (Recv-Q)
beside its bound (Send-Q); `nstat -az TcpExtListenOverflows TcpExtListenDrops` counts what was lost.""",
    parameters=(
        Parameter(
            name="net.core.somaxconn",
            want=_somaxconn,
            formula="connections opened a second x 0.25 s, a power of two from 4,096 to 65,535",
            reason="The bound on every listener's backlog. It has to hold what arrives while the worker is away: in a "
            "handler, in a garbage collection, off its CPU. A longer queue than the worker can empty in a client's "
            "patience only serves clients that have left.",
            cost="Nothing while it is empty. A connection that waits is a whole socket, about 4 KB.",
            symptom="Connecting takes 1, 3 or 7 s, sometimes. `ss -lnt`: Recv-Q at Send-Q.",
            look="`ss -lnt`, `nstat -az TcpExtListenOverflows TcpExtListenDrops`",
            source=sources.LISTEN,
            counter="TcpExt:ListenOverflows",
        ),
        Parameter(
            name="net.ipv4.tcp_max_syn_backlog",
            want=_syn_backlog,
            formula="connections opened a second x round trip x 2, a power of two from 1,024",
            reason="Half-open connections of one listener. Each stays for one round trip; twice that leaves room for "
            "packets that were lost.",
            cost="320 bytes for each one that is half open.",
            symptom="`TCP: request_sock_TCP: Possible SYN flooding on port N` in the kernel's log without an attack.",
            look="`ss -nt state syn-recv | wc -l`, `nstat -az TcpExtTCPReqQFullDoCookies`",
            source=sources.IP_SYSCTL,
            counter="TcpExt:TCPReqQFullDoCookies",
        ),
        Parameter(
            name="net.ipv4.tcp_syncookies",
            want=_syncookies,
            formula="1",
            reason="When the queue of half-open connections is full, answer without keeping anything, so that a flood "
            "does not lock others out. It is the last resort and no way to serve many: a connection made by a cookie "
            "may have lost its window scaling and selective acknowledgements.",
            cost="A hash for each SYN, only while the queue is full.",
            symptom="With 0, a SYN flood makes the port unreachable.",
            look="`nstat -az TcpExtSyncookiesSent TcpExtSyncookiesRecv`",
            source=sources.IP_SYSCTL,
            counter="TcpExt:SyncookiesSent",
        ),
        Parameter(
            name="net.ipv4.tcp_abort_on_overflow",
            want=_abort,
            formula="0",
            reason="With 1, a full backlog answers with a reset. A burst that a second would have healed becomes "
            "errors that users see.",
            cost="Nothing.",
            symptom="With 1: `Connection reset by peer` on connecting, in bursts.",
            look="`sysctl net.ipv4.tcp_abort_on_overflow`",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="net.ipv4.tcp_fastopen",
            want=_fast_open,
            formula="at least 1",
            reason="Bits: 1 lets clients send data in their SYN, 2 lets servers take it. It saves a round trip for a "
            "client that comes again, and only where the listener asks for it. The data may arrive twice, so it is "
            "for requests that may be repeated; and many networks drop such SYNs.",
            cost="A queue for each listener that asks.",
            symptom="None: without it connections open as they always did.",
            look="`nstat -az | grep FastOpen`",
            source=sources.IP_SYSCTL,
        ),
    ),
)
