"""Programs and libraries that people use, as they use them: command-line clients, load generators, a browser, proxies.

The application tells in JSON what it saw of a request, so each test sees both ends. What is missing here is skipped
(`programs.need`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import flask_swagger_ui
import httpx
import programs
import pytest
import requests
import urllib3
from browsers import INSTALL_TIMEOUT_S, Browser
from conformance.servers import free_port, running
from conftest import Server

pytestmark = pytest.mark.timeout(INSTALL_TIMEOUT_S)

WAIT_S = 30.0
LARGE = bytes(range(256)) * 4096
"""A mebibyte: more than any buffer on its way."""

APP = '''
import asyncio
import hashlib
import json

PAGE = b"""<!doctype html><meta charset="utf-8"><title>waiting</title>
<form method="post" action="/show" enctype="multipart/form-data">
<input name="word" value="h\\xc3\\xa9llo &amp; goodbye"><input type="file" name="file"><button>Send</button></form>
<script>
const told = {};
const tell = (name, value) => { told[name] = value;
    if (Object.keys(told).length == 4) document.title = "done " + JSON.stringify(told); };
(async () => {
    let read = 0, pieces = 0;
    for await (const piece of (await fetch("/stream?pieces=20&bytes=5000")).body) { read += piece.length; pieces += 1; }
    tell("stream", read);
    const form = new FormData();
    form.append("file", new File([new Uint8Array(300000)], "zeros.bin"));
    tell("upload", (await (await fetch("/show", {method: "POST", body: form})).json()).bytes > 300000);
    const many = Array.from({length: 30}, (_, at) => fetch("/show?" + at).then(answer => answer.json()));
    tell("many", (await Promise.all(many)).map(answer => +answer.query).join());
})();
const events = [], source = new EventSource("/events");
source.onmessage = event => { events.push(event.lastEventId + event.data);
    if (events.length == 5) { source.close(); tell("events", events.join()); } };
</script>"""


async def answer(send, body, kind=b"application/json", status=200):
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def show(scope, receive, send):
    """What arrived, in JSON."""
    digest, count, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message["body"])
        count += len(message["body"])
        more = message["more_body"]
    seen = {
        "method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode(),
        "version": scope["http_version"], "client": scope["client"][1], "sha256": digest.hexdigest(), "bytes": count,
        "headers": {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
    }
    await answer(send, json.dumps(seen).encode())


async def stream(scope, receive, send):
    """Pieces of a length that is not told before."""
    asked = dict(pair.split("=") for pair in scope["query_string"].decode().split("&"))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(int(asked["pieces"])):
        await send({"type": "http.response.body", "body": bytes([65 + number % 26]) * int(asked["bytes"]),
                    "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body"})


async def events(scope, receive, send):
    """Server-sent events until the client has had enough."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    gone = asyncio.create_task(receive_end(receive))
    number = 0
    while not gone.done():
        number += 1
        await send({"type": "http.response.body", "body": b"id: %d\\\\ndata: .\\\\n\\\\n" % number, "more_body": True})
        await asyncio.wait([gone], timeout=0.01)


async def receive_end(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def app(scope, receive, send):
    assert scope["type"] == "http"
    match scope["path"]:
        case "/":
            await answer(send, b"hello\\\\n", b"text/plain")
        case "/page":
            await answer(send, PAGE, b"text/html; charset=utf-8")
        case "/stream":
            await stream(scope, receive, send)
        case "/events":
            await events(scope, receive, send)
        case "/large":
            await answer(send, bytes(range(256)) * 4096, b"application/octet-stream")
        case "/none":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        case _:
            await show(scope, receive, send)
'''.replace("\\\\n", "\\n")


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    return serve(APP, "--no-access-log")


def pieces() -> Iterator[bytes]:
    """LARGE, whose length the client cannot know."""
    for start in range(0, len(LARGE), 60_000):
        yield LARGE[start : start + 60_000]


def assert_large_arrived(seen: dict[str, Any], *, chunked: bool) -> None:
    assert (seen["bytes"], seen["sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert ("transfer-encoding" in seen["headers"]) == chunked
    assert ("content-length" in seen["headers"]) != chunked


# ---- libraries -------------------------------------------------------------------------------------------------------


def test_http_client_keeps_its_connection_and_sends_both_kinds_of_bodies(server: Server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)

    def ask(method: str, path: str, **options: Any) -> tuple[int, bytes]:
        connection.request(method, path, **options)
        with connection.getresponse() as response:
            return response.status, response.read()

    with contextlib.closing(connection):
        seen = [json.loads(ask("GET", f"/show?{number}")[1]) for number in range(5)]
        assert len({each["client"] for each in seen}) == 1
        assert_large_arrived(json.loads(ask("POST", "/show", body=LARGE)[1]), chunked=False)
        uploaded = json.loads(ask("POST", "/show", body=pieces(), encode_chunked=True)[1])
        assert_large_arrived(uploaded, chunked=True)
        assert ask("HEAD", "/large") == (200, b"")
        assert ask("GET", "/none") == (204, b"")
        assert ask("GET", "/large") == (200, LARGE)
        assert len(ask("GET", "/stream?pieces=50&bytes=3000")[1]) == 150_000
        assert json.loads(ask("GET", "/show")[1])["client"] == seen[0]["client"], "one connection served all of it"


def test_requests_keeps_its_connection_and_streams_both_ways(server: Server):
    with requests.Session() as session:
        url = server.address
        first = session.get(f"{url}/show").json()
        assert_large_arrived(session.post(f"{url}/show", data=LARGE).json(), chunked=False)
        assert_large_arrived(session.post(f"{url}/show", data=pieces()).json(), chunked=True)
        uploaded = session.post(f"{url}/show", files={"file": ("large.bin", LARGE)}, data={"word": "é"}).json()
        assert uploaded["headers"]["content-type"].startswith("multipart/form-data; boundary=")
        assert uploaded["bytes"] > len(LARGE)
        with session.get(f"{url}/stream?pieces=50&bytes=3000", stream=True) as response:
            assert sum(len(piece) for piece in response.iter_content(1000)) == 150_000
        assert session.head(f"{url}/large").headers["content-length"] == str(len(LARGE))
        assert session.get(f"{url}/show").json()["client"] == first["client"]


def test_urllib3_reuses_one_connection_of_its_pool(server: Server):
    with urllib3.PoolManager(maxsize=1, timeout=WAIT_S, retries=False) as pool:
        seen = [pool.request("GET", f"{server.address}/show").json() for _ in range(5)]
        assert_large_arrived(pool.request("PUT", f"{server.address}/show", body=LARGE).json(), chunked=False)
        response = pool.request("GET", f"{server.address}/large", preload_content=False)
        assert b"".join(response.stream(70_000)) == LARGE
        response.release_conn()
        assert pool.request("GET", f"{server.address}/show").json()["client"] == seen[0]["client"]


def test_httpx_streams_both_ways_on_one_connection(server: Server):
    with httpx.Client(base_url=server.address, timeout=WAIT_S) as client:
        first = client.get("/show").json()
        assert_large_arrived(client.post("/show", content=LARGE).json(), chunked=False)
        assert_large_arrived(client.post("/show", content=pieces()).json(), chunked=True)
        with client.stream("GET", "/stream?pieces=50&bytes=3000") as response:
            assert sum(map(len, response.iter_bytes())) == 150_000
        assert client.head("/large").headers["content-length"] == str(len(LARGE))
        assert client.get("/none").status_code == 204
        assert client.get("/show").json()["client"] == first["client"]


def test_aiohttp_streams_both_ways_many_at_once(server: Server):
    async def large_pieces() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    async def fetch(session: aiohttp.ClientSession, number: int) -> int:
        async with session.get(f"/show?{number}") as response:
            return int((await response.json())["query"])

    async def talk() -> None:
        timeout = aiohttp.ClientTimeout(total=WAIT_S)
        async with aiohttp.ClientSession(server.address, timeout=timeout) as session:
            async with session.post("/show", data=large_pieces()) as response:
                assert_large_arrived(await response.json(), chunked=True)
            async with session.post("/show", data=LARGE, expect100=True) as response:
                assert_large_arrived(await response.json(), chunked=False)
            async with session.get("/stream?pieces=50&bytes=3000") as response:
                assert sum([len(piece) async for piece in response.content.iter_any()]) == 150_000
            assert await asyncio.gather(*[fetch(session, number) for number in range(100)]) == list(range(100))

    asyncio.run(talk())


# ---- curl ------------------------------------------------------------------------------------------------------------


def run(*command: str | Path, **options: Any) -> str:
    """Run a program to its end, and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S * 2, check=False, **options)
    assert done.returncode == 0, f"{command} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def curl() -> Callable[..., str]:
    program = programs.need("curl")

    def ask(*arguments: str | Path, **options: Any) -> str:
        return run(program, "--silent", "--show-error", "--max-time", str(WAIT_S), *arguments, **options)

    return ask


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    return path


def test_curl_sends_several_requests_over_one_connection(server: Server, curl: Callable[..., str]):
    report = ["--output", "/dev/null", "--write-out", "%{http_code} %{num_connects}\\n"]
    url = server.address
    transfers = [
        [f"{url}/", *report],
        [f"{url}/large", *report],
        ["--head", f"{url}/large", *report],
        [f"{url}/none", *report],
    ]
    joined = [part for transfer in transfers for part in ("--next", *transfer)][1:]
    assert curl(*joined).split("\n")[:-1] == ["200 1", "200 0", "200 0", "204 0"]


def test_curl_waits_to_be_told_to_go_on_before_it_uploads(server: Server, curl: Callable[..., str], large_file: Path):
    trace = large_file.with_suffix(".trace")
    arguments = ["--header", "Expect: 100-continue", "--expect100-timeout", "20", "--upload-file", large_file]
    seen = json.loads(curl(*arguments, "--trace-ascii", trace, f"{server.address}/show"))
    assert_large_arrived(seen, chunked=False)
    assert seen["method"] == "PUT"
    assert "HTTP/1.1 100 Continue" in trace.read_text()


def test_curl_uploads_in_chunks(server: Server, curl: Callable[..., str], large_file: Path):
    with large_file.open("rb") as source:
        arguments = ["--header", "Transfer-Encoding: chunked", "--header", "Expect:", "--upload-file", "-"]
        seen = json.loads(curl(*arguments, f"{server.address}/show", stdin=source))
    assert_large_arrived(seen, chunked=True)


def test_curl_speaks_http_1_0(server: Server, curl: Callable[..., str]):
    answer = curl("--http1.0", "--include", f"{server.address}/stream?pieces=3&bytes=4")
    head, _, body = answer.partition("\n\n")
    assert body == "AAAABBBBCCCC"
    assert "transfer-encoding" not in head.lower()
    assert "connection: close" in head.lower()
    assert json.loads(curl("--http1.0", f"{server.address}/show"))["version"] == "1.0"


def test_curl_shows_the_chunks_as_they_are(server: Server, curl: Callable[..., str]):
    raw = curl("--raw", f"{server.address}/stream?pieces=3&bytes=4")
    assert raw == "4\nAAAA\n4\nBBBB\n4\nCCCC\n0\n\n"


def test_curl_reads_slowly_and_gets_all(server: Server, curl: Callable[..., str], tmp_path: Path):
    got = tmp_path / "got"
    curl("--limit-rate", "700k", "--output", got, f"{server.address}/large")
    assert got.read_bytes() == LARGE


# ---- load generators -------------------------------------------------------------------------------------------------


def test_wrk_finds_no_error(server: Server):
    told = run(programs.need("wrk"), "-t1", "-c20", "-d1s", f"{server.address}/")
    assert "Socket errors" not in told
    assert "Non-2xx" not in told
    found = re.search(r"(\d+) requests in", told)
    assert found, told
    assert int(found[1]) > 100


def test_h2load_finds_no_error_in_http_1_1(server: Server):
    told = run(programs.need("h2load"), "--h1", "-n", "3000", "-c", "20", f"{server.address}/show")
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in told


def test_ab_keeps_its_http_1_0_connections(server: Server):
    told = run(programs.need("ab"), "-q", "-k", "-n", "2000", "-c", "10", f"{server.address}/large")
    assert re.search(r"Complete requests:\s+2000\n", told)
    assert re.search(r"Failed requests:\s+0\n", told)
    assert re.search(r"Keep-Alive requests:\s+2000\n", told)


def test_ab_without_keep_alive_makes_a_connection_a_request(server: Server):
    told = run(programs.need("ab"), "-q", "-n", "500", "-c", "10", f"{server.address}/show")
    assert re.search(r"Complete requests:\s+500\n", told)
    assert "Keep-Alive requests" not in told


# ---- a browser -------------------------------------------------------------------------------------------------------


def test_a_browser_streams_uploads_and_listens_to_events(server: Server, browser: Browser):
    browser.open(f"{server.address}/page")
    told = json.loads(browser.wait_for(browser.title, "done ").removeprefix("done "))
    assert told == {
        "stream": 100_000,
        "upload": True,
        "events": "1.,2.,3.,4.,5.",
        "many": ",".join(map(str, range(30))),
    }


def test_a_browser_sends_a_form_with_a_file(server: Server, browser: Browser, large_file: Path):
    browser.open(f"{server.address}/page")
    browser.act("input[type=file]", "value", {"text": str(large_file)})
    browser.act("button", "click")
    seen = json.loads(browser.wait_for(browser.text, '{"method"'))
    assert seen["method"] == "POST"
    assert seen["headers"]["content-type"].startswith("multipart/form-data; boundary=")
    assert len(LARGE) < seen["bytes"] < len(LARGE) + 2000


FASTAPI_APP = """
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel

app = FastAPI(docs_url=None)


class Item(BaseModel):
    name: str = "lamp"
    price: float = 9.5


@app.put("/items/{number}")
async def put_item(number: int, item: Item) -> dict[str, str]:
    return {"stored": f"{number} {item.name} {item.price}"}


@app.get("/docs", include_in_schema=False)
async def docs():
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="items",
        swagger_js_url="/ui/swagger-ui-bundle.js",
        swagger_css_url="/ui/swagger-ui.css",
        swagger_favicon_url="/ui/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "docExpansion": "full"},
    )
"""


def test_fastapi_s_page_of_docs_works_in_a_browser(serve: Callable[..., Server], browser: Browser):
    """Its own files from --static; what is tried out there is asked of the application, and its answer is shown."""
    files = Path(flask_swagger_ui.__file__).with_name("dist")
    server = serve(FASTAPI_APP, "--static", f"/ui={files}")
    browser.open(f"{server.address}/docs")
    assert browser.wait_for(browser.title, "items") == "items"
    browser.act("tr[data-param-name=number] input", "value", {"text": "17"})
    browser.act("button.execute", "click")
    answer = browser.patiently(
        lambda: browser.command(
            "GET", f"{browser.element('.live-responses-table .response-col_description .microlight')}/text"
        )
    )
    assert '"stored": "17 lamp 9.5"' in answer
    server.wait_for_log('"GET /ui/swagger-ui.css HTTP/1.1" 200')
    server.wait_for_log('"PUT /items/17 HTTP/1.1" 200')


# ---- proxies in front ------------------------------------------------------------------------------------------------

NGINX = """
daemon off;
master_process off;
error_log stderr;
pid {home}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_max_body_size 10m;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    upstream penstock {{
        server 127.0.0.1:{server};
        keepalive 4;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://penstock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"""

HAPROXY = """
global
    log stderr local0 emerg
defaults
    mode http
    timeout connect 10s
    timeout client 30s
    timeout server 30s
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    server penstock 127.0.0.1:{server}
"""


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Generator[httpx.Client]:
    """A client of a reverse proxy, which keeps its connections to the server."""
    program, port = programs.need(request.param), free_port()
    template, arguments = {"nginx": (NGINX, ["-p", str(tmp_path), "-c"]), "haproxy": (HAPROXY, ["-db", "-f"])}[
        request.param
    ]
    config = tmp_path / "proxy.conf"
    config.write_text(template.format(home=tmp_path, port=port, server=server.port), encoding="utf-8")
    with (
        running([program, *arguments, str(config)], port, tmp_path),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client,
    ):
        yield client


def test_a_proxy_reuses_its_connections_for_every_kind_of_request(proxy: httpx.Client):
    seen = [proxy.get(f"/show?{number}").json() for number in range(50)]
    assert [int(each["query"]) for each in seen] == list(range(50))
    assert len({each["client"] for each in seen}) <= 4, "the proxy kept its connections, and so did the server"
    assert {each["version"] for each in seen} == {"1.1"}
    assert proxy.get("/large").content == LARGE
    assert proxy.head("/large").headers["content-length"] == str(len(LARGE))
    assert proxy.get("/none").status_code == 204
    uploaded = proxy.post("/show", content=LARGE).json()
    assert (uploaded["bytes"], uploaded["sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert proxy.post("/show", content=pieces()).json()["sha256"] == uploaded["sha256"]
    with proxy.stream("GET", "/stream?pieces=50&bytes=3000") as response:
        assert sum(map(len, response.iter_bytes())) == 150_000


def test_a_proxy_passes_on_events_as_they_come(proxy: httpx.Client):
    with proxy.stream("GET", "/events") as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(6)] == ["id: 1", "data: .", "", "id: 2", "data: .", ""]
    assert proxy.get("/").text == "hello\n", "a client that left in the middle has not hurt the proxy's connections"


def test_a_proxy_gets_many_requests_at_once_through(proxy: httpx.Client):
    h2load, base = programs.need("h2load"), proxy.base_url
    told = run(h2load, "--h1", "-n", "2000", "-c", "20", f"{base}/show")
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in told
    assert "status codes: 2000 2xx" in told
