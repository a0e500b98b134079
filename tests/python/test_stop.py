"""Stopping: nobody who was let in is turned away unanswered, and nothing keeps the server beyond its time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server
from threaded_server import TIMEOUT_S, read_response, read_to_end
from waiting import wait_until

Serve = Callable[..., Server]

APP = """
import asyncio, subprocess, sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("the application shuts down", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/slow":
        print("slow begins", flush=True)
        await asyncio.sleep(0.3)
        print("slow ends", flush=True)
    if path == "/endless":
        print("endless begins", flush=True)
        try:
            await asyncio.sleep(60)
        finally:
            print("endless ends", flush=True)
    if path == "/stubborn":
        print("stubborn begins", flush=True)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("stubborn goes on", flush=True)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"whole"})
    if path == "/afterwards":
        print("afterwards begins", flush=True)
        await asyncio.sleep(0.3)
        print("afterwards ends", flush=True)
"""


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once_and_runs_the_applications_shutdown(serve: Serve, number: signal.Signals) -> None:
    server = serve(APP)
    began = time.monotonic()
    server.signal(number)
    assert server.wait() == 0
    assert time.monotonic() - began < 3
    server.wait_for_log("the application shuts down")
    assert "Traceback" not in server.log


def test_requests_under_way_get_their_answers_and_are_told_that_the_connection_closes(serve: Serve) -> None:
    server = serve(APP)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(10)]
        for connection in connections:
            connection.sendall(get("/slow"))
        _wait_for_lines(server, "slow begins", 10)
        server.signal(signal.SIGTERM)
        for connection in connections:
            status, headers, body = read_response(connection)
            assert (status, headers["connection"], body) == (200, "close", b"whole")
            assert connection.recv(1) == b""
    assert server.wait() == 0
    lines = server.log.splitlines()
    assert lines.index("the application shuts down") > max(at for at, line in enumerate(lines) if line == "slow ends")


def test_nobody_is_let_in_after_the_stop_began(serve: Serve) -> None:
    server = serve(APP)
    with server.connect() as connection:
        connection.sendall(get("/slow"))
        server.wait_for_log("slow begins")
        server.signal(signal.SIGTERM)
        server.wait_for_log("Waiting for connections to close")
        # Nobody is answered from here on: neither reset nor, before the port is free, refused.
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        assert read_response(connection)[2] == b"whole"
    assert server.wait() == 0


def test_under_load_no_request_that_was_let_in_is_lost(serve: Serve) -> None:
    """Each client connects, asks and reads: once connected, it must be answered in full."""
    server = serve(APP, "--no-access-log")
    answered, lost = [], []
    loaded = threading.Barrier(9)

    def client() -> None:
        for turn in range(100_000):
            if turn == 20:
                loaded.wait(TIMEOUT_S)
            try:
                connection = server.connect()
            except ConnectionRefusedError:
                return  # Not let in: another server's turn. (A reset would be an error: it had been let in.)
            with connection:
                try:
                    connection.sendall(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
                    answer = read_to_end(connection)
                except OSError as error:
                    answer = repr(error).encode()
                (answered if answer.endswith(b"\r\n\r\nwhole") else lost).append(answer)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        loaded.wait(TIMEOUT_S)
        time.sleep(0.1)
        server.signal(signal.SIGTERM)
        for each in clients:
            each.result(TIMEOUT_S)
    assert server.wait() == 0
    assert len(answered) > 160
    assert lost == []


def test_connections_that_are_kept_alive_under_load_lose_no_request(serve: Serve) -> None:
    """A client learns of the stop from `connection: close`, before it asks again."""
    server = serve(APP, "--no-access-log")
    lost: list[str] = []
    count = 0
    loaded = threading.Barrier(9)

    def client() -> None:
        nonlocal count
        with server.connect() as connection:
            for turn in range(1_000_000):
                if turn == 20:
                    loaded.wait(TIMEOUT_S)
                try:
                    connection.sendall(get("/"))
                    _, headers, body = read_response(connection)
                except (OSError, AssertionError, IndexError) as error:
                    lost.append(repr(error))
                    return
                assert body == b"whole"
                count += 1
                if headers.get("connection") == "close":
                    return

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        loaded.wait(TIMEOUT_S)
        time.sleep(0.1)
        server.signal(signal.SIGTERM)
        for each in clients:
            each.result(TIMEOUT_S)
    assert server.wait() == 0
    assert lost == []


def test_what_takes_longer_than_it_may_is_cancelled(serve: Serve) -> None:
    server = serve(APP, "--timeout-graceful-shutdown", "0.3")
    with server.connect() as connection:
        connection.sendall(get("/endless"))
        server.wait_for_log("endless begins")
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert 0.2 < time.monotonic() - began < 5
        read_to_end(connection)
    server.wait_for_log("Cancelling 1 requests")
    server.wait_for_log("endless ends")
    server.wait_for_log("the application shuts down")
    assert "Traceback" not in server.log


def test_what_ignores_its_cancellation_does_not_keep_the_server(serve: Serve) -> None:
    server = serve(APP, "--timeout-graceful-shutdown", "0.1")
    with server.connect() as connection:
        connection.sendall(get("/stubborn"))
        server.wait_for_log("stubborn begins")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        with contextlib.suppress(ConnectionResetError):
            read_to_end(connection)
    server.wait_for_log("stubborn goes on")
    server.wait_for_log("Leaving without a task that ignores its cancellation")
    server.wait_for_log("the application shuts down")


def test_what_an_application_does_after_its_response_is_waited_for(serve: Serve) -> None:
    server = serve(APP)
    with server.connect() as connection:
        connection.sendall(get("/afterwards"))
        assert read_response(connection)[2] == b"whole"
        server.wait_for_log("afterwards begins")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    lines = server.log.splitlines()
    assert lines.index("afterwards ends") < lines.index("the application shuts down")


def test_a_second_interrupt_hurries(serve: Serve) -> None:
    server = serve(APP)
    with server.connect() as connection:
        connection.sendall(get("/endless"))
        server.wait_for_log("endless begins")
        server.signal(signal.SIGINT)
        server.wait_for_log("Waiting for connections to close")
        began = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert time.monotonic() - began < 5
    server.wait_for_log("endless ends")
    server.wait_for_log("the application shuts down")


def test_half_a_request_does_not_keep_the_server_beyond_its_time(serve: Serve) -> None:
    server = serve(APP, "--timeout-graceful-shutdown", "0.3")
    with server.connect() as head, server.connect() as body:
        head.sendall(b"GET / HTTP/1.1\r\nho")
        body.sendall(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n12345")
        read_response(body)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_reader_that_never_reads_does_not_keep_the_server_beyond_its_time(serve: Serve) -> None:
    server = serve(
        """
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200})
            print("sending", flush=True)
            while True:
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        """,
        "--timeout-graceful-shutdown",
        "0.3",
    )
    with server.connect() as connection:
        connection.sendall(get("/"))
        server.wait_for_log("sending")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_the_unix_sockets_file_is_removed(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s"
    if len(str(path)) > 100:
        pytest.skip("the temporary directory's name is too long for a Unix socket")
    server = serve(APP, "--uds", str(path))
    assert path.is_socket()
    with server.connect() as connection:
        connection.sendall(get("/slow"))
        server.wait_for_log("slow begins")
        server.signal(signal.SIGTERM)
        assert read_response(connection)[2] == b"whole"
    assert server.wait() == 0
    assert not path.exists()


def test_no_process_and_no_listener_is_left(serve: Serve) -> None:
    server = serve(APP)
    port = server.port
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    assert children == ""
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    # And the port can be had again at once.
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def _wait_for_lines(server: Server, text: str, count: int) -> None:
    wait_until(lambda: server.log.count(text) >= count, lambda: server.log)
