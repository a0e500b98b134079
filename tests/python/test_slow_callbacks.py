"""`--slow-callback`: who keeps an event loop is named, and a loop that nobody keeps is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from conftest import HELLO_APP, Server
from scrapes import port_of, scrape, total
from waiting import wait_until

Serve = Callable[..., Server]

SLOW = """
import asyncio, time

def dawdle():
    time.sleep(0.6)

async def app(scope, receive, send):
    if scope["path"] == "/slow":
        dawdle()
    if scope["path"] == "/later":
        asyncio.get_running_loop().call_later(0.01, dawdle)
    if scope["path"] == "/waits":
        await asyncio.sleep(0.6)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
"""

WSGI = """
import time
def app(environ, start_response):
    time.sleep(0.6)
    start_response("204 No Content", [])
    return []
"""


def test_the_stack_that_keeps_a_loop_is_logged_while_it_does_and_how_long_afterwards(serve: Serve):
    server = serve(SLOW, "--slow-callback", "0.2", "--metrics-bind", "0", "--lifespan", "off")
    server.get("/slow")
    server.wait_for_log("The event loop goes on: Python had kept it for ")
    log = server.log
    assert "Python has kept the event loop for " in log
    assert re.search(r"\(--slow-callback 0\.2\)\. It runs:\n(.*\n)*.*, in dawdle\n +time\.sleep\(0\.6\)", log), log
    assert float(re.findall(r"had kept it for ([\d.e+]+) s", log)[0]) >= 0.6
    wait_until(lambda: total(scrape(port_of(server)), "penstock_python_slow_callbacks_total") == 1)


def test_a_timer_and_a_callback_are_watched_like_a_handler(serve: Serve):
    server = serve(SLOW, "--slow-callback", "0.2", "--lifespan", "off")
    server.get("/later")
    server.wait_for_log(", in dawdle")


def test_every_event_loop_is_watched(serve: Serve):
    for more in (("--workers", "1"), ("--reactors", "2")):
        server = serve(SLOW, "--slow-callback", "0.2", "--lifespan", "off", *more)
        server.get("/slow")
        server.wait_for_log(", in dawdle")
        server.stop()


def test_who_waits_keeps_nobody_and_neither_do_wsgi_threads(serve: Serve):
    for source, path in ((SLOW, "/waits"), (WSGI, "/")):
        server = serve(source, "--slow-callback", "0.4", *(["--lifespan", "off"] if source is SLOW else []))
        server.get(path)
        server.stop()
        assert "dawdle" not in server.log
        assert "time.sleep" not in server.log


def test_without_the_setting_nobody_watches(serve: Serve):
    counts: list[int] = []
    for more in ((), ("--slow-callback", "5")):
        server = serve(HELLO_APP, "--lifespan", "off", *more)
        server.get()
        counts.append(len(list(Path(f"/proc/{server.process.pid}/task").iterdir())))
    assert counts[1] == counts[0] + 1, "a thread for it, and none without"
