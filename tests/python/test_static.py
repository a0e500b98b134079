"""Files served without the application: by `penstock serve --static` and `penstock static`, through real sockets.

Where nginx is installed it serves the same directory, and answers to conditions and ranges are compared with its own.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import PENSTOCK, Server, clean_environment

from penstock import ConfigError, ServerConfig, StaticMount

LARGE = bytes(range(256)) * 1024
# Long ago: what tells of a change is settled.
MODIFIED = 784_111_777
MODIFIED_DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a small file, a large one, an empty one, and an encoded copy."""
    directory = tmp_path / "files"
    (directory / "sub").mkdir(parents=True)
    contents = {
        "small.txt": b"hello, world\n",
        "large.bin": LARGE,
        "empty": b"",
        "sub/index.html": b"<p>index</p>",
        "app.js": b"plain" * 100,
        "app.js.gz": gzip.compress(b"plain" * 100),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
        os.utime(directory / name, (MODIFIED, MODIFIED))
    return directory


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


@pytest.fixture
def serve_files(serve: Callable[..., Server], files: Path) -> Callable[..., str]:
    """Serve `files` at /s with these options, and return the URL of the server."""

    def start(options: str = "", *arguments: str) -> str:
        mount = f"/s={files}{options}"
        return serve(_APP, "--static", mount, *arguments).address

    return start


_APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b"the application's " + scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


def test_a_file_is_served_beside_the_application(serve_files: Callable[..., str], client: httpx.Client):
    url = serve_files(",max-age=60,immutable")
    small = client.get(f"{url}/s/small.txt")
    assert (small.status_code, small.content) == (200, b"hello, world\n")
    assert small.headers["content-length"] == "13"
    assert small.headers["content-type"] == "text/plain; charset=utf-8"
    assert small.headers["cache-control"] == "public, max-age=60, immutable"
    assert small.headers["last-modified"] == MODIFIED_DATE
    assert small.headers["x-content-type-options"] == "nosniff"
    assert {"date", "server", "etag"} <= set(small.headers)
    assert client.get(f"{url}/s/large.bin").content == LARGE
    assert client.get(f"{url}/s/empty").headers["content-length"] == "0"
    assert client.get(f"{url}/elsewhere").text == "the application's /elsewhere"
    assert client.get(f"{url}/sx").text == "the application's /sx"


def test_head_has_the_headers_and_nothing_else(serve_files: Callable[..., str], client: httpx.Client):
    url = serve_files()
    for name in ("small.txt", "large.bin"):
        got, head = client.get(f"{url}/s/{name}"), client.head(f"{url}/s/{name}")
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


def test_one_connection_carries_files_and_the_applications_answers_in_order(serve: Callable[..., Server], files: Path):
    server = serve(_APP, "--static", f"/s={files}")
    paths = ["/s/small.txt", "/s/large.bin", "/app", "/s/none", "/s/large.bin", "/s/small.txt", "/last"]
    requests = [f"GET {path} HTTP/1.1\r\nhost: x\r\n" for path in paths]
    requests[-1] += "connection: close\r\n"
    received = server.exchange("\r\n".join([*requests, "\r\n"]).encode())
    assert received.count(b"HTTP/1.1 ") == len(paths)
    places = [received.index(b"hello, world"), received.index(LARGE), received.index(b"the application's /app")]
    places += [received.index(b"404 Not Found"), received.rindex(LARGE), received.rindex(b"hello, world")]
    assert places == sorted(places)
    assert received.endswith(b"the application's /last")


def test_a_pipeline_that_is_not_read_does_not_pile_up(serve: Callable[..., Server], files: Path):
    server = serve(_APP, "--static", f"/s={files}")
    count = 400
    request = b"GET /s/large.bin HTTP/1.1\r\nhost: x\r\n\r\n"
    with server.connect() as slow:
        slow.sendall(request * count)
        for _ in range(20):
            assert server.get("/s/small.txt").endswith(b"hello, world\n"), "others are served meanwhile"
        assert _resident_mib(server) < 150, "100 MiB of answers wait for a reader"
        received = 0
        while received < count * len(LARGE):
            received += len(slow.recv(1 << 20))


def _resident_mib(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_the_access_log_and_the_post_body_are_as_with_any_request(serve: Callable[..., Server], files: Path):
    server = serve(_APP, "--static", f"/s={files}")
    with server.connect() as connection:
        connection.sendall(
            b"POST /s/small.txt HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello"
            b"GET /s/small.txt HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: GET, HEAD\r\n" in received
    assert received.endswith(b"hello, world\n")
    server.wait_for_log('"POST /s/small.txt HTTP/1.1" 405')
    server.wait_for_log('"GET /s/small.txt HTTP/1.1" 200')


def test_encoded_copies_go_to_those_who_want_them(serve_files: Callable[..., str], client: httpx.Client):
    url = f"{serve_files()}/s/app.js"
    coded = client.get(url, headers={"accept-encoding": "gzip"})
    plain = client.get(url, headers={"accept-encoding": "identity"})
    assert coded.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert coded.content == plain.content == b"plain" * 100
    assert coded.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert coded.headers["etag"] != plain.headers["etag"]


def test_directories_have_indexes_and_slashes(serve_files: Callable[..., str], client: httpx.Client):
    url = serve_files()
    moved = client.get(f"{url}/s/sub?a=b")
    assert moved.status_code == 301
    assert str(moved.next_request and moved.next_request.url) == f"{url}/s/sub/?a=b"
    assert client.get(f"{url}/s/sub", follow_redirects=True).text == "<p>index</p>"
    assert client.get(f"{url}/s/").status_code == 404


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/s/../main.py", 400),
        ("/s/..%2f..%2fetc/passwd", 400),
        ("/s/%2e%2e/main.py", 400),
        ("/s/..\\main.py", 400),
        ("/s/%00", 400),
        ("/s/small.txt%00.html", 400),
        ("/s/%c0%ae%c0%ae/main.py", 400),
        ("/s//etc/passwd", 404),
        ("/s/out", 404),
        ("/s/outdir/main.py", 404),
        ("/s/fifo", 404),
        ("/s/.env", 404),
        ("/s/small.txt/", 404),
        ("/s//evil.example/", 404),
    ],
)
def test_nothing_outside_the_directory_is_served(serve: Callable[..., Server], files: Path, target: str, status: int):
    (files / "out").symlink_to("../main.py")
    (files / "outdir").symlink_to("..")
    (files / ".env").write_text("SECRET")
    os.mkfifo(files / "fifo")
    answer = serve(_APP, "--static", f"/s={files}").get(target)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"scope" not in answer
    assert b"SECRET" not in answer


def test_a_file_is_whole_while_it_is_replaced_over_and_over(serve_files: Callable[..., str], files: Path):
    url = f"{serve_files()}/s/large.bin"
    stop = threading.Event()

    def replace() -> None:
        contents = [b"a" * 300_000, b"b" * 200_000, b"c" * 1000]
        at = 0
        while not stop.is_set():
            at += 1
            (files / "next").write_bytes(contents[at % 3])
            (files / "next").replace(files / "large.bin")

    replacer = threading.Thread(target=replace)
    with httpx.Client(trust_env=False) as client:
        client.get(url)
        replacer.start()
        try:
            for _ in range(300):
                content = client.get(url).content
                assert len(set(content)) in (1, 256)
                assert len(content) in (300_000, 200_000, 1000, len(LARGE))
        finally:
            stop.set()
            replacer.join()


def test_a_response_is_cut_short_visibly_when_its_file_is(serve: Callable[..., Server], files: Path):
    server = serve(_APP, "--static", f"/s={files}")
    (files / "huge").write_bytes(bytes(64 << 20))
    with server.connect() as connection:
        connection.sendall(b"GET /s/huge HTTP/1.1\r\nhost: x\r\n\r\n")
        received = len(connection.recv(1000))
        os.truncate(files / "huge", 1000)
        try:
            while piece := connection.recv(1 << 20):
                received += len(piece)
        except ConnectionError:
            return
    pytest.fail(f"the response ended in good order after {received} bytes")


def test_a_file_beyond_4_gib_has_its_last_bytes(serve_files: Callable[..., str], files: Path, client: httpx.Client):
    with (files / "huge").open("wb") as huge:
        huge.truncate(5 << 30)
        huge.seek(-4, os.SEEK_END)
        huge.write(b"last")
    url = f"{serve_files()}/s/huge"
    assert client.head(url).headers["content-length"] == str(5 << 30)
    last = client.get(url, headers={"range": "bytes=-4"})
    assert (last.status_code, last.content) == (206, b"last")
    assert last.headers["content-range"] == f"bytes {(5 << 30) - 4}-{(5 << 30) - 1}/{5 << 30}"


def test_ten_thousand_files_are_served_and_listed(serve_files: Callable[..., str], files: Path, client: httpx.Client):
    many = files / "many"
    many.mkdir()
    for number in range(10_000):
        (many / f"{number:05}.txt").write_text(str(number))
    url = serve_files(",listing", "--static-cache-size", "1000000")
    for number in range(0, 10_000, 97):
        assert client.get(f"{url}/s/many/{number:05}.txt").text == str(number)
    page = client.get(f"{url}/s/many/").text
    assert page.count("<tr data-d") == 10_000
    assert "more</p>" not in page


def test_files_are_served_while_python_is_busy(serve: Callable[..., Server], files: Path):
    busy = """
    import threading
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        def spin():
            while True:
                pass
        threading.Thread(target=spin, daemon=True).start()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
    """
    server = serve(busy, "--static", f"/s={files}", "--no-access-log")
    server.get("/")
    with server.connect() as connection:
        began = time.monotonic()
        for _ in range(2000):
            connection.sendall(b"GET /s/empty HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        took_s = time.monotonic() - began
    # An interpreter that is waited for takes 5 ms each time: 10 s in all.
    assert took_s < 5


def test_a_mount_leaves_the_rest_to_the_application_where_asked(serve_files: Callable[..., str], client: httpx.Client):
    url = serve_files(",fallthrough")
    assert client.get(f"{url}/s/small.txt").text == "hello, world\n"
    assert client.get(f"{url}/s/none").text == "the application's /s/none"
    assert client.post(f"{url}/s/small.txt", content=b"x").text == "the application's /s/small.txt"


def test_a_stop_lets_a_download_finish(serve: Callable[..., Server], files: Path):
    server = serve(_APP, "--static", f"/s={files}")
    (files / "huge").write_bytes(bytes(64 << 20))
    with server.connect() as connection:
        connection.sendall(b"GET /s/huge HTTP/1.1\r\nhost: x\r\n\r\n")
        received = len(connection.recv(1000))
        server.process.terminate()
        server.wait_for_log("Shutting down")
        while piece := connection.recv(1 << 20):
            received += len(piece)
    assert received > 64 << 20
    assert server.wait() == 0


# ---------------------------------------------------------------- penstock static


@pytest.fixture
def serve_directory(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Run `penstock static`, on a free port."""
    servers: list[Server] = []

    def start(directory: Path, *arguments: str) -> Server:
        process = subprocess.Popen(
            [*PENSTOCK, "static", "--port", "0", *arguments, str(directory)],
            cwd=tmp_path,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        servers.append(Server(process))
        servers[-1].wait_until_ready()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
        assert server.process.stdout is not None
        server.process.stdout.close()


def test_penstock_static_serves_a_directory_with_a_listing(serve_directory: Callable[..., Server], files: Path):
    (files / "<b>&\"'\n.txt").write_text("strange")
    url = serve_directory(files, "--cache-control", "no-store").address
    with httpx.Client(trust_env=False) as client:
        page = client.get(f"{url}/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert '<a href="./sub/">sub/</a>' in page.text
        assert "<b>" not in page.text
        assert client.get(f"{url}/%3Cb%3E%26%22%27%0A.txt").text == "strange"
        assert client.get(f"{url}/small.txt").headers["cache-control"] == "no-store"
        assert client.get(f"{url}/sub", follow_redirects=True).text == "<p>index</p>"
        assert client.get(f"{url}/none").status_code == 404


def test_penstock_static_lists_nothing_where_not_asked(serve_directory: Callable[..., Server], files: Path):
    url = serve_directory(files, "--no-listing").address
    assert httpx.get(f"{url}/", trust_env=False).status_code == 404


# ---------------------------------------------------------------- beside nginx


NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def nginx(tmp_path: Path, files: Path) -> Iterator[str]:
    """nginx with the same directory, at a socket in the test's own."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    socket_path = tmp_path / "nginx.sock"
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/nginx.log;\n"
        "events {}\n"
        "http { default_type application/octet-stream; types { text/plain txt; } access_log off; gzip_static off;"
        f" client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/p;"
        f" fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/g;"
        f" server {{ listen unix:{socket_path}; location /s/ {{ alias {files}/; }} }} }}\n"
    )
    process = subprocess.Popen(
        [NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while not socket_path.exists():
            assert process.poll() is None, (tmp_path / "nginx.log").read_text()
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.01)
        yield str(socket_path)
    finally:
        process.terminate()
        process.wait()


CONDITIONS: list[dict[str, str]] = [
    {},
    {"if-none-match": "ETAG"},
    {"if-none-match": "W/ETAG"},
    {"if-none-match": '"other", ETAG'},
    {"if-none-match": '"other"'},
    {"if-none-match": "*"},
    {"if-match": "ETAG"},
    {"if-match": '"other"'},
    {"if-match": "*"},
    {"if-modified-since": MODIFIED_DATE},
    {"if-modified-since": "Sun, 06 Nov 1994 08:49:36 GMT"},
    {"if-modified-since": "never"},
    {"if-unmodified-since": MODIFIED_DATE},
    {"if-unmodified-since": "Sun, 06 Nov 1994 08:49:36 GMT"},
    {"if-none-match": '"other"', "if-modified-since": MODIFIED_DATE},
    {"if-match": '"other"', "if-none-match": "ETAG"},
    {"range": "bytes=0-0"},
    {"range": "bytes=5-"},
    {"range": "bytes=-5"},
    {"range": "bytes=-100000000"},
    {"range": "bytes=5-100000000"},
    {"range": "bytes=100000000-"},
    {"range": "bytes=0-0,2-3"},
    {"range": "bytes=0-0,100000000-"},
    {"range": "items=0-0"},
    {"range": "bytes=0-0", "if-range": "ETAG"},
    {"range": "bytes=0-0", "if-range": '"other"'},
    {"range": "bytes=0-0", "if-range": MODIFIED_DATE},
    {"range": "bytes=0-0", "if-range": "Sun, 06 Nov 1994 08:49:36 GMT"},
    {"range": "bytes=0-0", "if-none-match": "ETAG"},
    {"range": "bytes=0-0", "if-match": '"other"'},
]


def test_conditions_and_ranges_are_answered_as_by_nginx(serve_files: Callable[..., str], nginx: str):
    ours = httpx.Client(base_url=serve_files(), trust_env=False)
    theirs = httpx.Client(base_url="http://x", transport=httpx.HTTPTransport(uds=nginx), trust_env=False)
    with ours, theirs:
        for name in ("small.txt", "large.bin"):
            for condition in CONDITIONS:
                assert _answer(ours, name, condition) == _answer(theirs, name, condition), (name, condition)


def _answer(client: httpx.Client, name: str, condition: dict[str, str]) -> tuple[object, ...]:
    """What matters of an answer: not how its tags, boundaries and error pages look."""
    etag = client.get(f"/s/{name}").headers["etag"]
    answer = client.get(f"/s/{name}", headers={key: value.replace("ETAG", etag) for key, value in condition.items()})
    content, kind = answer.content, answer.headers.get("content-type", "").split(";")[0]
    if kind == "multipart/byteranges":
        boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
        content = content.replace(boundary, b"BOUNDARY").strip().lower().replace(b"; charset=utf-8", b"")
    fields = [answer.headers.get(field) for field in ("content-range", "last-modified", "accept-ranges")]
    if answer.status_code in (412, 416, 304):
        return answer.status_code, fields[0]
    if answer.status_code == 206:
        # That ranges are accepted shows.
        return (answer.status_code, content, kind, *fields[:2])
    return (answer.status_code, content, kind, *fields)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/assets=dist", StaticMount(prefix="/assets", directory="dist")),
        ("/assets/=dist", StaticMount(prefix="/assets", directory="dist")),
        ("/=dist,listing,hidden", StaticMount(prefix="/", directory="dist", listing=True, hidden=True)),
        ("/a=d,max-age=60", StaticMount(prefix="/a", directory="d", cache_control="public, max-age=60")),
        (
            "/a=d,immutable,fallthrough,max-age=60",
            StaticMount(prefix="/a", directory="d", fallthrough=True, cache_control="public, max-age=60, immutable"),
        ),
        (
            "/a=d=e,listing,cache-control=private, max-age=1, no-transform",
            StaticMount(prefix="/a", directory="d=e", listing=True, cache_control="private, max-age=1, no-transform"),
        ),
    ],
)
def test_a_mount_is_written_in_one_word_and_reads_back(text: str, expected: StaticMount):
    assert StaticMount.parse(text) == expected
    assert StaticMount.parse(str(expected)) == expected
    assert ServerConfig(static=[text]).static == (expected,)


@pytest.mark.parametrize(
    "text",
    [
        *("", "/a", "/a=", "=d", "a=d", "/a/../b=d", "/a//b=d", "/a b=d", "/%61=d", "/a?b=d", "/a=d\0"),
        *("/a=d,lisitng", "/a=d,listing=1", "/a=d,max-age=-1", "/a=d,max-age=x"),
        *("/a=d,cache-control=", "/a=d,cache-control=a\nb"),
    ],
)
def test_a_mount_that_is_none_is_refused(text: str):
    with pytest.raises(ConfigError, match="static"):
        ServerConfig(static=[text])


def test_a_prefix_has_one_directory():
    with pytest.raises(ConfigError, match="twice"):
        ServerConfig(static=["/a=b", "/a/=c"])


def test_a_wrong_mount_on_the_command_line_is_told_in_one_line(
    penstock: Callable[..., subprocess.CompletedProcess[str]],
):
    for arguments, words in [
        (["--static", "/a"], "--static: expected /PREFIX=DIR"),
        (["--static", "/a=nowhere"], "--static /a: expected a readable directory"),
    ]:
        done = penstock("serve", "main:app", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_mounts_come_from_the_environment_too(serve: Callable[..., Server], files: Path):
    server = serve(_APP, env={"PENSTOCK_STATIC": f"/one={files};/two={files}/sub"})
    assert server.get("/one/small.txt").endswith(b"hello, world\n")
    assert server.get("/two/").endswith(b"<p>index</p>")
