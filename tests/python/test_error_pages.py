"""What a person or a program is shown when the server itself answers: a page, JSON or a line, as Accept asks."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from conftest import Server

Serve = Callable[..., Server]

FAILING_APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    raise RuntimeError("a secret of the application's")
"""

# What a browser sends, what fetch() with JSON sends, and what curl sends.
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
PROGRAM = "application/json"
ANYBODY = "*/*"

# Its own 500, and refusals of a request that is understood and of one that is not.
REQUESTS = {
    500: b"GET / HTTP/1.1\r\nhost: test\r\naccept: %s\r\n\r\n",
    413: b"POST / HTTP/1.1\r\nhost: test\r\naccept: %s\r\ncontent-length: 1000\r\n\r\n",
    400: b"GET / HTTP/1.1\r\nhost: test\r\naccept: %s\r\nno colon\r\n\r\n",
    431: b"GET / HTTP/1.1\r\nhost: test\r\naccept: %s\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    505: b"GET / HTTP/3.0\r\nhost: test\r\naccept: %s\r\n\r\n",
}


def ask(server: Server, request: bytes, accept: str) -> tuple[int, str, str]:
    """Status, content type and body of the one answer that comes."""
    answer = server.exchange(
        request.replace(b"%s", accept.encode()).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    )
    head, _, body = answer.decode().partition("\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body.encode())
    return int(head.split()[1]), headers["content-type"], body


@pytest.mark.parametrize("status", REQUESTS)
def test_an_error_is_a_page_to_a_browser_json_to_a_program_and_a_line_to_others(serve: Serve, status: int) -> None:
    server = serve(FAILING_APP, "--limit-body-size", "10")
    seen, kind, page = ask(server, REQUESTS[status], BROWSER)
    assert (seen, kind) == (status, "text/html; charset=utf-8")
    assert page.startswith("<!doctype html>")
    assert f"<b>{status}</b>" in page

    seen, kind, text = ask(server, REQUESTS[status], PROGRAM)
    told = json.loads(text)
    assert (seen, kind, told["status"]) == (status, "application/json", status)
    assert told["detail"].endswith(".")

    seen, kind, line = ask(server, REQUESTS[status], ANYBODY)
    assert (seen, kind) == (status, "text/plain; charset=utf-8")
    assert line == f"{status} {told['error']}\n{told['detail']}\n"
    assert "secret" not in page + text + line, "the traceback is for the log"
    if status == 500:
        server.wait_for_log("a secret of the application's")
