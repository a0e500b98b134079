"""Datagrams: servers and clients over IPv4, IPv6 and Unix sockets, on a reactor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest
from conftest import PENSTOCK, START_TIMEOUT_S, STOP_TIMEOUT_S, clean_environment
from programs import need

import penstock
from penstock import Peer, Sessions, SocketOptions, UDPClient, UDPServer, logs

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 10.0


def run(main: Coroutine[Any, Any, None], *, poller: str = "auto") -> None:
    with asyncio.Runner(loop_factory=lambda: penstock.EventLoop(poller)) as runner:
        runner.run(asyncio.wait_for(main, 20))


def echo(peer: Peer, datagram: bytes) -> bytes:
    return datagram


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def plain_socket(family: int = socket.AF_INET) -> socket.socket:
    """Somebody else's socket: not connected, and blocking for a while at the most."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE_S)
    return sock


async def hear(sock: socket.socket, bytes_: int = 65_536) -> tuple[bytes, Any]:
    return await asyncio.to_thread(sock.recvfrom, bytes_)


ADDRESSES = ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix:{tmp}/socket", "unix:@penstock-udp-{pid}"]


def target(server: UDPServer, address: str) -> str | tuple[Any, ...]:
    return address if address.startswith("unix:") else server.address


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("poller", ["epoll", "io_uring"])
def test_a_datagram_is_answered_over_every_family(address: str, poller: str, tmp_path: Path):
    address = address.format(tmp=tmp_path, pid=os.getpid())

    async def main() -> None:
        server = UDPServer(echo)
        await server.start(address)
        async with UDPClient(target(server, address)) as client:
            for size in (0, 1, 64, 1_400, 9_000, 60_000):
                client.send(bytes(size))
                assert await client.receive(PATIENCE_S) == bytes(size)
        await server.close()

    try:
        run(main(), poller=poller)
    except OSError as error:
        if poller == "io_uring" and "io_uring" in str(error):
            pytest.skip(f"this kernel or build has no io_uring: {error}")
        raise


def test_a_burst_arrives_whole_and_in_order_and_so_do_the_answers():
    async def main() -> None:
        server = UDPServer(echo)
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address, max_received=10_000) as client:
            sent = [struct.pack("!I", number) * (4 if number % 7 else 2) for number in range(500)]
            for datagram in sent:
                client.send(datagram)
            assert [await client.receive(PATIENCE_S) for _ in sent] == sent
        counted = server.counters()
        assert counted["datagrams_received"] == counted["datagrams_sent"] == 1000
        await server.close()

    run(main())


@pytest.mark.parametrize("gather_s", [0.0, 0.001])
def test_a_stream_is_let_gather_if_that_is_wanted_and_nothing_of_it_is_lost(gather_s: float):
    """Sixteen on their way are fewer than are plenty, and within two milliseconds worth a pause of one."""

    async def main() -> None:
        server = UDPServer(echo, gather_s=gather_s)
        await server.start("127.0.0.1:0")
        rounds = 0
        # A socket that sends each by itself: what comes as a run is not waited for.
        with plain_socket() as sock:
            while rounds < 20 or (gather_s and not server.counters()["datagram_pauses"]):
                sent = [b"%d %d" % (rounds, number) for number in range(16)]
                for datagram in sent:
                    sock.sendto(datagram, server.address)
                rounds += 1
                while server.counters()["datagrams_sent"] < 16 * rounds:
                    await asyncio.sleep(0)
                assert [sock.recv(100) for _ in sent] == sent
        assert (server.counters()["datagram_pauses"] > 0) == (gather_s > 0)
        await server.close()

    run(main())


@pytest.mark.parametrize("answer", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_handler_returns_is_the_answer(answer: Any, is_async: bool):
    def answers(peer: Peer, datagram: bytes) -> Any:
        return answer

    async def answers_later(peer: Peer, datagram: bytes) -> Any:
        await asyncio.sleep(0)
        return answer

    async def main() -> None:
        server = UDPServer(answers_later if is_async else answers)
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            client.send(b"?")
            assert await client.receive(PATIENCE_S) == b"bytes"
        await server.close()

    run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_fails_is_told_and_the_server_goes_on(is_async: bool):
    def fails(peer: Peer, datagram: bytes) -> Any:
        if datagram == b"raise":
            raise ValueError("as asked")
        return "text" if datagram == b"text" else datagram

    async def fails_later(peer: Peer, datagram: bytes) -> Any:
        return fails(peer, datagram)

    async def main() -> None:
        errors: list[tuple[Peer | None, Exception]] = []
        server = UDPServer(fails_later if is_async else fails, on_error=lambda *told: errors.append(told))
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            for datagram in (b"raise", b"text", b"fine"):
                client.send(datagram)
            assert await client.receive(PATIENCE_S) == b"fine"
            await until(lambda: len(errors) == 2)
            (first_peer, first), (_, second) = errors
            assert (str(first), first_peer and first_peer.address) == ("as asked", client.address)
            assert isinstance(second, TypeError)
            assert "got str" in str(second)
        await server.close()

    run(main())


def test_without_on_error_a_failure_is_logged(monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    # The logger itself: other tests may have set up where its records go.
    monkeypatch.setattr(
        logs.error_logger, "error", lambda message, *_, exc_info: told.append(f"{message} {exc_info!r}")
    )

    def fails(peer: Peer, datagram: bytes) -> None:
        raise ValueError("nobody listens")

    async def main() -> None:
        server = UDPServer(fails)
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            client.send(b"?")
            await until(lambda: bool(told))
        await server.close()

    run(main())
    assert "nobody listens" in told[0]


def test_an_interrupt_is_no_handler_s_error():
    def interrupts(peer: Peer, datagram: bytes) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        server = UDPServer(interrupts)
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            client.send(b"?")
            await asyncio.sleep(PATIENCE_S)

    with pytest.raises(KeyboardInterrupt):
        run(main())


def test_an_answer_leaves_from_the_address_that_was_asked():
    async def main() -> None:
        hosts: list[str | None] = []

        def on_datagram(peer: Peer, datagram: bytes) -> bytes:
            hosts.append(peer.local_host)
            return datagram

        server = UDPServer(on_datagram)
        await server.start("0.0.0.0:0")
        with plain_socket() as sock:
            for host in ("127.0.0.2", "127.0.0.1", "127.0.0.3"):
                sock.sendto(b"?", (host, server.address[1]))
                assert await hear(sock) == (b"?", (host, server.address[1]))
        assert hosts == ["127.0.0.2", "127.0.0.1", "127.0.0.3"]
        await server.close()

    run(main())


def test_an_ipv6_socket_serves_ipv4_only_when_asked_to():
    async def main() -> None:
        both = UDPServer(echo, options=SocketOptions(v6_only=False))
        await both.start("[::]:0")
        with plain_socket() as four, plain_socket(socket.AF_INET6) as six:
            four.sendto(b"4", ("127.0.0.2", both.address[1]))
            assert await hear(four) == (b"4", ("127.0.0.2", both.address[1]))
            six.sendto(b"6", ("::1", both.address[1]))
            assert (await hear(six))[0] == b"6"
        await both.close()
        one = UDPServer(echo)
        await one.start("[::]:0")
        async with UDPClient(f"127.0.0.1:{one.address[1]}") as client:
            client.send(b"4")
            with pytest.raises(ConnectionRefusedError):
                await client.receive(PATIENCE_S)
        await one.close()

    run(main())


@pytest.mark.parametrize(
    ("bound", "group", "family"),
    [("0.0.0.0:0", "239.1.2.3", socket.AF_INET), ("[::]:0", "ff01::1234", socket.AF_INET6)],
)
def test_a_group_s_datagrams_come_while_it_is_joined(bound: str, group: str, family: int):
    lo = socket.if_nametoindex("lo")

    def say(text: bytes, port: int) -> None:
        with plain_socket(family) as sock:
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
                sock.sendto(text, (group, port))
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, lo)
                sock.sendto(text, (group, port, 0, lo))

    async def main() -> None:
        heard: list[bytes] = []
        server = UDPServer(lambda peer, datagram: heard.append(datagram))
        await server.start(bound)
        try:
            server.join(group, "lo")
            say(b"joined", server.address[1])
        except OSError as error:
            await server.close()
            pytest.skip(f"the loopback interface has no multicast here: {error}")
        await until(lambda: heard == [b"joined"])
        server.leave(group, "lo")
        with contextlib.suppress(OSError):
            say(b"left", server.address[1])
        own = server.peer((bound.rpartition(":")[0].strip("[]").replace("0.0.0.0", "127.0.0.1") or "::1", 9))
        assert own.is_open is False
        server.join(group, lo)
        say(b"again", server.address[1])
        await until(lambda: b"again" in heard)
        assert heard == [b"joined", b"again"]
        await server.close()

    run(main())


def test_a_server_can_join_at_its_start_and_wrong_groups_are_refused():
    async def main() -> None:
        joined = penstock.Multicast(groups=["239.1.2.4"], interface="lo", hops=1, loop=True)
        server = UDPServer(echo, multicast=joined)
        await server.start("127.0.0.1:0")
        with pytest.raises(ValueError, match="expected a multicast group such as 239"):
            server.join("192.0.2.1")
        with pytest.raises(penstock.ConfigError, match=r"expected a network interface of .*lo"):
            server.join("239.1.2.5", "no-such-interface")
        await server.close()

    run(main())


def test_what_is_too_long_is_refused_on_its_way_out_and_told_on_its_way_in(tmp_path: Path):
    async def main() -> None:
        errors: list[tuple[Peer | None, Exception]] = []
        heard: list[bytes] = []
        server = UDPServer(
            lambda peer, datagram: heard.append(datagram),
            max_datagram_bytes=100,
            on_error=lambda *told: errors.append(told),
        )
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            with pytest.raises(penstock.DatagramTooLong, match="at most 65507 bytes, got 65508: split it"):
                client.send(bytes(65_508))
            for size in (100, 101, 100):
                client.send(bytes(size))
            await until(lambda: len(heard) == 2 and len(errors) == 1)
            peer, error = errors[0]
            assert isinstance(error, penstock.DatagramTooLong)
            assert (str(error), peer and peer.address) == (
                "expected a datagram of at most 100 bytes, one of 101 came and was dropped",
                client.address,
            )
        assert server.counters()["datagrams_too_long"] == 1
        await server.close()
        local = UDPServer(echo, options=SocketOptions(send_buffer_bytes=4_096))
        await local.start(f"unix:{tmp_path}/socket")
        with pytest.raises(penstock.DatagramTooLong, match="expected a datagram of at most 8160 bytes"):
            local.send(bytes(10_000), f"unix:{tmp_path}/nobody")
        await local.close()

    run(main())


def test_a_full_queue_is_told_to_the_sender_and_drains():
    async def main() -> None:
        server = UDPServer(echo)
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address, max_queued_bytes=65_536) as client:
            for _ in range(65):
                client.send(bytes(1_000))
            with pytest.raises(penstock.DatagramQueueFull, match=r"wait to be sent already: await drain\(\)"):
                client.send(bytes(1_000))
            await client.drain()
            client.send(b"after")
            while await client.receive(PATIENCE_S) != b"after":
                pass
        await server.close()

    run(main())


def test_a_peer_that_does_not_read_blocks_what_is_for_it_until_it_does(tmp_path: Path):
    async def main() -> None:
        server = UDPServer(echo)
        await server.start(f"unix:{tmp_path}/server")
        with plain_socket(socket.AF_UNIX) as slow:
            slow.bind(f"{tmp_path}/slow")
            peer = server.peer(f"unix:{tmp_path}/slow")
            for number in range(2_000):
                peer.send(b"%d" % number)
            await asyncio.sleep(0.05)
            assert server.counters()["sends_blocked"] >= 1
            for number in range(2_000):
                assert (await hear(slow))[0] == b"%d" % number
        await server.close()

    run(main())


def test_an_unbound_unix_socket_cannot_be_answered_and_that_is_told(tmp_path: Path):
    async def main() -> None:
        errors: list[Exception] = []
        server = UDPServer(echo, on_error=lambda peer, error: errors.append(error))
        await server.start(f"unix:{tmp_path}/server")
        with plain_socket(socket.AF_UNIX) as nameless:
            nameless.sendto(b"?", f"{tmp_path}/server")
            await until(lambda: bool(errors))
        assert "must be bound to be answered" in str(errors[0])
        await server.close()

    run(main())


def test_a_session_begins_keeps_its_state_and_ends_when_its_peer_is_silent():
    async def main() -> None:
        events: list[Any] = []

        def on_datagram(peer: Peer, datagram: bytes) -> bytes:
            peer.state += 1
            return b"%d" % peer.state

        def on_open(peer: Peer) -> None:
            peer.state = 0
            events.append(("open", peer.address))

        server = UDPServer(
            on_datagram,
            on_open=on_open,
            on_close=lambda peer, reason: events.append((reason, peer.address, peer.is_open)),
            sessions=Sessions(idle_timeout_s=0.3),
        )
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            for number in (b"1", b"2", b"3"):
                client.send(b"?")
                assert await client.receive(PATIENCE_S) == number
            assert server.known_peers == 1
            await until(lambda: len(events) == 2)
            assert events == [("open", client.address), ("idle", client.address, False)]
            assert server.known_peers == 0
            client.send(b"?")
            assert await client.receive(PATIENCE_S) == b"1", "it begins anew"
        await server.close()

    run(main())


@pytest.mark.parametrize(("when_full", "answered"), [("refuse", [b"a", b"b"]), ("evict", [b"a", b"b", b"c"])])
def test_a_full_table_refuses_the_newcomer_or_lets_another_go(when_full: Any, answered: list[bytes]):
    async def main() -> None:
        closed: list[str] = []
        server = UDPServer(
            echo,
            on_close=lambda peer, reason: closed.append(reason),
            sessions=Sessions(max_peers=2, when_full=when_full),
        )
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as a, UDPClient(server.address) as b, UDPClient(server.address) as c:
            got: list[bytes] = []
            for client, text in ((a, b"a"), (b, b"b"), (c, b"c")):
                client.send(text)
                with contextlib.suppress(TimeoutError):
                    got.append(await client.receive(0.5 if text == b"c" and when_full == "refuse" else PATIENCE_S))
            assert got == answered
        assert server.known_peers == 2
        assert closed == ([] if when_full == "refuse" else ["evicted"])
        assert server.counters()["datagrams_refused"] == (1 if when_full == "refuse" else 0)
        await server.close()

    run(main())


def test_more_senders_than_places_in_one_turn_lose_no_answer():
    """Sessions that make way while their datagrams are still to be handed over."""

    async def main() -> None:
        server = UDPServer(echo, sessions=Sessions(max_peers=3, when_full="evict"))
        await server.start("127.0.0.1:0")
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(plain_socket()) for _ in range(20)]
            heard = 0
            for number, sock in enumerate(socks):
                sock.sendto(b"%d" % number, server.address)
            await until(lambda: server.counters()["datagrams_received"] == 20)
            await until(lambda: server.counters()["datagram_peers_evicted"] == 17)
            for sock in socks[-3:]:
                heard += len((await hear(sock))[0]) > 0
            assert heard == 3
        assert server.known_peers == 3
        await server.close()

    run(main())


def test_an_unverified_peer_is_sent_no_more_than_a_multiple_of_what_it_sent():
    async def main() -> None:
        refused: list[penstock.AmplificationLimited] = []

        def on_datagram(peer: Peer, datagram: bytes) -> None:
            if datagram == b"proof":
                peer.verified = True
            for _ in range(4):
                try:
                    peer.send(datagram)
                except penstock.AmplificationLimited as error:
                    refused.append(error)

        server = UDPServer(on_datagram, sessions=Sessions())
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            client.send(b"hello")
            assert [await client.receive(PATIENCE_S) for _ in range(3)] == [b"hello"] * 3
            assert "5 bytes more would exceed 3 times the 5 that this peer has sent (15 went to it)" in str(refused[0])
            client.send(b"proof")
            assert [await client.receive(PATIENCE_S) for _ in range(4)] == [b"proof"] * 4
            assert len(refused) == 1
        await server.close()

    run(main())


def test_a_closed_session_takes_nothing_more():
    async def main() -> None:
        reasons: list[str] = []
        peers: list[Peer] = []

        def on_datagram(peer: Peer, datagram: bytes) -> None:
            peers.append(peer)
            peer.close()

        server = UDPServer(on_datagram, on_close=lambda peer, reason: reasons.append(reason), sessions=Sessions())
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            client.send(b"?")
            await until(lambda: reasons == ["closed"])
            with pytest.raises(penstock.PeerGone, match="the session of this peer has ended"):
                peers[0].send(b"late")
        await server.close()
        with pytest.raises(penstock.PeerGone, match="the datagram socket is closed"):
            peers[0].send(b"later")

    run(main())


def test_a_connected_client_hears_that_nobody_is_there():
    async def main() -> None:
        with plain_socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            address = nobody.getsockname()
        errors: list[Exception] = []
        async with UDPClient(address, on_error=lambda peer, error: errors.append(error)) as client:
            client.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                await client.receive(PATIENCE_S)
            client.send(b"?")
            await until(lambda: len(errors) == 1)
            assert isinstance(errors[0], ConnectionRefusedError)

    run(main())


def test_receiving_can_time_out_and_loses_nothing_by_it():
    async def main() -> None:
        server = UDPServer(echo)
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            with pytest.raises(TimeoutError):
                await client.receive(0.01)
            client.send(b"now")
            assert await client.receive(PATIENCE_S) == b"now"
            got: list[bytes] = []
            for text in (b"1", b"2", b"3"):
                client.send(text)
            async for datagram in client:
                got.append(datagram)
                if len(got) == 3:
                    break
            assert got == [b"1", b"2", b"3"]
        await server.close()

    run(main())


def test_no_more_handlers_run_at_once_than_may_and_all_datagrams_are_served():
    async def main() -> None:
        running = most = 0
        may_end = asyncio.Event()

        async def on_datagram(peer: Peer, datagram: bytes) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await may_end.wait()
            running -= 1
            return datagram

        server = UDPServer(on_datagram, max_tasks=5)
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            for number in range(50):
                client.send(b"%02d" % number)
            await until(lambda: running == 5)
            turns = server.counters()["turns"]
            await asyncio.sleep(0.05)
            assert server.counters()["turns"] - turns < 50, "a full server sleeps"
            may_end.set()
            assert sorted([await client.receive(PATIENCE_S) for _ in range(50)]) == [b"%02d" % n for n in range(50)]
        assert most == 5
        await server.close()

    run(main())


def test_a_client_that_does_not_take_what_comes_leaves_it_in_the_kernel():
    async def main() -> None:
        server = UDPServer(echo)
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address, max_received=4) as client:
            for number in range(100):
                client.send(b"%02d" % number)
            await asyncio.sleep(0.05)
            assert [await client.receive(PATIENCE_S) for _ in range(100)] == [b"%02d" % n for n in range(100)]
        await server.close()

    run(main())


def test_what_the_kernel_drops_is_counted():
    async def main() -> None:
        heard: list[bytes] = []
        options = SocketOptions(receive_buffer_bytes=4_096)
        server = UDPServer(lambda peer, datagram: heard.append(datagram), options=options)
        await server.start("127.0.0.1:0")
        with plain_socket() as sock:
            # All of it while the loop cannot look.
            for _ in range(200):
                sock.sendto(bytes(1_000), server.address)
            await until(lambda: bool(heard))
            sock.sendto(b"last", server.address)
            await until(lambda: heard[-1] == b"last")
        dropped = server.counters()["datagrams_dropped"]
        assert dropped > 0
        assert dropped + len(heard) == 201
        await server.close()

    run(main())


def test_more_busy_sockets_than_buffers_are_all_served():
    async def main() -> None:
        servers = [UDPServer(echo) for _ in range(20)]
        for server in servers:
            await server.start("127.0.0.1:0")
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(UDPClient(server.address)) for server in servers]
            for _ in range(5):
                for client in clients:
                    for _ in range(10):
                        client.send(b"?")
                for client in clients:
                    assert [await client.receive(PATIENCE_S) for _ in range(10)] == [b"?"] * 10
        for server in servers:
            await server.close()

    run(main())


def test_what_is_queued_leaves_before_a_socket_is_closed():
    async def main() -> None:
        with plain_socket() as sock:
            sock.bind(("127.0.0.1", 0))
            client = UDPClient(sock.getsockname())
            await client.connect()
            for number in range(100):
                client.send(b"%d" % number)
            await client.close()
            for number in range(100):
                assert (await hear(sock))[0] == b"%d" % number
            with pytest.raises(RuntimeError, match="not open"):
                client.send(b"late")

    run(main())


def test_a_server_sends_to_addresses_it_never_heard_of():
    async def main() -> None:
        server, other = UDPServer(echo), UDPServer(echo)
        await server.start("127.0.0.1:0")
        await other.start("127.0.0.1:0")
        with plain_socket() as one, plain_socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            for number in range(10):
                server.send(b"one %d" % number, one.getsockname())
                server.send(b"two %d" % number, f"127.0.0.1:{two.getsockname()[1]}")
            for number in range(10):
                assert (await hear(one))[0] == b"one %d" % number
                assert (await hear(two))[0] == b"two %d" % number
        with pytest.raises(ValueError, match="another socket's"):
            server.send(b"?", other.peer(("127.0.0.1", 9)))
        with pytest.raises(TypeError, match="a datagram is bytes, a bytearray or a memoryview; got str"):
            server.peer(("127.0.0.1", 9)).send("text")  # type: ignore[arg-type]
        await server.close()
        await other.close()

    run(main())


def test_nothing_is_left_of_a_closed_server_nor_of_its_peers():
    class State:
        def __init__(self, peer: Peer) -> None:
            self.peer = peer

    seen: list[weakref.ref[Any]] = []

    async def main() -> None:
        def on_datagram(peer: Peer, datagram: bytes) -> bytes:
            peer.state = State(peer)
            seen.append(weakref.ref(peer.state))
            return datagram

        server = UDPServer(on_datagram, sessions=Sessions(idle_timeout_s=0.1))
        seen.append(weakref.ref(server))
        await server.start("127.0.0.1:0")
        async with UDPClient(server.address) as client:
            client.send(b"?")
            await client.receive(PATIENCE_S)
            await until(lambda: server.known_peers == 0)
            gc.collect()
            assert seen[-1]() is None, "a session that has ended is no more, even with a cycle"
            client.send(b"?")
            await client.receive(PATIENCE_S)
        await server.close()

    run(main())
    gc.collect()
    assert [each() for each in seen] == [None] * len(seen)


def test_a_loop_can_be_closed_under_an_open_socket():
    async def main() -> None:
        server = UDPServer(echo)
        await server.start("127.0.0.1:0")

    for _ in range(3):
        run(main())


def test_a_unix_socket_s_file_is_removed_when_it_is_closed_and_a_stale_one_is_replaced(tmp_path: Path):
    path = tmp_path / "socket"

    async def main() -> None:
        for _ in range(2):
            server = UDPServer(echo)
            await server.start(f"unix:{path}")
            with pytest.raises(penstock.AddressInUse, match="already in use"):
                await UDPServer(echo).start(f"unix:{path}")
            await server.close()
            assert not path.exists()
            with plain_socket(socket.AF_UNIX) as stale:
                stale.bind(str(path))

    run(main())


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path):
    (tmp_path / "precious").write_text("precious")

    async def main() -> None:
        with pytest.raises(penstock.AddressInUse, match="a file that is no socket is there"):
            await UDPServer(echo).start(f"unix:{tmp_path}/precious")

    run(main())
    assert (tmp_path / "precious").read_text() == "precious"


def test_addresses_that_cannot_be_had_are_told_with_what_to_do():
    async def main() -> None:
        server = UDPServer(echo)
        await server.start("127.0.0.1:0")
        taken = f"127.0.0.1:{server.address[1]}"
        for address, kind, text in (
            (taken, penstock.AddressInUse, "is already in use: find by whom with ss -lunp"),
            ("192.0.2.1:9", penstock.AddressUnavailable, "is not to be had on this machine"),
            ("no-such-host.invalid:9", penstock.AddressUnavailable, "cannot find an address"),
            ("127.0.0.1", penstock.ConfigError, r"expected an address such as 127\.0\.0\.1:5353"),
            ("127.0.0.1:70000", penstock.ConfigError, "expected an address"),
            ("unix:", penstock.ConfigError, "expected unix:/path or unix:@name"),
        ):
            with pytest.raises(kind, match=text):
                await UDPServer(echo).start(address)
        await server.close()

    run(main())


def test_another_loop_is_refused_with_the_one_that_is_needed():
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"need a penstock\.EventLoop"):
            await UDPServer(echo).start("127.0.0.1:0")

    asyncio.run(main())


def test_what_makes_no_sense_is_refused():
    wrong: list[dict[str, Any]] = [
        {"max_datagram_bytes": 0},
        {"max_datagram_bytes": 65_536},
        {"max_queued_bytes": 1},
        {"max_tasks": True},
        {"gather_s": -1e-6},
        {"gather_s": 0.1},
        {"on_open": print},
    ]
    for each in wrong:
        with pytest.raises(penstock.ConfigError):
            UDPServer(echo, **each)
    wrong = [{"idle_timeout_s": 0}, {"max_peers": 0}, {"when_full": "explode"}, {"amplification_limit": 0}]
    for each in wrong:
        with pytest.raises(penstock.ConfigError):
            Sessions(**each)


def test_an_option_that_is_refused_ends_the_start():
    async def main() -> None:
        with pytest.raises(penstock.SocketOptionRefused, match="no meaning for a UDP socket"):
            await UDPServer(echo, options=SocketOptions(no_delay=True)).start("127.0.0.1:0")

    run(main())


@contextlib.contextmanager
def program(*argv: str, directory: Path = ROOT) -> Generator[int]:
    """A program that says where it listens, and leaves with status 0 when asked to. Gives its port."""
    process = subprocess.Popen(
        argv, cwd=directory, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "running on udp://" in line:
                break
        else:
            raise AssertionError(said)
        yield int(said.rpartition("running on udp://")[2].split()[0].rpartition(":")[2])
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=STOP_TIMEOUT_S)
        assert process.returncode == 0, rest
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def ask(port: int, datagram: bytes) -> bytes:
    with plain_socket() as sock:
        sock.settimeout(START_TIMEOUT_S)
        sock.sendto(datagram, ("127.0.0.1", port))
        return sock.recv(65_536)


def test_the_command_runs_a_server(tmp_path: Path):
    source = "import penstock\nserver = penstock.UDPServer(lambda peer, datagram: datagram[::-1])\n"
    (tmp_path / "main.py").write_text(source)
    where = ["--bind", "127.0.0.1:0", "--socket-option", "receive-buffer-bytes=65536"]
    with program(*PENSTOCK, "udp", "main:server", *where, directory=tmp_path) as port:
        assert ask(port, b"abc") == b"cba"


def test_the_command_refuses_what_is_no_server(penstock: Callable[..., Any], tmp_path: Path):
    (tmp_path / "main.py").write_text("server = 1\n")
    done = penstock("udp", "main:server")
    assert done.returncode == 4
    assert "main:server: expected a penstock.UDPServer, got int" in done.stderr
    done = penstock("udp", "main:server", "--socket-option", "nagle=off")
    assert done.returncode == 2


def test_the_echo_example_echoes():
    with program(sys.executable, "examples/udp_echo.py", "--port", "0") as port:
        assert ask(port, b"hello") == b"hello"


def test_the_dns_example_answers_dig():
    dig = need("dig")
    with program(sys.executable, "examples/dns_responder.py", "--port", "0") as port:

        def dug(*what: str) -> str:
            command = [dig, "@127.0.0.1", "-p", str(port), "+time=5", "+tries=2", *what]
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

        assert dug("+short", "www.example.test").split() == ["192.0.2.1", "192.0.2.2"]
        assert dug("+short", "www.example.test", "AAAA").split() == ["2001:db8::1"]
        assert dug("+short", "EXAMPLE.test", "TXT").strip() == '"served by Penstock"'
        assert "status: NXDOMAIN" in dug("nobody.example.test")
        assert "status: REFUSED" in dug("www.example.com")
        assert "flags: qr aa tc" in dug("+ignore", "many.example.test")


def dns_example() -> Any:
    spec = importlib.util.spec_from_file_location("dns_responder", ROOT / "examples" / "dns_responder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dns_example_answers_anything_within_bounds():
    answer = dns_example().on_datagram
    head = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0)
    question = head + b"\3www\7example\4test\0" + struct.pack("!2H", 1, 1)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    hostile = [
        b"",
        b"\0" * 11,
        question[:-1],
        head + b"\xc0\x0c\0\1\0\1",
        head + b"\x40" + b"a" * 64,
        head + b"\1a" * 250,
    ]
    hostile += [chance.randbytes(chance.randrange(600)) for _ in range(500)]
    for _ in range(2_000):
        mutated = bytearray(question)
        for _ in range(chance.randrange(1, 4)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        hostile.append(bytes(mutated))
    for datagram in hostile:
        answered = answer(None, datagram)
        if answered is not None:
            assert len(answered) <= 512
            assert answered[:2] == datagram[:2]
            assert answered[2] & 0x80
            assert answer(None, answered) is None, "an answer is not answered"
