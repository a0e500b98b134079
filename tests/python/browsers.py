"""A browser for tests: headless Chromium, told what to do over the WebDriver protocol (W3C)."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import programs
import pytest
from conformance.servers import free_port, running

WAIT_S = 30.0
INSTALL_TIMEOUT_S = 400
"""For the tests that use it: a browser may have to be installed first."""


class DriverError(Exception):
    """What the driver says of a command that failed: its kind, by WebDriver's name, and its message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


NOT_YET = {"no such element", "stale element reference", "element not interactable", "element click intercepted"}
"""Errors of a page that is on its way in or out (WebDriver, section 6.6)."""


class Browser:
    """One session."""

    def __init__(self, port: int, home: Path) -> None:
        self._port = port
        options = {
            "binary": programs.need("chromium"),
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                f"--user-data-dir={home}",
            ],
        }
        self._session = ""
        asked = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._session = f"/session/{self.command('POST', '/session', asked)['sessionId']}"

    def command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if method in {"GET", "DELETE"} else json.dumps(body or {}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{self._session}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S * 2) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                told = json.load(error)["value"]
            raise DriverError(told["error"], told["message"]) from None

    def patiently(self, command: Callable[[], Any]) -> Any:
        """What `command` returns once the page has what it names: one page may be giving way to the next."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                return command()
            except DriverError as error:
                if error.kind not in NOT_YET or time.monotonic() >= deadline:
                    raise
            time.sleep(0.02)

    def open(self, url: str) -> None:
        self.command("POST", "/url", {"url": url})

    def element(self, selector: str) -> str:
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{next(iter(found.values()))}"

    def act(self, selector: str, action: str, body: dict[str, Any] | None = None) -> None:
        """Do `action` to the element, as soon as it is there."""
        self.patiently(lambda: self.command("POST", f"{self.element(selector)}/{action}", body))

    def wait_for(self, look: Callable[[], str], beginning: str) -> str:
        deadline = time.monotonic() + WAIT_S
        while not (seen := self.patiently(look)).startswith(beginning):
            assert time.monotonic() < deadline, f"{seen!r} instead of {beginning!r}"
            time.sleep(0.02)
        return seen

    def run(self, script: str) -> Any:
        """What `script`, a function's body, returns in the page."""
        return self.command("POST", "/execute/sync", {"script": script, "args": []})

    def title(self) -> str:
        return self.command("GET", "/title")

    def text(self) -> str:
        return self.command("GET", f"{self.element('body')}/text")


@pytest.fixture
def browser(tmp_path: Path) -> Generator[Browser]:
    programs.need("chromium")
    driver, port = programs.need("chromedriver"), free_port()
    with running([driver, f"--port={port}"], port, tmp_path):
        browser = Browser(port, tmp_path / "profile")
        try:
            yield browser
        finally:
            browser.command("DELETE", "")
