"""Liveness: peers that are gone without a word, and connections that rested."""

from __future__ import annotations

from ..arithmetic import many
from ..goal import Goal
from ..machine import Machine
from ..parameter import Group, Parameter, Rule, Want
from . import sources

FIRST_S, EACH_S, PROBES = 300, 30, 4


def _is_kept_open(goal: Goal) -> bool:
    return goal.profile.many_idle


def _time(_: Machine, goal: Goal) -> Want | None:
    if not _is_kept_open(goal):
        return None
    return Want(
        value=str(FIRST_S),
        arithmetic=f"a dead peer is known after {FIRST_S} + {PROBES} x {EACH_S} = {FIRST_S + PROBES * EACH_S} s",
        rule=Rule.AT_MOST,
        cost=f"{many(goal.sockets)} / {FIRST_S} s = {many(goal.sockets // FIRST_S)} probes a second, if all ask",
    )


def _interval(_: Machine, goal: Goal) -> Want | None:
    return Want(value=str(EACH_S), arithmetic="see above", rule=Rule.AT_MOST) if _is_kept_open(goal) else None


def _probes(_: Machine, goal: Goal) -> Want | None:
    return Want(value=str(PROBES), arithmetic="see above", rule=Rule.AT_MOST) if _is_kept_open(goal) else None


def _retries(_: Machine, goal: Goal) -> Want | None:
    if not _is_kept_open(goal):
        return None
    return Want(value="8", arithmetic="about 100 s, the least that RFC 1122 allows", rule=Rule.AT_MOST)


def _idle_restart(*_: object) -> Want:
    return Want(value="0", arithmetic="after a rest a connection goes on as fast as it was", rule=Rule.EXACTLY)


GROUP = Group(
    title="Liveness",
    teaches="""\
A peer that loses its power says nothing. Its connection stays, and takes memory, until somebody speaks: TCP's
keep-alive where the socket asks for it (SO_KEEPALIVE), or a heartbeat of the application's own, which is better,
because it also notices an application that hangs, and works through proxies. These settings are what a socket gets
that asks for keep-alive and does not say more; a default of two hours finds nobody in time. Addresses that are
translated on the way (NAT) forget idle connections after minutes, mobile networks often after five, so heartbeats
come more often than that.""",
    parameters=(
        Parameter(
            name="net.ipv4.tcp_keepalive_time",
            want=_time,
            formula="300 or less, for a gateway",
            reason="Seconds of silence until the first probe, for sockets with SO_KEEPALIVE. Below the five minutes "
            "after which many networks forget.",
            cost="sockets / 300 s probes a second, about 1 us of CPU and 40 bytes each way.",
            symptom="`ss` shows established connections to machines that are gone.",
            look="`ss -nto` (timer:keepalive)",
            source=sources.TCP,
        ),
        Parameter(
            name="net.ipv4.tcp_keepalive_intvl",
            want=_interval,
            formula="30 or less, for a gateway",
            reason="Seconds from one unanswered probe to the next.",
            cost="Probes to those that do not answer, only.",
            symptom="As above.",
            look="`ss -nto` (timer:keepalive)",
            source=sources.TCP,
        ),
        Parameter(
            name="net.ipv4.tcp_keepalive_probes",
            want=_probes,
            formula="4 or less, for a gateway",
            reason="Unanswered probes until the connection is given up.",
            cost="Too few, and a short outage ends connections that would have lived.",
            symptom="As above.",
            look="`nstat -az TcpExtTCPAbortOnTimeout`",
            source=sources.TCP,
        ),
        Parameter(
            name="net.ipv4.tcp_retries2",
            want=_retries,
            formula="8 or less, for a gateway",
            reason="How often data that nobody acknowledges is sent again. Each time takes twice as long: 15, the "
            "default, is a quarter of an hour in which a dead connection keeps what was sent to it.",
            cost="Connections do not survive outages of more than about 100 s.",
            symptom="Connections that stay for 15 minutes with a Send-Q.",
            look="`ss -nto` (timer:on), `nstat -az TcpExtTCPAbortOnTimeout`",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="net.ipv4.tcp_slow_start_after_idle",
            want=_idle_restart,
            formula="0",
            reason="With 1, a connection that rested begins slowly again, as if nothing were known of its path: the "
            "first large response after a pause takes several round trips more.",
            cost="A burst into a path that may have changed meanwhile.",
            symptom="The first response on a kept-alive connection is slower than the second.",
            look="`ss -ti` (cwnd) after a pause",
            source=sources.IP_SYSCTL,
        ),
    ),
)
