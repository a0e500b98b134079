"""Descriptors: each connection is one, in a process's table and in the kernel's."""

from __future__ import annotations

import math

from ..arithmetic import counted, many, rounded, size
from ..goal import Goal
from ..machine import NOFILE, Machine
from ..parameter import By, Group, Parameter, Want
from . import sources

# A worker's own: listeners, pollers, logs, the application's files and connections to databases.
OWN_FILES = 512
# Of a reactor's slab; each chunk is a mapping.
SLOTS_PER_CHUNK = 4096
# Shares are even within this.
UNEVEN = 1.1
STEP = 256


def per_worker(goal: Goal) -> int:
    return rounded(math.ceil(goal.sockets / goal.workers * UNEVEN) + OWN_FILES, STEP)


def _per_worker_told(goal: Goal) -> str:
    return f"{many(goal.sockets)} sockets / {counted(goal.workers, 'worker')} x {UNEVEN} + {OWN_FILES}"


def _nofile(machine: Machine, goal: Goal) -> Want:
    arithmetic = _per_worker_told(goal)
    limit = machine.nofile_hard
    if limit < per_worker(goal) and limit > 2 * OWN_FILES and not machine.may_raise_limits:
        enough = math.ceil(goal.sockets * UNEVEN / (limit // STEP * STEP - OWN_FILES - 1))
        arithmetic += f"; where {many(limit)} cannot be raised: --workers {enough}"
    return Want(
        value=str(per_worker(goal)),
        arithmetic=arithmetic,
        needed=True,
        cost=f"{many(per_worker(goal))} x 8 B = {size(per_worker(goal) * 8)} a worker, once they are open",
    )


def _nr_open(_: Machine, goal: Goal) -> Want:
    return Want(value=str(per_worker(goal)), arithmetic="as RLIMIT_NOFILE, which it bounds", needed=True)


def _file_max(machine: Machine, goal: Goal) -> Want:
    value = rounded(goal.sockets + goal.workers * OWN_FILES + machine.files_open)
    told = (
        f"{many(goal.sockets)} + {counted(goal.workers, 'worker')} x {OWN_FILES} + {many(machine.files_open)} open now"
    )
    return Want(value=str(value), arithmetic=told, needed=True)


def _epoll_watches(_: Machine, goal: Goal) -> Want:
    value = rounded(goal.sockets + goal.workers * OWN_FILES)
    return Want(
        value=str(value),
        arithmetic=f"{many(goal.sockets)} + {counted(goal.workers, 'worker')} x {OWN_FILES}",
        needed=True,
        cost=f"{many(value)} x 200 B = {size(value * 200)}, within what a socket is counted with",
    )


def _map_count(_: Machine, goal: Goal) -> Want:
    chunks = math.ceil(goal.sockets / goal.workers / SLOTS_PER_CHUNK)
    return Want(
        value=str(max(65_530, rounded(chunks * 2 + 4096))),
        arithmetic=f"65,530, or {counted(chunks, 'chunk')} of slots a worker x 2 + 4,096",
    )


GROUP = Group(
    title="Descriptors",
    teaches="""\
A connection is a descriptor. Three limits stand behind one another: the process's own (`RLIMIT_NOFILE`), the most
that a process's limit may be raised to (`fs.nr_open`), and the whole machine's (`fs.file-max`). Raising the last and
forgetting the first is the commonest mistake of all; `ulimit -n` in a shell says nothing about a service, whose
limits are those of its systemd unit.

At its limit a process cannot accept. The connection stays in the backlog, so a poller reports the listener readable
again at once, and a server that does not think of it spins at 100% of a CPU. A Penstock worker that has 64 left leaves
new connections to the others, if one has more, and what the application opens finds those. Where there is no other it
keeps one descriptor in reserve, with which it closes one peer that waits, so that it learns at once; then it leaves
the listener alone for a while.""",
    parameters=(
        Parameter(
            name="RLIMIT_NOFILE",
            place=NOFILE,
            by=By.UNIT,
            want=_nofile,
            formula="sockets / workers x 1.1 + 512",
            reason="The descriptors that one process may have. Each worker has its share of the connections, a tenth "
            "more because shares are never quite even, and 512 for what is not a connection.",
            cost="8 bytes for each descriptor in the process's table, which doubles as it grows.",
            symptom="`accept4: Too many open files` (EMFILE); new connections hang until a client gives up, while "
            "those that are open are well.",
            look="`grep 'open files' /proc/PID/limits`, `ls /proc/PID/fd | wc -l`",
            source=sources.GETRLIMIT,
        ),
        Parameter(
            name="fs.nr_open",
            want=_nr_open,
            formula="at least RLIMIT_NOFILE",
            reason="The most that RLIMIT_NOFILE can be set to, by anybody. The default, 1,048,576, is enough for a "
            "million connections in one process, and not for more.",
            cost="Nothing: it is only a bound.",
            symptom="setrlimit fails with EPERM although root asks; systemd logs it, and lowers LimitNOFILE.",
            look="`sysctl fs.nr_open`",
            source=sources.SYSCTL_FS,
        ),
        Parameter(
            name="fs.file-max",
            want=_file_max,
            formula="sockets + workers x 512 + the files that are open now",
            reason="The open files of the whole machine. Root may go beyond it, so a test as root proves nothing.",
            cost="Nothing by itself; a file is 195 bytes, counted with its socket.",
            symptom="ENFILE, `VFS: file-max limit N reached` in the kernel's log; every program on the machine "
            "suffers.",
            look="`cat /proc/sys/fs/file-nr`: open, unused, and the limit",
            source=sources.SYSCTL_FS,
        ),
        Parameter(
            name="fs.epoll.max_user_watches",
            want=_epoll_watches,
            formula="sockets + workers x 512",
            reason="How many descriptors one user's pollers may watch in all. The default is 4% of low memory.",
            cost="200 bytes a watch (eventpoll_epi and eventpoll_pwq), counted with the socket.",
            symptom="`epoll_ctl: No space left on device` (ENOSPC), which sends people looking at their disks.",
            look="`sysctl fs.epoll.max_user_watches`",
            source=sources.EPOLL,
        ),
        Parameter(
            name="vm.max_map_count",
            want=_map_count,
            formula="65,530, or twice the chunks of slots in a worker + 4,096",
            reason="Mappings of one process. Penstock's slots live in mapped chunks; beside them come threads' stacks "
            "and libraries.",
            cost="About 200 bytes for each mapping that is in use.",
            symptom="mmap fails with ENOMEM while memory is free.",
            look="`wc -l /proc/PID/maps`",
            source=sources.SYSCTL_VM,
        ),
    ),
)
