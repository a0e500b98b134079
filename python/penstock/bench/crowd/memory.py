"""What connections cost, by the kernel's own account: of processes, and of the kernel itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes, at one moment. `rss` and `pss` are sums over processes; shared pages are counted in full, or by share."""

    server_rss: int
    server_pss: int
    client_rss: int
    client_pss: int
    # Objects of the kernel (sockets, files), its page tables, and buffers of TCP.
    slab: int
    page_tables: int
    tcp_buffers: int
    available: int

    @classmethod
    def now(cls, servers: Iterable[int], clients: Iterable[int]) -> Memory:
        server_rss, server_pss = _resident(servers)
        client_rss, client_pss = _resident(clients)
        machine = _fields(Path("/proc/meminfo").read_text())
        return cls(
            server_rss=server_rss,
            server_pss=server_pss,
            client_rss=client_rss,
            client_pss=client_pss,
            slab=machine["Slab"],
            page_tables=machine["PageTables"],
            tcp_buffers=_tcp_buffers(Path("/proc/net/sockstat").read_text()),
            available=machine["MemAvailable"],
        )


@dataclass(frozen=True, kw_only=True)
class PerConnection:
    """What a connection has cost since `before`, in bytes: at the server, at the client, in the kernel (both ends)."""

    server: float
    server_pss: float
    client: float
    kernel_slab: float
    # All that is not available any more, less what the processes have of it.
    kernel: float

    @classmethod
    def of(cls, before: Memory, now: Memory, connections: int) -> PerConnection:
        user = now.server_pss - before.server_pss + now.client_pss - before.client_pss
        taken = before.available - now.available
        return cls(
            server=(now.server_rss - before.server_rss) / connections,
            server_pss=(now.server_pss - before.server_pss) / connections,
            client=(now.client_rss - before.client_rss) / connections,
            kernel_slab=(now.slab - before.slab) / connections,
            kernel=(taken - user) / connections,
        )


def _resident(pids: Iterable[int]) -> tuple[int, int]:
    """Of those that live. Who asks a dead one next is told how it ended."""
    rss = pss = 0
    for pid in pids:
        try:
            fields = _fields(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        rss, pss = rss + fields["Rss"], pss + fields["Pss"]
    return rss, pss


def _fields(text: str) -> dict[str, int]:
    """`Name: 123 kB` lines, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}


def _tcp_buffers(sockstat: str) -> int:
    """The pages that TCP's buffers have (`mem` of the line of TCP)."""
    words = next(line for line in sockstat.splitlines() if line.startswith("TCP:")).split()
    return int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of these processes so far (proc(5), stat)."""
    total = 0
    for pid in pids:
        # Behind the name, which may hold anything.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(words[11]) + int(words[12])
    return total / _TICKS_PER_S


def machine_busy_s() -> float:
    """Time that the machine's processors were not idle, all together, since the boot."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (
        int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_S
