"""Programs that the tests bring to the server: found, or installed where that is possible, or their tests skipped.

Where the tests run as root on a system with apt, a missing program's Debian package is installed, once a run; what
could not be had is remembered for the run. Elsewhere nobody's system is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PACKAGES = {
    "ab": "apache2-utils",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "curl": "curl",
    "dig": "bind9-dnsutils",
    "h2load": "nghttp2-client",
    "haproxy": "haproxy",
    "iperf3": "iperf3",
    "nginx": "nginx",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-cli": "redis-tools",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "wrk": "wrk",
}
"""Of Debian, by the program in them."""

SYSTEM_PATHS = "/usr/sbin:/usr/local/sbin:/sbin"
INSTALL_TIMEOUT_S = 240


def need(program: str) -> str:
    """The path of `program`; without one the test is skipped."""
    found = find(program)
    if found is None and _may_install():
        _install_once(program)
        found = find(program)
    if found is None:
        pytest.skip(f"{program} is not here, and cannot be installed (Debian: apt-get install {PACKAGES[program]})")
    return found


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=SYSTEM_PATHS)


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install_once(program: str) -> None:
    """One worker of the run installs; the others wait for it, and find what it found."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    memory = Path(tempfile.gettempdir()) / f"penstock-peers-{run}.json"
    with memory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tried: list[str] = json.loads(memory.read_text()) if memory.exists() else []
        if program in tried:
            return
        if not tried:
            _apt("update")
        _apt("install", "--yes", "--no-install-recommends", PACKAGES[program])
        memory.write_text(json.dumps([*tried, program]))


def _apt(*arguments: str) -> None:
    """Its failure shows in that the program is still not there."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["apt-get", "-qq", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
