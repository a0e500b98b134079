"""Who holds how many connections, from which addresses, and whether the machine has room for it. Pure, but for `room`.

Processes come in pairs, a server and a client that holds all of its connections: so each end has exactly as many as it
may have descriptors for, whatever the kernel would have made of a shared listener.
"""

from __future__ import annotations

import ipaddress
import math
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import ConfigError
from ...tune.arithmetic import counted, many, size
from ...tune.memory import SOCKET
from ..outcome import BenchError

Protocol = Literal["tcp", "http"]

# What a process has besides its connections: the interpreter's files, listeners, pollers, and some to spare.
OWN_FILES = 256
# Of the memory that is available, what is left alone.
SPARED = 0.06
# A connection's two ends in user space, and a process before it has any; both with room for what is not foreseen.
USER = 300
PROCESS = 14 << 20
# One source address and one server's port have as many connections as there are ports in the range. `connect` looks
# through every second port first, so it slows down where half of them are taken.
USABLE_PORTS = 0.5
# 127.64.0.0/10: four million addresses that nobody else has a use for.
FIRST_SOURCE = int(ipaddress.IPv4Address("127.64.0.1"))
MOST = 16_000_000


@dataclass(frozen=True, kw_only=True)
class CrowdLoad:
    """What is to be held, and what is done with it meanwhile. Times are in seconds; `heartbeat_s` of 0 is none."""

    target: int
    protocol: Protocol = "tcp"
    hold_s: float = 10.0
    heartbeat_s: float = 30.0
    broadcast: bool = False
    answer_timeout_s: float = 30.0

    @property
    def title(self) -> str:
        tcp, http = "framed TCP to a Python handler", "HTTP keep-alive behind an ASGI application"
        kind = tcp if self.protocol == "tcp" else http
        return f"{counted(self.target, 'connection')}: {kind}"


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the machine has. Descriptors are those of one process, files and watches those of all."""

    cpus: int
    descriptors: int
    files: int
    watches: int
    memory: int
    ports: int


@dataclass(frozen=True)
class Pair:
    """A server and its client: how many connections they share, and from where."""

    number: int
    connections: int
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    pairs: tuple[Pair, ...]
    memory_needed: int
    memory_there: int

    @property
    def lines(self) -> list[str]:
        pairs, most = len(self.pairs), max(pair.connections for pair in self.pairs)
        addresses = sum(len(pair.sources) for pair in self.pairs)
        each = f"{many(most)} connections each" if pairs == 1 else f"up to {many(most)} connections each"
        processes, sources = counted(pairs, "server process"), counted(addresses, "address")
        return [
            f"{processes} and as many clients, {each}, from {sources}",
            f"memory: {size(self.memory_needed)} needed, {size(self.memory_there)} available",
        ]


def plan_for(load: CrowdLoad, there: Room) -> Plan:
    """Raises `ConfigError` for a load that there is none of, `BenchError` for one that this machine cannot hold."""
    _check(load)
    per_process = there.descriptors - OWN_FILES
    if per_process < 1:
        raise BenchError(
            f"a process may open {many(there.descriptors)} descriptors, and has {OWN_FILES} of its own: "
            "raise RLIMIT_NOFILE"
        )
    pairs = max(math.ceil(load.target / per_process), min(there.cpus, load.target))
    _check_files(load, there, pairs)
    needed = load.target * (2 * SOCKET + USER) + 2 * pairs * PROCESS
    usable = int(there.memory * (1 - SPARED))
    if needed > usable:
        fits = max(0, (usable - 2 * pairs * PROCESS) // (2 * SOCKET + USER))
        processes = counted(2 * pairs, "process")
        raise BenchError(
            f"{counted(load.target, 'connection')} need {size(needed)} ({many(2 * SOCKET)} B each in the kernel, "
            f"{USER} B in user space, {processes} of {size(PROCESS)}), and {size(usable)} are to be had: "
            f"--target {fits // 1000 * 1000} fits"
        )
    return Plan(pairs=tuple(_pairs(load.target, pairs, there.ports)), memory_needed=needed, memory_there=there.memory)


def _check(load: CrowdLoad) -> None:
    if not 1 <= load.target <= MOST:
        raise ConfigError(f"--target: expected from 1 to {many(MOST)} connections, got {many(load.target)}")
    if load.broadcast and load.protocol != "tcp":
        raise ConfigError("--broadcast: HTTP/1.1 has no message without a request: expected --protocol tcp")


def _check_files(load: CrowdLoad, there: Room, pairs: int) -> None:
    files = 2 * (load.target + pairs * OWN_FILES)
    if files > there.files:
        raise BenchError(
            f"{counted(load.target, 'connection')} are {many(files)} open files at both ends, and this machine has "
            f"room for {many(there.files)} more: raise fs.file-max"
        )
    if files > there.watches:
        raise BenchError(
            f"{counted(load.target, 'connection')} are {many(files)} watched descriptors, and a user may have "
            f"{many(there.watches)}: raise fs.epoll.max_user_watches"
        )


def _pairs(target: int, pairs: int, ports: int) -> Iterator[Pair]:
    per_address = max(1, int(ports * USABLE_PORTS))
    source = FIRST_SOURCE
    for number in range(pairs):
        connections = target // pairs + (number < target % pairs)
        addresses = math.ceil(connections / per_address)
        yield Pair(number, connections, tuple(str(ipaddress.IPv4Address(source + at)) for at in range(addresses)))
        source += addresses


def room() -> Room:
    """What this machine has now. Raises `BenchError` where it cannot be read."""
    try:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        low, high = _numbers("/proc/sys/net/ipv4/ip_local_port_range")
        opened, _, most = _numbers("/proc/sys/fs/file-nr")
        [watches] = _numbers("/proc/sys/fs/epoll/max_user_watches")
        return Room(
            cpus=len(os.sched_getaffinity(0)),
            descriptors=min(limit if limit != resource.RLIM_INFINITY else MOST, MOST),
            files=most - opened,
            watches=watches,
            memory=_memory_available(),
            ports=high - low + 1,
        )
    except (OSError, ValueError, AttributeError) as error:
        raise BenchError(f"holding connections needs Linux and its /proc: {error}") from error


def _numbers(path: str) -> list[int]:
    return [int(word) for word in Path(path).read_text().split()]


def _memory_available() -> int:
    """The kernel's own estimate, or what a cgroup leaves of it."""
    from ...tune import survey

    available = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:")
    )
    return min(int(available.split()[1]) * 1024, survey().memory)
