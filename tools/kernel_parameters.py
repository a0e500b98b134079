"""The guide to the kernel's parameters, made from the table that `penstock tune` advises by: docs/kernel-parameters.md.

The worked values are those of one machine that there is none of, so that the page is the same wherever it is made.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.tune import GROUPS, PROFILES, By, Group, Machine, Parameter, Plan, goal_for, plan_for
from penstock.tune.arithmetic import many, size
from penstock.tune.machine import MEMORY, NOFILE, NUMA
from penstock.tune.report import shown

_HEAD = """\
# Kernel parameters

<!-- Made by `make docs` from python/penstock/tune/parameters: change it there. -->

What Linux must be told to hold many connections, in the order in which to see to it: a limit that is met earlier hides
those behind it. Each parameter has its formula, so that it can be worked out for any goal;
[`penstock tune`](tune.md) does that for the machine it runs on, and sets them.

Three rules come before all of them.

1. **Measure, then set.** Each parameter below names what to look at. A counter that stands still needs no setting.
2. **A bound costs nothing, a table does.** Most of these only allow something. Those that reserve memory say how much.
3. **What works is what is in force.** A sysctl belongs to a network namespace, a limit to a process: look inside the
   container, and at `/proc/PID/limits`, not at your shell's.

## First aid

| what is seen | look | then |
| --- | --- | --- |
"""

# What users see first, where to look, and the parameters to read about.
_SYMPTOMS = (
    (
        "connecting takes 1, 3 or 7 s, sometimes",
        "`ss -lnt`: Recv-Q at Send-Q; `nstat -az TcpExtListenOverflows`",
        "net.core.somaxconn",
    ),
    (
        "`Too many open files`, or a CPU at 100% near it",
        "`ls /proc/PID/fd | wc -l`, `grep 'open files' /proc/PID/limits`",
        "RLIMIT_NOFILE",
    ),
    (
        "`Cannot assign requested address`",
        "`ss -s`: timewait; `ss -nt dst ADDRESS | wc -l`",
        "net.ipv4.ip_local_port_range",
    ),
    ("new connections time out, old ones are well", "`dmesg | grep conntrack`", "net.netfilter.nf_conntrack_max"),
    ("everything stalls at once", "`dmesg | grep 'out of memory'`, `cat /proc/net/sockstat`", "net.ipv4.tcp_mem"),
    ("a download stays far below the line's speed", "`ss -tmi`: rcv_space, cwnd, sndbuf_limited", "net.ipv4.tcp_rmem"),
    ("datagrams are lost while the CPU is idle", "`nstat -az UdpRcvbufErrors`", "net.core.rmem_max"),
    ("one CPU is full, the others idle", "`mpstat -P ALL 1`: %soft", "rps_cpus"),
    ("connections to machines that are gone", "`ss -nto`: timer", "net.ipv4.tcp_keepalive_time"),
)


def reference_machine() -> Machine:
    """8 CPUs, 32 GiB, one interface with one queue, and Linux's own defaults."""
    defaults = {
        "fs/nr_open": "1048576",
        "fs/file-max": "3262144",
        "fs/epoll/max_user_watches": "7200000",
        "vm/max_map_count": "65530",
        "vm/overcommit_memory": "0",
        "net/core/somaxconn": "4096",
        "net/core/rmem_max": "212992",
        "net/core/wmem_max": "212992",
        "net/core/netdev_max_backlog": "1000",
        "net/core/netdev_budget": "300",
        "net/core/netdev_budget_usecs": "2000",
        "net/core/default_qdisc": "fq_codel",
        "net/core/rps_sock_flow_entries": "0",
        "net/ipv4/tcp_max_syn_backlog": "2048",
        "net/ipv4/tcp_syncookies": "1",
        "net/ipv4/tcp_abort_on_overflow": "0",
        "net/ipv4/tcp_fastopen": "1",
        "net/ipv4/ip_local_port_range": "32768 60999",
        "net/ipv4/tcp_tw_reuse": "2",
        "net/ipv4/tcp_max_tw_buckets": "131072",
        "net/ipv4/tcp_fin_timeout": "60",
        "net/ipv4/tcp_max_orphans": "131072",
        "net/ipv4/tcp_ehash_entries": "262144",
        "net/ipv4/tcp_mem": "380000 510000 760000",
        "net/ipv4/tcp_rmem": "4096 131072 6291456",
        "net/ipv4/tcp_wmem": "4096 16384 4194304",
        "net/ipv4/udp_mem": "760000 1013000 1520000",
        "net/ipv4/tcp_keepalive_time": "7200",
        "net/ipv4/tcp_keepalive_intvl": "75",
        "net/ipv4/tcp_keepalive_probes": "9",
        "net/ipv4/tcp_retries2": "15",
        "net/ipv4/tcp_slow_start_after_idle": "1",
        "net/ipv4/tcp_congestion_control": "cubic",
        "net/ipv4/tcp_available_congestion_control": "reno cubic bbr",
        "net/ipv4/tcp_mtu_probing": "0",
        "net/netfilter/nf_conntrack_max": "262144",
        "net/netfilter/nf_conntrack_count": "1200",
        "net/netfilter/nf_conntrack_buckets": "262144",
        "net/netfilter/nf_conntrack_tcp_timeout_established": "432000",
        "net/netfilter/nf_conntrack_tcp_timeout_time_wait": "120",
    }
    queue = "/sys/class/net/eth0/queues/rx-0"
    return Machine(
        kernel="6.12",
        cpus_online=8,
        memory_total=32 << 30,
        nofile_soft=1024,
        nofile_hard=524_288,
        may_raise_limits=True,
        files_open=4000,
        interfaces=("eth0",),
        readings={
            **{f"/proc/sys/{name}": value for name, value in defaults.items()},
            "/sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
            f"{queue}/rps_cpus": "00",
            f"{queue}/rps_flow_cnt": "0",
            NOFILE: "524288",
            MEMORY: str(32 << 30),
            NUMA: "1",
        },
    )


def page() -> str:
    plans = [plan_for(reference_machine(), goal_for(reference_machine(), name)) for name in PROFILES]
    first_aid = "\n".join(
        f"| {seen} | {_cell_text(look)} | [`{name}`](#{_anchor(name)}) |" for seen, look, name in _SYMPTOMS
    )
    sections = [_section(number, group, plans) for number, group in enumerate(GROUPS, 1)]
    return "\n\n".join([_HEAD + first_aid, _goals(plans), *sections]) + "\n"


def _goals(plans: list[Plan]) -> str:
    """The three goals that the tables are worked out for, and what they take."""
    lines = [
        "## Three goals, worked out",
        "",
        "The tables below give each value for three goals on a machine with 8 CPUs, 32 GiB, one receive queue and",
        "Linux's defaults; a dash means that the parameter does not matter there, and **bold** that the default would",
        "not do.",
        "",
        "| profile | means | connections | opened a second | buffered by each, at the peak | fastest one |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for plan in plans:
        goal = plan.goal
        lines.append(
            f"| `{goal.profile.name}` | {goal.profile.meaning} | {many(goal.connections)} | {many(goal.opened_per_s)} "
            f"| {size(goal.profile.buffered)} | {many(goal.mbit)} Mbit/s at {many(goal.rtt_ms)} ms |"
        )
    lines += ["", "What they take:", "", "| memory | gateway | web | bulk |", "| --- | --- | --- | --- |"]
    for costs in zip(*(plan.memory for plan in plans), strict=True):
        what = costs[0].what.replace(" of gateway", "")
        told = (f"{cost.arithmetic} = {size(cost.bytes)}" for cost in costs)
        lines.append(f"| {what} | {' | '.join(told)} |")
    return "\n".join(lines)


def _section(number: int, group: Group, plans: list[Plan]) -> str:
    head = [f"## {number}. {group.title}", "", group.teaches, "", "| parameter | default | gateway | web | bulk |"]
    rows = ["| --- | --- | --- | --- | --- |", *(_row(parameter, plans) for parameter in group.parameters)]
    entries = "\n\n".join(_entry(parameter) for parameter in group.parameters)
    return "\n".join([*head, *rows]) + "\n\n" + entries


def _row(parameter: Parameter, plans: list[Plan]) -> str:
    cells = [_cell(parameter, plan) for plan in plans]
    now = next((each.now for plan in plans for each in plan.advice if each.parameter is parameter), None)
    default = next((shown(each, now) for plan in plans for each in plan.advice if each.parameter is parameter), "-")
    return f"| [`{parameter.name}`](#{_anchor(parameter.name)}) | {default} | {' | '.join(cells)} |"


def _cell(parameter: Parameter, plan: Plan) -> str:
    for each in plan.advice:
        if each.parameter is parameter:
            return f"**{shown(each, each.wanted)}**" if each.is_due else shown(each, each.want.value)
    return "-"


def _entry(parameter: Parameter) -> str:
    return "\n".join(_entry_lines(parameter))


def _entry_lines(parameter: Parameter) -> Iterator[str]:
    yield f"### `{parameter.name}`"
    yield ""
    yield parameter.reason
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    facts = {
        "should be": parameter.formula,
        "costs": parameter.cost,
        "if it is wrong": parameter.symptom,
        "look": _cell_text(parameter.look),
        "is at": f"`{parameter.place}`, set {_by(parameter)}",
        "source": f"<{parameter.source}>",
    }
    for name, fact in facts.items():
        yield f"| {name} | {fact} |"


def _by(parameter: Parameter) -> str:
    return parameter.by if parameter.by is By.HAND else f"by {parameter.by}"


def _cell_text(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(name: str) -> str:
    """As GitHub makes them from a heading."""
    kept = (letter for letter in name.lower() if letter.isalnum() or letter in "_- ")
    return "".join(kept).replace(" ", "-")
