"""Thousands of requests of every ending leave nothing: no object, no descriptor, no memory.

The server is a process of its own, so that nothing of the tests is counted. It tells what it holds when it is asked,
after a collection. Each ending is first tried some hundred times, for whatever is made once and kept.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import PENSTOCK, Server, clean_environment
from threaded_server import read_response, read_until

APP = """
import asyncio, collections, gc, json, os, resource, sys
from penstock import _core

def census(reply, trampoline):
    for _ in range(3):
        gc.collect()
    kinds = collections.Counter(type(each).__name__ for each in gc.get_objects())
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "kinds": kinds,
        # The binary's objects are unknown to the collector; each holds a reference to its type.
        "instances": {each.__name__: sys.getrefcount(each) for each in (_core.HttpCycle, reply, trampoline)},
        "blocks": sys.getallocatedblocks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "resident_kib": pages * resource.getpagesize() // 1024,
        "connections": asyncio.get_running_loop().reactor.connections,
        "in_progress": asyncio.get_running_loop().reactor.requests_in_progress,
    }

async def app(scope, receive, send):
    path = scope["path"]
    start = {"type": "http.response.start", "status": 200}
    if path == "/census":
        # Without what was about to end when this was asked for.
        for _ in range(20):
            await asyncio.sleep(0.001)
        body = json.dumps(census(type(receive()), type(asyncio.current_task().get_coro()))).encode()
        await send(start)
        await send({"type": "http.response.body", "body": body})
        return
    if path == "/raise":
        raise ValueError("x")
    if path == "/raise-suspended":
        await asyncio.sleep(0)
        raise ValueError("x")
    if path == "/return":
        return
    if path == "/receive-for-ever":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    if path == "/watched":
        watcher = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send(start)
        await send({"type": "http.response.body", "body": b"x"})
        watcher.cancel()
        return
    if path == "/abandoned-watchers":
        for _ in range(3):
            asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send(start)
        await send({"type": "http.response.body", "body": b"x"})
        return
    if path == "/never-awaited":
        receive()
        send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})
        return
    if path == "/cancel":
        asyncio.current_task().cancel()
        await asyncio.sleep(1)
    if path == "/captured":
        task = asyncio.current_task()
        task.add_done_callback(lambda task: None)
        cycle = [task, scope, receive, send]
        cycle.append(cycle)
    if path == "/suspended":
        await asyncio.sleep(0)
    if path == "/timeout":
        try:
            async with asyncio.timeout(0.0001):
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            pass
    if path == "/stream-for-ever":
        await send(start)
        while True:
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
    if path == "/sleep-for-ever":
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
    if path == "/body":
        more = True
        while more:
            more = (await receive()).get("more_body", False)
    await send(start)
    await send({"type": "http.response.body", "body": b"x" * 20_000})
    if path == "/afterwards":
        await asyncio.sleep(0.001)
        assert (await receive())["type"] == "http.disconnect"
"""


class Client:
    def __init__(self, server: Server) -> None:
        self.server = server

    def census(self) -> dict[str, Any]:
        with self.server.connect() as connection:
            connection.sendall(b"GET /census HTTP/1.1\r\nhost: test\r\n\r\n")
            return json.loads(read_response(connection)[2])

    def completed(self, path: str, count: int, *, method: str = "GET", body: bytes = b"") -> None:
        """Requests that are answered, on connections of 50 each."""
        request = f"{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        for _ in range(count // 50):
            with self.server.connect() as connection:
                for _ in range(50):
                    connection.sendall(request)
                    read_response(connection)

    def left(self, path: str, count: int, *, how: str) -> None:
        """Requests whose client leaves before the answer is whole."""
        for _ in range(count):
            connection = self.server.connect()
            if how == "in the body":
                connection.sendall(f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nx".encode())
            elif how == "in the head":
                connection.sendall(f"GET {path} HTTP/1.1\r\nho".encode())
            else:
                connection.sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
            if how == "in the answer":
                read_until(connection, b"\r\n\r\n")
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


ENDINGS: dict[str, Callable[[Client, int], None]] = {
    "completed": lambda client, count: client.completed("/", count),
    "completed with a body": lambda client, count: client.completed("/body", count, method="POST", body=b"x" * 3000),
    "completed with its body unread": lambda client, count: client.completed("/", count, method="POST", body=b"x" * 99),
    "suspended": lambda client, count: client.completed("/suspended", count),
    "going on afterwards": lambda client, count: client.completed("/afterwards", count),
    "timed out within": lambda client, count: client.completed("/timeout", count),
    "watched by a task": lambda client, count: client.completed("/watched", count),
    "watched by tasks that are left": lambda client, count: client.completed("/abandoned-watchers", count),
    "never awaited": lambda client, count: client.completed("/never-awaited", count),
    "raised": lambda client, count: client.completed("/raise", count),
    "raised while suspended": lambda client, count: client.completed("/raise-suspended", count),
    "returned without an answer": lambda client, count: client.completed("/return", count),
    "cancelled itself": lambda client, count: client.completed("/cancel", count),
    "kept in a cycle": lambda client, count: client.completed("/captured", count),
    "left while it waits": lambda client, count: client.left("/receive-for-ever", count // 4, how="close"),
    "left while it streams": lambda client, count: client.left("/stream-for-ever", count // 20, how="in the answer"),
    "left at once": lambda client, count: client.left("/", count // 4, how="close"),
    "left with a reset": lambda client, count: client.left("/receive-for-ever", count // 4, how="reset"),
    "left in the head": lambda client, count: client.left("/", count // 4, how="in the head"),
    "left in the body": lambda client, count: client.left("/body", count // 4, how="in the body"),
    "cancelled when left": lambda client, count: client.left("/sleep-for-ever", count // 4, how="close"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One server for all of this process's tests; each looks only at what it adds itself."""
    directory = tmp_path_factory.mktemp("leaks")
    (directory / "main.py").write_text(APP, encoding="utf-8")
    options = ["--port", "0", "--no-access-log", "--lifespan", "off", "--cancel-on-disconnect"]
    process = subprocess.Popen(
        [*PENSTOCK, "serve", "--app-dir", str(directory), *options, "main:app"],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process)
    try:
        server.wait_until_ready()
        client = Client(server)
        client.census()  # The first fills caches of its own.
        yield client
        server.stop()
    finally:
        if process.poll() is None:
            process.kill()
            server.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("ending", ENDINGS)
def test_requests_leave_nothing_behind_when_they_are(client: Client, ending: str) -> None:
    end, count = ENDINGS[ending], 600
    end(client, 200)
    before = client.census()
    end(client, count)
    after = client.census()
    # One for each hundredth request would be a leak; caches and the like make a few.
    few = count // 100
    for what in ("descriptors", "tasks", "connections", "in_progress"):
        assert after[what] == before[what], f"{what}: {before[what]} before, {after[what]} after"
    grown = {
        kind: number - before["kinds"].get(kind, 0)
        for kind, number in after["kinds"].items()
        if number - before["kinds"].get(kind, 0) > few
    }
    assert grown == {}, f"objects that {count} requests left behind"
    of_ours = {kind: number - before["instances"][kind] for kind, number in after["instances"].items()}
    assert max(of_ours.values()) <= few, f"the binary's own objects: {of_ours}"
    assert after["blocks"] - before["blocks"] < count // 4, "pieces of Python's memory"


def test_memory_stays_flat_over_many_thousands_of_requests(client: Client) -> None:
    def some_of_all(count: int) -> None:
        for name in ("completed", "completed with a body", "suspended", "left while it waits"):
            ENDINGS[name](client, count)

    for _ in range(2):
        some_of_all(1000)
    before = client.census()["resident_kib"]
    for _ in range(3):
        some_of_all(1000)
    grown = client.census()["resident_kib"] - before
    # Less than 100 bytes a request, which is less than anything that could be left of one.
    assert grown < 1000, f"{grown} KiB more"
