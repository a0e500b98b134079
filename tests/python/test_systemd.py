"""What systemd would do, done by the test: a socket handed over, and a socket that is told of readiness and life."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import HELLO_APP, Server, clean_environment

Serve = Callable[..., Server]
TIMEOUT_S = 20.0
WORKERS = pytest.mark.parametrize("workers", [(), ("--workers", "1")])

# LISTEN_PID must be the server's own: known between fork and exec alone.
EXEC = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"


class Notifications:
    """What a service tells."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(TIMEOUT_S)

    def wait_for(self, line: str) -> list[str]:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            lines = self._socket.recv(4096).decode().splitlines()
            if line in lines:
                return lines
        raise AssertionError(f"not told: {line}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notifications() -> Iterator[Notifications]:
    with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
        listening = Notifications(Path(directory) / "n")
        yield listening
        listening.close()


@WORKERS
def test_readiness_life_and_the_end_are_told(
    serve: Serve, notifications: Notifications, workers: tuple[str, ...]
) -> None:
    env = {"NOTIFY_SOCKET": str(notifications.path), "WATCHDOG_USEC": "400000"}
    server = serve(HELLO_APP, *workers, "--lifespan", "off", env=env, ready=False)
    assert f"MAINPID={server.process.pid}" in notifications.wait_for("READY=1")
    for _ in range(3):
        notifications.wait_for("WATCHDOG=1")
    if workers:
        server.signal(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in notifications.wait_for("RELOADING=1"))
        notifications.wait_for("READY=1")
    server.signal(signal.SIGTERM)
    notifications.wait_for("STOPPING=1")
    assert server.wait() == 0


@WORKERS
def test_a_socket_that_is_handed_over_is_listened_on_and_outlives_the_server(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    (tmp_path / "main.py").write_text(HELLO_APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "penstock", "serve", "--app-dir", str(tmp_path), "--lifespan", "off"]
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", EXEC, *command, *workers, "main:app"],
                env=clean_environment({"LISTEN_FDS": "1"}),
                preexec_fn=lambda: os.dup2(listener.fileno(), 3),
                pass_fds=[3],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                # Nobody waits for the server: the connection does, as it would for systemd's.
                with socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
                    answer = b"".join(iter(lambda connection=connection: connection.recv(4096), b""))
                assert answer.endswith(b"hello\n")
            finally:
                process.terminate()
                assert process.wait(TIMEOUT_S) == 0
