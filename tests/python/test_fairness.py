"""Nobody starves: slow handlers take their own time, and not that of everybody else's sum.

The bounds are loose, because the machines that run tests are busy; what they must tell apart is far apart.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import httpx
import pytest
from threaded_server import TIMEOUT_S, read_response, respond, threaded_server

from penstock import _core

FAST = 63


def busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_sixty_three_fast_handlers_beside_a_slow_one_all_go_on() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            busy(0.05)
        await respond(send, b"x")

    with threaded_server(app) as server:
        report = _core.run_http_load(
            "127.0.0.1",
            server.port,
            targets=[("/fast", FAST, 0), ("/slow", 1, 0)],
            connections=FAST + 1,
            duration_s=1.5,
        )
    fast, slow = report["targets"]
    assert report["errors"] == 0
    assert (fast["connections"], slow["connections"]) == (FAST, 1)
    assert slow["answers"] >= 3
    assert fast["fewest_on_one"] >= 3, f"somebody starved: {fast}"
    assert fast["latency_us"]["p99"] < 1_000_000, f"fast ones wait for more than the slow one's 50 ms: {fast}"


def test_a_batch_of_busy_handlers_delays_the_first_ones_answer_by_its_own_time_only() -> None:
    """All arrive in one turn; an answer must leave before the whole batch has run."""
    count, each_s = 20, 0.02
    ready = threading.Barrier(2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hold":
            ready.wait(TIMEOUT_S)
            ready.wait(TIMEOUT_S)  # So that all of the others' requests are there when this one is over.
        else:
            busy(each_s)
        await respond(send, b"x")

    with threaded_server(app) as server:
        connections = [server.connect() for _ in range(count)]
        hold = server.connect()
        hold.sendall(b"GET /hold HTTP/1.1\r\nhost: test\r\n\r\n")
        ready.wait(TIMEOUT_S)
        for connection in connections:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        ready.wait(TIMEOUT_S)
        began = time.monotonic()
        arrivals: list[float] = []

        def read(connection: Any) -> None:
            read_response(connection)
            arrivals.append(time.monotonic() - began)

        readers = [threading.Thread(target=read, args=(connection,)) for connection in connections]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(TIMEOUT_S)
        for connection in (*connections, hold):
            connection.close()
    assert len(arrivals) == count
    assert max(arrivals) >= count * each_s * 0.8
    assert min(arrivals) < max(arrivals) / 2, f"the first answer waited for all others: {sorted(arrivals)}"


@pytest.mark.parametrize("slow", [100])
def test_suspended_handlers_hold_nobody(slow: int) -> None:
    let_go = asyncio.Event()
    waiting = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal waiting
        if scope["path"] == "/slow":
            waiting += 1
            await let_go.wait()
        await respond(send, b"x")

    async def main(server: Any) -> None:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=None)) as pool:
            held = [asyncio.create_task(pool.get(f"{server.url}/slow")) for _ in range(slow)]
            while waiting < slow:
                await asyncio.sleep(0.001)
            for _ in range(50):
                assert (await pool.get(f"{server.url}/fast")).text == "x"
            assert not any(each.done() for each in held)
            server.loop.call_soon_threadsafe(let_go.set)
            assert {answer.text for answer in await asyncio.gather(*held)} == {"x"}

    with threaded_server(app) as server:
        asyncio.run(main(server))


def test_requests_and_the_loops_own_callbacks_take_turns() -> None:
    """A flood of requests must not keep timers and threads' callbacks from running, nor the reverse."""
    stop = threading.Event()
    ticks = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"x")

    def flood(server: Any) -> None:
        with server.connect() as connection:
            request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n" * 100
            while not stop.is_set():
                connection.sendall(request)
                for _ in range(100):
                    read_response(connection)

    async def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            await asyncio.sleep(0.001)
            ticks += 1

    with threaded_server(app) as server:
        ticking = asyncio.run_coroutine_threadsafe(tick(), server.loop)
        clients = [threading.Thread(target=flood, args=(server,)) for _ in range(3)]
        for client in clients:
            client.start()
        time.sleep(0.5)
        answered = server.loop.reactor.counters()["responses"]
        stop.set()
        for client in clients:
            client.join(TIMEOUT_S)
        ticking.result(TIMEOUT_S)
    assert ticks >= 10
    assert answered >= 100
