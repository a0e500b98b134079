"""Penstock with workers, as a trial has it: started with a control socket, asked for its state, and told what to do."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from measure import BenchError, Running, running
from penstock.supervisor.control import ask
from servers import Servers

PATIENCE_S = 60.0
LOOK_EVERY_S = 0.01


class Place:
    """Where trials are made: it starts Penstock with workers, each time in a directory of its own."""

    def __init__(self, servers: Servers, scratch: Path, accept: str = "shared") -> None:
        self._servers, self._accept = servers, accept
        self._scratch, self._started = scratch, 0

    @contextlib.contextmanager
    def workers(self, count: int, *, start_s: float = 0.0, accept: str | None = None) -> Generator[Workers]:
        control = self.directory() / "control"
        options = ["--workers", str(count), "--accept", accept or self._accept, "--control", str(control)]
        options += ["--no-access-log", "--limit-connections", "0"]
        # An idle connection outlives no reload for long, so that the old workers leave within the trial.
        options += ["--timeout-keep-alive", "5"]
        server = self._servers.penstock("penstock", lambda _: [*options, "apps:slow_start"], {"START_S": str(start_s)})
        if server.missing:
            raise BenchError(server.missing)
        with running(server, control.parent, None) as process:
            workers = Workers(process, control)
            workers.wait_until_new()
            yield workers

    def directory(self) -> Path:
        self._started += 1
        made = self._scratch / str(self._started)
        made.mkdir()
        return made


class Workers:
    """A running server with workers, as its supervisor tells of them."""

    def __init__(self, process: Running, control: Path) -> None:
        self.process, self.port, self._control = process, process.port, control

    def ask(self, **request: Any) -> dict[str, Any]:
        return ask(str(self._control), PATIENCE_S, **request)

    def status(self) -> dict[str, Any]:
        return self.ask(do="status")

    def here(self, stage: str = "ready") -> list[dict[str, Any]]:
        return [worker for worker in self.status()["workers"] if worker["stage"] == stage]

    def connections(self) -> list[int]:
        return sorted(worker["connections"] for worker in self.here())

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["workers"]]

    def reload(self) -> None:
        """By a signal, as most would; returns when the new ones have taken over, the old ones perhaps still there."""
        before = self.status()["generation"]
        os.kill(self.process.pid, signal.SIGHUP)
        wait_until(lambda: self.status()["generation"] > before, "the reload began")
        self.wait_until_new()

    def wait_until_new(self) -> None:
        def is_new() -> bool:
            status = self.status()
            ready = [worker for worker in status["workers"] if worker["stage"] == "ready"]
            return len(ready) == status["wanted"] and {worker["generation"] for worker in ready} == {
                status["generation"]
            }

        wait_until(is_new, "the new workers were ready")

    def wait_until_alone(self) -> None:
        """Nobody is on the way in or out."""
        wait_until(lambda: len(self.pids()) == len(self.here()), "the old workers left")


def wait_until(is_so: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> float:
    """Wait for it; returns for how long."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > patience_s:
            raise BenchError(f"waited {patience_s:g} s in vain until {what}")
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began
