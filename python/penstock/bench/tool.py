"""Another tool, run to its end: what it printed, and the CPU time that it took by the kernel's accounting."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from .outcome import BenchError, Load

# How much longer than its load a tool may take.
PATIENCE_S = 30.0
PATHS = "/usr/local/bin:/usr/sbin:/usr/local/sbin"


class LeftOut(BenchError):
    """A tool was not run, and why."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    output: str
    cpu_s: float
    status: int


def find(name: str, package: str) -> str:
    """The program's path. Raises `LeftOut` if it is not here."""
    program = shutil.which(name) or shutil.which(name, path=PATHS)
    if program is None:
        raise LeftOut(f"{name} is not installed (Debian: apt-get install {package})")
    return program


def run(command: Sequence[str], load: Load) -> Ran:
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        with _ended_after(process, load.warm_up_s + load.duration_s + PATIENCE_S):
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return Ran(output=output.read(), cpu_s=used.ru_utime + used.ru_stime, status=process.returncode)


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen[bytes], seconds: float) -> Generator[None]:
    """A tool that hangs is ended: `wait4`, which tells its CPU time, knows no timeout."""
    handle = os.pidfd_open(process.pid)  # not the number, which may be another's by then
    timer = threading.Timer(seconds, signal.pidfd_send_signal, [handle, signal.SIGKILL])
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        timer.cancel()
        timer.join()
        os.close(handle)
