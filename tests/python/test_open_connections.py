"""Single connections, at `--metrics-bind` and by `penstock ctl connections`: who, since when, in the middle of what."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from conftest import Server
from scrapes import fetch, json_of, port_of
from streams import run
from streams import until as comes_to_be
from waiting import wait_until

from penstock import Connection, TCPServer, _core, surveys
from penstock.event_loop import EventLoop
from penstock.protocol import Line

Serve = Callable[..., Server]
# Whoever waits in a handler is not waited for.
HASTY = ("--lifespan", "off", "--timeout-graceful-shutdown", "0.1")
SHOWN = ("--metrics-bind", "0", *HASTY)

APP = """
import asyncio, pathlib, time
here = pathlib.Path(__file__).parent

async def app(scope, receive, send):
    path = scope["path"]
    if path == "/stuck":
        while not (here / "released").exists():
            time.sleep(0.01)
    if path.startswith("/wait"):
        await asyncio.sleep(60)
    body = bytes(8 << 20) if path == "/large" else b"ok"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": path == "/begun"})
    if path == "/begun":
        await asyncio.sleep(60)
"""

# What each of them has sent, and what it is in the middle of then.
ASKS = {
    "new": b"",
    "idle": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "reading": b"GET / HTTP/1.1\r\nhost:",
    "handling": b"GET /wait%3Cb%3E?token=hunter2 HTTP/1.1\r\nhost: a\r\n\r\n",
    "answering": b"GET /begun HTTP/1.1\r\nhost: a\r\n\r\n",
    "sending": b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n",
}


def asked(port: int, **query: object) -> dict[str, Any]:
    response, text = fetch(port, f"/-/connections/open.json?{urlencode(query)}")
    assert response.status == 200, text
    return json.loads(text)


@contextlib.contextmanager
def open_in_every_state(server: Server, port: int) -> Generator[dict[str, socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = {state: stack.enter_context(server.connect()) for state in ASKS}
        for state, ask in ASKS.items():
            opened[state].sendall(ask)
        for state in ("idle", "answering"):
            assert opened[state].recv(1000)
        wait_until(lambda: states_of(opened, asked(port)) == {state: state for state in ASKS}, "each is in its state")
        yield opened


def states_of(opened: dict[str, socket.socket], told: dict[str, Any]) -> dict[str, str]:
    by_peer = {each["peer"]: each["state"] for each in told["connections"]}
    return {state: by_peer.get(name_of(each), "none") for state, each in opened.items()}


def name_of(connection: socket.socket) -> str:
    host, port = connection.getsockname()
    return f"{host}:{port}"


def test_each_connection_is_told_with_its_state_over_all_workers(serve: Serve):
    server = serve(APP, *SHOWN, "--workers", "2")
    port = port_of(server)
    with open_in_every_state(server, port) as opened:
        told = asked(port)
        assert (told["open"], told["matched"], told["unanswered"]) == (6, 6, [])
        rows = {each["state"]: each for each in told["connections"]}
        assert rows["handling"]["asks"] == "GET /wait%3Cb%3E", "without its query, which may be a secret"
        assert rows["answering"]["asks"] == "GET /begun"
        assert rows["idle"]["asks"] is None
        assert rows["idle"]["received_bytes"] == len(ASKS["idle"])
        assert 50 < rows["idle"]["sent_bytes"] < 300
        assert rows["reading"]["held_bytes"] == len(ASKS["reading"])
        assert rows["sending"]["queued_bytes"] > 1 << 20
        assert all(0 <= each["age_s"] < 60 and 0 <= each["idle_s"] < 60 for each in rows.values())
        assert "hunter2" not in json.dumps(told)
        assert "rank" not in rows["idle"]
        first = asked(port, sort="queued", rows=1)
        assert [each["state"] for each in first["connections"]] == ["sending"]
        assert (first["matched"], first["open"]) == (6, 6)
        assert [each["state"] for each in asked(port, state="idle")["connections"]] == ["idle"]
        assert asked(port, peer="127.0.0.0/8,::1")["matched"] == 6
        assert asked(port, peer="10.0.0.0/8,unix") | {"query": ""} == {
            "query": "",
            "open": 6,
            "matched": 0,
            "unanswered": [],
            "connections": [],
        }
        opened["sending"].recv(1 << 16, socket.MSG_WAITALL)
        assert asked(port, sort="bytes")["connections"][0]["state"] == "sending"
    # Handlers that wait have theirs until they end.
    wait_until(lambda: asked(port)["open"] == 2, "and nobody is told of who has gone")


def test_connections_of_all_workers_are_told_together(serve: Serve):
    server = serve(APP, *SHOWN, "--workers", "2")
    port = port_of(server)
    with contextlib.ExitStack() as stack:
        peers: set[str] = set()
        while len({each["pid"] for each in asked(port, rows=200)["connections"]}) < 2:
            assert len(peers) < 150, "it is the other worker's turn at last"
            peers.add(name_of(stack.enter_context(server.connect())))
        wait_until(lambda: (now := asked(port, rows=200))["open"] == len(now["connections"]) == len(peers))
        told = asked(port, rows=200)
        assert {each["peer"] for each in told["connections"]} == peers
        workers = {(each["worker"], each["pid"]) for each in told["connections"]}
        assert workers == {(each["worker"], each["pid"]) for each in json_of(port, "status")["workers"]}


def test_a_connection_that_has_closed_is_not_told_as_its_successor(serve: Serve):
    server = serve(APP, *SHOWN)
    port = port_of(server)
    with server.connect() as first:
        wait_until(lambda: [each["peer"] for each in asked(port)["connections"]] == [name_of(first)])
    with server.connect() as second:
        wait_until(lambda: [each["peer"] for each in asked(port)["connections"]] == [name_of(second)])


@pytest.mark.parametrize(
    "query",
    [
        "sort=peer",
        "state=IDLE",
        "rows=0",
        "rows=201",
        "rows=-1",
        "rows=1e3",
        "rows=" + "9" * 100,
        "rows=1&rows=2",
        "sort",
        "colour=red",
        "peer=example.org",
        "peer=10.0.0.0/99",
        "peer=" + quote("127.0.0.1&rows=1"),
        "peer=%00%ff",
        "peer=" + quote("<script>alert(1)</script>"),
        "peer=" + "1" * 600,
        "%73ort=oldest",
        "sort=oldest%0d%0ax:y",
    ],
)
def test_a_query_that_is_none_is_refused_with_what_was_expected(serve: Serve, query: str):
    port = port_of(serve(APP, *SHOWN))
    response, text = fetch(port, f"/-/connections/open.json?{query}", accept="application/json")
    assert response.status == 400, text
    assert json.loads(text)["detail"].startswith("Expected ")
    assert asked(port)["connections"] is not None, "and the next is answered"


def test_bytes_that_are_no_text_are_no_query(serve: Serve):
    port = port_of(serve(APP, *SHOWN))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /-/connections/open.json?sort=\xff\xfe HTTP/1.0\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_loop_that_does_not_answer_is_told_and_not_waited_for(serve: Serve, tmp_path: Path, workers: tuple[str, ...]):
    server = serve(APP, *SHOWN, *workers)
    port = port_of(server)
    with contextlib.ExitStack() as stack:
        stuck = stack.enter_context(server.connect())
        stuck.sendall(b"GET /stuck HTTP/1.1\r\nhost: a\r\n\r\n")
        (silent,) = wait_until(lambda: asked(port)["unanswered"])
        # The other goes on serving, and is told of; the stuck one is not asked again.
        if workers:
            for _ in range(3):
                stack.enter_context(server.connect())
        told = wait_until(lambda: (now := asked(port)) and now["open"] == (3 if workers else 0) and now)
        assert told["unanswered"] == [silent]
        assert silent not in {each["worker"] for each in told["connections"]}
        began = time.monotonic()
        for _ in range(5):
            assert asked(port)["unanswered"] == [silent]
        assert time.monotonic() - began < 5 * 3.0
        (tmp_path / "released").touch()
        wait_until(lambda: asked(port)["unanswered"] == [], "it answers again")
        assert asked(port)["open"] == (4 if workers else 1)


def test_a_worker_that_dies_owes_no_answer(serve: Serve):
    server = serve(APP, *SHOWN, "--workers", "1")
    port = port_of(server)
    with server.connect() as stuck:
        stuck.sendall(b"GET /stuck HTTP/1.1\r\nhost: a\r\n\r\n")
        wait_until(lambda: asked(port)["unanswered"] == ["0"])
        os.kill(json_of(port, "status")["workers"][0]["pid"], signal.SIGKILL)
        wait_until(lambda: asked(port)["unanswered"] == [] and server.get().startswith(b"HTTP/1.1 200 "))


def test_several_event_loops_of_a_process_are_asked(serve: Serve):
    server = serve(APP, *SHOWN, "--reactors", "2")
    port = port_of(server)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(server.connect())
        told = wait_until(lambda: (now := asked(port)) and now["open"] == 4 and now)
        assert {each["worker"] for each in told["connections"]} == {"0", "1"}
        assert told["unanswered"] == []


def test_streams_and_unix_sockets_are_connections_too(serve: Serve, tmp_path: Path):
    server = serve(APP, *SHOWN, "--uds", str(tmp_path / "app"))
    with server.connect():
        told = wait_until(lambda: (now := asked(port_of(server), peer="unix")) and now["matched"] == 1 and now)
        (row,) = told["connections"]
        assert (row["peer"], row["received_bytes"], row["idle_s"]) == ("unix", None, None)

    async def main() -> None:
        async with TCPServer(lambda *_: None, protocol=Line()) as server:
            await server.start("127.0.0.1:0")
            with socket.create_connection(server.listeners[0].getsockname()) as peer:
                peer.sendall(b"part of a li")
                await comes_to_be(lambda: server.counters()["connections"] == 1)
                found = await look("state=reading")
                while not found["rows"]:
                    found = await look("state=reading")
                (row,) = found["rows"]
                assert (row["protocol"], row["held_bytes"], row["peer"]) == ("stream", 12, name_of(peer))

    run(main)


async def look(query: str) -> dict[str, Any]:
    import asyncio

    loop = asyncio.get_running_loop()
    assert isinstance(loop, EventLoop)
    told: asyncio.Future[dict[str, Any]] = loop.create_future()
    surveys.look(loop, _core.survey_query(query), told.set_result)
    return await told


def test_of_very_many_the_first_are_told_and_how_many_there_are():
    members = 2500

    async def main() -> None:
        connections: list[Connection] = []
        async with TCPServer(lambda *_: None, on_connect=connections.append) as server:
            await server.start("127.0.0.1:0")
            peers: list[socket.socket] = []
            for _ in range(members):
                peers.append(socket.create_connection(server.listeners[0].getsockname(), timeout=20))
                if len(peers) % 100 == 0:
                    await comes_to_be(lambda: len(connections) == len(peers))
            for sort in ("oldest", "newest", "queued", "bytes", "silent"):
                found = await look(f"sort={sort}&rows=200")
                assert (found["open"], found["matched"], len(found["rows"])) == (members, members, 200)
            peers[7].sendall(bytes(3000))
            while (found := await look("sort=bytes&rows=1"))["rows"][0]["received_bytes"] != 3000:
                pass
            assert found["rows"][0]["peer"] == name_of(peers[7])
            for each in peers:
                each.close()

    run(main)


def test_the_control_socket_tells_them_to_a_terminal_and_to_programs(
    serve: Serve, penstock: Callable[..., Any], tmp_path: Path
):
    control = tmp_path / "control"
    server = serve(APP, *HASTY, "--workers", "2", "--control", str(control))
    with server.connect() as idle, server.connect() as waiting:
        idle.sendall(ASKS["idle"])
        assert idle.recv(1000)
        waiting.sendall(b"GET /wait/long HTTP/1.1\r\nhost: a\r\n\r\n")

        def told() -> dict[str, Any]:
            return json.loads(penstock("ctl", "--control", str(control), "connections", "--json").stdout)

        wait_until(lambda: {each["state"] for each in told()["connections"]} == {"idle", "handling"})
        shown = penstock("ctl", "--control", str(control), "connections", "--state", "handling").stdout
        assert shown.startswith("1 of 1 shown, 2 open\n")
        assert name_of(waiting) in shown
        assert "GET /wait/long" in shown
        refused = penstock("ctl", "--control", str(control), "connections", "--peer", "example.org")
        assert refused.returncode != 0
        assert "Expected peer to be addresses" in refused.stderr
