"""The applications that every server is asked to run: the same Python for all, and no more than the work needs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BODY = b"Hello, World!"
HELLO_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]

# What the slow handler of the fairness work burns of its thread's CPU time.
SLOW_CPU_S = 0.050


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Greet a GET; send a POST its body back."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["method"] == "POST":
        return await echo(receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": HELLO_HEADERS})
    return await send({"type": "http.response.body", "body": BODY})


async def fairness(scope: Scope, receive: Receive, send: Send) -> None:
    """Greet at once, except at /slow: there keep the thread busy first, without giving way to anybody."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["path"] == "/slow":
        burn_cpu(SLOW_CPU_S)
    await send({"type": "http.response.start", "status": 200, "headers": HELLO_HEADERS})
    return await send({"type": "http.response.body", "body": BODY})


LARGE = bytes(64 * 1024)


async def hostile(scope: Scope, receive: Receive, send: Send) -> None:
    """Greet, except at /large: 64 KiB; send a POST its body back."""
    if scope["type"] == "http" and scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"65536")]})
        return await send({"type": "http.response.body", "body": LARGE})
    return await asgi(scope, receive, send)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [BODY]


# Of the application that workers are tried out with.
START_S = float(os.environ.get("START_S", "0"))
EVENT_EVERY_S = 1.0


async def slow_start(scope: Scope, receive: Receive, send: Send) -> None:
    """Take START_S to start. Greet, except at /events, an endless stream, and at /pid: which process answers."""
    if scope["type"] == "lifespan":
        # As imports and migrations do: it keeps the thread.
        time.sleep(START_S)
        return await lifespan(receive, send)
    if scope["path"] == "/events":
        return await events(send)
    if scope["path"] == "/pid":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        return await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
    return await asgi(scope, receive, send)


async def events(send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while True:
        await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
        await asyncio.sleep(EVENT_EVERY_S)


async def rsgi(scope: Any, protocol: Any) -> None:
    """Granian's own interface, for what it can do without ASGI."""
    protocol.response_bytes(200, [("content-type", "text/plain")], BODY)


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def echo(receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def burn_cpu(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
