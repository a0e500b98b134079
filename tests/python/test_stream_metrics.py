"""`penstock tcp --metrics-bind`: what is counted of streams of frames, on one event loop and on several."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PENSTOCK, Server, clean_environment
from scrapes import json_of, port_of, scrape, total
from waiting import wait_until

from penstock import ConfigError, TCPServer

ECHO = """
import time
import penstock
from penstock.protocol import LengthPrefixed

def on_message(connection, frame):
    if frame == b"raise":
        raise RuntimeError("as asked")
    if frame == b"slow":
        time.sleep(0.5)
    connection.send(frame)

tcp = penstock.TCPServer(on_message, protocol=LengthPrefixed(header_bytes=2, max_frame_bytes=64),
                         limits=penstock.StreamLimits(max_connections=40))

def on_datagram(peer, datagram):
    peer.send(datagram)

udp = penstock.UDPServer(on_datagram)
"""

Start = Callable[..., Server]


@pytest.fixture
def start(write_app: Callable[[str], Path]) -> Iterator[Start]:
    servers: list[Server] = []

    def start(*more: str, command: str = "tcp") -> Server:
        directory = write_app(ECHO)
        process = subprocess.Popen(
            [*PENSTOCK, command, "--bind", "127.0.0.1:0", "--metrics-bind", "0", *more, f"main:{command}"],
            cwd=directory,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        servers.append(Server(process))
        servers[-1].wait_for_log("running on ")
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.process.stdout is not None
        server.process.stdout.close()
        print(server.log)


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


@pytest.mark.parametrize(
    ("more", "workers"),
    [((), 1), (("--reactors", "2"), 3), (("--workers", "2"), 2)],
    ids=["one", "reactors", "workers"],
)
def test_frames_and_what_is_none_are_counted(start: Start, more: tuple[str, ...], workers: int):
    server = start(*more)
    port = port_of(server)
    with connect(server) as one, connect(server) as other:
        for connection in (one, other):
            for number in range(5):
                connection.sendall(frame(b"%d" % number) * 2)
                assert connection.recv(6, socket.MSG_WAITALL) == frame(b"%d" % number) * 2
        wait_until(lambda: total(scrape(port), "penstock_connections_open") == 2)
    for wrong in (frame(b"x" * 65), frame(b"raise")):
        with connect(server) as connection:
            connection.sendall(wrong)
            assert connection.recv(1) == b""
    with connect(server) as connection:
        connection.sendall(frame(b"cut off")[:-1])
    samples = wait_until(
        lambda: (found := scrape(port)) and total(found, "penstock_connections_closed_total") == 5 and found
    )
    assert total(samples, "penstock_stream_frames_received_total") == 21
    assert total(samples, "penstock_stream_frames_sent_total") == 20
    refused = {
        reason: total(samples, "penstock_stream_frames_refused_total", reason=reason)
        for reason in ("too_long", "malformed", "truncated")
    }
    assert refused == {"too_long": 1, "malformed": 0, "truncated": 1}
    assert total(samples, "penstock_handler_errors_total") == 1
    assert total(samples, "penstock_connections_accepted_total") == 5
    assert total(samples, "penstock_python_gil_hold_seconds_count") > 0
    status = json_of(port, "status")
    assert status["listeners"] == [server.address]
    assert [worker["state"] for worker in status["workers"]] == ["ready"] * workers
    shown = {each["name"]: each for group in json_of(port, "config")["groups"] for each in group["settings"]}
    assert shown["metrics_bind"]["value"] == "0"
    assert "keep_alive" not in str(shown), "what a web server has alone is not shown"


def test_connections_beyond_the_limit_are_counted(start: Start):
    server = start()
    held = [connect(server) for _ in range(40)]
    wait_until(lambda: total(scrape(port_of(server)), "penstock_connections_open") == 40)
    with connect(server) as beyond:
        assert beyond.recv(1) == b""
    wait_until(lambda: total(scrape(port_of(server)), "penstock_connections_refused_total", reason="limit") == 1)
    for connection in held:
        connection.close()


def test_a_handler_that_keeps_the_loop_is_named(start: Start):
    server = start("--slow-callback", "0.1")
    with connect(server) as connection:
        connection.sendall(frame(b"slow"))
        assert connection.recv(6, socket.MSG_WAITALL) == frame(b"slow")
    server.wait_for_log("in on_message")
    server.wait_for_log("The event loop goes on")


@pytest.mark.parametrize("more", [(), ("--reactors", "2"), ("--workers", "1")], ids=["one", "reactors", "workers"])
def test_datagrams_are_counted(start: Start, more: tuple[str, ...]):
    server = start(*more, command="udp")
    host, _, port = server.address.removeprefix("udp://").rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect((host, int(port)))
        for number in range(5):
            client.send(b"%d" % number)
            assert client.recv(100) == b"%d" % number
    samples = wait_until(
        lambda: (found := scrape(port_of(server))) and total(found, "penstock_datagrams_sent_total") == 5 and found
    )
    assert total(samples, "penstock_datagrams_received_total") == 5
    assert {worker["state"] for worker in json_of(port_of(server), "status")["workers"]} == {"ready"}
    assert not any(dict(labels).get("worker") == "main" for _, labels in samples)


def test_a_place_that_is_none_is_refused():
    server = TCPServer(print)
    with pytest.raises(ConfigError, match="--metrics-bind: expected"):
        server.run("127.0.0.1:0", metrics_bind="nowhere")
