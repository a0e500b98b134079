"""Sends a case's bytes and reads what comes of them, until the server closes or has said nothing for a while."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

from .cases import Case

QUIET_S = 1.0
"""A server that has said nothing for so long waits for more, or for the next request."""
AT_ONCE = 64


async def outcomes(port: int, cases: Iterable[Case], quiet_s: float = QUIET_S) -> dict[str, str]:
    """What came of each case, by its key."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> tuple[str, str]:
        async with places:
            return case.key, await outcome(port, case, quiet_s)

    return dict(await asyncio.gather(*[one(case) for case in cases]))


async def outcome(port: int, case: Case, quiet_s: float) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, ending = b"", "open"
    try:
        writer.write(case.sent)
        if case.half_close:
            writer.write_eof()
        while True:
            piece = await asyncio.wait_for(reader.read(65536), quiet_s)
            if not piece:
                ending = "closed"
                break
            received += piece
    except TimeoutError:
        pass
    except ConnectionError:
        ending = "closed"
    finally:
        writer.close()
    return ", ".join([*answers(received), ending])


def answers(received: bytes) -> list[str]:
    """Each response in a few words: its status, and what the application saw if it was asked."""
    said: list[str] = []
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d{3})(?: |\r|$)", head)
        if status is None or not separator:
            said.append("no HTTP/1.1")
            break
        code = status[1].decode()
        saw = re.search(rb"(?i)\r\nx-saw: ([^\r\n]*)", head)
        said.append(f"{code} {saw[1].decode()}" if saw else code)
        if code != "100":
            rest = after_body(head, rest)
        received = rest
    return said


def after_body(head: bytes, rest: bytes) -> bytes:
    """What follows a response's body. Those of applications are empty; servers' own pages have a length or end all."""
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length:
        is_to_head = b"x-saw: HEAD" in head
        return rest if is_to_head else rest[int(length[1]) :]
    if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        return rest.partition(b"0\r\n\r\n")[2]
    return b""
