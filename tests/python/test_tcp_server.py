"""TCPServer: frames in, frames out, and every way that a connection may end, through real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streams import Peer, run, started, until

import penstock
from penstock import CloseReason, Connection, FrameError, Heartbeat, StreamLimits, TCPServer, _core
from penstock.errors import ConfigError
from penstock.protocol import Delimiter, Fixed, LengthPrefixed, Line, Raw, Resp, Varint


class Semicolons:
    """A protocol in Python: frames end with a semicolon, and hold no exclamation mark."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *frames, self.rest = (self.rest + data).split(b";")
        if b"!" in data:
            raise FrameError("an exclamation mark, expected none")
        if len(self.rest) > 1000:
            raise FrameError("no end within 1000 bytes", "too_long")
        return frames

    def encode(self, frame: bytes) -> bytes:
        return frame + b";"


# Each protocol, what two frames are on the wire, and what is none of it.
PROTOCOLS = {
    "fixed": (Fixed(frame_bytes=5), b"first", b"other", b"firstother", None),
    "length": (LengthPrefixed(max_frame_bytes=100), b"first", b"", b"\0\0\0\x05first\0\0\0\0", b"\xff" * 4),
    "length-little": (LengthPrefixed(header_bytes=2, byteorder="little"), b"ab", b"c", b"\2\0ab\1\0c", None),
    "length-whole": (
        LengthPrefixed(header_bytes=1, offset=1, counts_header=True),
        b"T\x04ab",
        b"U\x02",
        b"T\x04abU\x02",
        b"T\x01",
    ),
    "varint": (Varint(max_frame_bytes=300), b"x" * 200, b"y", b"\xc8\x01" + b"x" * 200 + b"\x01y", b"\xff" * 5),
    "delimiter": (Delimiter(b"\r\n.\r\n", 50), b"a\r\nb", b"c", b"a\r\nb\r\n.\r\nc\r\n.\r\n", b"z" * 100),
    "line": (Line(max_frame_bytes=50), b"first", b"second", b"first\nsecond\n", b"z" * 100),
    "python": (Semicolons, b"first", b"second", b"first;second;", b"!"),
}


def no_leaks(server: TCPServer) -> None:
    assert server.counters().get("connections", 0) == 0


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_frames_come_and_go_however_they_arrive(name: str, pieces: str):
    protocol, first, second, wire, _ = PROTOCOLS[name]
    got: list[bytes] = []

    def on_message(connection: Connection, frame: bytes) -> None:
        got.append(frame)
        connection.send(frame)

    async def main() -> None:
        async with TCPServer(on_message, protocol=protocol) as server:
            peer = await Peer.connect(await started(server))
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if pieces == "whole":
                await peer.send(wire)
            else:
                for byte in wire:
                    await peer.send(bytes([byte]))
                    await asyncio.sleep(0)
            assert await peer.receive(len(wire)) == wire
            assert got == [first, second]
            peer.close()
            await until(lambda: server.counters()["connections"] == 0)

    run(main)


@pytest.mark.parametrize("name", [name for name, each in PROTOCOLS.items() if each[4] is not None])
def test_what_is_no_frame_is_told_closes_that_connection_alone_and_is_counted(name: str):
    protocol, first, _, wire, bad = PROTOCOLS[name]
    assert bad is not None
    errors: list[Exception] = []
    reasons: list[CloseReason] = []
    got: list[bytes] = []

    async def main() -> None:
        server = TCPServer(
            lambda connection, frame: got.append(frame),
            protocol=protocol,
            on_error=lambda connection, error: errors.append(error),
            on_close=lambda connection, reason: reasons.append(reason),
        )
        async with server:
            address = await started(server)
            other, peer = await Peer.connect(address), await Peer.connect(address)
            await peer.send(wire + bad)
            assert await peer.is_closed()
            peer.close()
            await until(lambda: reasons)
            assert got[:1] == [first] or name == "python"
            assert [type(error) for error in errors] == [FrameError]
            assert reasons == [CloseReason.BAD_FRAME]
            counters = server.counters()
            assert counters["frames_too_long"] + counters["frames_malformed"] == 1
            kind = errors[0].kind if isinstance(errors[0], FrameError) else ""
            assert counters[f"frames_{kind}"] == 1
            await other.send(wire)
            await until(lambda: len(got) >= 2)
            other.close()

    run(main)


def test_a_stream_that_ends_within_a_frame_is_told_as_truncated():
    errors: list[Exception] = []

    async def main() -> None:
        server = TCPServer(
            lambda *_: None, protocol=LengthPrefixed(), on_error=lambda connection, error: errors.append(error)
        )
        async with server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"\0\0\0\x05abc")
            peer.end()
            assert await peer.is_closed()
            assert isinstance(errors[0], FrameError)
            assert errors[0].kind == "truncated"
            assert server.counters()["frames_truncated"] == 1
            peer.close()

    run(main)


def test_the_frames_of_one_turn_come_as_one_batch():
    batches: list[list[bytes]] = []

    def on_messages(connection: Connection, frames: list[bytes]) -> None:
        batches.append(frames)
        connection.send_many(frames)

    async def main() -> None:
        async with TCPServer(on_messages=on_messages, protocol=Line()) as server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"a\nb\nc\n")
            assert await peer.receive(6) == b"a\nb\nc\n"
            assert batches == [[b"a", b"b", b"c"]]
            peer.close()

    run(main)


def test_an_asynchronous_handler_keeps_the_order_and_does_not_hold_up_others():
    order: list[str] = []
    gate = contextvars.ContextVar("gate", default=0)

    async def on_message(connection: Connection, frame: bytes) -> None:
        order.append(f"begin {frame.decode()}")
        assert asyncio.current_task() is not None
        assert gate.get() == 0
        gate.set(1)
        if frame == b"slow":
            async with asyncio.timeout(5):
                await asyncio.sleep(0.05)
        connection.send(frame)
        order.append(f"end {frame.decode()}")

    async def main() -> None:
        async with TCPServer(on_message, protocol=Line()) as server:
            address = await started(server)
            slow, quick = await Peer.connect(address), await Peer.connect(address)
            await slow.send(b"slow\nnext\n")
            await until(lambda: order)
            await quick.send(b"quick\n")
            assert await quick.receive(6) == b"quick\n"
            assert await slow.receive(10) == b"slow\nnext\n"
            assert order.index("end quick") < order.index("end slow") < order.index("begin next")
            slow.close()
            quick.close()

    run(main)


def test_a_handler_of_the_whole_connection_iterates_over_its_frames():
    seen: list[Any] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection.peer)
        async for frame in connection:
            connection.send(frame.upper())
            await connection.drain()
        seen.append("end")
        # The peer sends no more, and can still be told something.
        connection.send(b"bye")

    async def main() -> None:
        async with TCPServer(handler=handler, protocol=Line()) as server:
            peer = await Peer.connect(await started(server))
            own = peer.sock.getsockname()
            await peer.send(b"one\ntwo\nthree\n")
            assert await peer.receive(8) == b"ONE\nTWO\n"
            peer.end()
            assert await peer.receive_all() == b"THREE\nbye\n"
            assert seen == [own, "end"]
            peer.close()
            await until(lambda: server.counters()["connections"] == 0)

    run(main)


def test_a_cancelled_receive_loses_no_frame():
    got: list[Any] = []

    async def handler(connection: Connection) -> None:
        try:
            async with asyncio.timeout(0.03):
                got.append(await connection.receive())
        except TimeoutError:
            got.append("timeout")
            connection.send(b"late")
        got.append(await connection.receive())
        got.append(await connection.receive())

    async def main() -> None:
        async with TCPServer(handler=handler, protocol=Line()) as server:
            peer = await Peer.connect(await started(server))
            assert await peer.receive(5) == b"late\n"
            await peer.send(b"frame\n")
            peer.end()
            assert await peer.is_closed()
            assert got == ["timeout", b"frame", None]
            peer.close()

    run(main)


def test_a_bad_frame_is_raised_where_frames_are_received():
    got: list[Any] = []

    async def handler(connection: Connection) -> None:
        try:
            while (frame := await connection.receive()) is not None:
                got.append(frame)
        except FrameError as error:
            got.append(error.kind)

    async def main() -> None:
        async with TCPServer(handler=handler, protocol=LengthPrefixed(max_frame_bytes=10)) as server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"\0\0\0\x02ok\0\0\0\xff")
            assert await peer.is_closed()
            assert got == [b"ok", "too_long"]
            peer.close()

    run(main)


def test_every_event_is_told_once_and_in_order():
    events: list[Any] = []

    async def main() -> None:
        server = TCPServer(
            lambda connection, frame: events.append(("message", connection.state, frame)),
            protocol=Line(),
            on_connect=lambda connection: (events.append("connect"), setattr(connection, "state", 7))[0],
            on_close=lambda connection, reason: events.append((connection.state, reason)),
        )
        async with server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"x\n")
            await until(lambda: len(events) == 2)
            peer.close()
            await until(lambda: len(events) == 3)
        assert events == ["connect", ("message", 7, b"x"), (7, CloseReason.PEER_CLOSED)]

    run(main)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("close", CloseReason.CLOSED), ("abort", CloseReason.ABORTED), ("raise", CloseReason.HANDLER_FAILED)],
)
@pytest.mark.parametrize("kind", ["sync", "async", "suspended"])
def test_a_handler_ends_its_connection(how: str, reason: CloseReason, kind: str):
    reasons: list[Any] = []
    errors: list[Exception] = []

    def act(connection: Connection) -> None:
        if how == "raise":
            raise RuntimeError("on purpose")
        getattr(connection, how)()
        if how == "close":
            with pytest.raises(penstock.ConnectionClosed):
                connection.send(b"too late")

    def on_message(connection: Connection, frame: bytes) -> None:
        connection.send(b"last")
        act(connection)

    async def on_message_async(connection: Connection, frame: bytes) -> None:
        connection.send(b"last")
        if kind == "suspended":
            await asyncio.sleep(0)
        act(connection)

    async def main() -> None:
        server = TCPServer(
            on_message if kind == "sync" else on_message_async,
            on_close=lambda connection, reason: reasons.append((reason, connection.reason)),
            on_error=lambda connection, error: errors.append(error),
        )
        async with server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"x")
            if how == "abort":
                assert await peer.is_closed()
            else:
                assert await peer.receive_all() == b"last"
            peer.close()
            await until(lambda: reasons)
            assert reasons == [(reason, reason)]
            assert [str(error) for error in errors] == (["on purpose"] if how == "raise" else [])

    run(main)


@pytest.mark.parametrize("state", ["idle", "within a frame", "handler at work", "unread output", "half-closed"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_peer_that_dies_in_any_state_leaves_nothing_behind(state: str, how: str):
    reasons: list[CloseReason] = []
    running = asyncio.Event()

    async def on_message(connection: Connection, frame: bytes) -> None:
        running.set()
        if state == "unread output":
            connection.send(bytes(900_000))
        elif state == "handler at work":
            await connection.wait_closed()

    async def main() -> None:
        server = TCPServer(
            on_message,
            protocol=LengthPrefixed(),
            on_close=lambda connection, reason: reasons.append(reason),
            on_error=lambda *_: None,
        )
        async with server:
            peer = await Peer.connect(await started(server), receive_buffer=4096)
            await until(lambda: server.counters()["connections"] == 1)
            if state == "within a frame":
                await peer.send(b"\0\0\0\x05ab")
            elif state in ("handler at work", "unread output"):
                await peer.send(b"\0\0\0\0")
                await running.wait()
            elif state == "half-closed":
                peer.end()
            getattr(peer, how)()
            await until(lambda: reasons)
            assert server.counters()["connections"] == 0
            assert len(reasons) == 1

    run(main)


def test_our_side_can_end_first_and_still_receive():
    got: list[bytes] = []

    def on_message(connection: Connection, frame: bytes) -> None:
        got.append(frame)
        if frame == b"first":
            connection.send(b"all I have to say")
            connection.end()
            with pytest.raises(penstock.ConnectionClosed):
                connection.send(b"more")

    async def main() -> None:
        async with TCPServer(on_message, protocol=Line()) as server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"first\n")
            assert await peer.receive_all() == b"all I have to say\n"
            await peer.send(b"second\n")
            await until(lambda: len(got) == 2)
            peer.close()
            await until(lambda: server.counters()["connections"] == 0)

    run(main)


def test_a_peer_that_does_not_read_is_not_read_from_and_memory_keeps_its_bound():
    unsent: list[int] = []

    def on_message(connection: Connection, data: bytes) -> None:
        connection.send(data)
        unsent.append(connection.unsent_bytes)

    async def main() -> None:
        async with TCPServer(on_message) as server:
            peer = await Peer.connect(await started(server), receive_buffer=4096)
            flood, sent = bytes(1 << 16), 0
            with contextlib.suppress(TimeoutError):
                while sent < 1 << 28:
                    await asyncio.wait_for(peer.send(flood), 0.3)
                    sent += len(flood)
            assert sent < 1 << 28
            assert max(unsent) <= 3 * (1 << 16)
            other = await Peer.connect(server.listeners[0].getsockname())
            await other.send(b"quick")
            assert await other.receive(5) == b"quick", "others are served"
            # Once it reads, everything comes.
            assert len(await peer.receive(sent)) == sent
            peer.close()
            other.close()

    run(main)


def test_sending_on_to_a_peer_that_does_not_read_is_refused_and_drain_waits():
    told: list[Any] = []

    async def on_message(connection: Connection, frame: bytes) -> None:
        piece = bytes(100_000)
        for _ in range(1000):
            try:
                connection.send(piece)
            except penstock.SendBufferFull as error:
                told.append(str(error))
                break
        told.append(connection.unsent_bytes)
        connection.write(b"")  # No more fits, but nothing always does.
        await connection.drain()
        told.append(connection.unsent_bytes)
        connection.send(b"end")

    async def main() -> None:
        server = TCPServer(on_message, limits=StreamLimits(max_unsent_bytes=400_000))
        async with server:
            peer = await Peer.connect(await started(server), receive_buffer=4096)
            await peer.send(b"go")
            await until(lambda: len(told) == 2)
            assert "drain" in told[0]
            assert told[1] <= 400_000
            received = b""
            while not received.endswith(b"end"):
                received += await peer.receive(1)  # Slowly at first ...
                received += await asyncio.get_running_loop().sock_recv(peer.sock, 1 << 20)
            assert told[2] <= 64 * 1024
            peer.close()

    run(main)


def test_a_peer_that_reads_nothing_for_too_long_is_cut_off():
    reasons: list[CloseReason] = []

    async def main() -> None:
        server = TCPServer(
            lambda connection, data: connection.send(bytes(8_000_000)) and None,
            on_close=lambda connection, reason: reasons.append(reason),
            limits=StreamLimits(write_timeout_s=0.2),
        )
        async with server:
            peer = await Peer.connect(await started(server), receive_buffer=4096)
            await peer.send(b"go")
            await until(lambda: reasons)
            assert reasons == [CloseReason.SLOW_READER]
            assert server.counters()["closed_slow_readers"] == 1
            peer.close()

    run(main)


def test_what_fills_buffers_at_first_buys_a_peer_that_reads_nothing_no_time():
    reasons: list[CloseReason] = []

    async def main() -> None:
        server = TCPServer(
            lambda connection, data: connection.send(bytes(8_000_000)) and None,
            on_close=lambda connection, reason: reasons.append(reason),
            limits=StreamLimits(max_unsent_bytes=1 << 24, write_timeout_s=3),
        )
        async with server:
            peer = await Peer.connect(await started(server), receive_buffer=4096)
            await peer.send(b"go")
            began = time.monotonic()
            await peer.receive(200_000)
            await until(lambda: reasons)
            assert 2.9 < time.monotonic() - began < 5.5, "it had its time twice"
            assert reasons == [CloseReason.SLOW_READER]
            peer.close()

    run(main)


def test_reading_can_be_paused_and_nothing_is_lost():
    got: list[bytes] = []
    connections: list[Connection] = []

    def on_message(connection: Connection, frame: bytes) -> None:
        got.append(frame)
        if frame == b"pause":
            connection.pause_reading()
            connections.append(connection)

    async def main() -> None:
        async with TCPServer(on_message, protocol=Line()) as server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"pause\nafter\n")
            await until(lambda: got)
            await peer.send(b"later\n")
            await asyncio.sleep(0.02)
            assert got == [b"pause"]
            connections[0].resume_reading()
            await until(lambda: len(got) == 3)
            assert got == [b"pause", b"after", b"later"]
            peer.close()

    run(main)


@pytest.mark.parametrize("ping", [None, b"\0\0\0\x04ping"])
def test_silence_is_answered_by_a_ping_and_then_by_the_end(ping: bytes | None):
    reasons: list[CloseReason] = []

    async def main() -> None:
        server = TCPServer(
            lambda *_: None,
            protocol=LengthPrefixed(),
            heartbeat=Heartbeat(interval_s=0.1, timeout_s=0.3, ping=ping),
            on_close=lambda connection, reason: reasons.append(reason),
        )
        async with server:
            address = await started(server)
            talker, silent = await Peer.connect(address), await Peer.connect(address)

            async def talk() -> None:
                while True:
                    await talker.send(b"\0\0\0\0")
                    await asyncio.sleep(0.03)

            talking = asyncio.create_task(talk())
            assert await silent.receive_all() == (ping or b"")
            silent.close()
            await until(lambda: reasons)
            assert reasons == [CloseReason.SILENT]
            assert server.counters()["connections"] == 1, "who speaks is let alone"
            talking.cancel()
            talker.close()

    run(main)


PING, PONG = b"\0\0\0\x04ping", b"\0\0\0\x04pong"


@pytest.mark.parametrize("delivery", ["on_message", "on_messages", "handler"])
def test_pings_are_answered_by_the_reactor_and_reach_no_handler(delivery: str):
    got: list[bytes] = []

    async def pull(connection: Connection) -> None:
        async for frame in connection:
            got.append(frame)  # noqa: PERF401

    handlers: dict[str, Any] = {
        "on_message": lambda connection, frame: got.append(frame),
        "on_messages": lambda connection, frames: got.extend(frames),
        "handler": pull,
    }

    async def main() -> None:
        heartbeat = Heartbeat(interval_s=60, timeout_s=120, ping=PING, pong=PONG)
        server = TCPServer(**{delivery: handlers[delivery]}, protocol=LengthPrefixed(), heartbeat=heartbeat)
        async with server:
            peer = await Peer.connect(await started(server))
            # Alone, among heartbeats, among frames, and in two parts, the first of which is a frame's as well.
            for sent, pongs, frames in (
                (PING, 1, 0),
                (PING + PONG + PING, 2, 0),
                (b"\0\0\0\x01a" + PING + b"\0\0\0\x01b", 1, 2),
                (PONG + b"\0\0\0\x05pings", 0, 1),
            ):
                before = len(got)
                await peer.send(sent)
                assert await peer.receive(len(PONG) * pongs) == PONG * pongs
                await until(lambda: len(got) == before + frames)  # noqa: B023
            await peer.send(b"\0\0\0\x01c" + PING[:5])
            await until(lambda: got[-1] == b"c")
            await peer.send(PING[5:])
            assert await peer.receive(len(PONG)) == PONG
            assert got == [b"a", b"b", b"pings", b"c"]
            assert server.counters()["pings_answered"] == 5
            peer.close()

    run(main)


def test_a_ping_is_answered_while_the_handler_is_busy():
    async def main() -> None:
        release = asyncio.Event()

        async def on_message(connection: Connection, frame: bytes) -> None:
            await release.wait()
            connection.send(b"done")

        heartbeat = Heartbeat(interval_s=60, timeout_s=120, ping=PING, pong=PONG)
        async with TCPServer(on_message, protocol=LengthPrefixed(), heartbeat=heartbeat) as server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"\0\0\0\x01a")
            await until(lambda: server.counters()["frames_received"] == 1)
            await peer.send(PING)
            assert await peer.receive(len(PONG)) == PONG
            release.set()
            assert await peer.receive(8) == b"\0\0\0\x04done"
            peer.close()

    run(main)


def test_who_answers_pings_is_not_silent():
    reasons: list[CloseReason] = []

    async def main() -> None:
        server = TCPServer(
            lambda *_: None,
            protocol=LengthPrefixed(),
            heartbeat=Heartbeat(interval_s=0.1, timeout_s=0.3, ping=PING, pong=PONG),
            on_close=lambda connection, reason: reasons.append(reason),
        )
        async with server:
            peer = await Peer.connect(await started(server))
            for _ in range(5):
                assert await peer.receive(len(PING)) == PING
                await peer.send(PONG)
            assert not reasons
            # Who does not is.
            assert await peer.receive_all() == PING
            await until(lambda: reasons)
            assert reasons == [CloseReason.SILENT]
            peer.close()

    run(main)


@pytest.mark.parametrize(
    ("protocol", "ping", "pong"),
    [(LengthPrefixed(), b"ping", PONG), (LengthPrefixed(), PING, PONG + b"x"), (Raw(), PING, PONG)],
)
def test_a_heartbeat_that_is_no_frame_is_refused(protocol: Any, ping: bytes, pong: bytes):
    async def main() -> None:
        heartbeat = Heartbeat(interval_s=1, timeout_s=2, ping=ping, pong=pong)
        server = TCPServer(lambda *_: None, protocol=protocol, heartbeat=heartbeat)
        with pytest.raises(ValueError, match="one whole frame each"):
            await server.start("127.0.0.1:0")

    run(main)
    with pytest.raises(ConfigError, match="pong answers a ping"):
        Heartbeat(interval_s=1, timeout_s=2, pong=pong)


def test_a_group_reaches_everybody_but_the_excluded_and_those_that_left():
    group: penstock.Group | None = None

    def on_message(connection: Connection, frame: bytes) -> None:
        assert group is not None
        if frame == b"join":
            group.add(connection)
            connection.send(b"joined")
        elif frame == b"leave":
            group.discard(connection)
            connection.send(b"left")
        else:
            connection.send(b"to %d" % group.send(frame, exclude=connection))

    async def main() -> None:
        nonlocal group
        async with TCPServer(on_message, protocol=Line()) as server:
            group = server.group()
            address = await started(server)
            peers = [await Peer.connect(address) for _ in range(4)]
            for each in peers:
                await each.send(b"join\n")
                assert await each.receive(7) == b"joined\n"
            peers[3].close()
            await until(lambda: server.counters()["connections"] == 3)
            assert len(group) == 3
            await peers[2].send(b"leave\n")
            assert await peers[2].receive(5) == b"left\n"
            await peers[0].send(b"hello\n")
            assert await peers[0].receive(5) == b"to 1\n"
            assert await peers[1].receive(6) == b"hello\n"
            await peers[2].send(b"from outside\n")
            assert await peers[2].receive(5) == b"to 2\n"
            for each in peers:
                each.close()

    run(main)


def test_a_group_does_not_wait_for_a_slow_member():
    group: penstock.Group | None = None
    reasons: list[CloseReason] = []

    def on_connect(connection: Connection) -> None:
        assert group is not None
        group.add(connection)

    async def main() -> None:
        nonlocal group
        server = TCPServer(
            lambda *_: None,
            on_connect=on_connect,
            on_close=lambda connection, reason: reasons.append(reason),
            limits=StreamLimits(max_unsent_bytes=200_000),
        )
        async with server:
            group = server.group()
            address = await started(server)
            slow, quick = await Peer.connect(address, receive_buffer=4096), await Peer.connect(address)
            await until(lambda: group is not None and len(group) == 2)
            sent = 0
            while not reasons:
                group.send(bytes(50_000))
                sent += 50_000
                assert len(await quick.receive(50_000)) == 50_000
            assert reasons == [CloseReason.SLOW_READER]
            assert len(group) == 1
            slow.close()
            quick.close()

    run(main)


def test_a_group_holds_one_copy_for_all_who_have_not_read_it():
    frame, members = bytes(500_000), 100

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def main() -> None:
        connections: list[Connection] = []
        async with TCPServer(lambda *_: None, on_connect=connections.append) as server:
            group = server.group()
            address = await started(server)
            peers = [await Peer.connect(address, receive_buffer=4096) for _ in range(members)]
            await until(lambda: len(connections) == members)
            for each in connections:
                group.add(each)
            before = resident_bytes()
            assert group.send(frame) == members
            # A turn of the loop, and the kernel has what it takes: nobody reads, so nobody has it whole.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            unsent = sum(each.unsent_bytes for each in connections)
            assert unsent > members * len(frame) // 4
            assert resident_bytes() - before < unsent // 4, "one copy, and not one for each"
            received = await asyncio.gather(*(each.receive(len(frame)) for each in peers))
            assert all(each == frame for each in received)
            for each in peers:
                each.close()

    run(main)


def test_a_flooding_writer_waits_for_its_handler_and_holds_up_nobody():
    handled: list[bytes] = []
    may_go_on = asyncio.Event()

    async def on_message(connection: Connection, frame: bytes) -> None:
        if frame == b"quick":
            connection.send(frame)
            return
        await may_go_on.wait()
        handled.append(frame)

    async def main() -> None:
        async with TCPServer(
            on_message, protocol=LengthPrefixed(), limits=StreamLimits(max_held_bytes=32_768)
        ) as server:
            address = await started(server)
            flooder, sent, flood = await Peer.connect(address), 0, (b"\0\0\1\0" + bytes(256)) * 1000
            with contextlib.suppress(TimeoutError):
                while sent < 1 << 27:
                    await asyncio.wait_for(flooder.send(flood), 0.3)
                    sent += 1000
            assert not handled
            assert sent * 260 < 1 << 27, "the kernel's buffers are full, and ours at their bound"
            other = await Peer.connect(address)
            await other.send(b"\0\0\0\5quick")
            assert await other.receive(9) == b"\0\0\0\5quick"
            may_go_on.set()
            # What was cut off within a frame was never sent whole.
            await until(lambda: len(handled) >= sent)
            flooder.close()
            other.close()

    run(main)


def test_socket_options_hold_for_what_is_accepted_and_for_clients():
    options = penstock.SocketOptions(
        keep_alive=True, keep_alive_idle_s=77, user_timeout_ms=12_345, type_of_service=0x10
    )
    wanted = {"SO_KEEPALIVE": True, "TCP_KEEPIDLE": 77, "TCP_USER_TIMEOUT": 12_345, "IP_TOS": 0x10}

    def options_of_sockets() -> list[dict[str, Any]]:
        """Of every connected TCP socket of this process."""
        found: list[dict[str, Any]] = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family == socket.AF_INET and sock.getpeername():
                    found.append({option: _core.get_socket_option(sock.fileno(), option) for option in wanted})
        return found

    async def main() -> None:
        connections: list[Connection] = []
        server = TCPServer(lambda *_: None, on_connect=connections.append, options=options)
        async with server, penstock.TCPClient(options=options) as client:
            host, port = await started(server)
            await client.start(f"{host}:{port}")
            await until(lambda: connections)
            assert options_of_sockets() == [wanted, wanted]

    run(main)


def test_replies_of_resp_are_written_by_their_type():
    seen: list[list[bytes]] = []

    def on_message(connection: Connection, command: list[bytes]) -> None:
        seen.append(command)
        connection.send([b"bulk", "simple", 7, None, ValueError("ERR wrong"), []])

    async def main() -> None:
        async with TCPServer(on_message, protocol=Resp()) as server:
            peer = await Peer.connect(await started(server))
            await peer.send(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING now\r\n")
            reply = b"*6\r\n$4\r\nbulk\r\n+simple\r\n:7\r\n$-1\r\n-ERR wrong\r\n*0\r\n"
            assert await peer.receive(2 * len(reply)) == 2 * reply
            assert seen == [[b"GET", b"k"], [b"PING", b"now"]]
            peer.close()

    run(main)


def test_a_unix_socket_is_served_and_its_file_removed(tmp_path: Path):
    path = tmp_path / "server.sock"
    peers: list[Any] = []

    def on_message(connection: Connection, data: bytes) -> None:
        peers.append(connection.peer)
        connection.send(data)

    async def main() -> None:
        async with TCPServer(on_message) as server:
            await server.start(f"unix:{path}")
            assert server.addresses == [f"unix:{path}"]
            peer = await Peer.connect(str(path))
            await peer.send(b"hello")
            assert await peer.receive(5) == b"hello"
            peer.close()
        assert peers == ["unix"]
        assert not path.exists()

    run(main)


def test_stopping_waits_for_handlers_and_lets_what_was_sent_leave():
    ended: list[str] = []
    running = asyncio.Event()

    async def on_message(connection: Connection, data: bytes) -> None:
        running.set()
        await asyncio.sleep(0.05)
        connection.send(b"answer")
        ended.append("handler")

    async def main() -> None:
        server = TCPServer(on_message, on_close=lambda connection, reason: ended.append(reason.value))
        peer = await Peer.connect(await started(server))
        idle = await Peer.connect(server.listeners[0].getsockname())
        await peer.send(b"x")
        await running.wait()
        closing = asyncio.create_task(server.close())
        assert await idle.is_closed()
        assert await peer.receive_all() == b"answer"
        peer.close()
        idle.close()
        await closing
        assert sorted(ended) == ["handler", "stopped", "stopped"]

    run(main)


def test_stopping_ends_the_streams_that_handlers_receive_from():
    told: list[str] = []
    running = asyncio.Event()

    async def handler(connection: Connection) -> None:
        async for frame in connection:
            if frame == b"work":
                running.set()
                await asyncio.sleep(0.05)
            connection.send(b"did " + frame)
        connection.send(b"bye")
        told.append("bye")

    async def main() -> None:
        server = TCPServer(handler=handler, protocol=Line())
        busy, idle = await Peer.connect(await started(server)), await Peer.connect(server.listeners[0].getsockname())
        await idle.send(b"hello\n")
        assert await idle.receive(10) == b"did hello\n"
        await busy.send(b"work\n")
        await running.wait()
        await server.close()
        assert await busy.receive_all() == b"did work\nbye\n"
        assert await idle.receive_all() == b"bye\n"
        busy.close()
        idle.close()

    run(main)
    assert told == ["bye", "bye"]


def test_a_connection_kept_by_nobody_has_no_object_and_one_that_is_kept_lasts():
    import gc

    kept: list[Connection] = []

    def on_message(connection: Connection, data: bytes) -> None:
        if data == b"keep":
            kept.append(connection)
        elif data == b"same":
            assert kept[0] is connection
        elif data == b"drop":
            kept.clear()
        connection.send(data)

    def all_objects() -> int:
        gc.collect()
        return sum(isinstance(each, Connection) for each in gc.get_objects())

    before = all_objects()

    def objects() -> int:
        return all_objects() - before

    async def main() -> None:
        async with TCPServer(on_message) as server:
            peer = await Peer.connect(await started(server))
            for data, count in ((b"none", 0), (b"keep", 1), (b"same", 1), (b"drop", 0)):
                await peer.send(data)
                assert await peer.receive(4) == data
                assert objects() == count, data
            peer.close()

    run(main)


def test_a_server_needs_one_who_receives_and_an_address_that_is_one():
    with pytest.raises(penstock.ConfigError, match="expected one of on_message"):
        TCPServer()
    for address in ("nowhere", "host:port", "::1:80", "a:99999", "[::1:80"):
        with pytest.raises(penstock.ConfigError, match="expected an address"):
            TCPServer(lambda *_: None).run(address)
    with pytest.raises(penstock.ConfigError, match="interval_s"):
        Heartbeat(interval_s=3, timeout_s=2)
    for wrong in (
        lambda: LengthPrefixed(header_bytes=5),
        lambda: LengthPrefixed(offset=9),
        lambda: Delimiter(b""),
        lambda: Fixed(frame_bytes=0),
    ):
        with pytest.raises(penstock.ConfigError):
            wrong()


def test_another_event_loop_is_told_what_is_expected():
    async def main() -> None:
        await TCPServer(lambda *_: None).start("127.0.0.1:0")

    with pytest.raises(penstock.StartupError, match=r"penstock\.EventLoop"):
        asyncio.run(main())


def test_frames_that_the_protocol_cannot_carry_are_refused():
    wrong: list[tuple[Any, Any, Callable[..., Any]]] = [
        (LengthPrefixed(header_bytes=1), b"x" * 256, FrameError),
        (LengthPrefixed(max_frame_bytes=10), b"x" * 11, FrameError),
        (Fixed(frame_bytes=3), b"four", FrameError),
        (Line(), b"two\nlines", FrameError),
        (Raw(), "text", TypeError),
        (Resp(), "two\r\nlines", FrameError),
        (Resp(), object(), TypeError),
    ]
    done: list[int] = []

    async def main() -> None:
        for protocol, frame, error in wrong:

            def on_connect(connection: Connection, frame: Any = frame, error: Any = error) -> None:
                with pytest.raises(error):
                    connection.send(frame)
                assert connection.unsent_bytes == 0
                done.append(1)

            async with TCPServer(lambda *_: None, protocol=protocol, on_connect=on_connect) as server:
                peer = await Peer.connect(await started(server))
                await until(lambda: server.counters()["connections"] == 1)
                peer.close()
        assert len(done) == len(wrong)

    run(main)


def test_no_more_connections_than_allowed_are_taken():
    async def main() -> None:
        server = TCPServer(lambda connection, data: connection.send(data), limits=StreamLimits(max_connections=2))
        async with server:
            address = await started(server)
            peers = [await Peer.connect(address) for _ in range(3)]
            assert await peers[2].is_closed()
            await peers[1].send(b"x")
            assert await peers[1].receive(1) == b"x"
            assert server.counters()["refused_over_limit"] == 1
            for each in peers:
                each.close()

    run(main)


def test_large_frames_go_both_ways_whole():
    async def main() -> None:
        server = TCPServer(
            lambda connection, frame: connection.send(frame), protocol=LengthPrefixed(max_frame_bytes=1 << 24)
        )
        async with server:
            peer = await Peer.connect(await started(server))
            frame = struct.pack(">I", 3_000_000) + bytes(range(250)) * 12_000
            sending = asyncio.create_task(peer.send(frame))
            assert await peer.receive(len(frame)) == frame
            await sending
            peer.close()

    run(main)
