"""ASGI's extensions, as the specification describes them: files sent by the kernel, trailers, early hints.

The application under test sends what a request's body tells it to, and remembers the errors that `send` raised.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from conftest import Server
from waiting import wait_until

Serve = Callable[..., Server]

SCRIPTED_APP = """
errors = []

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/errors":
        script = [start(), {"type": "http.response.body", "body": repr(errors).encode()}]
    else:
        script, more = b"", True
        while more:
            message = await receive()
            script, more = script + message["body"], message["more_body"]
        script = eval(script, {"start": start, "scope": scope, "open": open})
    for message in script:
        try:
            await send(message)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

def start(status=200, content_length=None, **more):
    headers = [] if content_length is None else [(b"content-length", str(content_length).encode())]
    return {"type": "http.response.start", "status": status, "headers": headers, **more}
"""


def pathsend(path: Path | str) -> str:
    return repr({"type": "http.response.pathsend", "path": str(path)})


def body(data: bytes, **more: object) -> str:
    return repr({"type": "http.response.body", "body": data, **more})


def trailers(*headers: tuple[bytes, bytes], **more: object) -> str:
    return repr({"type": "http.response.trailers", "headers": list(headers), **more})


def hint(*links: bytes) -> str:
    return repr({"type": "http.response.early_hint", "links": list(links)})


def request(*script: str, method: str = "POST", version: str = "1.1", headers: str = "connection: close\r\n") -> bytes:
    content = f"[{', '.join(script)}]".encode()
    return (
        f"{method} / HTTP/{version}\r\nhost: test\r\n{headers}content-length: {len(content)}\r\n\r\n".encode() + content
    )


def play(server: Server, *script: str, **how: str) -> tuple[bytes, bytes]:
    """The head and the body of the response to a script."""
    head, separator, content = server.exchange(request(*script, **how)).partition(b"\r\n\r\n")
    return head + separator, content


def errors(server: Server) -> list[str]:
    return eval(server.get("/errors").partition(b"\r\n\r\n")[2])


def names(head: bytes) -> list[bytes]:
    return [line.partition(b":")[0] for line in head.splitlines()[1:] if line]


def make_file(path: Path, size: int) -> bytes:
    content = os.urandom(4096) * (size // 4096) + os.urandom(size % 4096)
    path.write_bytes(content)
    return content


# ---------------------------------------------------------------- files by path


def test_what_a_framework_calls_a_file_s_response_is_sent_by_the_kernel(serve: Serve, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "file.bin").write_bytes(content)
    server = serve(
        """
        import pathlib
        from fastapi import FastAPI
        from fastapi.responses import FileResponse

        api = FastAPI()

        @api.get("/file")
        async def file():
            return FileResponse(pathlib.Path(__file__).with_name("file.bin"), filename="file.bin")

        async def app(scope, receive, send):
            async def tell(message):
                print("sends", message["type"], flush=True)
                await send(message)
            await api(scope, receive, tell)
        """
    )
    assert httpx.get(f"{server.address}/file", trust_env=False).content == content
    server.wait_for_log("sends http.response.pathsend")
    assert "sends http.response.body" not in server.log


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_001])
def test_a_path_is_sent_whole_with_its_length(serve: Serve, tmp_path: Path, size: int):
    server = serve(SCRIPTED_APP)
    content = make_file(tmp_path / "file.bin", size)
    for declared in ("", f"content_length={size}"):
        head, received = play(server, f"start({declared})", pathsend(tmp_path / "file.bin"))
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"content-length: {size}\r\n".encode() in head
        assert received == content
    assert errors(server) == []


def test_a_head_request_gets_the_length_of_the_file_and_none_of_it(serve: Serve, tmp_path: Path):
    server = serve(SCRIPTED_APP)
    make_file(tmp_path / "file.bin", 100_000)
    head, received = play(server, "start()", pathsend(tmp_path / "file.bin"), method="HEAD")
    assert b"content-length: 100000\r\n" in head
    assert received == b""


def test_requests_behind_a_file_are_answered_in_order(serve: Serve, tmp_path: Path):
    server = serve(SCRIPTED_APP)
    content = make_file(tmp_path / "file.bin", 1_000_000)
    a_file = request("start()", pathsend(tmp_path / "file.bin"), headers="")
    received = server.exchange(a_file + a_file + request("start()", body(b"the end")))
    assert received.count(content) == 2
    assert received.endswith(b"\r\n\r\nthe end")


def test_a_file_can_be_the_last_piece_of_a_stream(serve: Serve, tmp_path: Path):
    server = serve(SCRIPTED_APP)
    content = make_file(tmp_path / "file.bin", 50_000)
    with server.connect() as connection:
        connection.sendall(request("start()", body(b"before ", more_body=True), pathsend(tmp_path / "file.bin")))
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.getheader("transfer-encoding") == "chunked"
        assert response.read() == b"before " + content


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("/no/such/file", "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'"),
        ("/", "IsADirectoryError: [Errno 21] Is a directory: '/'"),
        ("/dev/null", "ValueError: a file cannot be sent: a regular file is expected, not a device or pipe"),
        ("a\0b", "ValueError: http.response.pathsend: path holds a NUL character"),
    ],
)
def test_a_path_that_cannot_be_sent_is_an_error_that_the_application_can_answer(
    serve: Serve, path: str, complaint: str
):
    server = serve(SCRIPTED_APP)
    head, received = play(server, "start(status=404)", pathsend(path), body(b"not here"))
    assert (head.startswith(b"HTTP/1.1 404 "), received) == (True, b"not here")
    assert errors(server) == [complaint]


def test_a_pipe_is_refused_without_waiting_for_its_writer(serve: Serve, tmp_path: Path):
    server = serve(SCRIPTED_APP)
    os.mkfifo(tmp_path / "pipe")
    assert play(server, "start()", pathsend(tmp_path / "pipe"), body(b"went on"))[1] == b"went on"
    assert "a regular file is expected" in errors(server)[0]


def test_a_path_must_be_there_and_be_text(serve: Serve):
    server = serve(SCRIPTED_APP)
    without, number = "{'type': 'http.response.pathsend'}", "{'type': 'http.response.pathsend', 'path': 3}"
    play(server, "start()", without, number, body(b""))
    assert errors(server) == [
        'ValueError: http.response.pathsend must have the key "path"',
        "TypeError: http.response.pathsend: path must be a string, not int",
    ]


@pytest.mark.parametrize("declared", [99_999, 100_001])
def test_a_file_of_another_length_than_declared_is_an_error_and_never_sent_as_if_it_were_right(
    serve: Serve, tmp_path: Path, declared: int
):
    server = serve(SCRIPTED_APP)
    make_file(tmp_path / "file.bin", 100_000)
    head, received = play(server, f"start(content_length={declared})", pathsend(tmp_path / "file.bin"))
    assert head.startswith(b"HTTP/1.1 500 ")
    assert len(received) < 1000
    [complaint] = errors(server)
    assert "than its content-length" in complaint


def test_before_the_start_and_after_the_end_nothing_is_sent(serve: Serve, tmp_path: Path):
    server = serve(SCRIPTED_APP)
    make_file(tmp_path / "file.bin", 10)
    play(server, pathsend(tmp_path / "file.bin"), "start()", body(b"all"), pathsend(tmp_path / "file.bin"))
    assert errors(server) == [
        "RuntimeError: http.response.pathsend was sent before http.response.start",
        "RuntimeError: http.response.pathsend was sent after the response was complete",
    ]


def test_a_file_that_is_truncated_while_it_is_sent_ends_the_connection(serve: Serve, tmp_path: Path):
    server = serve(SCRIPTED_APP)
    path, size = tmp_path / "sparse.bin", 200 << 20
    with path.open("wb") as file:
        file.truncate(size)
    with server.connect() as connection:
        connection.sendall(request("start()", pathsend(path)))
        received = len(connection.recv(65536))
        os.truncate(path, 1000)
        try:
            while piece := connection.recv(1 << 20):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < size
    assert server.get("/errors").startswith(b"HTTP/1.1 200 ")


def test_a_client_that_leaves_takes_the_descriptor_with_it(serve: Serve, tmp_path: Path):
    server = serve(SCRIPTED_APP)
    path = tmp_path / "sparse.bin"
    with path.open("wb") as file:
        file.truncate(200 << 20)
    for _ in range(10):
        with server.connect() as connection:
            connection.sendall(request("start()", pathsend(path)))
            connection.recv(1)
    wait_until(lambda: str(path) not in open_files(server), "the file is still open")


def open_files(server: Server) -> list[str]:
    found: list[str] = []
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(link))
    return found


# ---------------------------------------------------------------- files by descriptor

ZEROCOPY_APP = """
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    send_file = lambda **what: send({"type": "http.response.zerocopysend", **what})
    path = scope["query_string"].decode()
    if scope["path"] == "/object":
        with open(path, "rb") as file:
            file.read(10)  # reads ahead: the descriptor's own position is far behind
            await send_file(file=file, count=20, more_body=True)
            await send({"type": "http.response.body", "body": b"|", "more_body": True})
            await send_file(file=file, count=5, more_body=True)
            await send({"type": "http.response.body", "body": b"|" + file.read(3), "more_body": True})
            await send_file(file=file)
    elif scope["path"] == "/descriptor":
        fd = os.open(path, os.O_RDONLY)
        await send_file(file=fd, count=30_000, more_body=True)
        await send_file(file=fd, offset=5, count=7, more_body=True)
        await send_file(file=fd)
        os.close(fd)
    else:
        errors = []
        with open(path, "rb") as file:
            for wrong in ({}, {"file": "x"}, {"file": -1}, {"file": 9999}, {"file": file, "offset": -1},
                          {"file": file, "count": "all"}, {"file": os.pipe()[0], "offset": 0}):
                try:
                    await send_file(**wrong)
                except Exception as error:
                    errors.append(type(error).__name__)
        try:
            await send_file(file=file)
        except Exception as error:
            errors.append(type(error).__name__)
        await send({"type": "http.response.body", "body": " ".join(errors).encode()})
"""


def fetch(server: Server, target: str) -> bytes:
    """The decoded body of a GET."""
    host, _, port = server.address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", target)
    content = connection.getresponse().read()
    connection.close()
    return content


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_parts_of_an_open_file_mix_with_the_rest_of_the_body(serve: Serve, tmp_path: Path, size: int):
    server = serve(ZEROCOPY_APP)
    content = make_file(tmp_path / "file.bin", size)
    expected = content[10:30] + b"|" + content[30:35] + b"|" + content[35:38] + content[38:]
    assert fetch(server, f"/object?{tmp_path}/file.bin") == expected


def test_a_bare_descriptor_is_read_from_its_position_or_from_an_offset(serve: Serve, tmp_path: Path):
    server = serve(ZEROCOPY_APP)
    content = make_file(tmp_path / "file.bin", 100_000)
    expected = content[:30_000] + content[5:12] + content[30_000:]
    assert fetch(server, f"/descriptor?{tmp_path}/file.bin") == expected
    # The application closed its own, and the server its duplicates.
    wait_until(lambda: f"{tmp_path}/file.bin" not in open_files(server), "the file is still open")


def test_what_is_no_open_file_is_an_error_of_the_application_s(serve: Serve, tmp_path: Path):
    server = serve(ZEROCOPY_APP)
    make_file(tmp_path / "file.bin", 100)
    told = fetch(server, f"/wrong?{tmp_path}/file.bin").decode()
    assert told == "ValueError TypeError ValueError OSError ValueError ValueError ValueError TypeError"


# ---------------------------------------------------------------- trailers

START_WITH_TRAILERS = "start(trailers=True)"
WANTED = {"headers": "connection: close\r\nTE: trailers\r\n"}


def test_trailers_follow_the_last_chunk(serve: Serve):
    server = serve(SCRIPTED_APP)
    script = [START_WITH_TRAILERS, body(b"data"), trailers((b"x-sum", b"1"), more_trailers=True), trailers((b"y", b""))]
    head, received = play(server, *script, **WANTED)
    assert b"transfer-encoding: chunked\r\n" in head
    assert b"content-length" not in names(head)
    assert received == b"4\r\ndata\r\n0\r\nx-sum: 1\r\ny: \r\n\r\n"
    assert errors(server) == []


def test_trailers_follow_a_file_and_a_stream(serve: Serve, tmp_path: Path):
    server = serve(SCRIPTED_APP)
    content = make_file(tmp_path / "file.bin", 20_000)
    script = [START_WITH_TRAILERS, body(b"ab", more_body=True), pathsend(tmp_path / "file.bin"), trailers((b"x", b"1"))]
    _, received = play(server, *script, **WANTED)
    assert received == b"2\r\nab\r\n4e20\r\n" + content + b"\r\n0\r\nx: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("how", "declared"),
    [
        ({}, ""),
        (WANTED, ", content_length=4"),
        ({"version": "1.0", "headers": "TE: trailers\r\n"}, ""),
        ({**WANTED, "method": "HEAD"}, ""),
    ],
)
def test_trailers_that_cannot_be_sent_leave_an_ordinary_response(serve: Serve, how: dict[str, str], declared: str):
    server = serve(SCRIPTED_APP)
    script = [f"start(trailers=True{declared})", body(b"data"), trailers((b"x-sum", b"1"))]
    head, received = play(server, *script, **how)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received == (b"" if how.get("method") == "HEAD" else b"data")
    assert errors(server) == []


def test_a_connection_goes_on_after_trailers(serve: Serve):
    server = serve(SCRIPTED_APP)
    first = request(START_WITH_TRAILERS, body(b"data"), trailers((b"x", b"1")), headers="TE: trailers\r\n")
    received = server.exchange(first + request("start()", body(b"second")))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.endswith(b"\r\n\r\nsecond")


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ((b"content-length", b"5"), '"content-length" must be among the headers, it cannot be a trailer'),
        ((b"Transfer-Encoding", b"x"), '"Transfer-Encoding" must be among the headers, it cannot be a trailer'),
        ((b"x", b"1\r\nset-cookie: a=b"), 'the value of the header "x" holds CR, LF or NUL'),
        ((b"x y", b"1"), 'a header\'s name must be a token, not "x y"'),
    ],
)
def test_a_trailer_that_would_change_the_message_is_an_error(serve: Serve, header: tuple[bytes, bytes], complaint: str):
    server = serve(SCRIPTED_APP)
    script = [START_WITH_TRAILERS, body(b"data"), trailers((b"a", b"1"), header), trailers((b"good", b"1"))]
    _, received = play(server, *script, **WANTED)
    assert received == b"4\r\ndata\r\n0\r\ngood: 1\r\n\r\n"
    assert errors(server) == [f"RuntimeError: {complaint}"]


def test_trailers_that_were_promised_and_did_not_come_cut_the_response_short(serve: Serve):
    server = serve(SCRIPTED_APP)
    with server.connect() as connection:
        connection.sendall(request(START_WITH_TRAILERS, body(b"data"), **WANTED))
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    assert not received.endswith(b"0\r\n\r\n")
    server.wait_for_log("returned without completing its response")


def test_trailers_that_were_not_promised_are_an_error(serve: Serve):
    server = serve(SCRIPTED_APP)
    play(server, "start()", body(b"data", more_body=True), trailers((b"x", b"1")), body(b""), trailers(), **WANTED)
    complaint = "http.response.trailers was sent without trailers=True in http.response.start"
    assert [error.startswith(f"RuntimeError: {complaint}") for error in errors(server)] == [True, True]


# ---------------------------------------------------------------- early hints

HINTED = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n"
LINKS = (b"</a.css>; rel=preload", b"</b.js>; rel=preload")


def test_hints_come_before_the_response_whether_or_not_it_was_started(serve: Serve):
    server = serve(SCRIPTED_APP)
    received = server.exchange(request(hint(*LINKS), "start()", hint(*LINKS), body(b"data")))
    assert received.startswith(HINTED + HINTED + b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\ndata")
    assert errors(server) == []


def test_a_hint_is_left_out_where_it_means_nothing(serve: Serve):
    server = serve(SCRIPTED_APP)
    late = ["start()", body(b"da", more_body=True), hint(*LINKS), body(b"ta"), hint(*LINKS)]
    assert b"103" not in server.exchange(request(*late))
    # HTTP/1.0 knows no interim responses.
    assert server.exchange(request(hint(*LINKS), "start()", body(b"x"), version="1.0", headers="")).startswith(
        b"HTTP/1.1 200 "
    )
    assert errors(server) == []


def test_a_hint_that_would_split_the_response_is_an_error_and_not_sent(serve: Serve):
    server = serve(SCRIPTED_APP)
    evil, no_list = hint(b"<a>\r\n\r\nHTTP/1.1 200 OK"), "{'type': 'http.response.early_hint', 'links': b'x'}"
    received = server.exchange(request(evil, hint(b"<b>"), no_list, "start()", body(b"data")))
    assert received.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: <b>\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert errors(server) == [
        'RuntimeError: the value of the header "link" holds CR, LF or NUL',
        "TypeError: http.response.early_hint: links must be bytes, one for each, not bytes",
    ]


def test_clients_read_the_response_that_follows_a_hint(serve: Serve):
    server = serve(SCRIPTED_APP)
    content = f"[{hint(*LINKS)}, start(), {body(b'data')}]".encode()
    # (http.client, and so requests, takes any interim response but 100 for the final one.)
    with httpx.Client(base_url=server.address) as client:
        for _ in range(2):
            response = client.post("/", content=content)
            assert (response.status_code, response.content) == (200, b"data")


def test_a_hint_and_100_continue_both_precede_the_response(serve: Serve):
    server = serve("""
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            await send({"type": "http.response.early_hint", "links": [b"<x>"]})
            body = (await receive())["body"]
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
    """)
    with server.connect() as connection:
        head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n"
        connection.sendall(head)
        expected = b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        assert receive_exactly(connection, len(expected)) == expected
        connection.sendall(b"body")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (piece := connection.recv(count - len(received))):
        received += piece
    return received


# ---------------------------------------------------------------- what the scope announces

SCOPE_APP = """
import asyncio, json
kept = []

async def app(scope, receive, send):
    assert scope["type"] == "http"
    told = json.dumps([scope["extensions"], scope["asgi"], id(scope["extensions"]) in map(id, kept)]).encode()
    if scope["path"] == "/spoil":
        scope["extensions"]["http.response.pathsend"]["spoilt"] = 1
        scope["extensions"]["more"] = {}
        scope["asgi"]["version"] = "9"
    elif scope["path"] == "/replace":
        value = scope["extensions"].pop("http.response.trailers")
        scope["extensions"]["http.response.trailers"] = dict(value)
        scope["asgi"]["version"] = scope["asgi"].pop("version")
    elif scope["path"] == "/keep":
        kept.append(scope["extensions"])
    elif scope["path"] == "/keep-inner":
        inner = scope["extensions"]["http.response.early_hint"]
        asyncio.get_running_loop().call_soon(inner.update, {"late": 1})
    elif scope["path"] == "/wait":
        await asyncio.sleep(0.01)
        kept[0]["late"] = 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told})
"""

ANNOUNCED = (
    '{"http.response.pathsend": {}, "http.response.zerocopysend": {}, "http.response.trailers": {}, '
    '"http.response.early_hint": {}}'
)


def test_what_one_request_does_to_its_scope_no_other_sees(serve: Serve):
    server = serve(SCOPE_APP)
    expected = f'[{ANNOUNCED}, {{"version": "3.0", "spec_version": "2.4"}}, false]'.encode()
    with httpx.Client(base_url=server.address) as client:
        for path in ["/", "/", "/spoil", "/", "/replace", "/", "/keep", "/", "/keep-inner", "/", "/wait", "/", "/keep"]:
            assert client.get(path).content == expected, path
        assert client.get("/").content == expected


def test_debug_is_not_announced_and_not_taken(serve: Serve):
    server = serve(SCRIPTED_APP)
    debug = "{'type': 'http.response.debug', 'info': {}}"
    assert play(server, debug, "start()", body(b"went on"))[1] == b"went on"
    assert 'not "http.response.debug"' in errors(server)[0]


def test_request_trailers_are_checked_and_left_out(serve: Serve):
    server = serve("""
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            message = await receive()
            while message["more_body"]:
                message = await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": repr(sorted(scope["headers"])).encode()})
    """)
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n1\r\na\r\n0\r\n"
    told = server.exchange(head + b"x-role: admin\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"admin" not in told
    assert not server.exchange(head + b"bad trailer\r\n\r\n").startswith(b"HTTP/1.1 200 ")


# ---------------------------------------------------------------- Starlette

STARLETTE_APP = """
from starlette.applications import Starlette
from starlette.responses import FileResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

sent = []

def noting(app):
    async def noted(scope, receive, send):
        async def note(message):
            sent.append(message["type"])
            await send(message)
        await app(scope, receive, note if scope["type"] == "http" else send)
    return noted

async def absolute(request):
    return FileResponse(request.query_params["path"])

async def relative(request):
    return FileResponse("file.bin")

async def told(request):
    return PlainTextResponse(" ".join(sent))

async def hinted(request):
    await request.send_early_hints("</a.css>; rel=preload")
    return PlainTextResponse("hinted")

routes = [Route("/absolute", absolute), Route("/relative", relative), Route("/told", told), Route("/hinted", hinted),
          Mount("/static", StaticFiles(directory="."))]
app = noting(Starlette(routes=routes))
"""


def test_starlette_s_files_go_by_the_kernel(serve: Serve, tmp_path: Path):
    content = make_file(tmp_path / "file.bin", 200_000)
    server = serve(STARLETTE_APP)
    with httpx.Client(base_url=server.address) as client:
        for target in (f"/absolute?path={tmp_path}/file.bin", "/relative", "/static/file.bin"):
            response = client.get(target)
            assert (response.status_code, response.headers["content-length"]) == (200, "200000"), target
            assert response.content == content
            assert client.head(target.replace("/relative", "/static/file.bin")).headers["content-length"] == "200000"
        assert client.get("/told").text.split().count("http.response.pathsend") == 3
        part = client.get("/relative", headers={"range": "bytes=1000-1999"})
        assert (part.status_code, part.content) == (206, content[1000:2000])
        etag = client.get("/static/file.bin").headers["etag"]
        assert client.get("/static/file.bin", headers={"if-none-match": etag}).status_code == 304
        assert client.get("/static/nothing.bin").status_code == 404


def test_starlette_s_early_hints_are_sent(serve: Serve):
    server = serve(STARLETTE_APP)
    received = server.get("/hinted")
    assert received.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert received.endswith(b"hinted")
