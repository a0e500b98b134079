"""What systemd and a service tell each other: sockets handed over, readiness, signs of life (sd_listen_fds(3),
sd_notify(3), sd_watchdog_enabled(3)). Without systemd all of it is nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

_FIRST_FD = 3
_MAX_FDS = 1024


def take_sockets() -> list[int]:
    """The descriptors handed over to this very process; said once, so that no child takes them for its own."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return list(range(_FIRST_FD, _FIRST_FD + min(int(count), _MAX_FDS)))


def notify(*lines: str) -> None:
    """Tell whoever started this service, if anybody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(address)
        connection.sendall("\n".join(lines).encode())


def ready() -> None:
    """Serving, by this process."""
    notify("READY=1", f"MAINPID={os.getpid()}")


def reloading() -> None:
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def stopping() -> None:
    notify("STOPPING=1")


def alive() -> None:
    notify("WATCHDOG=1")


def watchdog_interval_s() -> float | None:
    """How often to tell that this process is alive: twice as often as it must."""
    wanted, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not wanted.isdigit() or int(wanted) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(wanted) / 2e6
