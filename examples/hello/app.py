"""A web application in plain ASGI, without a framework: what Penstock calls, and what it is given.

    penstock serve --app-dir examples/hello app:app        (or: make serve)

Open http://127.0.0.1:8000: the page shows the server at work. Each route below is one function of the request's
scope, `receive` and `send`.
"""

from __future__ import annotations

import asyncio
import html
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Route = Callable[[Scope, Receive, Send], Awaitable[None]]

TICK_INTERVAL_S = 1.0
STREAM_LINES = 12
STREAM_INTERVAL_S = 0.25

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
STARTED_S = time.monotonic()


class Counters:
    """What the page's ticker shows. One event loop runs the application, so plain numbers do."""

    requests = 0
    streams = 0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["type"] != "http":
        raise NotImplementedError(f"this application speaks http, not {scope['type']}")
    Counters.requests += 1
    methods, route = ROUTES.get(scope["path"], (("GET", "HEAD"), missing))
    if scope["method"] not in methods:
        allow = [(b"allow", ", ".join(methods).encode())]
        await answer(send, b"405: this page takes " + allow[0][1], b"text/plain", status=405, headers=allow)
        return
    await route(scope, receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    """Called once: here an application opens its pools, and closes them at the end."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def index(scope: Scope, receive: Receive, send: Send) -> None:
    """The page, with the request as the application sees it written into it."""
    page = PAGE.replace("<!-- scope -->", rows(scope_parts(scope))).replace("<!-- headers -->", rows(headers_of(scope)))
    await answer(send, page.encode(), b"text/html; charset=utf-8")


async def as_json(scope: Scope, receive: Receive, send: Send) -> None:
    body = {"hello": "world", "python": sys.version.split()[0], "uptime_s": round(time.monotonic() - STARTED_S, 3)}
    await answer(send, json.dumps(body).encode(), b"application/json")


async def headers(scope: Scope, receive: Receive, send: Send) -> None:
    """The request's headers, in the order in which they came."""
    await answer(send, json.dumps(list(headers_of(scope)), indent=2).encode(), b"application/json")


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """A body whose length nobody knows in advance: each line leaves when it is made."""
    await start(send, b"text/plain; charset=utf-8")
    for number in range(1, STREAM_LINES + 1):
        await send_more(send, f"line {number} of {STREAM_LINES}\n".encode())
        await asyncio.sleep(STREAM_INTERVAL_S)
    await send({"type": "http.response.body"})


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """Server-sent events, for as long as somebody listens."""
    await start(send, b"text/event-stream")
    gone = asyncio.ensure_future(disconnected(receive))
    Counters.streams += 1
    try:
        due_s = time.monotonic()
        while not gone.done():
            await send_more(send, f"data: {json.dumps(tick(due_s))}\n\n".encode())
            due_s = max(due_s + TICK_INTERVAL_S, time.monotonic())
            await asyncio.wait([gone], timeout=due_s - time.monotonic())
    except OSError:
        pass  # What `send` raises once nobody listens.
    finally:
        Counters.streams -= 1
        gone.cancel()


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def tick(due_s: float) -> dict[str, float]:
    now_s = time.monotonic()
    return {
        "uptime_s": now_s - STARTED_S,
        "late_ms": (now_s - due_s) * 1000,  # How long the event loop was busy with something else.
        "requests": Counters.requests,
        "streams": Counters.streams,
    }


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Every piece of the body goes back as it comes: memory stays flat, however much is sent.

    `curl -T - localhost:8000/echo` answers each line as you type it.
    """
    await start(send, dict(scope["headers"]).get(b"content-type", b"application/octet-stream"))
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


async def missing(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, f"404: nothing at {scope['path']}".encode(), b"text/plain; charset=utf-8", status=404)


ROUTES: dict[str, tuple[tuple[str, ...], Route]] = {
    "/": (("GET", "HEAD"), index),
    "/json": (("GET", "HEAD"), as_json),
    "/headers": (("GET", "HEAD"), headers),
    "/stream": (("GET",), stream),
    "/events": (("GET",), events),
    "/echo": (("POST", "PUT"), echo),
}


async def answer(
    send: Send, body: bytes, content_type: bytes, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """A whole response, of a length known at once. (For HEAD the server leaves out the body.)"""
    length = (b"content-length", str(len(body)).encode())
    await start(send, content_type, status=status, headers=[length, *headers])
    await send({"type": "http.response.body", "body": body})


async def start(
    send: Send, content_type: bytes, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    every = [(b"content-type", content_type), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": every})


async def send_more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def scope_parts(scope: Scope) -> Iterable[tuple[str, str]]:
    """The parts of an ASGI http scope that a reader wants to see."""
    for name in ("method", "path", "query_string", "http_version", "scheme", "client", "server", "root_path", "asgi"):
        yield name, repr(scope.get(name))


def headers_of(scope: Scope) -> Iterable[tuple[str, str]]:
    return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in pairs)
