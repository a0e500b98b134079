"""TCPClient: connecting, staying connected, and what becomes of frames when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from streams import run, started, until

import penstock
from penstock import CloseReason, Connection, Reconnect, StreamLimits, TCPClient, TCPServer
from penstock.protocol import LengthPrefixed, Line
from penstock.stream_client import connect, interleaved

SOON = Reconnect(first_s=0.01, most_s=0.05)


def echo(connection: Connection, frame: Any) -> None:
    connection.send(frame)


def address_of(server: TCPServer) -> str:
    return server.addresses[0].removeprefix("tcp://")


def test_frames_go_there_and_back():
    async def main() -> None:
        async with TCPServer(echo, protocol=LengthPrefixed()) as server, TCPClient(protocol=LengthPrefixed()) as client:
            await started(server)
            await client.start(address_of(server))
            for number in range(100):
                client.send(b"%d" % number)
            assert [await client.receive() for _ in range(100)] == [b"%d" % number for number in range(100)]

    run(main)


def test_a_client_can_be_called_back_and_unix_sockets_are_connected_to(tmp_path: Path):
    got: list[bytes] = []

    async def main() -> None:
        address = f"unix:{tmp_path}/server.sock"
        async with TCPServer(echo, protocol=Line()) as server:
            await server.start(address)
            async with TCPClient(lambda connection, frame: got.append(frame), protocol=Line()) as client:
                await client.start(address)
                client.send(b"hello")
                await until(lambda: got)
        assert got == [b"hello"]

    run(main)


def test_a_server_that_is_not_there_is_told_in_one_line(unused_tcp_port: int):
    async def main() -> None:
        with pytest.raises(penstock.ConnectFailed, match=rf"127.0.0.1:{unused_tcp_port}: .*refused"):
            await TCPClient().start(f"127.0.0.1:{unused_tcp_port}")
        with pytest.raises(penstock.ConnectFailed, match="cannot connect to unix:/nowhere/at/all"):
            await TCPClient().start("unix:/nowhere/at/all")

    run(main)


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_does_not_answer_is_given_up_in_time():
    async def main() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            # Its queue is full: the next handshake hangs.
            others = [socket.socket() for _ in range(2)]
            for each in others:
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
            began = time.monotonic()
            with pytest.raises(penstock.ConnectFailed, match=r"no answer within 0\.2 s"):
                await TCPClient(connect_timeout_s=0.2).start(address)
            assert time.monotonic() - began < 10
            for each in others:
                each.close()

    run(main)


def test_addresses_are_tried_by_turns_of_their_families_and_the_first_that_answers_wins(
    monkeypatch: pytest.MonkeyPatch,
):
    four, six = socket.AF_INET, socket.AF_INET6
    assert interleaved([(six, 1), (six, 2), (four, 3), (six, 1)]) == [(six, 1), (four, 3), (six, 2)]

    async def main() -> None:
        async with TCPServer(echo) as server:
            _, port = await started(server)
            loop = asyncio.get_running_loop()
            connected: list[Any] = []
            real = loop.sock_connect

            async def found(*_: Any, **__: Any) -> list[Any]:
                stream = socket.SOCK_STREAM
                return [(four, stream, 6, "", ("127.0.0.2", 1)), (four, stream, 6, "", ("127.0.0.1", port))]

            async def hangs_first(sock: socket.socket, where: Any) -> None:
                connected.append(where)
                if where[1] == 1:
                    await asyncio.sleep(3600)
                await real(sock, where)

            monkeypatch.setattr(loop, "getaddrinfo", found)
            monkeypatch.setattr(loop, "sock_connect", hangs_first)
            sock = await connect(f"somewhere:{port}", 10)
            assert sock.getpeername() == ("127.0.0.1", port)
            assert connected == [("127.0.0.2", 1), ("127.0.0.1", port)]
            sock.close()

    run(main)


def test_a_connection_that_ends_is_made_anew_and_what_was_queued_is_sent():
    async def main() -> None:
        connections: list[Connection] = []
        reasons: list[CloseReason] = []
        server = TCPServer(echo, protocol=Line(), on_connect=connections.append)
        client = TCPClient(protocol=Line(), reconnect=SOON, on_close=lambda connection, reason: reasons.append(reason))
        async with server, client:
            await started(server)
            await client.start(address_of(server))
            client.send(b"before")
            assert await client.receive() == b"before"
            connections[0].close()
            await until(lambda: reasons)
            assert not client.is_connected
            client.send(b"meanwhile")
            assert await client.receive() == b"meanwhile"
            assert len(connections) == 2
            assert reasons == [CloseReason.PEER_CLOSED]

    run(main)


def test_waits_between_attempts_double_with_jitter_up_to_a_bound():
    reconnect = Reconnect(first_s=1, most_s=30)
    for attempt, most in enumerate((1, 2, 4, 8, 16, 30, 30)):
        delays = [reconnect.delay_s(attempt) for _ in range(50)]
        assert all(most / 2 <= delay <= most for delay in delays)
        assert len(set(delays)) > 1
    with pytest.raises(penstock.ConfigError):
        Reconnect(first_s=2, most_s=1)


def test_a_server_that_closes_at_once_is_asked_ever_more_seldom(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def delay_s(self: Reconnect, attempt: int) -> float:
        asked.append(attempt)
        # A machine that is busy for longer than that lets it begin anew.
        return 3600.0 if attempt == 3 else 0.1

    monkeypatch.setattr(Reconnect, "delay_s", delay_s)

    async def main() -> None:
        server = TCPServer(echo, on_connect=lambda connection: connection.close())
        async with server, TCPClient(reconnect=SOON) as client:
            await started(server)
            await client.start(address_of(server))
            await until(lambda: 3 in asked)

    run(main)
    assert asked[-4:] == [0, 1, 2, 3]


def test_an_error_of_on_connect_costs_the_connection_and_not_the_client():
    told: list[str] = []
    connected: list[Connection] = []

    async def on_connect(connection: Connection) -> None:
        connected.append(connection)
        if len(connected) == 2:
            raise ValueError("not this one")

    async def main() -> None:
        client = TCPClient(
            protocol=Line(),
            reconnect=SOON,
            on_connect=on_connect,
            on_error=lambda connection, error: told.append(str(error)),
        )
        accepted: list[Connection] = []
        async with TCPServer(echo, protocol=Line(), on_connect=accepted.append) as server, client:
            await started(server)
            await client.start(address_of(server))
            await until(lambda: accepted)
            client.send(b"first")
            assert await client.receive() == b"first"
            accepted[0].abort()
            await until(lambda: len(connected) == 3)
            client.send(b"third")
            assert await client.receive() == b"third"

    run(main)
    assert told == ["not this one"]


def test_what_cannot_be_sent_is_reported_never_dropped():
    unsent: list[list[bytes]] = []

    async def main() -> None:
        server = TCPServer(echo, protocol=Line())
        client = TCPClient(
            protocol=Line(),
            reconnect=Reconnect(first_s=30),
            max_queued_frames=3,
            on_unsent=unsent.append,
        )
        await started(server)
        await client.start(address_of(server))
        await server.close()
        await until(lambda: not client.is_connected)
        for number in range(3):
            client.send(b"%d" % number)
        with pytest.raises(penstock.SendBufferFull):
            client.send(b"one too many")
        await client.close()
        assert unsent == [[b"0", b"1", b"2"]]
        with pytest.raises(penstock.ConnectionClosed):
            client.send(b"too late")
        assert await client.receive() is None

    run(main)


def test_frames_behind_a_server_that_does_not_read_wait_and_are_reported_when_it_goes():
    unsent: list[bytes] = []

    async def main() -> None:
        connections: list[Connection] = []
        frame = bytes(50_000)
        server = TCPServer(echo, on_connect=lambda c: (connections.append(c), c.pause_reading()))
        client = TCPClient(
            reconnect=None, max_queued_frames=400, on_unsent=unsent.extend, limits=StreamLimits(write_timeout_s=30)
        )
        async with server:
            await started(server)
            await client.start(address_of(server))
            sent = 0
            with contextlib.suppress(penstock.SendBufferFull):
                while sent < 2000:
                    client.send(frame)
                    sent += 1
                    await asyncio.sleep(0)
            assert sent < 2000
            connections[0].abort()
            await until(lambda: not client.is_connected)
            await until(lambda: unsent)
            assert 400 <= len(unsent) <= sent
            await client.close()

    run(main)


def test_a_frame_that_is_none_is_the_senders_error_at_once():
    async def main() -> None:
        async with TCPServer(echo, protocol=Line()) as server, TCPClient(protocol=Line()) as client:
            await started(server)
            await client.start(address_of(server))
            with pytest.raises(penstock.FrameError):
                client.send(b"two\nlines")
            client.send(b"fine")
            assert await client.receive() == b"fine"

    run(main)
