"""Servers of one's own protocol over worker processes and over reactors, in real processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from conftest import PENSTOCK, clean_environment

import penstock
from penstock import SocketOptions, UDPServer

TIMEOUT_S = 30.0

LINES = """
import asyncio, os
import penstock
from penstock.protocol import Line

async def on_message(connection, frame):
    if frame == b"slow":
        print("slow begins", flush=True)
        await asyncio.sleep(0.5)
    connection.send(b"%s %d" % (frame, os.getpid()))

server = penstock.TCPServer(on_message, protocol=Line())
"""

DATAGRAMS = """
import asyncio, os, threading
import penstock

async def on_datagram(peer, datagram):
    if datagram == b"slow":
        await asyncio.sleep(0.3)
    return b"%s %d %s" % (datagram, os.getpid(), threading.current_thread().name.encode())

server = penstock.UDPServer(on_datagram)
"""


class Program:
    """A running server: its log as it comes, and where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._lines.append("(the log has ended)\n")
            self._news.notify_all()

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait_for_log(self, pattern: str, count: int = 1) -> str:
        """Until the log has it so often; what its group matched the last time."""
        deadline = time.monotonic() + TIMEOUT_S
        with self._news:
            while len(found := re.findall(pattern, self.log)) < count:
                is_over = self.log.endswith("(the log has ended)\n")
                if is_over or not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"expected {pattern!r} {count} times in the log, got:\n{self.log}")
        return found[-1]

    def ends_well(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT_S) == 0, self.log
        self._reader.join(TIMEOUT_S)
        assert "Traceback" not in self.log, self.log


@contextlib.contextmanager
def running(*command: str) -> Generator[Program]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environment()
    )
    program = Program(process)
    try:
        yield program
        program.ends_well()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        program._reader.join(TIMEOUT_S)
        assert process.stdout is not None
        process.stdout.close()


def port_of(program: Program, scheme: str) -> int:
    return int(program.wait_for_log(rf"running on {scheme}://127.0.0.1:(\d+)"))


class Asker:
    """A connection that asks in lines; each answer has the worker's process in it."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.file = self.sock.makefile("rwb")

    def send(self, word: bytes) -> None:
        self.file.write(word + b"\n")
        self.file.flush()

    def answer(self) -> tuple[bytes, int]:
        line = self.file.readline()
        assert line, "closed without an answer"
        word, pid = line.split()
        return word, int(pid)

    def ask(self, word: bytes = b"hello") -> int:
        self.send(word)
        told, pid = self.answer()
        assert told == word
        return pid

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@contextlib.contextmanager
def asking(port: int, count: int) -> Generator[list[Asker]]:
    askers = [Asker(port) for _ in range(count)]
    try:
        yield askers
    finally:
        for each in askers:
            each.close()


def ask(sock: socket.socket, word: bytes) -> tuple[int, str]:
    """The process and the thread that answer a datagram."""
    sock.send(word)
    told, pid, thread = sock.recv(1000).split()
    assert told == word
    return int(pid), thread.decode()


@contextlib.contextmanager
def connected(port: int, count: int) -> Generator[list[socket.socket]]:
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for each in socks:
            each.settimeout(TIMEOUT_S)
            each.connect(("127.0.0.1", port))
        yield socks
    finally:
        for each in socks:
            each.close()


def tcp(write_app: Callable[..., Path], *options: str, source: str = LINES) -> list[str]:
    return [*PENSTOCK, "tcp", "--app-dir", str(write_app(source)), "-b", "127.0.0.1:0", *options, "main:server"]


def udp(write_app: Callable[..., Path], *options: str, source: str = DATAGRAMS) -> list[str]:
    return [*PENSTOCK, "udp", "--app-dir", str(write_app(source)), "-b", "127.0.0.1:0", *options, "main:server"]


@pytest.mark.parametrize("accept", ["shared", "reuseport"])
def test_connections_are_spread_over_workers_and_one_that_dies_is_replaced(write_app: Callable[..., Path], accept: str):
    with running(*tcp(write_app, "--workers", "2", "--accept", accept)) as program:
        port = port_of(program, "tcp")
        # Enough for a hash to find both.
        with asking(port, 24) as askers:
            pids = {each.ask() for each in askers}
        assert len(pids) == 2
        os.kill(min(pids), signal.SIGKILL)
        program.wait_for_log(r"Started server process \[(\d+)\]", count=3)
        with asking(port, 24) as askers:
            assert min(pids) not in {each.ask() for each in askers}


def test_a_reload_has_new_workers_while_connections_of_before_are_served_on(write_app: Callable[..., Path]):
    with running(*tcp(write_app, "--workers", "2", "--timeout-graceful-shutdown", "20")) as program:
        port = port_of(program, "tcp")
        with asking(port, 4) as askers:
            pids = {each.ask() for each in askers}
            program.process.send_signal(signal.SIGHUP)
            program.wait_for_log("Shutting down", count=2)
            with asking(port, 4) as newcomers:
                assert pids.isdisjoint(each.ask() for each in newcomers)
            assert {each.ask() for each in askers} == pids, "those of before are served by whom they know"
        # The last connection has gone, and so do they.
        program.wait_for_log(r"Finished server process", count=len(pids))


def test_a_stop_waits_for_handlers_and_tells_the_end(write_app: Callable[..., Path]):
    with running(*tcp(write_app, "--workers", "1")) as program, asking(port_of(program, "tcp"), 2) as (busy, idle):
        idle.ask()
        busy.send(b"slow")
        program.wait_for_log("slow begins")
        program.process.send_signal(signal.SIGTERM)
        assert busy.answer()[0] == b"slow"
        assert busy.file.readline() == idle.file.readline() == b""


def test_a_program_has_workers_of_its_own_server(write_app: Callable[..., Path]):
    directory = write_app(LINES + '\nif __name__ == "__main__":\n    server.run("127.0.0.1:0", workers=2)\n')
    with running(sys.executable, str(directory / "main.py")) as program, asking(port_of(program, "tcp"), 24) as askers:
        pids = {each.ask() for each in askers}
        assert len(pids) == 2
        assert program.process.pid not in pids


def test_what_a_server_wants_of_its_sockets_holds_in_workers(
    write_app: Callable[..., Path], penstock: Callable[..., Any]
):
    write_app(LINES.replace("protocol=Line()", 'protocol=Line(), options=penstock.SocketOptions(congestion="none")'))
    told = penstock("tcp", "main:server", "-b", "127.0.0.1:0", "--workers", "2")
    assert told.returncode == 2
    assert "TCP_CONGESTION" in told.stderr
    told = penstock("tcp", "main:nobody", "-b", "127.0.0.1:0", "--workers", "2")
    assert told.returncode == 4
    assert "nobody" in told.stderr


def test_a_peer_s_datagrams_come_to_the_same_worker_and_all_have_some(write_app: Callable[..., Path]):
    with running(*udp(write_app, "--workers", "2")) as program, connected(port_of(program, "udp"), 24) as socks:
        pids = [ask(each, b"one")[0] for each in socks]
        assert len(set(pids)) == 2
        assert [ask(each, b"two")[0] for each in socks] == pids


def test_a_reload_loses_no_datagram(write_app: Callable[..., Path]):
    with running(*udp(write_app, "--workers", "2")) as program, connected(port_of(program, "udp"), 8) as socks:
        former = {ask(each, b"before")[0] for each in socks}
        socks[0].send(b"slow")
        program.process.send_signal(signal.SIGHUP)
        number, seen, deadline = 0, set[int](), time.monotonic() + TIMEOUT_S
        # Until all have gone: each datagram is answered, by whomever.
        while "Finished server process" not in program.log or seen & former:
            seen = {ask(each, b"%d" % number)[0] for each in socks[1:]}
            number += 1
            assert time.monotonic() < deadline, program.log
        assert socks[0].recv(100).startswith(b"slow")
        assert seen.isdisjoint(former)


def test_reactors_have_a_socket_each(write_app: Callable[..., Path]):
    with running(*udp(write_app, "--reactors", "2")) as program, connected(port_of(program, "udp"), 24) as socks:
        served = [ask(each, b"one") for each in socks]
        assert {thread for _, thread in served} == {"penstock-reactor-0", "penstock-reactor-1"}
        assert {pid for pid, _ in served} == {program.process.pid}
        assert [ask(each, b"two") for each in socks] == served


@pytest.mark.parametrize("how", ["--workers", "--reactors"])
def test_a_unix_socket_is_shared_and_its_file_removed(how: str, write_app: Callable[..., Path], tmp_path: Path):
    path = tmp_path / "datagrams.sock"
    command = udp(write_app, how, "2")
    command[command.index("127.0.0.1:0")] = f"unix:{path}"
    with running(*command) as program:
        program.wait_for_log("running on unix:")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.bind(str(tmp_path / "client.sock"))
            sock.connect(str(path))
            for number in range(20):
                ask(sock, b"%d" % number)
    assert not path.exists()


@pytest.mark.parametrize(
    ("server", "address", "why"),
    [
        (UDPServer(print, sessions=penstock.Sessions()), "unix:@penstock-nowhere", "sessions at a Unix socket"),
        (UDPServer(print, multicast=penstock.Multicast(groups=["239.1.2.3"])), "127.0.0.1:0", "multicast"),
    ],
)
def test_what_several_cannot_share_is_refused(server: UDPServer, address: str, why: str):
    with pytest.raises(penstock.ConfigError, match=why):
        server.run(address, reactors=2)


def test_threads_and_processes_are_not_had_at_once():
    for server in (UDPServer(print), penstock.TCPServer(print)):
        with pytest.raises(penstock.ConfigError, match="--reactors and --workers"):
            server.run("127.0.0.1:0", reactors=2, workers=2)


def test_options_are_replaced_one_by_one():
    own = SocketOptions(keep_alive=True, receive_buffer_bytes=65_536)
    both = own.replaced_by(SocketOptions(receive_buffer_bytes=131_072))
    assert (both.keep_alive, both.receive_buffer_bytes) == (True, 131_072)
