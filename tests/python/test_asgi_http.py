"""HTTP through an ASGI application: what it is told, what it may say, and what happens when either side misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from threaded_server import (
    TIMEOUT_S,
    App,
    ThreadedServer,
    read_body,
    read_head,
    read_response,
    read_to_end,
    read_until,
    respond,
    threaded_server,
)
from waiting import wait_until

MIB = 1 << 20


def request(path: str = "/", *headers: str, method: str = "GET", body: bytes = b"", version: str = "1.1") -> bytes:
    """A request's bytes; with a content-length if it has a body and says nothing of its framing."""
    lines = [f"{method} {path} HTTP/{version}", "host: test", *headers]
    if body and not any(re.match("(?i)content-length|transfer-encoding", line) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, await read_body(receive))


# ---- the scope ----------------------------------------------------------------------------------------------------


class UvicornServer:
    """The reference, in a thread of this process, over the same application."""

    def __init__(self, app: App, **settings: Any) -> None:
        config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", http="h11", **settings)
        self._server = uvicorn.Server(config)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def exchange(self, bytes_sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(bytes_sent)
            return read_to_end(connection)

    def __enter__(self) -> UvicornServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(TIMEOUT_S)
        self._listener.close()


def scopes_of(exchange: Callable[[bytes], bytes], seen: list[dict[str, Any]], requests: list[bytes]) -> list[Any]:
    seen.clear()
    for each in requests:
        exchange(each)
    return list(seen)


def comparable(scope: dict[str, Any], port: int) -> dict[str, Any]:
    """A scope without what must differ: ports, the version of the specification that the server speaks."""
    plain = dict(scope)
    assert plain.pop("asgi")["version"] == "3.0"
    plain.pop("extensions", None)
    client, server = plain["client"], plain["server"]
    assert isinstance(client, tuple)
    assert isinstance(client[1], int)
    assert server == ("127.0.0.1", port)
    plain["client"], plain["server"] = client[0], server[0]
    # What the standard says of the items' types, uvicorn's tuples and lists alike.
    plain["headers"] = [tuple(header) for header in scope["headers"]]
    return plain


CLOSE = "connection: close"
SCOPE_REQUESTS = [
    request("/", CLOSE),
    request("/plain/path?query=1&other=%20x", CLOSE),
    request("/percent%20decoded/%41%62/%C3%A9?raw=%C3%A9", CLOSE),
    request("/slash%2Fwithin/%25literal?", CLOSE),
    request("/latin/%E9/invalid-utf-8", CLOSE),
    request("//two//slashes/../dots/./?a?b", CLOSE),
    request("/plus+sign;parameters,commas:@!$&'()*=~", CLOSE),
    request("/", "X-First: 1", "x-second: 2", "X-FIRST: again", "Cookie: a=1", "cookie: b=2", CLOSE),
    request("/", "X-Padded: \t  value with  inner spaces \t ", "x-empty:", CLOSE),
    request("/", "x-latin: caf\xe9", CLOSE),
    request("/", CLOSE, method="OPTIONS"),
    request("/", CLOSE, method="PROPFIND"),
    request("/", CLOSE, method="DELETE"),
    request("/upload", CLOSE, method="POST", body=b"four"),
    request("/upload", "transfer-encoding: chunked", CLOSE, method="PUT", body=chunked(b"four")),
    request("/old", version="1.0"),
]


@pytest.mark.parametrize("root_path", ["", "/api/v1"])
def test_a_scope_equals_the_one_that_uvicorn_gives(root_path: str) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await respond(send, await read_body(receive))

    with threaded_server(app, root_path=root_path) as server:
        ours = scopes_of(server.exchange, seen, SCOPE_REQUESTS)
        our_port = server.port
    with UvicornServer(app, root_path=root_path) as reference:
        theirs = scopes_of(reference.exchange, seen, SCOPE_REQUESTS)
        their_port = reference.port
    assert len(ours) == len(theirs) == len(SCOPE_REQUESTS)
    for sent, one, other in zip(SCOPE_REQUESTS, ours, theirs, strict=True):
        assert comparable(one, our_port) == comparable(other, their_port), sent


def test_the_scope_says_which_versions_of_the_specification_are_spoken() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await respond(send)

    with threaded_server(app) as server:
        server.get()
    assert seen[0]["asgi"] == {"version": "3.0", "spec_version": "2.4"}


def test_the_scope_over_a_unix_socket_names_the_socket_as_server_and_no_client(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await respond(send)

    path = str(tmp_path / "s")
    with threaded_server(app, uds=path, port=8000) as server:
        server.get()
    assert seen[0]["server"] == (path, None)
    assert seen[0]["client"] is None


def test_the_client_of_an_ipv6_connection_is_an_ipv6_address() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await respond(send)

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    with (
        threaded_server(app, host="::1") as server,
        socket.create_connection(("::1", server.port), timeout=TIMEOUT_S) as connection,
    ):
        connection.sendall(request())
        read_response(connection)
        assert seen[0]["client"] == ("::1", connection.getsockname()[1])
        assert seen[0]["server"] == ("::1", server.port)


def test_nothing_that_one_request_does_to_its_scope_is_seen_by_another() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((dict(scope), list(scope["headers"])))
        scope["extra"] = scope["path"]
        scope["state"]["extra"] = scope["path"]
        scope["headers"].append((b"x", b"y"))
        scope["root_path"] = "/changed"
        await respond(send)

    with threaded_server(app) as server, server.connect() as connection:
        for _ in range(3):
            connection.sendall(request("/same"))
            read_response(connection)
    for scope, headers in seen:
        assert "extra" not in scope
        assert scope["root_path"] == ""
        assert headers == [(b"host", b"test")]


# ---- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 300_000])
def test_a_body_comes_back_whole_however_it_was_framed(kind: str, size: int) -> None:
    body = random.Random(size).randbytes(size)
    head = "transfer-encoding: chunked" if kind == "chunked" else f"content-length: {size}"
    sent = chunked(*(body[at : at + 7000] for at in range(0, size, 7000))) if kind == "chunked" else body
    with threaded_server(echo) as server, server.connect() as connection:
        for _ in range(2):
            connection.sendall(request("/", head, method="POST", body=sent))
            status, headers, came = read_response(connection)
            assert (status, came) == (200, body)
            assert headers["content-length"] == str(size)


def test_twenty_mebibytes_go_both_ways_intact() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"x/y")]})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    body = random.Random(1).randbytes(20 * MIB)
    with threaded_server(app) as server, server.connect() as connection:
        sender = threading.Thread(target=connection.sendall, args=(request("/", method="POST", body=body),))
        sender.start()
        status, headers = read_head(connection)
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        came = bytearray()
        with connection.makefile("rb") as file:
            while size := int(file.readline(), 16):
                came += file.read(size)
                assert file.read(2) == b"\r\n"
            assert file.read(2) == b"\r\n"
        sender.join(TIMEOUT_S)
    assert came == body


def test_a_request_is_streamed_while_it_arrives() -> None:
    pieces: list[tuple[bytes, bool]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            pieces.append((message["body"], more))
            await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": more})

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/", "transfer-encoding: chunked", method="POST"))
        connection.sendall(b"3\r\none\r\n")
        assert read_head(connection)[1]["transfer-encoding"] == "chunked"
        assert read_until(connection, b"ONE\r\n") == b"3\r\nONE\r\n"
        connection.sendall(b"3\r\ntwo\r\n0\r\n\r\n")
        assert read_until(connection, b"0\r\n\r\n").startswith(b"3\r\nTWO\r\n")
    assert b"".join(piece for piece, _ in pieces) == b"onetwo"
    assert [more for _, more in pieces] == [*[True] * (len(pieces) - 1), False]


def test_a_single_piece_gets_a_content_length_and_several_are_chunked() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        if scope["path"] == "/several":
            await send({"type": "http.response.body", "body": b"he", "more_body": True})
        await send({"type": "http.response.body", "body": b"llo"})

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/one") + request("/several"))
        _, headers, body = read_response(connection)
        assert (headers["content-length"], body) == ("3", b"llo")
        _, headers, body = read_response(connection)
        assert "content-length" not in headers
        assert (headers["transfer-encoding"], body) == ("chunked", b"hello")


def test_an_empty_piece_in_the_middle_does_not_end_a_chunked_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        for piece in (b"", b"a", b"", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request())
        assert read_response(connection)[2] == b"ab"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_that_has_no_body_gets_none(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"" if scope["path"] == "/first" else b"next", status if scope["path"] == "/first" else 200)

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/first") + request("/next"))
        assert read_response(connection)[0] == status
        assert read_response(connection)[2] == b"next"


@pytest.mark.parametrize("piece", [b"bytes", bytearray(b"bytes"), memoryview(b"xbytesx")[1:-1]])
@pytest.mark.parametrize("times", [1, 8000])
def test_a_body_may_be_bytes_or_a_bytearray_or_a_memoryview(piece: Any, times: int) -> None:
    expected = bytes(piece) * times
    body = piece if times == 1 else type(piece)(expected)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if isinstance(body, bytearray):
            body[:] = b"x" * len(body)  # The server must have its own copy by now.

        await send({"type": "http.response.body", "body": b"."})

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request())
        assert read_response(connection)[2] == expected + b"."


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-a", b"1"), (b"x-b", b"2")],
        ((b"x-a", b"1"), (b"x-b", b"2")),
        [[b"x-a", b"1"], [b"x-b", b"2"]],
        {b"x-a": b"1", b"x-b": b"2"}.items(),
    ],
)
def test_headers_may_be_any_iterable_of_pairs(headers: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        given = (pair for pair in headers) if scope["path"] == "/generator" else headers
        await send({"type": "http.response.start", "status": 200, "headers": given})
        await send({"type": "http.response.body", "body": b"x"})

    with threaded_server(app) as server, server.connect() as connection:
        for path in ("/", "/generator"):
            connection.sendall(request(path))
            _, came, _ = read_response(connection)
            assert (came["x-a"], came["x-b"]) == ("1", "2")


def test_headers_keep_their_order_and_their_duplicates() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"x", headers=[(b"set-cookie", b"a=1"), (b"x-between", b""), (b"set-cookie", b"b=2")])

    with threaded_server(app) as server:
        head = server.get().partition(b"\r\n\r\n")[0].split(b"\r\n")
    at = head.index(b"set-cookie: a=1")
    assert head[at : at + 3] == [b"set-cookie: a=1", b"x-between: ", b"set-cookie: b=2"]


def test_server_and_date_are_sent_unless_the_application_or_its_user_says_otherwise() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        own = [(b"server", b"mine"), (b"date", b"today")] if scope["path"] == "/own" else []
        await respond(send, b"x", headers=own)

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/") + request("/own"))
        _, headers, _ = read_response(connection)
        assert headers["server"] == "penstock"
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
        _, headers, _ = read_response(connection)
        assert (headers["server"], headers["date"]) == ("mine", "today")
    with threaded_server(app, server_header=False, date_header=False) as server:
        head = server.get().partition(b"\r\n\r\n")[0].lower()
    assert b"server:" not in head
    assert b"date:" not in head


# ---- connections --------------------------------------------------------------------------------------------------


def test_a_head_request_gets_the_headers_and_no_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/streamed":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"he", "more_body": True})
            await send({"type": "http.response.body", "body": b"llo"})
        else:
            await respond(send, b"hello")

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/", method="HEAD") + request("/streamed", method="HEAD") + request("/"))
        assert read_response(connection, to_head=True)[1]["content-length"] == "5"
        assert "content-length" not in read_response(connection, to_head=True)[1]
        assert read_response(connection)[2] == b"hello"


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        if scope["path"].endswith("7"):
            await asyncio.sleep(0.001)
        await respond(send, scope["path"].encode() + body)

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(
            b"".join(request(f"/{n}", method="POST", body=b"-%d" % n) if n % 3 else request(f"/{n}") for n in range(40))
        )
        for n in range(40):
            assert read_response(connection)[2] == (b"/%d-%d" % (n, n) if n % 3 else b"/%d" % n)


def test_http_1_0_closes_unless_it_asks_to_go_on() -> None:
    with threaded_server(echo) as server:
        assert server.exchange(request(version="1.0")).startswith(b"HTTP/1.1 200")
        with server.connect() as connection:
            for _ in range(2):
                connection.sendall(request("/", "connection: keep-alive", version="1.0"))
                status, headers, _ = read_response(connection)
                assert (status, headers["connection"]) == (200, "keep-alive")


def test_a_streamed_answer_to_http_1_0_ends_with_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"he", "more_body": True})
        await send({"type": "http.response.body", "body": b"llo"})

    with threaded_server(app) as server:
        head, _, body = server.exchange(request("/", "connection: keep-alive", version="1.0")).partition(b"\r\n\r\n")
    assert body == b"hello"
    assert b"transfer-encoding" not in head


def test_continue_is_sent_when_the_body_is_asked_for_and_not_before() -> None:
    go_on = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(go_on.wait, TIMEOUT_S)
        await respond(send, await read_body(receive))

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/", "expect: 100-continue", "content-length: 4", method="POST"))
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        go_on.set()
        connection.settimeout(TIMEOUT_S)
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert read_response(connection)[2] == b"body"


def test_no_continue_is_sent_to_a_request_that_is_answered_without_its_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"no", 413)

    with threaded_server(app) as server:
        answer = server.exchange(request("/", "expect: 100-continue", "content-length: 4", method="POST"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


def test_an_idle_connection_is_closed_after_the_keep_alive_time() -> None:
    with threaded_server(echo, timeout_keep_alive_s=0.2) as server, server.connect() as connection:
        connection.sendall(request())
        read_response(connection)
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.1 < time.monotonic() - began < 5


def test_a_half_closed_client_gets_its_answer() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await asyncio.sleep(0.02)
        await respond(send, b"x" * 300_000)

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/", method="POST", body=b"body"))
        connection.shutdown(socket.SHUT_WR)
        assert read_response(connection)[2] == b"x" * 300_000
        assert connection.recv(1) == b""


# ---- backpressure -------------------------------------------------------------------------------------------------


def test_send_waits_for_a_client_that_does_not_read() -> None:
    sent: list[int] = []
    blocked = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        for n in range(200):
            sending = asyncio.ensure_future(send({"type": "http.response.body", "body": b"x" * MIB, "more_body": True}))
            done, _ = await asyncio.wait([sending], timeout=0.2)
            if not done:
                blocked.set()
                await sending
            sent.append(n)
        await send({"type": "http.response.body"})

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request())
        assert blocked.wait(TIMEOUT_S), "200 MiB were taken off an application though nobody reads"
        assert len(sent) < 40
        count = 0
        while len(piece := connection.recv(MIB)) > 0 and count < 200 * MIB:
            count += len(piece)
            if piece.endswith(b"0\r\n\r\n"):
                break
        assert count > 200 * MIB
    assert len(sent) == 200


def test_an_upload_to_an_application_that_does_not_read_is_held_back() -> None:
    go_on, waiting = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        waiting.set()
        await asyncio.to_thread(go_on.wait, TIMEOUT_S)
        await respond(send, b"%d" % len(await read_body(receive)))

    with threaded_server(app) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        connection.sendall(request("/", f"content-length: {64 * MIB}", method="POST"))
        assert waiting.wait(TIMEOUT_S)
        connection.settimeout(0.3)
        piece, sent = b"x" * MIB, 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MIB:
                sent += connection.send(piece)
        assert sent < 20 * MIB, "the server took an upload that nobody asked for"
        connection.settimeout(TIMEOUT_S)
        go_on.set()
        while sent < 64 * MIB:
            sent += connection.send(piece[: 64 * MIB - sent])
        assert read_response(connection)[2] == b"%d" % (64 * MIB)


def test_a_client_that_pipelines_and_never_reads_is_held_back() -> None:
    answered, count, size = 0, 20_000, 10_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal answered
        answered += 1
        await respond(send, b"x" * size)

    with threaded_server(app) as server, server.connect() as connection:
        sender = threading.Thread(target=connection.sendall, args=(request() * count,))
        sender.start()
        before = -1
        while before < answered:
            before = answered
            time.sleep(0.1)
        assert answered * size < 20 * MIB, "answers pile up that nobody reads"
        # And it goes on where it stood.
        with connection.makefile("rb") as file:
            for _ in range(count):
                while file.readline() != b"\r\n":
                    pass
                assert len(file.read(size)) == size
        sender.join(TIMEOUT_S)
    assert answered == count


# ---- disconnects --------------------------------------------------------------------------------------------------


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextlib.contextmanager
def reported(outcomes: list[Any], done: threading.Event, name: str) -> Generator[None]:
    """Keep how a handler came to its end."""
    try:
        yield
    except BaseException as error:
        outcomes.append((name, error))
        raise
    else:
        outcomes.append((name, None))
    finally:
        done.set()


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_receive_tells_of_the_disconnect(leave: Callable[[socket.socket], None]) -> None:
    messages: list[Any] = []
    waiting, done = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())
        waiting.set()
        messages.append(await receive())
        messages.append(await receive())
        done.set()

    with threaded_server(app) as server:
        connection = server.connect()
        connection.sendall(request())
        assert waiting.wait(TIMEOUT_S)
        leave(connection)
        assert done.wait(TIMEOUT_S)
        assert server.log.count("Exception") == 0
    assert messages == [{"type": "http.request", "body": b"", "more_body": False}, *[{"type": "http.disconnect"}] * 2]


def test_receive_in_another_task_tells_of_the_disconnect_too() -> None:
    waiting, done = threading.Event(), threading.Event()
    outcome: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        watchers = [asyncio.create_task(receive()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.set()
        outcome.extend(await asyncio.gather(*watchers))
        done.set()

    with threaded_server(app) as server:
        connection = server.connect()
        connection.sendall(request())
        assert waiting.wait(TIMEOUT_S)
        connection.close()
        assert done.wait(TIMEOUT_S), "a receive() in another task was not woken"
    assert outcome == [{"type": "http.disconnect"}] * 3


def test_a_body_in_the_middle_of_which_the_client_goes_ends_with_the_disconnect() -> None:
    messages: list[Any] = []
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not messages or messages[-1]["type"] != "http.disconnect":
            messages.append(await receive())
        done.set()

    with threaded_server(app) as server:
        with server.connect() as connection:
            connection.sendall(request("/", "content-length: 100", method="POST") + b"part")
        assert done.wait(TIMEOUT_S)
    assert messages[-1] == {"type": "http.disconnect"}
    assert all(message["more_body"] for message in messages[:-1])


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_send_raises_an_os_error_once_the_client_is_gone(leave: Callable[[socket.socket], None]) -> None:
    outcomes: list[Any] = []
    started, done = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with reported(outcomes, done, "send"):
            await send({"type": "http.response.start", "status": 200})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                started.set()
                await asyncio.sleep(0.001)

    with threaded_server(app) as server:
        connection = server.connect()
        connection.sendall(request())
        assert started.wait(TIMEOUT_S)
        leave(connection)
        assert done.wait(TIMEOUT_S)
        assert isinstance(outcomes[0][1], OSError)
        assert "gone" in str(outcomes[0][1])
        assert "Exception in ASGI" not in server.log


def test_a_send_that_waits_raises_once_the_client_is_gone() -> None:
    outcomes: list[Any] = []
    blocked, done = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with reported(outcomes, done, "send"):
            await send({"type": "http.response.start", "status": 200})
            while True:
                sending = asyncio.ensure_future(
                    send({"type": "http.response.body", "body": b"x" * MIB, "more_body": True})
                )
                if not (await asyncio.wait([sending], timeout=0.1))[0]:
                    blocked.set()
                await sending

    with threaded_server(app) as server:
        connection = server.connect()
        connection.sendall(request())
        assert blocked.wait(TIMEOUT_S)
        reset(connection)
        assert done.wait(TIMEOUT_S), "a waiting send() was not woken by the disconnect"
    assert isinstance(outcomes[0][1], OSError)


def test_two_tasks_that_wait_to_send_are_both_woken() -> None:
    blocked = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def one(byte: bytes) -> None:
            for _ in range(20):
                await send({"type": "http.response.body", "body": byte * MIB, "more_body": True})

        await send({"type": "http.response.start", "status": 200})
        tasks = [asyncio.create_task(one(byte)) for byte in (b"a", b"b", b"c")]
        await asyncio.sleep(0.1)
        blocked.set()
        await asyncio.gather(*tasks)
        await send({"type": "http.response.body"})

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request())
        assert blocked.wait(TIMEOUT_S)
        read_head(connection)
        with connection.makefile("rb") as file:
            count = 0
            while size := int(file.readline(), 16):
                count += len(file.read(size))
                file.read(2)
    assert count == 60 * MIB


def test_a_disconnect_leaves_the_task_alone_by_default() -> None:
    outcomes: list[Any] = []
    started, done = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with reported(outcomes, done, "handler"):
            await read_body(receive)
            started.set()
            assert (await receive())["type"] == "http.disconnect"
            await asyncio.sleep(0.01)

    with threaded_server(app) as server:
        with server.connect() as connection:
            connection.sendall(request())
            assert started.wait(TIMEOUT_S)
        assert done.wait(TIMEOUT_S)
        assert "Exception" not in server.log
    assert outcomes == [("handler", None)]


def test_a_disconnect_cancels_the_task_if_that_was_asked_for() -> None:
    outcomes: list[Any] = []
    started, done = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with reported(outcomes, done, "handler"):
            started.set()
            await asyncio.sleep(TIMEOUT_S)

    with threaded_server(app, cancel_on_disconnect=True) as server:
        with server.connect() as connection:
            connection.sendall(request())
            assert started.wait(TIMEOUT_S)
        assert done.wait(TIMEOUT_S)
        assert "Exception" not in server.log
    assert isinstance(outcomes[0][1], asyncio.CancelledError)


def test_receive_tells_of_a_disconnect_once_the_response_is_complete() -> None:
    messages: list[Any] = []
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        watcher = asyncio.create_task(watch(receive))
        await asyncio.sleep(0)
        await respond(send, b"done")
        messages.append(await receive())
        messages.append(await watcher)
        done.set()

    async def watch(receive: Any) -> Any:
        await read_body(receive)
        return await receive()

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request())
        assert read_response(connection)[2] == b"done"
        assert done.wait(TIMEOUT_S), "the client stays, but the response is done: receive() must say so"
    assert messages == [{"type": "http.disconnect"}] * 2


# ---- receive() under asyncio's own tools --------------------------------------------------------------------------


def test_a_receive_that_times_out_loses_no_bytes() -> None:
    timed_out = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal timed_out
        body, more, rounds = bytearray(), True, random.Random(4)
        while more:
            try:
                # Often nothing, often something: cancelled before, while and after it waits.
                message = await asyncio.wait_for(receive(), rounds.choice([0, 1e-9, 0.0001, 0.001]))
            except TimeoutError:
                timed_out += 1
                continue
            body += message["body"]
            more = message["more_body"]
        await respond(send, body)

    body = random.Random(2).randbytes(300_000)
    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/", f"content-length: {len(body)}", method="POST"))
        for at in range(0, len(body), 3000):
            connection.sendall(body[at : at + 3000])
            time.sleep(0.0005)
        assert read_response(connection)[2] == body
    assert timed_out > 5


def test_a_receive_task_cancelled_before_its_first_step_loses_no_bytes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.create_task(receive())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        receive().close()
        await respond(send, await read_body(receive))

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/", method="POST", body=b"body"))
        assert read_response(connection)[2] == b"body"


def test_receive_and_send_can_be_made_tasks() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await asyncio.create_task(receive())
        start = asyncio.create_task(send({"type": "http.response.start", "status": 200}))
        await asyncio.gather(start, return_exceptions=False)
        await asyncio.create_task(send({"type": "http.response.body", "body": message["body"]}))

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/", method="POST", body=b"body"))
        assert read_response(connection)[2] == b"body"


def test_awaiting_one_receive_twice_is_an_error() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        once = receive()
        await once
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            await once
        await respond(send, b"ok")

    with threaded_server(app) as server:
        assert server.get().endswith(b"ok")


# ---- applications that fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suspend", [False, True])
def test_a_handler_that_raises_gives_500_and_a_logged_traceback_and_the_connection_goes_on(suspend: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if suspend:
            await asyncio.sleep(0)
        if scope["path"] == "/bad":
            raise ZeroDivisionError("of the application's own")
        await respond(send, b"fine")

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/bad") + request("/good"))
        status, _, body = read_response(connection)
        assert (status, body) == (500, b"500 Internal Server Error\nThe application failed to answer this request.\n")
        assert read_response(connection)[2] == b"fine"
        server.wait_for_log("Exception in ASGI application")
        server.wait_for_log("ZeroDivisionError: of the application's own")
        server.wait_for_log("in app\n")


def test_raising_after_the_start_but_before_the_first_piece_still_gives_500() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
        raise ValueError("late")

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request())
        status, headers, _ = read_response(connection)
        assert status == 500
        assert "x-a" not in headers


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("how", ["raise", "return"])
def test_ending_in_the_middle_of_the_body_aborts_the_connection_visibly(framing: str, how: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"100")] if framing == "length" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0.05)  # So that the part has left.
        if how == "raise":
            raise ValueError("late")

    with threaded_server(app) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
        client.request("GET", "/")
        response = client.getresponse()
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()
        client.close()
        expected = "ValueError: late" if how == "raise" else "returned without completing its response"
        server.wait_for_log(expected)


def test_returning_without_a_response_gives_500_and_says_so() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    with threaded_server(app) as server:
        assert server.get().startswith(b"HTTP/1.1 500 ")
        server.wait_for_log("returned without starting its response")


@pytest.mark.parametrize("how", ["return", "raise"])
def test_what_is_reported_of_a_request_is_so_by_no_task(how: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if how == "raise":
            raise ValueError("at once")

    class Reporter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            reporters.append(asyncio.current_task())

    reporters, reporter = list[Any](), Reporter()
    error_log = logging.getLogger("penstock.error")
    with threaded_server(app) as server:
        error_log.addHandler(reporter)
        try:
            assert server.get().startswith(b"HTTP/1.1 500 ")
            server.wait_for_log("at once" if how == "raise" else "returned without starting its response")
        finally:
            error_log.removeHandler(reporter)
    assert reporters == [None]


@pytest.mark.parametrize("application", [lambda scope, receive, send: None, lambda scope: None])
def test_something_that_is_no_asgi_application_gives_500_and_says_what_was_expected(application: Any) -> None:
    with threaded_server(application, interface="asgi") as server:
        assert server.get().startswith(b"HTTP/1.1 500 ")
        server.wait_for_log("TypeError")


START: dict[str, Any] = {"type": "http.response.start", "status": 200}
PIECE: dict[str, Any] = {"type": "http.response.body", "body": b"x", "more_body": True}
MISTAKES: list[tuple[list[Any], type[Exception], str]] = [
    ([PIECE], RuntimeError, "before http.response.start"),
    ([START, START], RuntimeError, "sent before"),
    ([START, PIECE, START], RuntimeError, "sent before"),
    ([{"type": "http.response.start"}], ValueError, "status"),
    ([{"status": 200}], ValueError, "type"),
    ([{"type": "http.request"}], ValueError, 'not "http.request"'),
    ([{"type": "websocket.accept"}], ValueError, "websocket.accept"),
    ([{"type": 5}], TypeError, ""),
    ([None], TypeError, ""),
    ([START | {"status": "200"}], TypeError, "status must be an integer"),
    ([START | {"status": 99}, PIECE], RuntimeError, "100 to 999"),
    ([START | {"status": 70000}], TypeError, "100 to 999"),
    ([START | {"headers": [("x-a", "1")]}, PIECE], TypeError, "bytes"),
    ([START | {"headers": [(b"x-a",)]}, PIECE], ValueError, "pair"),
    ([START | {"headers": [b"ab"]}, PIECE], TypeError, "bytes"),
    ([START | {"headers": 5}, PIECE], TypeError, ""),
    ([START | {"headers": [(b"x-a", b"1\r\nx-b: 2")]}, PIECE], RuntimeError, "CR, LF or NUL"),
    ([START | {"headers": [(b"x-a\r\nx-b", b"1")]}, PIECE], RuntimeError, "token"),
    ([START | {"headers": [(b"x a", b"1")]}, PIECE], RuntimeError, "token"),
    ([START | {"headers": [(b"", b"1")]}, PIECE], RuntimeError, "token"),
    ([START | {"headers": [(b"x-a", b"1\0")]}, PIECE], RuntimeError, "CR, LF or NUL"),
    ([START | {"headers": [(b"content-length", b"ten")]}, PIECE], RuntimeError, "decimal"),
    ([START | {"headers": [(b"content-length", b"1"), (b"content-length", b"2")]}, PIECE], RuntimeError, "twice"),
    ([START, {"type": "http.response.body", "body": "text"}], TypeError, "must be bytes, not str"),
    ([START, {"type": "http.response.body", "body": None}], TypeError, "must be bytes"),
]


@pytest.mark.parametrize(("messages", "kind", "says"), MISTAKES)
def test_a_message_out_of_order_or_form_is_a_clear_error_in_the_application(
    messages: list[Any], kind: type[Exception], says: str
) -> None:
    errors: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/good":
            return await respond(send, b"fine")
        for message in messages[:-1]:
            await send(message)
        try:
            await send(messages[-1])
        except Exception as error:
            errors.append(error)
            raise
        return None

    with threaded_server(app) as server:
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # How an answer is cut short that had begun.
            answer = server.get()
        assert server.get("/good").endswith(b"fine")
    assert len(errors) == 1, f"{messages} was accepted: {answer!r}"
    assert type(errors[0]) is kind
    assert says in str(errors[0])
    assert b"x-b" not in answer


@pytest.mark.parametrize("body", [b"too long by far", b"short"])
def test_a_body_that_is_not_as_long_as_its_content_length_is_an_error(body: bytes) -> None:
    errors: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START | {"headers": [(b"content-length", b"10")]})
        try:
            await send({"type": "http.response.body", "body": body})
        except RuntimeError as error:
            errors.append(error)
            raise

    with threaded_server(app) as server:
        answer = server.get()
    assert "content-length" in str(errors[0])
    # Nobody may take what came for a whole response of ten bytes.
    assert len(answer.partition(b"\r\n\r\n")[2]) != 10 or answer.startswith(b"HTTP/1.1 500")


def test_sending_after_the_response_is_complete_is_an_error_that_harms_nobody() -> None:
    errors: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"fine")
        if scope["path"] == "/bad":
            for message in (START, PIECE):
                try:
                    await send(message)
                except RuntimeError as error:
                    errors.append(error)

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/bad") + request("/good"))
        assert [read_response(connection)[2] for _ in range(2)] == [b"fine"] * 2
    assert len(errors) == 2


# ---- requests are not mixed up ------------------------------------------------------------------------------------


def test_a_request_that_lives_on_after_its_response_never_touches_the_next_one() -> None:
    """The next request on the connection has the same socket, and nothing else in common."""
    later: list[Any] = []
    go_on, done = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/first":
            await respond(send, b"first")
            await asyncio.to_thread(go_on.wait, TIMEOUT_S)
            later.append(await receive())
            for message in (START, PIECE, {"type": "http.response.body", "body": b"stolen"}):
                try:
                    await send(message)
                except RuntimeError as error:
                    later.append(error)
            done.set()
        else:
            await respond(send, await read_body(receive))

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/first"))
        assert read_response(connection)[2] == b"first"
        connection.sendall(request("/second", "content-length: 6", method="POST") + b"sec")
        wait_until(lambda: server.call(lambda: server.loop.reactor.requests_in_progress) == 1)
        go_on.set()
        assert done.wait(TIMEOUT_S)
        connection.sendall(b"ond")
        assert read_response(connection)[2] == b"second", "the second request was not told of its body"
    assert later[0] == {"type": "http.disconnect"}
    assert [type(each) for each in later[1:]] == [RuntimeError] * 3


def test_a_task_that_outlives_a_failed_request_never_touches_the_next_one() -> None:
    later: list[Any] = []
    failed, done = threading.Event(), threading.Event()
    tasks: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/first":

            async def outlive() -> None:
                await asyncio.to_thread(failed.wait, TIMEOUT_S)
                later.append(await receive())
                for message in (START, {"type": "http.response.body", "body": b"stolen"}):
                    try:
                        await send(message)
                    except RuntimeError as error:
                        later.append(error)
                done.set()

            tasks.append(asyncio.create_task(outlive()))
            raise ValueError("first")
        await respond(send, await read_body(receive))

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(request("/first"))
        assert read_response(connection)[0] == 500
        connection.sendall(request("/second", "content-length: 6", method="POST") + b"sec")
        wait_until(lambda: server.call(lambda: server.loop.reactor.requests_in_progress) == 1)
        failed.set()
        assert done.wait(TIMEOUT_S)
        connection.sendall(b"ond")
        assert read_response(connection)[2] == b"second"
    assert later[0] == {"type": "http.disconnect"}
    assert len(later) == 3


def test_concurrent_requests_get_their_own_answers() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        rounds = random.Random(scope["path"])
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
            if rounds.random() < 0.5:
                await asyncio.sleep(rounds.random() * 0.002)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]})
        middle = rounds.randrange(len(body) + 1)
        if rounds.random() < 0.5:
            await send({"type": "http.response.body", "body": bytes(body[:middle]), "more_body": True})
            if rounds.random() < 0.5:
                await asyncio.sleep(0)
            body = body[middle:]
        await send({"type": "http.response.body", "body": bytes(body)})

    async def client(number: int, url: str, client: httpx.AsyncClient) -> None:
        rounds = random.Random(seed + number)
        for each in range(12):
            path = f"/{number}/{each}"
            body = rounds.randbytes(rounds.choice([0, 1, 100, 5000, 100_000]))
            response = await client.post(url + path, content=body)
            assert response.headers["x-path"] == path
            assert response.content == body

    async def main(url: str) -> None:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as shared, asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(client(number, url, shared))

    with threaded_server(app) as server:
        asyncio.run(main(server.url))


def test_memory_stays_bounded_while_clients_do_not_read_and_applications_do_not_either(serve: Any) -> None:
    server = serve(
        """
        import asyncio
        async def app(scope, receive, send):
            if scope["path"] == "/download":
                await send({"type": "http.response.start", "status": 200})
                while True:
                    await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await asyncio.sleep(60)
        """,
        "--timeout-graceful-shutdown",
        "0",
    )

    def resident_mib() -> float:
        pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    before = resident_mib()
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            reading = stack.enter_context(server.connect())
            reading.sendall(request("/download"))
            writing = stack.enter_context(server.connect(timeout_s=0.05))
            writing.sendall(request("/upload", f"content-length: {64 * MIB}", method="POST"))
            with contextlib.suppress(TimeoutError):
                for _ in range(64):
                    writing.sendall(bytes(MIB))
        # One piece and a high watermark each way, and the arena; not what the clients would have sent or read.
        assert resident_mib() - before < 60


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    """A test leaves no thread of its own behind."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in left:
        thread.join(TIMEOUT_S)
    assert not [thread for thread in left if thread.is_alive()]


def test_the_server_can_be_made_and_stopped_many_times_in_one_process() -> None:
    for _ in range(5):
        with threaded_server(echo) as server:
            assert server.get().startswith(b"HTTP/1.1 200")
    assert ThreadedServer is not None
