"""What a test finds at a server's `--metrics-bind`.

Metrics are of each loop's last turn: what has happened just now is seen a moment later, so wait for it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import time
from collections.abc import Generator
from typing import Any

from conftest import Server
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
TIMEOUT_S = 20.0

# Connections, by which the fixture has found that the server is ready.
LOOKED = 1

# An application that counts with the client's own library.
COUNTING = """
import os
from prometheus_client import Counter, Gauge, Histogram

visits = Counter("visits", "Visits.", ["path"])
level = Gauge("level", "A level of this process.", multiprocess_mode="livesum")
size = Histogram("size", "Sizes.", buckets=(1, 10))
mine = Counter("penstock_turns", "A name that is the server's.")

async def app(scope, receive, send):
    visits.labels(scope["path"]).inc()
    level.set(3)
    size.observe(5)
    mine.inc()
    body = b"%d" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

# (name of the sample, its labels) -> value
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def port_of(server: Server) -> int:
    server.wait_for_log("Metrics at ")
    found = re.search(r"Metrics at http://\S+:(\d+)/metrics", server.log)
    assert found is not None, server.log
    return int(found[1])


def fetch(
    port: int, path: str, *, method: str = "GET", timeout_s: float = TIMEOUT_S, **headers: str
) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def scrape(port: int, accept: str = "text/plain") -> Samples:
    """What Prometheus' own parsers make of it, whichever format was asked for."""
    response, text = fetch(port, "/metrics", accept=accept)
    assert response.status == 200, text
    parse = parse_openmetrics if accept == OPENMETRICS else parse_text
    return {
        (sample.name, frozenset(sample.labels.items())): float(sample.value)
        for family in parse(text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all workers, and over all labels not named."""
    wanted = set(labels.items())
    return sum(value for (found, of), value in samples.items() if found == name and wanted <= of)


def json_of(port: int, page: str) -> dict[str, Any]:
    response, text = fetch(port, f"/-/{page}.json")
    assert response.status == 200, text
    assert response.headers["content-type"] == "application/json"
    return json.loads(text)


@contextlib.contextmanager
def loaded(server: Server) -> Generator[None]:
    """A request every few milliseconds while the block runs."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                server.get()
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
