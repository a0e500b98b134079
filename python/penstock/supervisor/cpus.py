"""How many processors this process may use: what `--workers auto` means."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """The processors it may run on, or fewer if its control group has less time than they give; at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _quota(_own_group()) or allowed))


def _own_group() -> Path:
    """This process's directory in the unified hierarchy (cgroups(7)); a container sees itself at the top."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return _CGROUP
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    return _CGROUP / own.lstrip("/")


def _quota(group: Path) -> int | None:
    """The least that cpu.max allows from here to the top, in whole processors rounded up; None if all are free."""
    quotas = [each for directory in (group, *group.parents) if (each := _quota_of(directory)) is not None]
    return min(quotas, default=None)


def _quota_of(directory: Path) -> int | None:
    try:
        quota, period = (directory / "cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
