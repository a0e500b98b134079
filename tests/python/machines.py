"""Machines that there are none of: trees of /proc and /sys that `penstock tune --root` reads, and writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SYSCTLS = {
    "kernel/osrelease": "6.1.0",
    "kernel/random/boot_id": "11111111-2222-3333-4444-555555555555",
    "fs/nr_open": "1048576",
    "fs/file-max": "800000",
    "fs/file-nr": "1500\t0\t800000",
    "net/core/somaxconn": "128",
    "net/ipv4/tcp_mem": "90000\t120000\t180000",
    "net/ipv4/tcp_rmem": "4096\t131072\t6291456",
    "net/ipv4/ip_local_port_range": "32768\t60999",
    "net/ipv4/tcp_keepalive_time": "7200",
    "net/ipv4/tcp_slow_start_after_idle": "1",
    "vm/overcommit_memory": "0",
}

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 {nofile}                files
"""

NETSTAT = """\
TcpExt: SyncookiesSent ListenOverflows ListenDrops
TcpExt: 0 312 312
IpExt: InNoRoutes
IpExt: 0
"""


def machine_tree(root: Path, extra: Mapping[str, str] | None = None, *, cpus: str = "0-3", nofile: int = 4096) -> Path:
    """Write one: 4 CPUs, 8 GiB, an interface of one queue. `extra` are texts by path, over what is there."""
    queue = "sys/class/net/eth0/queues/rx-0"
    files = {
        **{f"proc/sys/{name}": text for name, text in SYSCTLS.items()},
        "proc/meminfo": "MemTotal:        8388608 kB\nMemFree:  1 kB",
        "proc/self/limits": LIMITS.format(nofile=nofile),
        "proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff",
        "proc/self/cgroup": "0::/system.slice/app.service",
        "proc/net/netstat": NETSTAT,
        "proc/net/softnet_stat": "0000000a 00000002 00000000\n0000000b 00000010 00000001",
        "sys/devices/system/cpu/online": cpus,
        "sys/devices/system/node/node0/cpulist": cpus,
        "sys/class/net/eth0/device/vendor": "0x1af4",
        f"{queue}/rps_cpus": "0",
        f"{queue}/rps_flow_cnt": "0",
        "sys/class/net/lo/queues/rx-0/rps_cpus": "0",
        "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
        **dict(extra or {}),
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def sysctl(root: Path, name: str) -> str:
    """What such a machine has it set to."""
    return " ".join((root / "proc/sys" / name.replace(".", "/")).read_text().split())
