"""`penstock serve` from start to stop: where it listens, what it says, and that it leaves when asked."""

from __future__ import annotations

import json
import os
import shutil
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

# Answers with what the scope says, and announces on stdout what happens to it.
SCOPE_APP = """
import json

async def app(scope, receive, send):
    assert scope["type"] == "http"
    told = {name: scope[name] for name in ("client", "server", "root_path", "scheme", "path")}
    body = json.dumps(told).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""

# Says when a request has begun, and answers it once a file appears.
SLOW_APP = """
import asyncio, os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("request begun", flush=True)
    while not os.path.exists("release"):
        await asyncio.sleep(0.005)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"finished"})
"""

STUCK_APP = """
import asyncio

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("request begun", flush=True)
    try:
        await asyncio.sleep(3600)
    finally:
        print("request ended", flush=True)
"""

LIFESPAN_APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        print("pool opened", flush=True)
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        print("pool closed", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""

REFUSING_APP = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""

STREAMING_APP = """
import asyncio

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    assert (await receive())["type"] == "http.disconnect"
    print("client gone", flush=True)
"""


ECHO_APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose name leaves room: the path of a Unix domain socket is bounded."""
    directory = Path(tempfile.mkdtemp(prefix="pen"))
    yield directory
    shutil.rmtree(directory)


def body_of(response: bytes) -> bytes:
    head, _, body = response.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        pieces = body.split(b"\r\n")
        return b"".join(pieces[1::2])
    return body


def test_port_zero_serves_on_a_free_port_and_prints_it(serve: Serve):
    server = serve()
    assert server.port > 0
    server.wait_for_log(f"Penstock running on http://127.0.0.1:{server.port} (Press CTRL+C to quit)")
    assert server.get().endswith(b"\r\n\r\nhello\n")


def test_sigterm_and_ctrl_c_stop_it_with_status_zero(serve: Serve):
    for number in (signal.SIGTERM, signal.SIGINT):
        server = serve()
        server.signal(number)
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_it_says_nothing_on_a_terminal_that_a_pipe_should_not_see(serve: Serve):
    server = serve()
    server.get("/somewhere?a=1")
    server.stop()
    assert "\x1b" not in server.log
    server.wait_for_log('"GET /somewhere?a=1 HTTP/1.1" 200 OK')


def test_the_access_log_can_be_left_out(serve: Serve):
    server = serve(HELLO_APP, "--no-access-log")
    server.get("/somewhere")
    server.stop()
    assert "somewhere" not in server.log


def test_a_quiet_log_level_says_nothing_but_serves(serve: Serve, short_directory: Path):
    path = short_directory / "app.sock"
    server = serve(HELLO_APP, "--log-level", "error", "--uds", str(path), ready=False)
    while not path.exists():
        assert server.process.poll() is None, server.log
        time.sleep(0.005)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        # The file appears at bind, a moment before anybody listens.
        while connection.connect_ex(str(path)) != 0:
            assert server.process.poll() is None, server.log
            time.sleep(0.005)
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    server.stop()
    assert server.log == ""


def test_a_unix_socket_is_served_and_removed(serve: Serve, short_directory: Path):
    path = short_directory / "app.sock"
    server = serve(SCOPE_APP, "--uds", str(path))
    assert json.loads(body_of(server.get()))["server"] == [str(path), None]
    server.stop()
    assert not path.exists()


def test_an_inherited_listener_is_served(serve: Serve):
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        given.listen()
        server = serve(SCOPE_APP, "--fd", str(given.fileno()), pass_fds=(given.fileno(),))
        assert server.port == given.getsockname()[1]
        assert json.loads(body_of(server.get()))["server"] == ["127.0.0.1", server.port]
        server.stop()
        # Whoever passed it still has it: a connection made now waits for the next server.
        socket.create_connection(given.getsockname(), timeout=5).close()


def test_the_scope_says_who_asks_and_where(serve: Serve):
    server = serve(SCOPE_APP, "--root-path", "/api")
    with server.connect() as connection:
        client = list(connection.getsockname())
        connection.sendall(b"GET /api/a%20b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        scope = json.loads(body_of(b"".join(iter(lambda: connection.recv(65536), b""))))
    assert scope["client"] == client
    assert scope["server"] == ["127.0.0.1", server.port]
    assert (scope["scheme"], scope["root_path"]) == ("http", "/api")


def test_settings_come_from_the_environment_too(serve: Serve):
    server = serve(SCOPE_APP, env={"PENSTOCK_ROOT_PATH": "/shop", "PENSTOCK_ACCESS_LOG": "off"})
    assert json.loads(body_of(server.get()))["root_path"] == "/shop"
    server.stop()
    assert "GET" not in server.log


def test_headers_of_the_server_s_own_can_be_left_out(serve: Serve):
    def names(response: bytes) -> set[bytes]:
        return {line.split(b":")[0].lower() for line in response.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]}

    assert {b"server", b"date"} <= names(serve().get())
    bare = serve(HELLO_APP, "--no-server-header", "--no-date-header")
    assert not {b"server", b"date"} & names(bare.get())


def test_a_factory_makes_the_application(serve: Serve):
    source = HELLO_APP + "def create():\n    return app\n"
    assert serve(source, "--factory", app="main:create").get().endswith(b"hello\n")


def test_a_request_under_way_is_finished_before_it_leaves(serve: Serve, tmp_path: Path):
    server = serve(SLOW_APP)
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        server.wait_for_log("request begun")
        server.signal(signal.SIGTERM)
        server.wait_for_log("Shutting down")
        (tmp_path / "release").touch()
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    assert response.startswith(b"HTTP/1.1 200 OK")
    assert b"finished" in response
    assert server.wait() == 0


def test_a_request_that_never_ends_does_not_keep_it(serve: Serve):
    server = serve(STUCK_APP, "--timeout-graceful-shutdown", "0.05")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        server.wait_for_log("request begun")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    server.wait_for_log("request ended")


def test_a_second_ctrl_c_does_not_wait_for_requests(serve: Serve):
    server = serve(STUCK_APP, "--timeout-graceful-shutdown", "3600")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        server.wait_for_log("request begun")
        server.signal(signal.SIGINT)
        server.wait_for_log("Shutting down")
        server.signal(signal.SIGINT)
        assert server.wait() == 0


@pytest.mark.parametrize("framing", ["content-length: 0", "transfer-encoding: chunked"])
def test_a_body_of_no_bytes_is_whole_at_once(serve: Serve, framing: str):
    server = serve(ECHO_APP)
    end = "0\r\n\r\n" if "chunked" in framing else ""
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(f"POST / HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n{end}".encode())
            response = connection.recv(65536)
            assert response.startswith(b"HTTP/1.1 200 OK")
            assert b"connection: close" not in response.lower()


def test_idle_connections_do_not_keep_it(serve: Serve):
    server = serve(HELLO_APP, "--timeout-keep-alive", "3600", "--timeout-graceful-shutdown", "3600")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        server.stop()


def test_an_idle_connection_is_closed_after_its_time(serve: Serve):
    server = serve(HELLO_APP, "--timeout-keep-alive", "0.2")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.endswith(b"hello\n")


def test_a_client_that_leaves_a_stream_is_no_error(serve: Serve):
    server = serve(STREAMING_APP)
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while b"first" not in received:
            received += connection.recv(65536)
    server.wait_for_log("client gone")
    server.wait_for_log('"GET / HTTP/1.1" 200 OK')
    server.stop()
    assert "ERROR" not in server.log


def test_lifespan_opens_before_the_first_request_and_closes_after_the_last(serve: Serve):
    server = serve(LIFESPAN_APP, "--lifespan", "on")
    assert server.log.index("pool opened") < server.log.index("running on")
    assert server.get().startswith(b"HTTP/1.1 204")
    server.stop()
    server.wait_for_log("pool closed")


def test_lifespan_is_not_asked_for_when_it_is_off(serve: Serve):
    server = serve(LIFESPAN_APP, "--lifespan", "off")
    server.stop()
    assert "pool" not in server.log


def test_an_application_that_refuses_to_start_gives_its_reason_and_status_three(
    write_app: Callable[..., Path], penstock: Callable[..., subprocess.CompletedProcess[str]]
):
    write_app(REFUSING_APP)
    done = penstock("serve", "--port", "0", "main:app")
    assert done.returncode == 3
    assert "no database" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("penstock: error: ")
    assert "Traceback" not in done.stderr


def test_lifespan_on_insists_on_it(
    write_app: Callable[..., Path], penstock: Callable[..., subprocess.CompletedProcess[str]]
):
    write_app(HELLO_APP)
    done = penstock("serve", "--port", "0", "--lifespan", "on", "main:app")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("penstock: error: ")


def test_the_poller_can_be_chosen(serve: Serve):
    assert serve(HELLO_APP, "--poller", "epoll").get().endswith(b"hello\n")


def test_run_serves_from_inside_a_program(write_app: Callable[..., Path], tmp_path: Path):
    write_app(HELLO_APP + "if __name__ == '__main__':\n    import penstock\n    penstock.run(app, port=0)\n")
    process = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process)
    try:
        server.wait_until_ready()
        assert server.get().endswith(b"hello\n")
        server.stop()
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            server.wait()
        assert process.stdout is not None
        process.stdout.close()
