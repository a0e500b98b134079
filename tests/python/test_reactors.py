"""Several reactors in one process: connections are spread over them, and they start, fail and stop as one."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from threaded_server import TIMEOUT_S

from penstock import EventLoop, _core

Serve = Callable[..., Server]

APP = """
import asyncio, json, threading

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["thread"] = threading.current_thread().name
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("the application shuts down on " + threading.current_thread().name + "\\n", end="", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/slow":
        print("slow begins", flush=True)
        await asyncio.sleep(0.3)
    if scope["path"] == "/endless":
        print("endless begins", flush=True)
        await asyncio.sleep(60)
    answer = {
        "thread": threading.current_thread().name,
        "started_on": scope["state"]["thread"],
        "server": scope["server"],
    }
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
"""


def ask(connection: socket.socket, path: str = "/") -> tuple[dict[str, str], dict[str, Any]]:
    """One request on a connection that is kept: the headers of its answer, and what is in it."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
    return hear(connection)


def hear(connection: socket.socket) -> tuple[dict[str, str], dict[str, Any]]:
    """The answer, which nothing follows. In large pieces: many threads that read byte by byte hold each other up."""
    received = connection.recv(65536)
    while (end := received.find(b"\r\n\r\n")) < 0 or len(received) < end + 4 + _length_of(received[:end]):
        piece = connection.recv(65536)
        assert piece, f"closed after {received!r}"
        received += piece
    return _headers_of(received[:end]), json.loads(received[end + 4 :])


def _headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").lower().split("\r\n")
    assert lines[0].startswith("http/1.1 200 ")
    return dict(line.split(": ", 1) for line in lines[1:])


def _length_of(head: bytes) -> int:
    return int(_headers_of(head)["content-length"])


@contextlib.contextmanager
def connections(server: Server, count: int) -> Generator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.connect()) for _ in range(count)]


def test_connections_are_spread_over_the_reactors_within_one_of_even(serve: Serve) -> None:
    server = serve(APP, "--reactors", "4", "--timeout-keep-alive", "60")
    with connections(server, 41) as opened:
        answers = [ask(connection)[1] for connection in opened]
        counts = collections.Counter(answer["thread"] for answer in answers)
        assert sorted(counts.values()) == [10, 10, 10, 11]
        assert all(answer["thread"] == answer["started_on"] for answer in answers)
        # A reactor that has lost its connections is given the next ones.
        emptied = answers[0]["thread"]
        for connection, answer in zip(opened, answers, strict=True):
            if answer["thread"] == emptied:
                connection.close()
        remaining = [connection for connection in opened if connection.fileno() != -1]
        for connection in remaining:
            ask(connection)
        with connections(server, 8) as more:
            assert {ask(connection)[1]["thread"] for connection in more} == {emptied}


def test_connections_that_come_at_once_are_spread_before_any_has_asked(serve: Serve) -> None:
    server = serve(APP, "--reactors", "2", "--timeout-keep-alive", "60")
    with connections(server, 100) as opened:
        for connection in opened:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        counts = collections.Counter(hear(connection)[1]["thread"] for connection in opened)
    assert sorted(counts.values()) == [50, 50]


def test_each_reactor_has_a_lifespan_of_its_own(serve: Serve) -> None:
    server = serve(APP, "--reactors", "3")
    server.stop()
    left = [line for line in server.log.splitlines() if "shuts down on" in line]
    assert sorted(line.rsplit(" ", 1)[1] for line in left) == [f"penstock-reactor-{number}" for number in range(3)]
    assert server.log.count("Started server process") == server.log.count("Finished server process") == 1
    assert server.log.count("running on") == server.log.count("Shutting down") == 1


def test_a_connections_scope_names_the_listener_it_came_through(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve(APP, "--reactors", "2", "--uds", str(path))
    with server.connect() as connection:
        assert ask(connection)[1]["server"] == [str(path), None]


def test_no_request_is_lost_when_the_server_is_stopped_under_load(serve: Serve) -> None:
    server = serve(APP, "--reactors", "3", "--no-access-log")
    in_full_swing = threading.Semaphore(0)

    def load() -> int:
        """Ask until told that the connection ends; every request that was sent is answered."""
        answered = 0
        with server.connect() as connection:
            while True:
                headers, _ = ask(connection)
                answered += 1
                if headers.get("connection") == "close":
                    assert connection.recv(1) == b""
                    return answered
                if answered == 20:
                    in_full_swing.release()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load) for _ in range(8)]
        assert all(in_full_swing.acquire(timeout=TIMEOUT_S) for _ in loads)
        server.signal(signal.SIGTERM)
        answered = [each.result(TIMEOUT_S) for each in loads]
    assert server.wait() == 0
    assert min(answered) > 20
    assert "Traceback" not in server.log


def test_clients_that_were_let_in_are_served_though_the_server_stops(serve: Serve) -> None:
    server = serve(APP, "--reactors", "2", "--no-access-log")
    with connections(server, 50) as opened:
        server.signal(signal.SIGTERM)
        for connection in opened:
            connection.sendall(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n")
        for connection in opened:
            assert hear(connection)[0]["connection"] == "close"
    assert server.wait() == 0


def test_requests_that_take_too_long_are_cancelled_on_every_reactor(serve: Serve) -> None:
    server = serve(APP, "--reactors", "2", "--timeout-graceful-shutdown", "0.2")
    with connections(server, 2) as opened:
        for connection in opened:
            connection.sendall(b"GET /endless HTTP/1.1\r\nhost: test\r\n\r\n")
        _wait_until_logged(server, "endless begins", 2)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert server.log.count("Cancelling 1 requests") == 2


def test_a_second_signal_does_not_wait_for_requests_under_way(serve: Serve) -> None:
    server = serve(APP, "--reactors", "2", "--timeout-graceful-shutdown", "60")
    with server.connect() as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nhost: test\r\n\r\n")
        server.wait_for_log("endless begins")
        server.signal(signal.SIGINT)
        server.wait_for_log("Waiting for connections to close")
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_an_application_that_does_not_start_on_one_reactor_is_not_served_on_the_others(penstock_app: Any) -> None:
    outcome = penstock_app(
        """
        import threading

        async def app(scope, receive, send):
            await receive()
            if threading.current_thread().name.endswith("2"):
                await send({"type": "lifespan.startup.failed", "message": "not here"})
            else:
                await send({"type": "lifespan.startup.complete"})
                await receive()
                print("stopped again", flush=True)
                await send({"type": "lifespan.shutdown.complete"})
        """,
        "--reactors",
        "4",
    )
    assert outcome.returncode == 3
    assert "application startup failed: not here" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "running on" not in outcome.stderr


@pytest.fixture
def penstock_app(write_app: Callable[[str], Path], penstock: Callable[..., Any]) -> Callable[..., Any]:
    """Run `penstock serve` with an application's source, to its end."""

    def run(source: str, *arguments: str) -> Any:
        write_app(source)
        return penstock("serve", "--port", "0", *arguments, "main:app")

    return run


def _wait_until_logged(server: Server, text: str, times: int) -> None:
    with server._told:
        assert server._told.wait_for(lambda: "".join(server._lines).count(text) >= times, TIMEOUT_S), server.log


# ---------------------------------------------------------------- the binary's own


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


def test_a_main_reactor_needs_a_reactor() -> None:
    with pytest.raises(ValueError, match="at least one"):
        _core.MainReactor([])


def test_what_does_not_listen_and_a_number_that_is_taken_are_refused(loop: EventLoop) -> None:
    main = _core.MainReactor([loop.reactor.handle()])
    try:
        with socket.socket() as unbound, pytest.raises(OSError, match="not listening"):
            main.add_listener(unbound.fileno(), 0)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            main.add_listener(listener.fileno(), 7)
            with pytest.raises(ValueError, match="number 7"):
                main.add_listener(listener.fileno(), 7)
            with pytest.raises(ValueError, match="no listener of number 8"):
                main.remove_listener(8)
            main.remove_listener(7)
            main.add_listener(listener.fileno(), 7)
    finally:
        main.stop()
    main.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        main.remove_listener(7)


def test_a_connection_on_its_way_counts_until_its_reactor_is_gone(loop: EventLoop) -> None:
    handle = loop.reactor.handle()
    main = _core.MainReactor([handle])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        main.add_listener(listener.fileno(), 0)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(5)]
            main.remove_listener(0)
            # The loop has not turned: none has arrived.
            assert (handle.connections, loop.reactor.connections) == (5, 0)
            loop.close()
            assert handle.connections == 0
            assert [client.recv(1) for client in clients] == [b""] * 5
            assert not main.deserted
            main.add_listener(listener.fileno(), 0)
            with socket.create_connection(listener.getsockname()) as client:
                client.settimeout(TIMEOUT_S)
                assert client.recv(1) == b""
            assert main.deserted
            assert main.counters()["connections_orphaned"] == 1
    main.stop()
