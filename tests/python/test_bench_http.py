"""`penstock bench http`: what it asks, what it counts, and that other tools are given the same load."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from conftest import PENSTOCK, Server, clean_environment
from programs import need

from penstock.bench import beside, outcome, tool
from penstock.bench.http import HttpLoad, Target

Run = Callable[..., subprocess.CompletedProcess[str]]
Serve = Callable[..., Server]

# Answers 400 unless the request is what its path says that it must be.
DEMANDING_APP = """
import asyncio

stalled = False

async def app(scope, receive, send):
    global stalled
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = dict(scope["headers"])
    path = scope["path"]
    if path == "/stall" and not stalled:
        stalled = True
        await asyncio.sleep(0.6)
    good = {
        "/": scope["method"] == "GET" and not body,
        "/stall": True,
        "/post": scope["method"] == "POST" and body == b"a=1&b=\\\\two" and headers.get(b"x-key") == b"a value",
        "/put": scope["method"] == "PUT" and len(body) == 5000,
        "/query": scope["query_string"] == b"a=1&b=%20",
    }.get(path, False)
    answer = b"as it should be" if good else b"wrong"
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 200 if good else 400, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})
"""


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(DEMANDING_APP)


def bench(penstock: Run, server: Server, path: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.port}{path}"
    common = ["--json", "--duration", "0.3", "--warm-up", "0", "--connections", "4"]
    done = penstock("bench", "http", url, *common, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_every_answer_is_counted_with_its_latency(penstock: Run, server: Server):
    found = bench(penstock, server, "/")
    assert found["answers"] > 0
    assert found["errors"] == 0
    assert found["body_mean"] == len("as it should be")
    assert found["rate"] == pytest.approx(found["answers"] / 0.3)
    latency = found["latency_us"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    # The last few answers may come after the time, and have a latency all the same.
    assert found["answers"] <= sum(count for _, count in found["histogram_us"]) <= found["answers"] + 4


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/post", ["--body", r"a=1&b=\two", "--header", "X-Key: a value"]),
        ("/post", ["--body", r"a=1&b=\two", "--header", "X-Key: a value", "--pipeline", "8"]),
        ("/put", ["--method", "put", "--body-size", "5000"]),
        ("/query?a=1&b=%20", []),
        ("/", ["--rate", "200"]),
    ],
)
def test_requests_are_as_asked_for(penstock: Run, server: Server, path: str, arguments: list[str]):
    assert bench(penstock, server, path, *arguments)["errors"] == 0


def test_a_body_may_come_from_a_file(penstock: Run, server: Server, tmp_path: Any):
    (tmp_path / "body").write_bytes(rb"a=1&b=\two")
    assert bench(penstock, server, "/post", "--body", "@body", "--header", "X-Key: a value")["errors"] == 0


def test_an_open_loop_asks_at_its_rate(penstock: Run, server: Server):
    found = bench(penstock, server, "/", "--rate", "500", "--duration", "1")
    assert found["answers"] + found["errors"] <= 500
    assert sum(count for _, count in found["histogram_us"]) == 500


def test_an_open_loop_charges_a_stall_to_every_request_that_it_delayed(penstock: Run, server: Server):
    """One answer of 600 ms on one connection, 100 requests due in a second: about half of them had to wait."""
    found = bench(penstock, server, "/stall", "--rate", "100", "--duration", "1", "--connections", "1")
    late = sum(count for limit, count in found["histogram_us"] if limit > 100_000)
    assert late > 30


def test_answers_that_are_errors_are_told_by_kind_and_status(penstock: Run, server: Server):
    found = bench(penstock, server, "/nowhere", status=1)
    assert found["answers"] == 0
    assert found["errors_by_kind"] == {"status": found["errors"]}
    assert found["first_error"] == "status 400, expected 200 to 399"


def test_the_report_for_people_has_what_matters(penstock: Run, server: Server):
    url = f"127.0.0.1:{server.port}"
    done = penstock("bench", "http", url, "-d", "0.2", "--warm-up", "0", "-c", "2", "--progress")
    assert done.returncode == 0, done.stderr
    for word in ("2 connections, closed loop", "Answers ", "Errors     none", "us of CPU for each answer", "p99.9"):
        assert word in done.stdout
    assert "Histogram" in done.stdout
    # On stderr, so that a report can go to a file.
    assert "loading" in done.stderr


def test_a_name_is_wherever_its_server_is(monkeypatch: pytest.MonkeyPatch):
    """localhost may be ::1 first, where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        monkeypatch.setattr(outcome, "addresses_of", lambda *_: ["127.77.0.1", "127.0.0.1"])
        target = Target.of(f"http://localhost:{port}/path?query")
    assert (target.address, target.host, target.path) == ("127.0.0.1", f"localhost:{port}", "/path?query")


def test_an_interrupt_ends_it_at_once(server: Server):
    command = [*PENSTOCK, "bench", "http", f"http://127.0.0.1:{server.port}/", "-d", "600", "--progress"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()) as process:
        assert process.stderr is not None
        try:
            os.read(process.stderr.fileno(), 1)  # the bar: the load has begun
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ftp://127.0.0.1/"], "URL: expected http(s)://HOST:PORT/PATH, got 'ftp://127.0.0.1/'"),
        (["http://user@127.0.0.1/"], "URL: expected http(s)://HOST:PORT/PATH"),
        (["http://127.0.0.1:x/"], "URL: expected http(s)://HOST:PORT/PATH"),
        (["http://127.0.0.1/ä"], "URL: expected a path of visible ASCII"),
        (["http://127.0.0.1/", "--beside", "siege"], "--beside: expected some of wrk, h2load, ab, got 'siege'"),
        (["http://127.0.0.1/", "--body", "x", "--body-size", "1"], "--body and --body-size both say what to post"),
        (["http://127.0.0.1/", "--body", "@nothing"], "--body: nothing: No such file or directory"),
        (["http://127.0.0.1/", "--header", "no colon"], "--header: expected NAME:VALUE, got 'no colon'"),
        (["http://127.0.0.1/", "--connections", "0"], "0 is not in the range"),
    ],
)
def test_a_wrong_load_is_refused_in_one_line(penstock: Run, arguments: list[str], complaint: str):
    done = penstock("bench", "http", *arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert complaint in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--method", "HEAD"], 'method "HEAD"; expected one whose answers have bodies'),
        (["--header", "Content-Length: 5"], "expected a token that is none of host, content-length"),
    ],
)
def test_what_would_confuse_the_count_is_refused(penstock: Run, server: Server, arguments: list[str], complaint: str):
    done = penstock("bench", "http", f"127.0.0.1:{server.port}", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_without_a_server_it_says_so(penstock: Run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        done = penstock("bench", "http", f"http://127.0.0.1:{port}/")
    assert done.returncode == 1
    assert f"got none (127.0.0.1 port {port}: Connection refused): is it running?" in done.stderr


# --- beside other tools


@pytest.mark.parametrize("tool", beside.TOOLS)
@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/", []),
        ("/post", ["--body", r"a=1&b=\two", "--header", "X-Key: a value"]),
    ],
)
def test_another_tool_is_given_the_same_load(penstock: Run, server: Server, tool: str, path: str, arguments: list[str]):
    need(tool)
    found = bench(penstock, server, path, *arguments, "--beside", tool)
    [other] = found["beside"]
    assert other["tool"] == tool
    assert (other["errors"], found["left_out"]) == (0, [])
    assert other["answers"] > 0
    assert other["rate"] > 0
    assert other["cpu_us"] > 0
    assert other["latency_us"]["max"] > 0


def test_wrk_pipelines_too(penstock: Run, server: Server):
    need("wrk")
    [other] = bench(penstock, server, "/", "--pipeline", "4", "--beside", "wrk")["beside"]
    assert other["errors"] == 0
    assert other["answers"] > 0


def test_what_a_tool_cannot_do_is_told_and_not_done_otherwise(penstock: Run, server: Server):
    need("wrk")
    found = bench(penstock, server, "/", "--rate", "100", "--beside", "wrk")
    assert found["beside"] == []
    assert found["left_out"] == ["wrk has no open loop"]


def test_a_tool_that_is_not_here_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tool.shutil, "which", lambda *_, **__: None)
    with pytest.raises(tool.LeftOut, match=r"ab is not installed \(Debian: apt-get install apache2-utils\)"):
        beside.run_beside("ab", load())


def load(**how: Any) -> HttpLoad:
    target = Target(url="http://x/", address="::1", port=80, host="x", path="/")
    return HttpLoad(target=target, **how)


WRK = """\
Running 2s test @ http://127.0.0.1:18123/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.20ms  412.00us  28.20ms   91.00%
    Req/Sec    33.93k     1.22k   36.00k    70.00%
  Latency Distribution
     50%    1.03ms
     75%    1.50ms
     90%    5.37ms
     99%   13.00ms
  67856 requests in 2.00s, 4.40MB read
  Socket errors: connect 0, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 56
Requests/sec:  33928.00
Transfer/sec:      2.20MB
"""

H2LOAD = """\
finished in 2.00s, 37438.50 req/s, 4.75MB/s
requests: 74877 total, 74941 started, 74877 done, 74870 succeeded, 7 failed, 7 errored, 0 timeout
status codes: 74877 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 9.50MB (9958641) total, 5.21MB (5466021) headers (space savings 0.00%), 950.66KB (973401) data
                     min         max         mean         sd        +/- sd
time for request:      112us     17.90ms      1.71ms      1.05ms    82.11%
"""

AB = """\
Time taken for tests:   2.000 seconds
Complete requests:      83549
Failed requests:        3
Non-2xx responses:      2
Requests per second:    41774.12 [#/sec] (mean)
Time per request:       1.532 [ms] (mean)
Time per request:       0.024 [ms] (mean, across all concurrent requests)
Percentage of the requests served within a certain time (ms)
  50%      1
  66%      2
  90%      3
  99%      6
 100%     61 (longest request)
"""


def test_each_tool_s_output_is_read():
    wrk = beside.TOOLS["wrk"].figures(WRK)
    assert (wrk.answers, wrk.rate, wrk.errors) == (67_800, 33_928.0, 61)
    assert wrk.latency_us == {"mean": 1200, "p50": 1030, "p75": 1500, "p90": 5370, "p99": 13_000, "max": 28_200}
    h2load = beside.TOOLS["h2load"].figures(H2LOAD)
    assert (h2load.answers, h2load.rate, h2load.errors) == (74_870, 37_438.5, 7)
    assert h2load.latency_us == {"mean": 1710, "max": 17_900}
    ab = beside.TOOLS["ab"].figures(AB)
    assert (ab.answers, ab.rate, ab.errors) == (83_544, 41_774.12, 5)
    assert ab.latency_us == {"mean": 1532, "p50": 1000, "p90": 3000, "p99": 6000, "max": 61_000}


@pytest.mark.parametrize("tool", beside.TOOLS)
def test_output_that_is_none_is_an_error_and_no_zero(tool: str):
    with pytest.raises(beside.BenchError, match="output"):
        beside.TOOLS[tool].figures("segmentation fault\n")


def test_an_address_of_version_6_stands_in_brackets(tmp_path: Any):
    for each in beside.TOOLS.values():
        assert each.arguments(load(), tmp_path)[-1] == "http://[::1]:80/"


def test_over_tls_a_name_is_asked_for_where_it_leads_to_the_same_address(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    """A certificate is for a name; but another address would be another server."""
    target = Target(url="https://x/", address="127.0.0.7", port=443, host="x", path="/", name="x")
    monkeypatch.setattr(beside, "addresses_of", lambda *_: found)
    for each in beside.TOOLS.values():
        found = ["127.0.0.7", "127.0.0.8"]
        assert each.arguments(HttpLoad(target=target), tmp_path)[-1] == "https://x:443/"
        found = ["127.0.0.8", "127.0.0.7"]
        assert each.arguments(HttpLoad(target=target), tmp_path)[-1] == "https://127.0.0.7:443/"
