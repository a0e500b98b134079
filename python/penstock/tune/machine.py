"""A machine as it was when it was looked at: what /proc and /sys said, and nothing that changes afterwards.

Everything is read below a root directory, so that a container that has its host's /proc mounted elsewhere can look at
the host, and tests at a machine that there is none of. What cannot be read is absent, not an error: containers hide
half of it, and kernels differ.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Readings that are a part of a file.
NOFILE = "/proc/self/limits (Max open files)"
MEMORY = "/proc/meminfo, /sys/fs/cgroup"
NUMA = "/sys/devices/system/node"

CAP_SYS_RESOURCE = 24  # capabilities(7): may raise hard limits

# A cgroup of version 1 says so when it has no limit: the largest whole page of a signed 64-bit number.
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was read. `readings` are texts by their path below the root; `counters` are sums since the boot."""

    kernel: str = ""
    boot_id: str = ""
    cpus_online: int = 1
    cpu_quota: float | None = None
    memory_total: int = 0
    memory_limit: int | None = None
    numa_nodes: int = 1
    page_size: int = 4096
    nofile_soft: int = 1024
    nofile_hard: int = 1024
    may_raise_limits: bool = False
    files_open: int = 0
    interfaces: tuple[str, ...] = ()
    readings: Mapping[str, str] = field(default_factory=dict[str, str])
    counters: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def cpus(self) -> int:
        """CPUs that may be used at once: those online, or what a cgroup's quota leaves of them."""
        return min(self.cpus_online, max(1, math.ceil(self.cpu_quota or self.cpus_online)))

    @property
    def memory(self) -> int:
        """Bytes of memory: the machine's, or what a cgroup leaves of them."""
        return min(self.memory_total, self.memory_limit or self.memory_total)

    def numbers(self, place: str) -> tuple[int, ...]:
        """The numbers that were read there; none if it could not be read, or is no number."""
        try:
            return tuple(int(word) for word in self.readings.get(place, "").split())
        except ValueError:
            return ()

    def number(self, place: str, default: int) -> int:
        return next(iter(self.numbers(place)), default)

    def queues(self) -> int:
        """Receive queues of the interfaces that are hardware, or a hypervisor's."""
        return sum(place.endswith("/rps_cpus") for place in self.readings)


def read_machine(root: Path, places: Iterable[str]) -> Machine:
    """Read what is below `root`; `places` are the paths (or patterns of them) whose text is wanted."""
    meminfo = _fields(_text(root, "/proc/meminfo"))
    memory_total = int(meminfo.get("MemTotal", "0 kB").split()[0]) * 1024
    soft, hard = _open_files(_text(root, "/proc/self/limits"))
    interfaces = tuple(_hardware(root))
    nodes = len(list(_below(root, f"{NUMA}/node[0-9]*")))
    readings = dict(_readings(root, places, interfaces))
    memory_limit = _memory_limit(root, memory_total)
    return Machine(
        kernel=_text(root, "/proc/sys/kernel/osrelease"),
        boot_id=_text(root, "/proc/sys/kernel/random/boot_id"),
        cpus_online=_count(_text(root, "/sys/devices/system/cpu/online")) or 1,
        cpu_quota=_cpu_quota(root),
        memory_total=memory_total,
        memory_limit=memory_limit,
        numa_nodes=max(1, nodes),
        page_size=os.sysconf("SC_PAGE_SIZE"),
        nofile_soft=soft,
        nofile_hard=hard,
        may_raise_limits=bool(_capabilities(root) >> CAP_SYS_RESOURCE & 1),
        files_open=int(next(iter(_text(root, "/proc/sys/fs/file-nr").split()), "0")),
        interfaces=interfaces,
        readings={
            **readings,
            NOFILE: str(hard),
            MEMORY: str(min(memory_total, memory_limit or memory_total)),
            NUMA: str(max(1, nodes)),
        },
        counters=dict(_counters(root)),
    )


def path_below(root: Path, place: str) -> Path:
    return root / place.removeprefix("/")


def _text(root: Path, place: str) -> str:
    """What is written there, on one line; nothing if it cannot be read."""
    try:
        return path_below(root, place).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _below(root: Path, pattern: str) -> Iterator[Path]:
    return iter(sorted(root.glob(pattern.removeprefix("/"))))


def _readings(root: Path, places: Iterable[str], interfaces: Iterable[str]) -> Iterator[tuple[str, str]]:
    known = set(interfaces)
    for place in places:
        for path in _below(root, place):
            found = "/" + str(path.relative_to(root))
            if found.startswith("/sys/class/net/") and found.split("/")[4] not in known:
                continue
            if path.is_file() and (text := _text(root, found)):
                yield found, " ".join(text.split())


def _hardware(root: Path) -> Iterator[str]:
    """Interfaces behind which there is a device: not lo, nor bridges, nor tunnels."""
    return (path.parent.name for path in _below(root, "/sys/class/net/*/device"))


def _fields(text: str) -> dict[str, str]:
    """`Name: value` lines."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _open_files(limits: str) -> tuple[int, int]:
    for line in limits.splitlines():
        if line.startswith("Max open files"):
            soft, hard = line.removeprefix("Max open files").split()[:2]
            return _limit(soft), _limit(hard)
    return 1024, 1024


def _limit(word: str) -> int:
    return int(word) if word.isdecimal() else _NO_LIMIT


def _capabilities(root: Path) -> int:
    return int(_fields(_text(root, "/proc/self/status")).get("CapEff", "0"), 16)


def _count(ranges: str) -> int:
    """How many numbers `0-3,8` names: the kernel's way to list CPUs."""
    ends = (part.partition("-") for part in ranges.split(",") if part)
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def _own_cgroups(root: Path) -> Iterator[tuple[str, str]]:
    """Where each hierarchy has this process: the controllers, none for version 2, and the path."""
    for line in _text(root, "/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers, path


def _and_above(path: str) -> Iterator[str]:
    """A cgroup and all it is in: each may have a limit, and the lowest counts."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return ("/".join(parts[:depth]) for depth in range(len(parts), -1, -1))


def _cgroup_texts(root: Path, controller: str, name_v1: str, name_v2: str) -> Iterator[str]:
    for controllers, path in _own_cgroups(root):
        if controllers and controller not in controllers.split(","):
            continue
        bases = (f"/sys/fs/cgroup/{controllers}",) if controllers else ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
        name = name_v1 if controllers else name_v2
        texts = (_text(root, f"{base}/{each}/{name}") for base in bases for each in _and_above(path))
        yield from (text for text in texts if text)


def _memory_limit(root: Path, total: int) -> int | None:
    texts = _cgroup_texts(root, "memory", "memory.limit_in_bytes", "memory.max")
    limits = [int(text) for text in texts if text.isdecimal() and int(text) < min(total or _NO_LIMIT, _NO_LIMIT)]
    return min(limits, default=None)


def _cpu_quota(root: Path) -> float | None:
    """CPUs' worth of time that a cgroup allows, by the lowest of its quotas."""
    quotas: list[float] = []
    for text in _cgroup_texts(root, "cpu", "cpu.cfs_quota_us", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdecimal():  # "max" and -1 are none; version 1 keeps the period elsewhere, and it is always this
            quotas.append(int(quota) / int(period or 100_000))
    return min(quotas, default=None)


def _counters(root: Path) -> Iterator[tuple[str, int]]:
    """What the kernel has counted since the boot: `TcpExt:ListenOverflows` and its like, and `softnet:dropped`."""
    for place in ("/proc/net/netstat", "/proc/net/snmp"):
        lines = [line.partition(":") for line in _text(root, place).splitlines()]
        for (group, _, names), (_, _, values) in zip(lines[::2], lines[1::2], strict=False):
            yield from (
                (f"{group}:{name}", int(value)) for name, value in zip(names.split(), values.split(), strict=False)
            )
    rows = [line.split() for line in _text(root, "/proc/net/softnet_stat").splitlines()]
    for column, name in ((1, "dropped"), (2, "time_squeeze")):
        yield f"softnet:{name}", sum(int(row[column], 16) for row in rows if len(row) > column)
