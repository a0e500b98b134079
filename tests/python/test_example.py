"""The example application does what its page says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from conftest import Server

ROOT = Path(__file__).resolve().parents[2]
HELLO = ROOT / "examples" / "hello"


@pytest.fixture
def site(serve: Callable[..., Server]) -> Server:
    # The fixture writes a main.py; the application is the example's own.
    return serve(f"import sys\nsys.path.insert(0, {str(HELLO)!r})\nfrom app import app\n")


def test_the_page_shows_the_request_and_asks_nothing_of_any_other_server(site: Server):
    response = httpx.get(f"{site.address}/", headers={"x-note": "<b>not markup</b>"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<th>method</th><td>&#x27;GET&#x27;</td>" in response.text
    assert "&lt;b&gt;not markup&lt;/b&gt;" in response.text
    assert not re.search(r"""(src|href)=["'](https?:)?//""", response.text)
    assert int(response.headers["content-length"]) == len(response.content)


def test_head_answers_with_the_page_s_length_and_no_body(site: Server):
    response = httpx.head(f"{site.address}/")
    assert int(response.headers["content-length"]) > 1000
    assert response.content == b""


def test_json_and_headers_are_json(site: Server):
    assert httpx.get(f"{site.address}/json").json()["python"] == sys.version.split()[0]
    assert ["x-note", "here"] in httpx.get(f"{site.address}/headers", headers={"x-note": "here"}).json()


def test_a_stream_s_lines_come_one_by_one(site: Server):
    with httpx.stream("GET", f"{site.address}/stream") as response:
        assert next(response.iter_lines()) == "line 1 of 12"


def test_every_event_says_how_the_server_is(site: Server):
    with httpx.stream("GET", f"{site.address}/events") as response:
        assert response.headers["content-type"] == "text/event-stream"
        line = next(response.iter_lines())
    tick = json.loads(line.removeprefix("data: "))
    assert tick["requests"] == 1
    assert tick["streams"] == 1


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_what_is_posted_comes_back(site: Server, size: int):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    response = httpx.post(f"{site.address}/echo", content=body, headers={"content-type": "image/png"})
    assert response.content == body
    assert response.headers["content-type"] == "image/png"


def test_a_wrong_path_and_a_wrong_method_are_told(site: Server):
    assert httpx.get(f"{site.address}/nowhere").status_code == 404
    refused = httpx.delete(f"{site.address}/json")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
