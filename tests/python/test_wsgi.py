"""WSGI: what an application is told, what it may say, what it costs others, and what happens when a side misbehaves.

Applications that keep to PEP 3333 run inside `wsgiref.validate`, which holds the server to it as well.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from conftest import Server
from threaded_server import (
    TIMEOUT_S,
    ThreadedServer,
    read_chunked,
    read_head,
    read_response,
    read_to_end,
    read_until,
    threaded_server,
)
from waiting import wait_until

Environ = dict[str, Any]
App = Callable[[Environ, Any], Iterable[bytes]]
MIB = 1 << 20


def request(path: str = "/", *headers: str, method: str = "GET", body: bytes = b"", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: test", *headers]
    if body and not any(line.startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def serving(app: App, **settings: Any) -> Any:
    return threaded_server(app, interface="wsgi", **settings)


def ask(app: App, bytes_sent: bytes = b"", *, to_head: bool = False, **settings: Any) -> tuple[int, Any, bytes]:
    """One request to a server of its own, and the response to it."""
    with serving(app, **settings) as server, server.connect() as connection:
        connection.sendall(bytes_sent or request())
        return read_response(connection, to_head=to_head)


def figures(server: ThreadedServer) -> Any:
    assert server.worker.threads is not None
    return server.worker.threads.server.figures()


def text_app(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


@validator
def echo(environ: Environ, start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or -1))
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [body]


# ---- the environ --------------------------------------------------------------------------------------------------


def environ_of(bytes_sent: bytes, **settings: Any) -> Environ:
    seen: list[Environ] = []

    @validator
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        assert type(environ) is dict
        seen.append(dict(environ))
        return text_app(environ, start_response)

    with serving(app, **settings) as server, server.connect() as connection:
        connection.sendall(bytes_sent)
        read_head(connection)
    return seen[0]


def test_an_environ_says_what_pep_3333_wants() -> None:
    sent = request("/a%20b/%C3%A9?x=%20&y", "Content-Type: text/x", "X-Name: caf\xe9", method="POST", body=b"12345")
    environ = environ_of(sent)
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/\xc3\xa9",
        "QUERY_STRING": "x=%20&y",
        "REQUEST_URI": "/a%20b/%C3%A9?x=%20&y",
        "RAW_URI": "/a%20b/%C3%A9?x=%20&y",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "5",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "test",
        "HTTP_X_NAME": "caf\xe9",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {name: environ[name] for name in expected} == expected
    assert environ["SERVER_PORT"].isdigit()
    assert environ["REMOTE_PORT"].isdigit()
    assert "HTTP_CONTENT_TYPE" not in environ


def test_nothing_of_the_process_environment_is_in_an_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    assert not environ_of(request()).keys() & os.environ.keys()


def test_headers_that_repeat_are_joined_and_ambiguous_names_are_left_out() -> None:
    environ = environ_of(request("/", "X-A: 1", "x-a: 2", "X-A: 1", "Cookie: a=1", "Cookie: b=2", "X_A: 3", "X-B:"))
    assert environ["HTTP_X_A"] == "1,2,1"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_X_B"] == ""


def test_a_root_path_is_the_script_name() -> None:
    environ = environ_of(request("/x"), root_path="/caf\u00e9")
    assert environ["SCRIPT_NAME"] == "/caf\u00e9".encode().decode("latin-1")
    assert environ["PATH_INFO"] == "/x"


def test_a_trusted_proxy_names_the_client_and_the_scheme() -> None:
    sent = request("/", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https")
    environ = environ_of(sent)
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("192.0.2.7", "https")
    environ = environ_of(sent, forwarded_allow_ips="10.0.0.1")
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("127.0.0.1", "http")


def test_a_unix_socket_has_a_server_name_and_no_client(tmp_path: Path) -> None:
    environ = environ_of(request("/", "connection: keep-alive", version="1.0"), uds=str(tmp_path / "s"))
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")
    assert environ["REMOTE_ADDR"] == ""
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_options_of_the_server_as_a_whole_has_no_path() -> None:
    assert environ_of(request("*", method="OPTIONS"))["PATH_INFO"] == ""


def test_one_request_s_environ_is_not_another_s() -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        leaked = str("mark" in environ).encode()
        environ["mark"] = 1
        environ["wsgi.errors"] = None
        start_response("200 OK", [])
        return [leaked]

    with serving(app, threads=1) as server, server.connect() as connection:
        for _ in range(3):
            connection.sendall(request())
            assert read_response(connection)[2] == b"False"


def test_requests_share_no_context_variables() -> None:
    mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark", default=0)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        before = mark.get()
        mark.set(before + 1)
        start_response("200 OK", [])
        return [b"%d" % before]

    with serving(app, threads=1) as server, server.connect() as connection:
        for _ in range(3):
            connection.sendall(request())
            assert read_response(connection)[2] == b"0"


# ---- the response -------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_their_order() -> None:
    @validator
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("201 Whatever", [("Content-Type", "text/plain"), ("X-Caf", "caf\xe9")])
        return [environ["PATH_INFO"].encode()]

    with serving(app) as server, server.connect() as connection:
        connection.sendall(b"".join(request(f"/{n}") for n in range(50)))
        for n in range(50):
            status, headers, body = read_response(connection)
            assert (status, body) == (201, f"/{n}".encode())
            assert headers["X-Caf"] == "caf\xe9"


def test_several_pieces_of_a_list_leave_as_one_body() -> None:
    def app(environ: Environ, start_response: Any) -> tuple[bytes, ...]:
        start_response("200 OK", [])
        return (b"a" * 10, b"", b"b" * 70_000)

    status, headers, body = ask(app)
    assert (status, headers["content-length"], body) == (200, "70010", b"a" * 10 + b"b" * 70_000)


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 3 * MIB])
def test_a_body_of_any_size_arrives_whole(size: int) -> None:
    body = random.Random(size).randbytes(size)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [body]

    assert ask(app)[2] == body


def test_head_gets_the_length_and_no_body() -> None:
    with serving(text_app) as server, server.connect() as connection:
        for _ in range(2):
            connection.sendall(request(method="HEAD"))
            status, headers, _ = read_response(connection, to_head=True)
            assert (status, headers["content-length"]) == (200, "5")
        connection.sendall(request())
        assert read_response(connection)[2] == b"hello"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_generator_is_chunked_piece_by_piece(method: str) -> None:
    @validator
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b""
        yield b"one"
        yield b"two"

    status, headers, body = ask(app, request(method=method), to_head=method == "HEAD")
    assert (status, body) == (200, b"onetwo" if method == "GET" else b"")
    assert ("transfer-encoding" in headers) == (method == "GET")


def test_pieces_leave_as_soon_as_they_are_there() -> None:
    go_on = threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        assert go_on.wait(TIMEOUT_S)
        yield b"second"

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request())
        read_until(connection, b"first\r\n")
        go_on.set()
        assert read_chunked(connection) == b"second"


def test_a_declared_length_makes_a_stream_a_plain_body_that_ends_in_time() -> None:
    go_on = threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        yield b"abc"
        yield b"def"
        # The client need not wait for this.
        assert go_on.wait(TIMEOUT_S)

    with serving(app, threads=2) as server, server.connect() as connection:
        for _ in range(2):
            go_on.clear()
            connection.sendall(request())
            status, headers, body = read_response(connection)
            assert (status, headers["content-length"], body) == (200, "6", b"abcdef")
            go_on.set()


def test_write_sends_at_once_and_before_the_iterable() -> None:
    go_on = threading.Event()

    @validator
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"one")
        assert go_on.wait(TIMEOUT_S)
        write(b"two")
        return [b"three"]

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request())
        read_until(connection, b"one\r\n")
        go_on.set()
        assert read_chunked(connection) == b"twothree"


def test_a_slow_client_holds_its_application_back_and_nobody_else() -> None:
    produced = 0

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        nonlocal produced
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/other":
            yield b"other"
            return
        for _ in range(400):
            produced += 1
            yield bytes(100_000)

    with serving(app, threads=2) as server, server.connect() as slow:
        slow.sendall(request())
        wait_until(lambda: produced > 2)
        with server.connect() as other:
            other.sendall(request("/other"))
            assert read_response(other)[2] == b"other"
        assert produced < 300
        assert read_head(slow)[0] == 200
        assert len(read_chunked(slow)) == 40_000_000
    assert produced == 400


@pytest.mark.parametrize("ending", ["returns", "raises", "disconnects", "is asked by HEAD"])
def test_an_iterable_is_closed_however_it_ends(ending: str) -> None:
    closed, has_read = threading.Event(), threading.Event()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"x" * 50_000
            if ending == "raises":
                assert has_read.wait(TIMEOUT_S)
                raise ValueError("on purpose")
            while ending == "disconnects" and not closed.is_set():
                yield b"x" * 50_000

        def close(self) -> None:
            closed.set()

    def app(environ: Environ, start_response: Any) -> Body:
        start_response("200 OK", [])
        return Body()

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request(method="HEAD" if "HEAD" in ending else "GET"))
        read_until(connection, b"\r\n\r\n")
        has_read.set()
        connection.close()
        assert closed.wait(TIMEOUT_S)
    if ending == "raises":
        server.wait_for_log("Exception in WSGI application")
        server.wait_for_log("on purpose")
    else:
        assert "Exception" not in server.log


# ---- start_response -----------------------------------------------------------------------------------------------


def test_a_response_can_begin_anew_until_its_head_has_left() -> None:
    @validator
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("X-First", "1")])
        try:
            raise ValueError("on purpose")
        except ValueError:
            start_response("503 Sorry", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    status, headers, body = ask(app)
    assert (status, body) == (503, b"sorry")
    assert "X-First" not in headers


def test_once_the_head_has_left_the_error_is_raised_again_and_the_response_cut_off() -> None:
    has_read = threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begun"
        assert has_read.wait(TIMEOUT_S)
        try:
            raise ValueError("on purpose")
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        yield b"never"

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request())
        read_until(connection, b"begun\r\n")
        has_read.set()
        with pytest.raises((ConnectionResetError, AssertionError)):
            read_chunked(connection)
    server.wait_for_log("ValueError: on purpose")


def test_a_second_start_without_a_reason_is_an_error() -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request())
        assert read_response(connection)[0] == 500
    server.wait_for_log("AssertionError: start_response was called before")


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("404 Gone Fishing", b"404 Gone Fishing"),
        ("299 Caf\xe9", b"299 Caf\xe9"),
        ("404 Not Found", b"404 Not Found"),
        ("404", b"404 Not Found"),
        ("200 All right", b"200 All right"),
    ],
)
@pytest.mark.parametrize("in_pieces", [False, True])
def test_the_reason_is_the_applications_to_choose(status: str, line: bytes, in_pieces: bool) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response(status, [("Content-Type", "text/plain")])
        return iter([b"one", b"two"]) if in_pieces else [b"hello"]

    with serving(app) as server:
        assert server.get().startswith(b"HTTP/1.1 " + line + b"\r\n")


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (200, [], "the status is a string such as '200 OK', not 200"),
        ("OK", [], "the status is a string such as '200 OK', not 'OK'"),
        ("2000 OK", [], "not '2000 OK'"),
        ("100 Continue", [], "not '100 Continue'"),
        ("200 OK\r\nset-cookie: a", [], "the status is a string such as '200 OK'"),
        ("200 \u20ac", [], "not '200 \u20ac'"),
        ("200 OK", {"a": "b"}, "the headers are a list of (name, value) tuples, not dict"),
        ("200 OK", [("a", "b", "c")], "a header is a tuple (name, value)"),
        ("200 OK", [(b"a", b"b")], "header names and values are native strings (latin-1), not b'a'"),
        ("200 OK", [("a", "\u20ac")], "native strings (latin-1), not '\u20ac'"),
        ("200 OK", [("a b", "c")], 'a header\'s name must be a token, not "a b"'),
        ("200 OK", [("a", "b\r\nset-cookie: c")], 'the value of the header "a" holds CR, LF or NUL'),
        ("200 OK", [("Content-Length", "five")], "content-length must be one decimal number"),
        ("200 OK", [("Content-Length", "5"), ("content-length", "5")], "content-length was given twice"),
    ],
)
def test_a_wrong_start_is_refused_where_it_is_made(status: Any, headers: Any, told: str) -> None:
    said: list[str] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            start_response(status, headers)
        except (TypeError, ValueError) as error:
            said.append(str(error))
        return text_app(environ, start_response)

    assert ask(app)[2] == b"hello"
    assert told in said[0]


@pytest.mark.parametrize(
    ("headers", "result", "told"),
    [
        ([], None, "not NoneType (is there a return statement missing?)"),
        ([], "text", "not str (one str; put it into a list, encoded)"),
        ([], b"bytes", "not bytes (put it into a list: iterating bytes gives numbers)"),
        ([], 5, "returns an iterable of bytes objects, not int"),
        ([], ["text"], "made of bytes, not str: encode it"),
        ([], lambda: iter([5]), "made of bytes, not int"),
        ([("Content-Length", "3")], [b"four"], "the body is longer than its content-length: 4 bytes of 3 declared"),
        ([("Content-Length", "9")], [b"four"], "the body is shorter than its content-length: 4 bytes of 9 declared"),
        (
            [("Content-Length", "9")],
            lambda: iter([]),
            "the body is shorter than its content-length: 0 bytes of 9 declared",
        ),
        (None, [b"four"], "the body began before start_response was called"),
        (None, [], "the application returned without calling start_response"),
    ],
)
def test_an_application_that_breaks_the_protocol_is_told_how_and_its_client_gets_a_500(
    headers: Any, result: Any, told: str
) -> None:
    def app(environ: Environ, start_response: Any) -> Any:
        if headers is not None:
            start_response("200 OK", headers)
        return result() if callable(result) else result

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request() + request())
        assert read_response(connection)[0] == 500
        assert read_response(connection)[0] == 500, "the connection goes on"
    server.wait_for_log(told)


@pytest.mark.parametrize(("length", "told"), [("6", "is longer than"), ("600", "is shorter than")])
def test_a_stream_that_misses_its_declared_length_is_cut_off(length: str, told: str) -> None:
    has_read = threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", length)])
        yield b"abcde"
        assert has_read.wait(TIMEOUT_S)
        yield b"fgh"

    with serving(app) as server:
        with server.connect() as connection:
            connection.sendall(request())
            assert read_head(connection)[0] == 200
            has_read.set()
            try:
                rest = read_to_end(connection)
            except ConnectionResetError:
                rest = b""
        assert len(rest) < int(length)
        wait_until(lambda: told in server.log)


def test_an_error_is_logged_with_its_traceback_and_answered_500() -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        raise LookupError("on purpose")

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request())
        status, headers, _ = read_response(connection)
        assert status == 500
        assert "connection" not in headers
        server.wait_for_log("Exception in WSGI application")
        server.wait_for_log('raise LookupError("on purpose")')
        assert server.call(lambda: server.loop.reactor.counters()["handler_errors"]) == 1


def test_an_exit_asked_for_by_an_application_ends_its_request_alone() -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/exit":
            sys.exit(3)
        return text_app(environ, start_response)

    with serving(app, threads=1) as server, server.connect() as connection:
        connection.sendall(request("/exit") + request())
        assert read_response(connection)[0] == 500
        assert read_response(connection)[2] == b"hello"


def test_what_an_application_keeps_reaches_no_later_request() -> None:
    kept: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        kept.append((start_response, start_response("200 OK", []), environ["wsgi.input"]))
        return [b"answer"]

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request(method="POST", body=b"x"))
        assert read_response(connection)[2] == b"answer"
        start_response, write, body = kept[0]
        wait_until(lambda: figures(server)["busy"] == 0)
        with pytest.raises(RuntimeError, match="over"):
            write(b"stray")
        with pytest.raises(RuntimeError, match="over"):
            start_response("200 OK", [])
        assert body.read() == b"x"
        assert body.read() == b""
        connection.sendall(request())
        assert read_response(connection)[2] == b"answer"


# ---- wsgi.input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("size", [1, 10_240, 65_536, 65_537, 5 * MIB])
def test_a_body_comes_in_whole(size: int, framing: str) -> None:
    body = random.Random(size).randbytes(size)
    if framing == "chunked":
        pieces = [body[at : at + 50_000] for at in range(0, size, 50_000)]
        encoded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))
        sent = request("/", "transfer-encoding: chunked", method="POST", body=encoded)
    else:
        sent = request(method="POST", body=body)
    assert ask(echo, sent, limit_rate_min=0)[2] == body


def test_reading_is_as_reading_any_file() -> None:
    """Random bodies, random calls, in random pieces: what comes is what `io.BytesIO` gives."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    body = b"".join(chance.randbytes(chance.randrange(40)) + b"\n" * chance.randrange(3) for _ in range(20_000))
    calls = [
        (chance.choice(["read", "readline", "readlines", "next"]), chance.choice([0, 1, 7, 100, 5000]))
        for _ in range(3000)
    ]
    failures: list[Any] = []

    def call(stream: Any, name: str, size: int) -> Any:
        if name == "next":
            return next(stream, None)
        return getattr(stream, name)(size)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        stream, model = environ["wsgi.input"], io.BytesIO(body)
        for name, size in calls:
            got, expected = call(stream, name, size), call(model, name, size)
            if got != expected:
                failures.append((name, size, got, expected))
                break
        failures.extend(["the rest"] * (stream.read() != model.read()))
        return text_app(environ, start_response)

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request("/", f"content-length: {len(body)}", method="POST"))
        at = 0
        while at < len(body):
            step = chance.choice([1, 1000, 100_000])
            connection.sendall(body[at : at + step])
            at += step
        assert read_response(connection)[2] == b"hello"
    assert failures == []


def test_a_client_that_waits_is_told_to_go_on_when_its_body_is_read() -> None:
    @validator
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(4) if environ["PATH_INFO"] == "/read" else b"unread"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    with serving(app, limit_spool_size=0) as server:
        with server.connect() as connection:
            connection.sendall(request("/read", "expect: 100-continue", "content-length: 4", method="POST"))
            assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b"body")
            assert read_response(connection)[2] == b"body"
        with server.connect() as connection:
            connection.sendall(request("/", "expect: 100-continue", "content-length: 4", method="POST"))
            assert read_response(connection)[2] == b"unread"


def test_slow_bodies_take_no_thread_until_they_are_there() -> None:
    with serving(echo, threads=1) as server:
        slow = [server.connect() for _ in range(5)]
        for connection in slow:
            connection.sendall(request(method="POST", body=b"0123456789")[:-5])
        with server.connect() as quick:
            quick.sendall(request(method="POST", body=b"quick"))
            assert read_response(quick)[2] == b"quick"
        for connection in slow:
            connection.sendall(b"56789")
            assert read_response(connection)[2] == b"0123456789"
            connection.close()


def test_long_bodies_that_come_slowly_take_no_thread_either() -> None:
    body = random.randbytes(3 * MIB)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:MIB], body[MIB:])) + b"0\r\n\r\n"
    uploads = [
        request(method="POST", body=body),
        request("/", "transfer-encoding: chunked", method="POST") + chunks,
        body,
    ]
    patient = request("/", "expect: 100-continue", f"content-length: {len(body)}", method="POST")
    former = unnamed_files()
    with serving(echo, threads=1) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in uploads]
        slow[-1].sendall(patient)
        assert read_until(slow[-1], b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for connection, upload in zip(slow, uploads, strict=True):
            connection.sendall(upload[:-100])
        with server.connect() as quick:
            for _ in range(20):
                quick.sendall(request(method="POST", body=b"quick"))
                assert read_response(quick)[2] == b"quick"
        assert figures(server)["taken"] == 20
        for connection, upload in zip(slow, uploads, strict=True):
            connection.sendall(upload[-100:])
            assert read_response(connection)[2] == body
    assert unnamed_files() <= former


def unnamed_files() -> set[str]:
    """Files of this process that no directory has any more. pytest has some of its own."""
    names: set[str] = set()
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.add(os.readlink(f"/proc/self/fd/{each}"))
    return {name for name in names if name.startswith(tempfile.gettempdir() + "/#")}


def test_a_long_body_is_read_in_pieces_and_lines_as_a_short_one_is() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    body = bytes(10 if chance.random() < 0.001 else 120 for _ in range(400_000))
    failures: list[str] = []

    @validator
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        input_, like = environ["wsgi.input"], io.BytesIO(body)
        while like.tell() < len(body):
            read = chance.choice(["read", "readline", "readlines"])
            size = chance.choice([1, 1000, 70_000, 100_000])
            if getattr(input_, read)(size) != getattr(like, read)(size):
                failures.append(f"{read}({size}) before {like.tell()}")
                break
        if input_.read(1) != b"":
            failures.append("the end is none")
        return text_app(environ, start_response)

    for limit in (1 << 30, 100_000):  # All of it in a file; its beginning, and the rest as it comes.
        assert ask(app, request(method="POST", body=body), limit_spool_size=limit)[2] == b"hello"
    assert failures == []


def test_what_finds_no_room_on_the_disk_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    body = random.randbytes(2 * MIB)
    with serving(echo, threads=3, limit_spool_size=3 * MIB) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in slow:
            connection.sendall(request(method="POST", body=body)[:-1])
        wait_until(lambda: figures(server)["busy"] > 0)
        for connection in slow:
            connection.sendall(body[-1:])
            assert read_response(connection)[2] == body
    monkeypatch.setenv("TMPDIR", "/no/such/directory")
    with serving(echo) as server:
        with server.connect() as connection:
            connection.sendall(request(method="POST", body=body))
            assert read_response(connection)[2] == body
        server.wait_for_log("Cannot keep a request's body in /no/such/directory (TMPDIR), so threads wait for clients")


def test_who_leaves_amid_a_long_body_leaves_no_file_behind() -> None:
    former = unnamed_files()
    with serving(echo) as server:
        for _ in range(5):
            with server.connect() as connection:
                connection.sendall(request("/", f"content-length: {MIB}", method="POST") + bytes(200_000))
        with server.connect() as connection:
            connection.sendall(request(method="POST", body=bytes(MIB)))
            assert len(read_response(connection)[2]) == MIB
        wait_until(lambda: unnamed_files() <= former)
        assert figures(server)["taken"] == 1


def test_a_thread_that_waits_for_a_body_holds_up_neither_the_loop_nor_the_others(tmp_path: Path) -> None:
    (tmp_path / "health").write_bytes(b"well")
    settings: Any = {"threads": 2, "static": [f"/s={tmp_path}"], "limit_spool_size": 0}
    with serving(echo, **settings) as server, server.connect() as uploading:
        uploading.sendall(request("/", f"content-length: {2 * MIB}", method="POST") + bytes(MIB))
        wait_until(lambda: figures(server)["busy"] == 1)
        with server.connect() as other:
            other.sendall(request("/s/health"))
            assert read_response(other)[2] == b"well"
            other.sendall(request(method="POST", body=b"other"))
            assert read_response(other)[2] == b"other"
        uploading.sendall(bytes(MIB))
        assert read_response(uploading)[2] == bytes(2 * MIB)


def test_an_application_that_reads_slowly_is_sent_no_more_than_it_takes() -> None:
    go_on = threading.Event()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read(1)
        assert go_on.wait(TIMEOUT_S)
        count = 1 + sum(len(piece) for piece in iter(lambda: environ["wsgi.input"].read(65_536), b""))
        start_response("200 OK", [])
        return [b"%d" % count]

    with serving(app, limit_spool_size=MIB) as server, server.connect(timeout_s=0.3) as connection:
        size = 64 * MIB
        connection.sendall(request("/", f"content-length: {size}", method="POST"))
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += connection.send(bytes(MIB))
        assert sent < size
        connection.settimeout(TIMEOUT_S)
        go_on.set()
        # How much of the last piece had left is known from what send returned.
        while sent < size:
            sent += connection.send(bytes(min(MIB, size - sent)))
        assert read_response(connection)[2] == b"%d" % size


def test_a_client_that_leaves_amid_its_body_is_an_oserror() -> None:
    said: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            said.append(error)
            raise
        return text_app(environ, start_response)

    with serving(app, limit_spool_size=0) as server:
        with server.connect() as connection:
            connection.sendall(request("/", "content-length: 1000000", method="POST") + bytes(100_000))
            wait_until(lambda: figures(server)["busy"] == 1)
        wait_until(lambda: bool(said))
    assert "went away" in str(said[0])
    assert "Exception" not in server.log, "it is nobody's fault"


def test_a_body_that_is_not_read_does_not_cost_the_connection() -> None:
    with serving(text_app) as server, server.connect() as connection:
        for size in (0, 10, 60_000):
            connection.sendall(request(method="POST", body=bytes(size)))
            assert read_response(connection)[2] == b"hello"


def test_a_body_beyond_its_limit_is_answered_413() -> None:
    assert ask(echo, request(method="POST", body=bytes(11)), limit_body_size=10)[0] == 413


# ---- wsgi.errors --------------------------------------------------------------------------------------------------


def test_what_is_written_to_wsgi_errors_is_logged_line_by_line() -> None:
    @validator
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        errors = environ["wsgi.errors"]
        errors.write("one\ntwo")
        errors.writelines(["\n", "three"])
        errors.flush()
        return text_app(environ, start_response)

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request())
        read_response(connection)
    assert [record.getMessage() for record in server.records.kept if record.levelname == "ERROR"] == [
        "one",
        "two",
        "three",
    ]


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(300_000))
    return path


@pytest.mark.parametrize("declared", [None, 50, 200_000])
@pytest.mark.parametrize("offset", [0, 100_000])
@pytest.mark.parametrize("is_read", [False, True])
def test_a_wrapped_file_is_sent_from_where_it_is_read_next(
    file: Path, offset: int, declared: int | None, is_read: bool
) -> None:
    """The validator wraps what is returned, so that it is read: it must come out the same."""
    opened: list[Any] = []

    def app(environ: Environ, start_response: Any) -> Any:
        opened.append(file.open("rb"))
        opened[0].seek(offset)
        headers = [("Content-Type", "text/plain")]
        if declared is not None and not is_read:
            headers.append(("Content-Length", str(declared)))
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](opened[0], 4096)

    status, _, body = ask(validator(app) if is_read else app)
    end = None if declared is None or is_read else offset + declared
    assert status == 200
    assert body == file.read_bytes()[offset:end]
    assert opened[0].closed


def test_the_kernel_sends_a_wrapped_file(file: Path) -> None:
    class Unreadable(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("it was to be sent, not read")

    def app(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](Unreadable(file))

    status, headers, body = ask(app)
    assert (status, headers["content-length"]) == (200, "300000")
    assert body == file.read_bytes()


def test_a_wrapped_file_that_has_no_descriptor_is_read() -> None:
    def app(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 100_000), 30_000)

    assert ask(app)[2] == b"x" * 100_000


def test_a_wrapped_file_that_is_shorter_than_declared_is_told(file: Path) -> None:
    def app(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "300001")])
        return environ["wsgi.file_wrapper"](file.open("rb"))

    with serving(app) as server, server.connect() as connection:
        connection.sendall(request())
        assert read_response(connection)[0] == 500
    server.wait_for_log("shorter than its content-length: 300000 bytes of 300001")


# ---- the pool -----------------------------------------------------------------------------------------------------


class Gate:
    """An application that answers at once, and waits at /wait until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)

    def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            self.waiting.release()
            assert self.open.wait(TIMEOUT_S)
        return text_app(environ, start_response)

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.waiting.acquire(timeout=TIMEOUT_S)


def test_a_full_pool_says_503_in_time_while_files_and_health_are_answered(tmp_path: Path) -> None:
    (tmp_path / "health").write_bytes(b"well")
    gate = Gate()
    with serving(gate, threads=2, limit_queue=3, health="/healthz", static=[f"/s={tmp_path}"]) as server:
        waiting = [server.connect() for _ in range(5)]
        try:
            for connection in waiting:
                connection.sendall(request("/wait"))
            gate.wait_for(2)
            wait_until(lambda: figures(server)["queued"] == 3)
            with server.connect() as refused:
                for _ in range(20):
                    began = time.monotonic()
                    refused.sendall(request() + request("/s/health") + request("/healthz"))
                    status, headers, _ = read_response(refused)
                    assert (status, headers["retry-after"]) == (503, "1")
                    assert read_response(refused)[2] == b"well"
                    assert read_response(refused)[0] == 200
                    assert time.monotonic() - began < 5
            told = figures(server)
            assert (told["threads"], told["busy"], told["queued"], told["rejected"]) == (2, 2, 3, 20)
            counters = server.loop.reactor.counters()
            assert counters["requests_not_queued"] == counters["requests_over_limit"] == 20
        finally:
            gate.open.set()
        for connection in waiting:
            assert read_response(connection)[2] == b"hello"
            connection.close()
        told = figures(server)
        assert (told["queued"], told["taken"]) == (0, 5)
        assert 3 <= told["most_queued"] <= 5
        wait_until(lambda: "2 threads are busy" in server.log)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_quick_answer_never_waits_for_a_slow_one_behind_it(threads: int) -> None:
    """Both are handed over together, to one thread: the quick one is done, and its answer must leave."""
    gate = Gate()
    with serving(gate, threads=threads) as server, server.connect() as quick, server.connect() as slow:
        try:
            for _ in range(20):
                quick.sendall(request())
                assert read_response(quick)[2] == b"hello"
            quick.sendall(request())
            slow.sendall(request("/wait"))
            assert read_response(quick)[2] == b"hello"
            gate.wait_for(1)
        finally:
            gate.open.set()
        assert read_response(slow)[2] == b"hello"


def test_as_many_requests_run_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(4)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/together":
            together.wait(TIMEOUT_S)
        return text_app(environ, start_response)

    with serving(app, threads=4) as server:
        connections = [server.connect() for _ in range(8)]
        # At first they are known to be quick, so that one thread could do.
        for connection in connections * 5:
            connection.sendall(request())
            read_response(connection)
        for _ in range(2):
            for connection in connections:
                connection.sendall(request("/together"))
            for connection in connections:
                assert read_response(connection)[2] == b"hello"
        for connection in connections:
            connection.close()


def test_many_clients_get_each_their_own_answer() -> None:
    def app(environ: Environ, start_response: Any) -> Any:
        name = environ["PATH_INFO"][1:]
        start_response("200 OK", [])
        if name.endswith("3"):
            time.sleep(0.001)
        if name.endswith("7"):
            return (piece for piece in (b"<", name.encode(), b">"))
        return [b"<", name.encode() * (5000 if name.endswith("5") else 1), b">"]

    failures: list[Any] = []
    with serving(app, threads=4) as server:

        def client(number: int) -> None:
            with server.connect() as connection:
                for turn in range(60):
                    name = f"{number}-{turn}"
                    connection.sendall(request(f"/{name}"))
                    expected = b"<%s>" % (name.encode() * (5000 if name.endswith("5") else 1))
                    body = read_response(connection)[2]
                    if body != expected:
                        failures.append((name, body[:100]))

        clients = [threading.Thread(target=client, args=(number,)) for number in range(12)]
        for each in clients:
            each.start()
        for each in clients:
            each.join(TIMEOUT_S)
    assert failures == []


def test_clients_that_leave_are_let_go_of() -> None:
    gate = Gate()
    with serving(gate, threads=2) as server:
        for _ in range(4):
            with server.connect() as connection:
                connection.sendall(request("/wait"))
        gate.wait_for(2)
        gate.open.set()
        wait_until(lambda: figures(server)["taken"] == 4 and figures(server)["busy"] == 0)
        wait_until(lambda: server.call(lambda: server.loop.reactor.connections) == 0)
        assert server.exchange(request("/", "connection: close")).endswith(b"hello")
    assert "Exception" not in server.log


# ---- stopping -----------------------------------------------------------------------------------------------------

STOPPING_APP = """
import time

def app(environ, start_response):
    print("begins " + environ["PATH_INFO"] + chr(10), end="", flush=True)
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.4)
    if environ["PATH_INFO"] == "/endless":
        time.sleep(300)
    start_response("200 OK", [])
    yield b"whole"
    if environ["PATH_INFO"] == "/afterwards":
        time.sleep(0.4)
        print("ends afterwards", flush=True)
"""


@pytest.mark.parametrize("path", ["/slow", "/afterwards"])
def test_requests_under_way_are_finished_before_the_server_leaves(serve: Callable[..., Server], path: str) -> None:
    server = serve(STOPPING_APP)
    with server.connect() as connection:
        connection.sendall(request(path))
        server.wait_for_log(f"begins {path}")
        server.signal(signal.SIGTERM)
        assert read_response(connection)[2] == b"whole"
    assert server.wait() == 0
    assert path != "/afterwards" or "ends afterwards" in server.log
    assert "behind" not in server.log


def test_a_request_that_does_not_end_keeps_no_server_from_leaving(serve: Callable[..., Server]) -> None:
    server = serve(STOPPING_APP, "--timeout-graceful-shutdown", "0.3", "--threads", "2")
    with server.connect() as connection, server.connect() as queued, server.connect() as other:
        for each in (connection, other, queued):
            each.sendall(request("/endless"))
        wait_until(lambda: server.log.count("begins /endless") == 2)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    server.wait_for_log("Leaving 2 requests behind that did not finish in time")
    assert "Traceback" not in server.log


def test_several_reactors_have_threads_of_their_own(serve: Callable[..., Server]) -> None:
    server = serve(
        "import threading\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [str(environ['wsgi.multithread']).encode()]\n",
        "--reactors",
        "2",
        "--threads",
        "1",
    )
    connections = [server.connect() for _ in range(6)]
    for connection in connections:
        connection.sendall(request())
    for connection in connections:
        assert read_response(connection)[2] == b"True"
        connection.close()


def test_workers_serve_wsgi_and_say_that_they_are_several(serve: Callable[..., Server]) -> None:
    server = serve(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [str(environ['wsgi.multiprocess']).encode()]\n",
        "--workers",
        "2",
    )
    assert server.get().endswith(b"\r\n\r\nTrue")


def test_the_access_log_has_a_line_for_each_request(serve: Callable[..., Server]) -> None:
    server = serve(STOPPING_APP)
    server.get("/logged?x=1")
    server.wait_for_log('"GET /logged?x=1 HTTP/1.1" 200')
