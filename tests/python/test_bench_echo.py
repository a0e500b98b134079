"""`penstock bench tcp` and `udp`: against echo servers that are right, and ones that are not."""

from __future__ import annotations

import json
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import PENSTOCK, clean_environment

from penstock.bench.echo import FRAMES, Endpoint
from penstock.cli.bench import FRAMES as OFFERED
from penstock.errors import ConfigError

Run = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def tcp_server(answer: Callable[[bytes], bytes]) -> Generator[str]:
    """A server that answers what it receives with what `answer` makes of it; nothing is the connection's end."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while received := self.request.recv(65_536):
                made = answer(received)
                if not made:
                    return
                try:
                    self.request.sendall(made)
                except OSError:
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def udp_server(answer: Callable[[bytes], list[bytes]]) -> Generator[str]:
    """The same with datagrams: any number of answers to each."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        address = server.getsockname()

        def serve() -> None:
            while True:
                received, peer = server.recvfrom(65_536)
                if received == b"stop":
                    return
                for made in answer(received):
                    server.sendto(made, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{address[1]}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
                stopper.sendto(b"stop", address)
            thread.join()


def bench(penstock: Run, protocol: str, address: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    common = ["--json", "--duration", "0.3", "--warm-up", "0", "--connections", "3"]
    done = penstock("bench", protocol, address, *common, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arguments", [[], ["--pipeline", "16"], ["--size", "200000"], ["--rate", "300"]])
def test_echoes_over_tcp_are_counted(penstock: Run, arguments: list[str]):
    with tcp_server(lambda received: received) as address:
        found = bench(penstock, "tcp", address, *arguments)
    assert found["answers"] > 0
    assert found["errors"] == 0
    assert found["body_mean"] == found["load"]["size"]


def test_an_echo_that_differs_is_malformed_and_told_by_its_byte(penstock: Run):
    with tcp_server(lambda received: received[:2] + b"?" + received[3:]) as address:
        found = bench(penstock, "tcp", address, status=1)
    assert found["answers"] == 0
    assert set(found["errors_by_kind"]) <= {"malformed", "closed", "broken"}
    assert found["first_error"] == "byte 2 of an echo is 0x3f, expected 0x63"


def test_more_than_was_asked_for_is_malformed(penstock: Run):
    with tcp_server(lambda received: received + received) as address:
        found = bench(penstock, "tcp", address, "--connections", "1", status=1)
    assert "an answer that nobody asked for" in found["first_error"]


def test_a_server_that_hangs_up_is_told(penstock: Run):
    with tcp_server(lambda _: b"") as address:
        found = bench(penstock, "tcp", address, status=1)
    assert found["errors_by_kind"].get("closed") or found["errors_by_kind"].get("broken")


@pytest.mark.parametrize("frame", FRAMES)
def test_each_frame_is_what_its_name_says(frame: str):
    payload = b"x" * 200
    headers = {"raw": b"", "line": b"", "length1": b"\xc8", "length2": b"\0\xc8", "length4": b"\0\0\0\xc8"}
    expected = {"varint": b"\xc8\x01" + payload, "line": payload + b"\n"}
    assert FRAMES[frame](payload) == expected.get(frame, headers.get(frame, b"") + payload)


def test_the_command_offers_every_frame():
    assert tuple(FRAMES) == OFFERED


def test_a_message_too_long_for_its_frame_is_refused(penstock: Run):
    with tcp_server(lambda received: received) as address:
        done = penstock("bench", "tcp", address, "--frame", "length1", "--size", "256")
    assert done.returncode == 2
    assert "expected at most 255 with a length of 1 bytes, got 256" in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["--pipeline", "8"], ["--size", "8"], ["--size", "60000"], ["--rate", "200"]]
)
def test_echoes_over_udp_are_counted(penstock: Run, arguments: list[str]):
    with udp_server(lambda received: [received]) as address:
        found = bench(penstock, "udp", address, *arguments, "--timeout", "5")
    assert found["answers"] > 0
    assert found["errors"] == 0
    assert found["body_mean"] == found["load"]["size"]


def test_datagrams_that_do_not_come_back_are_lost(penstock: Run):
    came = iter(range(1 << 62))
    with udp_server(lambda received: [received] if next(came) % 4 else []) as address:
        found = bench(penstock, "udp", address, "--timeout", "0.1", status=1)
    assert found["answers"] > 0
    assert found["errors_by_kind"]["timed_out"] > 0
    assert found["first_error"] == "no echo within 0.1 s"


def test_a_datagram_that_comes_twice_is_counted_once(penstock: Run):
    with udp_server(lambda received: [received, received]) as address:
        found = bench(penstock, "udp", address, status=1)
    assert found["answers"] > 0
    assert set(found["errors_by_kind"]) == {"repeated"}


def test_a_datagram_that_is_no_echo_is_malformed(penstock: Run):
    with udp_server(lambda received: [received + b"!"]) as address:
        found = bench(penstock, "udp", address, "--timeout", "0.2", status=1)
    assert found["answers"] == 0
    assert found["first_error"] == "65 bytes that are no echo of the 64 that were sent"


def test_nobody_at_a_udp_port_is_noticed(penstock: Run):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = penstock("bench", "udp", address, "--timeout", "0.2")
        assert done.returncode == 1
        assert "4 datagrams were not answered; is the server running?" in done.stderr
    refused = penstock("bench", "udp", address, "--timeout", "0.2")
    assert refused.returncode == 1
    assert "Connection refused" in refused.stderr


@pytest.mark.parametrize(
    "text", ["localhost", "host:", ":80", "host:0", "host:65536", "::1:80", "http://host:80", "a b:1"]
)
def test_an_address_that_is_none_is_refused(text: str):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        Endpoint.of(text, kind=socket.SOCK_DGRAM)


def test_an_address_of_version_6_stands_in_brackets():
    endpoint = Endpoint.of("[::1]:9000", kind=socket.SOCK_DGRAM)
    assert (endpoint.address, endpoint.port) == ("::1", 9000)


def test_the_report_names_the_load(penstock: Run):
    with tcp_server(lambda received: received) as address:
        done = penstock("bench", "tcp", address, "-d", "0.2", "--warm-up", "0", "--frame", "varint", "--size", "300")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"tcp {address}, messages of 300 bytes, varint" in done.stdout


@pytest.mark.parametrize(("protocol", "duration_s"), [("tcp", 0.5), ("udp", 0.5), ("udp", 2.5)])
def test_a_load_that_was_stopped_itself_calls_no_answer_late(protocol: str, duration_s: float):
    """Stopped for longer than its patience, across its end or well before: the answers lie in its sockets."""
    asked, count = threading.Event(), iter(range(1 << 30))

    def echo(received: bytes) -> bytes:
        if next(count) == 50:  # well within the load
            asked.set()
        return received

    timeout_s, stopped_s = 0.8, 1.6
    serving = tcp_server(echo) if protocol == "tcp" else udp_server(lambda received: [echo(received)])
    with serving as address:
        paced = ["-d", str(duration_s), "--warm-up", "0", "--timeout", str(timeout_s), "-c", "8", "--pipeline", "4"]
        command = [*PENSTOCK, "bench", protocol, address, "--json", *paced]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=clean_environment()) as process:
            try:
                assert asked.wait(20)
                process.send_signal(signal.SIGSTOP)
                time.sleep(stopped_s)  # the time itself is what it is about
                process.send_signal(signal.SIGCONT)
                told, _ = process.communicate(timeout=20)
            finally:
                process.kill()
    found = json.loads(told)
    assert found["answers"] > 0
    assert (found["errors_by_kind"], found["first_error"]) == ({}, None)
    assert process.returncode == 0
