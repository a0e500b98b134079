"""Fixtures: the `penstock` command run to its end, and a server that is running.

A server is a subprocess of the test, on a port that the kernel chose. It is ready when it has printed where it
listens and takes connections, and must leave by itself, with status 0, when it is asked to.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from browsers import browser as browser

# A shell starts what it puts in the background with SIGINT ignored, and every process of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PENSTOCK = [sys.executable, "-m", "penstock"]
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0

_BANNER = re.compile(r"running on (?P<address>\S+)")

HELLO_APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"hello\\n"})
"""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without anybody's own settings of Penstock."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return inherited | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"} | dict(extra or {})


@dataclass
class Server:
    """A running `penstock serve`, and what it has said so far."""

    process: subprocess.Popen[str]
    _lines: list[str] = field(default_factory=list[str])
    _addresses: list[str] = field(default_factory=list[str])
    _told: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread | None = None
    _ended: bool = False

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._told:
                self._lines.append(line)
                if found := _BANNER.search(line):
                    self._addresses.append(found["address"])
                self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()

    @property
    def log(self) -> str:
        with self._told:
            return "".join(self._lines)

    @property
    def address(self) -> str:
        """Where it listens first: `http://127.0.0.1:43210`, `unix:/path`."""
        return self._addresses[0]

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def wait_for_log(self, text: str, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return once `text` has been logged; fail if the server ends, or time does, before."""
        with self._told:
            found = self._told.wait_for(lambda: self._ended or text in "".join(self._lines), timeout_s)
            if not found or text not in "".join(self._lines):
                raise AssertionError(f"not logged: {text!r}\n{''.join(self._lines)}")

    def wait_until_ready(self) -> None:
        self.wait_for_log("running on ")
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._takes_connections():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.address} takes no connections\n{self.log}")
            time.sleep(0.005)

    def _takes_connections(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def connect(self, *, timeout_s: float = 10.0) -> socket.socket:
        """A new connection to the server; the caller closes it."""
        if self.address.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(timeout_s)
            connection.connect(self.address.removeprefix("unix:"))
            return connection
        host, _, port = self.address.removeprefix("http://").rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)

    def exchange(self, request: bytes) -> bytes:
        """Send raw bytes on a connection of their own, and return all that comes until the server closes it."""
        with self.connect() as connection:
            connection.sendall(request)
            received = b""
            while piece := connection.recv(65536):
                received += piece
            return received

    def get(self, path: str = "/") -> bytes:
        """The whole response to a GET, after which the connection is closed."""
        return self.exchange(f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit status, once it has left and everything it said is in `log`."""
        status = self.process.wait(timeout_s)
        assert self._reader is not None
        self._reader.join(STOP_TIMEOUT_S)
        return status

    def stop(self) -> None:
        """SIGTERM, and a clean departure."""
        self.signal(signal.SIGTERM)
        status = self.wait()
        assert status == 0, f"left with status {status}"


@pytest.fixture
def write_app(tmp_path: Path) -> Callable[[str], Path]:
    """Write an application's source, dedented, to `main.py` in the test's directory, which is returned."""

    def write(source: str = HELLO_APP, *, name: str = "main.py") -> Path:
        (tmp_path / name).write_text(textwrap.dedent(source), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def penstock(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `penstock ARGUMENTS` to its end in the test's directory."""

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PENSTOCK, *arguments],
            cwd=tmp_path,
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )

    return run


@pytest.fixture
def serve(write_app: Callable[..., Path]) -> Iterator[Callable[..., Server]]:
    """Serve an application's source, on a free port unless `arguments` say where; stopped when the test ends.

    What a server said is shown when its test fails. One that the test has stopped itself is left alone.
    """
    servers: list[Server] = []

    def start(
        source: str = HELLO_APP,
        *arguments: str,
        app: str = "main:app",
        env: Mapping[str, str] | None = None,
        ready: bool = True,
        **popen: Any,
    ) -> Server:
        directory = write_app(source)
        where = [] if {"--uds", "--fd", "--port", "--bind", "-b"} & set(arguments) else ["--port", "0"]
        process = subprocess.Popen(
            [*PENSTOCK, "serve", "--app-dir", str(directory), *where, *arguments, app],
            cwd=directory,
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **popen,
        )
        servers.append(Server(process))
        if ready:
            servers[-1].wait_until_ready()
        return servers[-1]

    yield start
    _stop_all(servers)


def _stop_all(servers: list[Server]) -> None:
    """Stop what still runs, leave no process behind, and tell what each server said (pytest shows it on failure)."""
    failures: list[str] = []
    for server in servers:
        try:
            if server.process.poll() is None:
                server.stop()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            failures.append(f"{error}\n{server.log}")
        finally:
            if server.process.poll() is None:
                server.process.kill()
                server.wait()
            assert server.process.stdout is not None
            server.process.stdout.close()
            print(server.log)
    assert not failures, "\n".join(failures)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody else listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]
