"""What the soak asks: an application that reads or writes without end, fast or slowly, and keeps nothing."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs

PIECE = bytes(256 * 1024)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    pause_s = float(query.get("pause_ms", 0)) / 1000
    routes = {"/upload": upload, "/download": download}
    await routes.get(scope["path"], hello)(receive, send, int(query.get("bytes", 0)), pause_s)


async def hello(receive: Any, send: Any, count: int, pause_s: float) -> None:
    await answer(send, b"Hello, World!")


async def upload(receive: Any, send: Any, count: int, pause_s: float) -> None:
    """Count what comes; with a pause after every 64 MiB."""
    received, more, next_pause = 0, True, 1 << 26
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        received, more = received + len(message["body"]), message["more_body"]
        if received >= next_pause:
            next_pause += 1 << 26
            await asyncio.sleep(pause_s)
    await answer(send, b"%d" % received)


async def download(receive: Any, send: Any, count: int, pause_s: float) -> None:
    """Send `count` bytes; with a pause after every 64 MiB."""
    headers = [(b"content-length", b"%d" % count)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    sent = 0
    while sent < count:
        piece = PIECE[: count - sent]
        sent += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": sent < count})
        if sent % (1 << 26) == 0:
            await asyncio.sleep(pause_s)


async def answer(send: Any, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
