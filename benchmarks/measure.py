"""What the machine says of a running server: CPU time and memory of its whole process tree.

A Running owns the server's processes: they are gone when its `with` block ends. Linux only.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from servers import Server

READY_WITHIN_S = 30.0
STOP_WITHIN_S = 5.0


class BenchError(Exception):
    """A server could not be measured: what was expected, and what came."""


@dataclass(frozen=True)
class Cpus:
    """Which processor the servers have, and which the load."""

    server: int
    load: int

    @classmethod
    def choose(cls) -> Cpus:
        """The first two that this process may use; one alone has to do for both."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(server=allowed[0], load=allowed[1] if len(allowed) > 1 else allowed[0])


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    name: str
    port: int
    pid: int

    def process_tree(self) -> list[int]:
        return process_tree(self.pid)

    def cpu_seconds(self) -> float:
        """CPU time of the whole tree so far. Processes that have ended are no longer in it."""
        return sum(cpu_seconds(pid) for pid in self.process_tree())

    def own_bytes(self) -> int:
        return sum(own_bytes(pid) for pid in self.process_tree())


@contextmanager
def running(server: Server, directory: Path, cpu: int | None) -> Generator[Running, None, None]:
    """Start `server`, on that processor if one is named, and wait until it answers. Its log is in `directory`."""
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    log_path = directory / "log.txt"
    launch = server.launch(port, directory)
    with log_path.open("wb") as log, affinity(cpu):
        # The child inherits the affinity that this thread has while it forks.
        process = subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **launch.environment},
            start_new_session=True,
        )
    try:
        wait_until_ready(process, port, log_path, {"http": answers, "tcp": listens, "udp": echoes}[server.speaks])
        yield Running(server.name, port, process.pid)
    except BenchError as error:
        # A server that dies under load shows as broken connections first.
        with suppress(subprocess.TimeoutExpired):
            raise BenchError(f"{error}; it ended with status {process.wait(0.5)}: {last_line(log_path)}") from error
        raise
    finally:
        stop(process)


def wait_until_ready(
    process: subprocess.Popen[bytes], port: int, log_path: Path, is_ready: Callable[[int], bool]
) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"did not start, status {process.returncode}: {last_line(log_path)}")
        if is_ready(port):
            return
        time.sleep(0.05)
    raise BenchError(f"did not answer within {READY_WITHIN_S:.0f} s: {last_line(log_path)}")


def listens(port: int) -> bool:
    """Enough for a server that has nothing to load once it listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def answers(port: int) -> bool:
    """A GET is answered with 200: a listening socket alone may belong to a server still loading its app."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def echoes(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(("127.0.0.1", port))
            sock.send(b"there?")
            return sock.recv(64) == b"there?"
        except OSError:
            return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, then make it: some servers leave their workers behind."""
    signal_group(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_WITHIN_S)
    signal_group(process.pid, signal.SIGKILL)
    process.wait()


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def last_line(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


@contextmanager
def affinity(cpu: int | None) -> Generator[None, None, None]:
    """Run on that processor alone; None: on any that the process may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1) if cpu is None else {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def process_tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += process_tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
    return found


def cpu_seconds(pid: int) -> float:
    """A process's CPU-time clock, which counts its ended threads too (clock_getcpuclockid(3))."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def own_bytes(pid: int) -> int:
    """Anonymous and shared-memory pages, each shared one divided among its users; no pages of files."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def machine_busy_share(seconds: float = 0.5) -> float:
    """How busy all processors are together while this process sleeps: what else runs here."""
    before, began = busy_ticks(Path("/proc/stat").read_text()), time.monotonic()
    time.sleep(seconds)
    ticks = busy_ticks(Path("/proc/stat").read_text()) - before
    available = (time.monotonic() - began) * os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
    return ticks / available


def busy_ticks(stat: str) -> int:
    """Ticks that all processors have not idled, those the hypervisor took away included (proc_stat(5))."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split(maxsplit=9)[1:9])
    return user + nice + system + irq + softirq + steal


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def raise_descriptor_limit() -> int:
    """Let this process, and the servers it starts, have as many descriptors as it may; returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def wake_up_in_time() -> None:
    """Let this thread's sleeps end when they are due, not up to 50 us later: see PR_SET_TIMERSLACK in prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(29, 1)
