"""The pages for people at a server's `--metrics-bind`, in a browser."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from browsers import INSTALL_TIMEOUT_S, Browser
from conftest import HELLO_APP, Server
from scrapes import fetch, json_of, loaded, port_of
from waiting import wait_until

Serve = Callable[..., Server]
SHOWN = ("--metrics-bind", "0", "--lifespan", "off")

pytestmark = pytest.mark.timeout(INSTALL_TIMEOUT_S)


def open_page(browser: Browser, port: int, page: str = "") -> None:
    browser.open(f"http://127.0.0.1:{port}/-/{page}")
    wait_until(lambda: browser.run("return document.querySelector('main').children.length") > 0)


def tile(browser: Browser, name: str) -> str:
    return browser.run(
        "const tile = [...document.querySelectorAll('.tile')].find(each => each.firstChild.textContent === "
        f"'{name}'); return tile ? tile.lastChild.textContent : '';"
    )


def cells(browser: Browser, table: int = 0) -> list[list[str]]:
    """What the page's tables have; of `config`, which has one for each group, in all."""
    body = "document" if browser.title() == "Penstock: config" else f"document.querySelectorAll('tbody')[{table}]"
    return browser.run(
        f"return [...{body}.querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )


DRAWN = "return [...document.querySelectorAll('svg path')].filter(path => /L/.test(path.getAttribute('d'))).length"


def test_the_status_page_is_live_and_draws_what_happens(serve: Serve, browser: Browser):
    server = serve(HELLO_APP, *SHOWN, "--workers", "2")
    port = port_of(server)
    with loaded(server):
        open_page(browser, port)
        assert browser.title() == "Penstock: status"
        wait_until(lambda: tile(browser, "Responses")[:1].strip("0").isdigit(), "responses a second")
        wait_until(lambda: tile(browser, "p99").endswith("s"), "a time to answer")
        wait_until(lambda: browser.run(DRAWN) >= 6, "lines are drawn")
    assert [row[3] for row in cells(browser)] == ["ready", "ready"]
    assert {row[1] for row in cells(browser)} == {str(worker["pid"]) for worker in json_of(port, "status")["workers"]}
    first = int(json_of(port, "status")["workers"][0]["pid"])
    os.kill(first, signal.SIGKILL)
    wait_until(
        lambda: len(now := cells(browser)) == 2 and str(first) not in {row[1] for row in now}, "the new worker is shown"
    )
    server.stop()
    wait_until(
        lambda: (
            "no answer"
            in browser.run(
                "return document.getElementById('state').className + document.getElementById('state').textContent"
            )
        )
    )


def test_connections_and_reactors_tell_each_worker(serve: Serve, browser: Browser):
    server = serve(HELLO_APP, *SHOWN, "--reactors", "2")
    port = port_of(server)
    with loaded(server):
        open_page(browser, port, "connections")
        wait_until(lambda: [row[0] for row in cells(browser)] == ["0", "1", "main"])
        wait_until(lambda: int(cells(browser)[2][4]) > 0, "the main one accepts")
        wait_until(lambda: browser.run(DRAWN) >= 2)
        open_page(browser, port, "reactors")
        assert browser.title() == "Penstock: reactors"
        wait_until(lambda: [row[0] for row in cells(browser)] == ["0", "1", "main"])
        wait_until(lambda: cells(browser)[0][2].endswith("%"), "the share of time at work")
        wait_until(lambda: browser.run(DRAWN) >= 2)
        assert browser.run("return [...document.querySelectorAll('h2')].map(each => each.hidden)") == [False, True]


def test_single_connections_are_shown_and_found(serve: Serve, browser: Browser):
    server = serve(
        """
        import asyncio
        async def app(scope, receive, send):
            if scope["path"] != "/":
                await asyncio.sleep(60)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        """,
        *SHOWN,
        *("--workers", "2", "--timeout-graceful-shutdown", "0.1"),
    )
    about = "return document.querySelectorAll('.about')[0].textContent"

    def shown() -> list[tuple[str, str, str]]:
        return [(row[2], row[4], row[5]) for row in cells(browser, 1)]

    def choose(selector: str, value: str) -> None:
        browser.run(
            f"const field = document.querySelector('{selector}'); field.value = '{value}';"
            "field.dispatchEvent(new Event('change'));"
        )

    with server.connect() as idle, server.connect() as waiting:
        idle.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        waiting.sendall(b"GET /<b>bold</b>?secret HTTP/1.1\r\nhost: a\r\n\r\n")
        peers = ["{}:{}".format(*each.getsockname()) for each in (idle, waiting)]
        open_page(browser, port_of(server), "connections")
        both = {(peers[0], "idle", ""), (peers[1], "handling", "GET /<b>bold</b>")}
        wait_until(lambda: set(shown()) == both, "both are shown, and what they ask is text")
        assert browser.run(about) == "2 of 2 shown, 2 open"
        choose("select[aria-label=State]", "idle")
        wait_until(lambda: shown() == [(peers[0], "idle", "")])
        assert browser.run(about) == "1 of 1 shown, 2 open"
        choose("input[type=search]", "no address")
        wait_until(lambda: browser.run(about).startswith("Expected peer to be addresses"))
        choose("input[type=search]", "10.0.0.0/8")
        wait_until(lambda: browser.run(about) == "0 of 0 shown, 2 open")


def test_the_settings_are_shown_and_found(serve: Serve, browser: Browser):
    server = serve(HELLO_APP, *SHOWN, "--header", "X-Key: hunter2", "--root-path", "/<b>bold</b>")
    open_page(browser, port_of(server), "config")
    wait_until(lambda: len(cells(browser)) > 50)
    shown = {row[0]: row[1] for row in cells(browser)}
    assert shown["--root-path"] == "/<b>bold</b>", "text, not markup"
    assert "hunter2" not in str(shown)
    assert browser.run("return document.querySelectorAll('tr.changed').length") >= 4
    browser.act("input[type=search]", "value", {"text": "root-path"})
    visible = (
        "return [...document.querySelectorAll('tr')].filter(row => row.offsetParent)"
        ".map(row => row.cells[0].textContent)"
    )
    wait_until(lambda: "--root-path" in browser.run(visible) and len(browser.run(visible)) < 5)


def test_pages_are_dark_where_people_want_them_dark(serve: Serve, browser: Browser):
    open_page(browser, port_of(serve(HELLO_APP, *SHOWN)))
    brightness: dict[str, int] = {}
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.command("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": feature})
        colour = browser.run("return getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    assert brightness["light"] > 600
    assert brightness["dark"] < 150


def test_pages_load_nothing_from_elsewhere_and_run_nothing_but_their_own(serve: Serve, browser: Browser):
    port = port_of(serve(HELLO_APP, *SHOWN))
    response, page = fetch(port, "/-/")
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "//" not in page
    open_page(browser, port)
    wait_until(lambda: tile(browser, "Connections") != "")
    loaded_from = browser.run("return performance.getEntriesByType('resource').map(each => new URL(each.name).host)")
    assert set(loaded_from) == {f"127.0.0.1:{port}"}
    browser.run(
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1'; "
        "document.body.append(script);"
    )
    assert browser.run("return window.ran ?? null") is None
