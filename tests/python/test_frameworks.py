"""What Starlette, FastAPI and Django document is on Penstock what it is on uvicorn: the same application on both, asked
the same, must give the same statuses, headers, bodies and order of events.

Left out of the comparison are `date` and `server`, what is random or of the moment (ports, session cookies, tokens),
and how a body is framed: one that an application sends in a single piece has a content-length here, and chunks there.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conformance.servers import free_port, wait_for_port
from conftest import PENSTOCK, clean_environment

FRAMEWORKS = ("starlette", "fastapi", "django")
WAIT_S = 20.0
LARGE = bytes(range(256)) * 12_000
"""3 MB: Django keeps an upload of that size in a file, and no buffer on the way holds it."""

Seen = Any
Case = Callable[["App"], Seen]


class App:
    """One framework's application on one server, as a test talks to it."""

    def __init__(self, client: httpx.Client, journal: Path, port: int) -> None:
        self.client, self.journal, self.port = client, journal, port

    def ask(self, method: str, target: str, **options: Any) -> Seen:
        """The response in a form that is compared: status, headers in order, body."""
        return self.shown(self.client.request(method, target, **options))

    def shown(self, response: httpx.Response) -> Seen:
        told = sorted((name.decode().lower(), value.decode("latin-1")) for name, value in response.headers.raw)
        headers = [
            (name, self._steady(name, value))
            for name, value in told
            if name not in ("date", "server", "transfer-encoding")
            # Right for what came: then it may as well be missing.
            and (name, value) != ("content-length", str(response.num_bytes_downloaded))
        ]
        return response.status_code, headers, response.content

    def _steady(self, name: str, value: str) -> str:
        """A header's value without what differs from one moment to the next."""
        if name == "set-cookie":
            value = re.sub(r"^(session|sessionid|csrftoken|messages)=[^;]+", r"\1=...", value)
            return re.sub(r"expires=[^;]+", "expires=...", value)
        return value.replace(f":{self.port}", "")

    def events(self, last: str) -> list[str]:
        """What the application noted by now, once it has noted `last`; the journal begins anew."""
        deadline = time.monotonic() + WAIT_S
        while last not in (noted := self.journal.read_text(encoding="utf-8").splitlines()):
            assert time.monotonic() < deadline, f"{last!r} is not in {noted}"
            time.sleep(0.005)
        self.journal.write_text("", encoding="utf-8")
        return noted

    def read_and_leave(self, target: str, pieces: int) -> Seen:
        """The beginning of a stream, and a disconnect."""
        with self.client.stream("GET", target) as response:
            lines = response.iter_lines()
            begun = [next(lines) for _ in range(pieces)]
        return response.status_code, response.headers["content-type"], begun

    def send_half_and_leave(self, target: str) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as connection:
            connection.sendall(
                f"POST {target} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\nhalf".encode()
            )

    def cut_short(self, target: str) -> Seen:
        """A response that the application cannot end."""
        with pytest.raises(httpx.TransportError), self.client.stream("GET", target) as response:
            for _ in response.iter_raw():
                pass
        return response.status_code


@contextlib.contextmanager
def running(framework: str, server: str, home: Path) -> Generator[App]:
    """A server with the application, in a directory of its own; stopped on leaving."""
    home.mkdir()
    journal, port = home / "journal", free_port()
    journal.touch()
    (home / "file.bin").write_bytes(LARGE[:100_000])
    os.utime(home / "file.bin", (1_700_000_000, 1_700_000_000))
    (home / "static").mkdir()
    for name, content in (("style.css", b"body { color: red }\n"), ("index.html", b"<h1>index</h1>\n")):
        (home / "static" / name).write_bytes(content)
        os.utime(home / "static" / name, (1_700_000_000, 1_700_000_000))
    command = [*PENSTOCK, "serve"] if server == "penstock" else [sys.executable, "-m", "uvicorn"]
    here = str(Path(__file__).parent)
    log = (home / "log").open("w")
    process = subprocess.Popen(
        [*command, "--port", str(port), "--no-access-log", f"frameworks.{framework}_app:app"],
        cwd=home,
        env=clean_environment({"JOURNAL": str(journal), "PYTHONPATH": here, "PYTHONHASHSEED": "0"}),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for_port(port, process)
        # Compressed, the first events of a stream would wait for more.
        headers = {"accept-encoding": "identity"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=WAIT_S) as client:
            yield App(client, journal, port)
    finally:
        process.terminate()
        try:
            process.wait(WAIT_S)
        finally:
            process.kill()
            process.wait()
            log.close()
            print((home / "log").read_text(errors="replace")[-6000:])


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[App]]]:
    """The application of a framework on uvicorn and on Penstock, started when first asked for."""
    home, started = tmp_path_factory.mktemp("frameworks"), dict[str, list[App]]()
    with contextlib.ExitStack() as stack:

        def start(framework: str) -> list[App]:
            if framework not in started:
                started[framework] = [
                    stack.enter_context(running(framework, server, home / f"{framework}-{server}"))
                    for server in ("uvicorn", "penstock")
                ]
                for app in started[framework]:
                    # Where the framework has a lifespan its first word is in the journal already.
                    app.journal.write_text("", encoding="utf-8")
            return started[framework]

        yield start


def asking(method: str, target: str, **options: Any) -> Case:
    return lambda app: app.ask(method, target, **options)


def several(*cases: Case) -> Case:
    return lambda app: [case(app) for case in cases]


def noted(last: str) -> Case:
    return lambda app: app.events(last)


def leaving(target: str, pieces: int = 6) -> Case:
    return lambda app: app.read_and_leave(target, pieces)


def ranges(target: str) -> Case:
    """A file: whole, its head, parts of it, and what a cache asks."""

    def case(app: App) -> Seen:
        first = app.client.get(target)
        etag = first.headers.get("etag", "")
        asked = [{"range": "bytes=10-19"}, {"range": "bytes=-5"}, {"range": "bytes=999999-"}, {"if-none-match": etag}]
        return [app.shown(first), app.ask("HEAD", target), *(app.ask("GET", target, headers=each) for each in asked)]

    return case


def visits(target: str, times: int, *after: Case) -> Case:
    """A session: what one response sets, the next request brings."""

    def case(app: App) -> Seen:
        app.client.cookies.clear()
        seen = [app.ask("GET", target) for _ in range(times)]
        seen += [each(app) for each in after]
        app.client.cookies.clear()
        return seen

    return case


UPLOAD = [("files", ("a.bin", LARGE, "application/octet-stream")), ("files", ("ü.txt", b"text", "text/plain"))]
FORM = {"word": "héllo & goodbye", "number": "7"}
LAST = {"connection": "close"}
"""After a handler that raised uvicorn closes in any case, and does not say so."""


def pieces() -> Iterator[bytes]:
    """A body whose length the client does not tell."""
    for start in range(0, len(LARGE), 50_000):
        yield LARGE[start : start + 50_000]


def half_a_body(target: str, event: str) -> Case:
    def case(app: App) -> Seen:
        app.send_half_and_leave(target)
        return app.events(event)

    return case


STARLETTE: dict[str, Case] = {
    "requests": several(
        asking("GET", "/echo/a%20b?x=1&x=2&y=%C3%A9", headers={"accept": "a/b", "cookie": "k=v; l=w"}),
        asking("POST", "/echo/x", content=b"body"),
        asking("PATCH", "/echo/x", json={"a": 1}),
        asking("HEAD", "/threaded"),
        asking("OPTIONS", "/threaded"),
    ),
    "threads for plain functions": asking("GET", "/threaded"),
    "forms": asking("POST", "/upload", data=FORM),
    "uploads": asking("POST", "/upload", files=UPLOAD, data=FORM),
    "streamed requests": several(
        asking("POST", "/digest", content=LARGE), lambda app: app.ask("POST", "/digest", content=pieces())
    ),
    "a client that leaves in the middle of its body": half_a_body(
        "/digest", "the client left in the middle of its body"
    ),
    "streams": several(asking("GET", "/stream"), noted("the stream is whole"), asking("GET", "/sync-stream")),
    "a stream that fails": lambda app: app.cut_short("/broken-stream"),
    "server-sent events": several(leaving("/events"), noted("the events end")),
    "background tasks": several(asking("GET", "/background"), noted("later: two")),
    "sessions": visits("/count", 3, asking("GET", "/forget"), asking("GET", "/count")),
    "cookies": visits("/cookies", 1, asking("GET", "/echo/x")),
    "errors": several(
        asking("GET", "/fails", headers=LAST),
        asking("GET", "/refuses"),
        asking("GET", "/unknown"),
        asking("DELETE", "/threaded"),
        asking("GET", "/fails", headers={"accept": "text/html", **LAST}),
    ),
    "redirects and empty responses": several(
        asking("GET", "/away"), asking("GET", "/nothing"), asking("GET", "/count/")
    ),
    "state from start-up": asking("GET", "/shared"),
    "files": ranges("/file"),
    "static files": several(
        ranges("/static/style.css"),
        asking("GET", "/static/"),
        asking("GET", "/static/../journal"),
        asking("GET", "/static/no"),
    ),
    "middleware": several(
        asking("GET", "/wrapped/echo/x", headers={"origin": "https://other.example", "accept-encoding": "gzip"}),
        asking("GET", "/wrapped/stream", headers={"accept-encoding": "gzip"}),
        asking("POST", "/wrapped/digest", content=LARGE),
        asking(
            "OPTIONS",
            "/wrapped/threaded",
            headers={"origin": "https://other.example", "access-control-request-method": "PUT"},
        ),
        asking("GET", "/wrapped/threaded", headers={"host": "elsewhere"}),
        asking("GET", "/wrapped/threaded"),
        noted("out: /wrapped/threaded 200"),
    ),
    "background tasks behind middleware": several(asking("GET", "/wrapped/background"), noted("later: two")),
    "events behind middleware": several(leaving("/wrapped/events"), noted("the events end")),
}

FASTAPI: dict[str, Case] = {
    "parameters": several(
        asking("GET", "/items/7?q=ab", headers={"cookie": "taste=good", "x-tokens": "a"}),
        asking("GET", "/items/7", headers=[("x-tokens", "a"), ("x-tokens", "b")]),
        asking("GET", "/items/seven?q=a"),
    ),
    "bodies, response models and dependencies": several(
        asking("POST", "/items", json={"name": "tea", "price": 2.5}),
        noted("the session closes"),
        asking("POST", "/items", json={"name": "much too long a name", "price": "dear"}),
        asking("POST", "/items", content=b"{", headers={"content-type": "application/json"}),
    ),
    "dependencies that are torn down after an error": several(asking("GET", "/unlucky"), noted("the session closes")),
    "errors": several(
        asking("GET", "/fails", headers=LAST),
        asking("GET", "/refuses"),
        asking("GET", "/unknown"),
        asking("PUT", "/refuses"),
    ),
    "security": several(asking("GET", "/me"), asking("GET", "/me", headers={"authorization": "Bearer token"})),
    "forms": several(asking("POST", "/form", data=FORM), asking("POST", "/form", data={"word": "x"})),
    "uploads": asking("POST", "/upload", files=[*UPLOAD, ("small", ("s", b"small"))]),
    "background tasks": several(asking("GET", "/background"), noted("later: 2")),
    "streams": asking("GET", "/stream"),
    "server-sent events": several(leaving("/events"), noted("the events end")),
    "redirects": asking("GET", "/away"),
    "files": ranges("/file"),
    "static files": ranges("/static/style.css"),
    "cookies": visits("/cookies", 1),
    "its own documentation": several(asking("GET", "/openapi.json"), asking("GET", "/docs"), asking("GET", "/redoc")),
    "middleware": asking("GET", "/items/1"),
}


def csrf(app: App) -> Seen:
    """A form: refused without its token, taken with it."""
    app.client.cookies.clear()
    page = app.client.get("/form")
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert found, page.text
    refused = app.client.post("/form", data={"word": "x"})
    taken = app.client.post("/form", data={"word": "<b>", "csrfmiddlewaretoken": found[1]})
    app.client.cookies.clear()
    return page.status_code, refused.status_code, refused.content, taken.status_code, "<p>&lt;b&gt;</p>" in taken.text


def conditional(app: App) -> Seen:
    etag = app.client.get("/threaded").headers["etag"]
    return app.ask("GET", "/threaded", headers={"if-none-match": etag})


DJANGO: dict[str, Case] = {
    "requests": several(
        asking("GET", "/echo/a%20b?x=1&y=%C3%A9", headers={"cookie": "k=v"}),
        asking("POST", "/echo/x", content=b"body", headers={"content-type": "text/plain"}),
        asking("HEAD", "/threaded"),
        asking("PUT", "/echo/x", json={"a": 1}),
    ),
    "signals": several(asking("GET", "/signals"), noted("/signals has finished")),
    "synchronous views": asking("GET", "/threaded"),
    "middleware of both kinds, compression": several(
        asking("GET", "/stream", headers={"accept-encoding": "gzip"}), noted("/stream has finished")
    ),
    "conditional requests": conditional,
    "forms": asking("POST", "/upload", data=FORM),
    "uploads": asking("POST", "/upload", data=FORM, files=[("large", UPLOAD[0][1]), ("small", UPLOAD[1][1])]),
    "bodies as files": several(
        asking("POST", "/read", content=LARGE), lambda app: app.ask("POST", "/read", content=pieces())
    ),
    "streams": several(asking("GET", "/stream"), noted("/stream has finished"), asking("GET", "/sync-stream")),
    "server-sent events": several(leaving("/events"), noted("/events has finished")),
    "sessions": visits("/count", 3),
    "messages": visits("/say", 1, asking("GET", "/said"), asking("GET", "/said")),
    "forms with a token": csrf,
    "errors": several(
        asking("GET", "/fails", headers=LAST),
        asking("GET", "/missing"),
        asking("GET", "/forbidden"),
        asking("GET", "/unknown"),
        asking("POST", "/only-get"),
        asking("GET", "/threaded", headers={"host": "elsewhere"}),
    ),
    "redirects": asking("GET", "/slashed"),
    "cookies": visits("/cookies", 1),
    "files": several(asking("GET", "/file"), asking("HEAD", "/file")),
    "static files": several(
        asking("GET", "/static/style.css"),
        asking("GET", "/static/style.css", headers={"if-modified-since": "Tue, 14 Nov 2023 22:13:20 GMT"}),
        asking("GET", "/static/no"),
    ),
}

CASES = {"starlette": STARLETTE, "fastapi": FASTAPI, "django": DJANGO}
NAMES = [(framework, feature) for framework, cases in CASES.items() for feature in cases]


@pytest.mark.parametrize(("framework", "feature"), NAMES, ids=[f"{one}-{other}" for one, other in NAMES])
def test_a_feature_is_what_it_is_on_uvicorn(both: Callable[[str], list[App]], framework: str, feature: str) -> None:
    case = CASES[framework][feature]
    on_uvicorn, on_penstock = (case(app) for app in both(framework))
    assert on_penstock == on_uvicorn


def test_what_starlette_does_otherwise_where_a_server_sends_files_itself(both: Callable[[str], list[App]]) -> None:
    """It hands the file over (pathsend) past its own compression; the file is the same."""
    gzip = {"accept-encoding": "gzip"}
    on_uvicorn, on_penstock = (app.client.get("/wrapped/file", headers=gzip) for app in both("starlette"))
    assert (on_uvicorn.status_code, on_penstock.status_code) == (200, 200)
    assert on_uvicorn.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in on_penstock.headers
    assert on_uvicorn.content == on_penstock.content == LARGE[:100_000]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_life_goes_as_on_uvicorn_from_start_up_to_shutdown(framework: str, tmp_path: Path) -> None:
    lives: list[list[str]] = []
    for server in ("uvicorn", "penstock"):
        with running(framework, server, tmp_path / server) as app:
            begun = app.events("start-up") if framework != "django" else []
            app.read_and_leave("/events", 2)
            begun += app.events("the events end" if framework != "django" else "/events has finished")
        lives.append(begun + (tmp_path / server / "journal").read_text().splitlines())
    assert lives[1] == lives[0]
    if framework != "django":
        # Django has no lifespan.
        assert lives[1] == ["start-up", "the events begin", "the events end", "shutdown"]
