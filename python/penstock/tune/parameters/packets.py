"""Packets: how they get from the interface to a CPU, and at what pace they leave."""

from __future__ import annotations

import math

from ..arithmetic import counted, many, power_of_two
from ..goal import Goal
from ..machine import NUMA, Machine
from ..parameter import By, Group, Parameter, Rule, Want
from . import sources

AVAILABLE = "/proc/sys/net/ipv4/tcp_available_congestion_control"
CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"
BUDGET_US = "/proc/sys/net/core/netdev_budget_usecs"
# What one CPU takes from the wire at the best.
PACKETS_PER_CPU = 1_000_000
FLOWS = 32_768
FAR_MS = 10


def _backlog(machine: Machine, _: Goal) -> Want:
    turn_us = machine.number(BUDGET_US, 2000)
    value = max(4096, power_of_two(PACKETS_PER_CPU * turn_us // 1_000_000))
    told = f"{many(PACKETS_PER_CPU)} packets a second x {many(turn_us)} us of one round"
    return Want(value=str(value), arithmetic=told, cost=f"{many(value)} packets a CPU at the most, in a burst")


def _budget(machine: Machine, _: Goal) -> Want | None:
    """Only where the kernel has counted that it mattered."""
    squeezed = machine.counters.get("softnet:time_squeeze", 0)
    if squeezed < 1000:
        return None
    return Want(value="600", arithmetic=f"{many(squeezed)} rounds since the boot ended with packets left")


def _is_steered(machine: Machine) -> bool:
    """Fewer queues than CPUs: some CPUs see no packets unless others pass them on."""
    return 0 < machine.queues() < machine.cpus_online


def _flow_entries(machine: Machine, goal: Goal) -> Want | None:
    if not _is_steered(machine):
        return None
    value = min(1 << 20, max(FLOWS, power_of_two(goal.opened_per_s)))
    return Want(
        value=str(value),
        arithmetic="32,768, or one for each connection that is active within a second",
        cost=f"{many(value)} x 4 B",
    )


def _queue_flows(machine: Machine, goal: Goal) -> Want | None:
    entries = _flow_entries(machine, goal)
    if entries is None:
        return None
    value = power_of_two(math.ceil(int(entries.value) / machine.queues()))
    told = f"{many(int(entries.value))} / {counted(machine.queues(), 'queue')}"
    return Want(value=str(value), arithmetic=told, cost=f"{many(value)} x 8 B a queue")


def _queue_cpus(machine: Machine, _: Goal) -> Want | None:
    if not _is_steered(machine):
        return None
    told = f"all {machine.cpus_online} CPUs, which are more than {counted(machine.queues(), 'queue')}"
    return Want(value=_mask(machine.cpus_online), arithmetic=told, rule=Rule.EXACTLY)


def _mask(cpus: int) -> str:
    """A bit for each, in words of 32 as the kernel writes them."""
    digits = f"{(1 << cpus) - 1:x}"
    first = len(digits) % 8 or 8
    words = [digits[:first], *(digits[at : at + 8] for at in range(first, len(digits), 8))]
    return ",".join(words)


def _congestion(machine: Machine, goal: Goal) -> Want | None:
    now = machine.readings.get(CONGESTION)
    if now is None or goal.profile.many_idle:
        return None
    if goal.profile.name != "bulk" or goal.rtt_ms < FAR_MS:
        return Want(value=now, arithmetic="any: short transfers hardly leave slow start", rule=Rule.EXACTLY)
    if "bbr" not in machine.readings.get(AVAILABLE, "").split():
        return Want(value=now, arithmetic="bbr would be better, and is not loaded: modprobe tcp_bbr", rule=Rule.EXACTLY)
    return Want(
        value="bbr", arithmetic=f"{many(goal.rtt_ms)} ms round trip, where loss is not congestion", rule=Rule.EXACTLY
    )


def _qdisc(machine: Machine, goal: Goal) -> Want | None:
    wants_bbr = _congestion(machine, goal)
    control = wants_bbr.value if wants_bbr else machine.readings.get(CONGESTION, "")
    if control != "bbr":
        return None
    return Want(
        value="fq", arithmetic="bbr paces what it sends, and fq does it without a timer a socket", rule=Rule.EXACTLY
    )


def _mtu_probing(_: Machine, goal: Goal) -> Want | None:
    if goal.profile.many_idle:
        return None
    return Want(value="1", arithmetic="only once a black hole is noticed")


def _numa(machine: Machine, _: Goal) -> Want | None:
    if machine.numa_nodes < 2:
        return None
    return Want(
        value=str(machine.numa_nodes),
        arithmetic=f"{machine.numa_nodes} nodes: a unit for each, with CPUAffinity= and NUMAPolicy=local",
        rule=Rule.EXACTLY,
    )


GROUP = Group(
    title="Packets",
    teaches="""\
An interface puts packets into receive queues, and each queue interrupts one CPU. With as many queues as CPUs the
hardware spreads the work (`ethtool -l` shows and sets them): then nothing here is needed. With one queue, as in many
virtual machines, one CPU takes every packet, and is full while others idle. RPS has that CPU pass packets on to
others; RFS picks the one where the worker runs that will read them.

`/proc/net/softnet_stat` has a line for each CPU, in hexadecimal: packets, then those dropped because the CPU's
backlog was full, then rounds that ended with packets left. `mpstat -P ALL 1` shows a CPU whose %soft is at 100.""",
    parameters=(
        Parameter(
            name="net.core.netdev_max_backlog",
            want=_backlog,
            formula="1,000,000 packets a second x netdev_budget_usecs, a power of two from 4,096",
            reason="Packets that may wait for a CPU: those that RPS passes on, and everything on loopback. A broadcast "
            "to many connections on loopback fills it in one turn.",
            cost="Memory for as many packets, for each CPU, in a burst.",
            symptom="Retransmissions without loss on the wire; the second column of softnet_stat grows.",
            look="`cat /proc/net/softnet_stat`",
            source=sources.SYSCTL_NET,
            counter="softnet:dropped",
            beside=(BUDGET_US,),
        ),
        Parameter(
            name="net.core.netdev_budget",
            want=_budget,
            formula="600, where 1,000 rounds or more ended with packets left",
            reason="Packets that one round takes from all interfaces before others may run.",
            cost="Latency of whatever else runs on that CPU.",
            symptom="The third column of softnet_stat grows by thousands.",
            look="`cat /proc/net/softnet_stat`",
            source=sources.SYSCTL_NET,
            counter="softnet:time_squeeze",
        ),
        Parameter(
            name="net.core.rps_sock_flow_entries",
            want=_flow_entries,
            formula="32,768, or the connections active in a second, a power of two; where queues < CPUs",
            reason="RFS: which CPU each flow's reader was last seen on. Without the next two it does nothing.",
            cost="4 bytes an entry.",
            symptom="With RPS alone: packets are handled on one CPU and read on another.",
            look="`sysctl net.core.rps_sock_flow_entries`",
            source=sources.SCALING,
        ),
        Parameter(
            name="rps_flow_cnt",
            place="/sys/class/net/*/queues/rx-*/rps_flow_cnt",
            by=By.FILE,
            want=_queue_flows,
            formula="rps_sock_flow_entries / queues",
            reason="RFS: each queue's share of the flows.",
            cost="8 bytes an entry.",
            symptom="As above.",
            look="`cat /sys/class/net/*/queues/rx-*/rps_flow_cnt`",
            source=sources.SCALING,
        ),
        Parameter(
            name="rps_cpus",
            place="/sys/class/net/*/queues/rx-*/rps_cpus",
            by=By.FILE,
            want=_queue_cpus,
            formula="a bit for each CPU; where queues < CPUs",
            reason="RPS: the CPUs that this queue's packets are passed on to.",
            cost="An interrupt from CPU to CPU for each batch, so it is not for a machine whose one CPU is not full.",
            symptom="One CPU at 100% in %soft, the others idle.",
            look="`mpstat -P ALL 1`, `grep NET_RX /proc/softirqs`",
            source=sources.SCALING,
        ),
        Parameter(
            name="net.ipv4.tcp_congestion_control",
            want=_congestion,
            formula="bbr for bulk over 10 ms or more, where it is loaded; else what is there",
            reason="Who decides how much is on its way. cubic takes every loss for congestion, and on a long path with "
            "a little loss never fills it; bbr measures the path instead.",
            cost="bbr takes more than its share beside cubic where buffers on the path are small.",
            symptom="Throughput falls with the round trip although windows are large; `ss -ti` shows a small cwnd.",
            look="`ss -ti` (bbr:, cwnd, retrans)",
            source=sources.IP_SYSCTL,
            beside=(AVAILABLE,),
        ),
        Parameter(
            name="net.core.default_qdisc",
            want=_qdisc,
            formula="fq, with bbr",
            reason="How packets wait to leave. fq spaces them as the sender asked. It concerns interfaces that come up "
            "afterwards; for one that is up: `tc qdisc replace dev eth0 root fq`.",
            cost="A few percent of CPU for the sorting; without it, a timer for each socket that sends.",
            symptom="Bursts that overflow a switch's buffers.",
            look="`tc -s qdisc show`",
            source=sources.SYSCTL_NET,
        ),
        Parameter(
            name="net.ipv4.tcp_mtu_probing",
            want=_mtu_probing,
            formula="1 or more, for web and bulk",
            reason="Finds the packet size by trying, where a firewall drops the messages that would have told it.",
            cost="Nothing until a connection stalls.",
            symptom="Small responses arrive, large ones hang, for some clients only.",
            look="`nstat -az TcpExtTCPMTUPFail TcpExtTCPMTUPSuccess`",
            source=sources.IP_SYSCTL,
        ),
        Parameter(
            name="NUMA nodes",
            place=NUMA,
            by=By.HAND,
            want=_numa,
            formula="a unit for each node",
            reason="Memory of the other node is half as fast again. Run workers on the node whose memory they use, and "
            "the interface's interrupts on its own (`cat /sys/class/net/eth0/device/numa_node`).",
            cost="A unit for each node.",
            symptom="Throughput differs from one start to the next.",
            look="`numastat -p PID`",
            source=sources.NUMA,
        ),
    ),
)
