"""`--metrics-bind`: what is counted, that it is right, that it outlives workers, and that nothing keeps it from being
shown."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import HELLO_APP, Server
from scrapes import COUNTING, LOOKED, OPENMETRICS, TIMEOUT_S, Samples, fetch, json_of, port_of, scrape, total
from waiting import wait_until

from penstock import ConfigError, ServerConfig, _core, metrics

Serve = Callable[..., Server]
SHOWN = ("--metrics-bind", "127.0.0.1:0", "--lifespan", "off")

STATUSES = """
async def app(scope, receive, send):
    status = int(scope["path"].strip("/") or 200)
    if status == 500:
        raise RuntimeError("as asked")
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def counts_until(port: int, name: str, value: float, **labels: str) -> Samples:
    return wait_until(lambda: (found := scrape(port)) and total(found, name, **labels) == value and found, name)


def test_every_request_is_counted_once_by_its_status_and_its_time(serve: Serve):
    server = serve(STATUSES, *SHOWN)
    for path in ("/", "/", "/204", "/404", "/500", "/599"):
        server.get(path)
    assert server.exchange(b"GET / HTTP/9.9\r\n\r\n").startswith(b"HTTP/1.1 505 ")
    samples = counts_until(port_of(server), "penstock_connections_closed_total", 7 + LOOKED)
    codes = ("200", "204", "404", "500", "599", "505")
    by_code = {code: total(samples, "penstock_http_responses_total", code=code) for code in codes}
    assert by_code == {"200": 2, "204": 1, "404": 1, "500": 1, "599": 1, "505": 1}
    assert total(samples, "penstock_http_responses_total") == 7
    assert total(samples, "penstock_http_requests_total") == 6
    assert total(samples, "penstock_http_requests_refused_total", reason="malformed") == 1
    assert total(samples, "penstock_handler_errors_total") == 1
    assert total(samples, "penstock_connections_accepted_total") == 7 + LOOKED
    assert total(samples, "penstock_connections_closed_total", reason="finished") == 7 + LOOKED
    assert total(samples, "penstock_http_request_duration_seconds_count") == 6
    assert total(samples, "penstock_http_request_duration_seconds_bucket", le="+Inf") == 6
    assert 0 < total(samples, "penstock_http_request_duration_seconds_sum") < 6 * 20
    assert total(samples, "penstock_received_bytes_total") > 6 * 40
    assert total(samples, "penstock_sent_bytes_total") > 7 * 60
    assert total(samples, "penstock_python_batch_events_count") >= 6
    assert total(samples, "penstock_connections_open") == total(samples, "penstock_http_requests_in_progress") == 0


def test_both_formats_tell_the_same_and_name_what_they_are(serve: Serve):
    port = port_of(serve(HELLO_APP, *SHOWN))
    response, text = fetch(port, "/metrics", accept=OPENMETRICS)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    response, text = fetch(port, "/metrics", accept="*/*")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# EOF" not in text
    plain, opened = scrape(port), scrape(port, OPENMETRICS)
    assert plain.keys() == opened.keys()
    assert len(plain) > 150


def test_the_buckets_that_are_shown_are_exact(serve: Serve):
    server = serve(
        """
        import asyncio
        async def app(scope, receive, send):
            await asyncio.sleep(0.06)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        """,
        *SHOWN,
    )
    for _ in range(3):
        server.get()
    name = "penstock_http_request_duration_seconds_bucket"
    samples = counts_until(port_of(server), name, 3, le="+Inf")
    assert total(samples, name, le="0.05") == 0, "none was quicker than it could be"
    edges = [float(dict(of)["le"]) for (found, of) in samples if found == name]
    counts = [total(samples, name, le=dict(of)["le"]) for (found, of) in samples if found == name]
    assert edges == sorted(edges)
    assert counts == sorted(counts)


def test_connections_are_told_apart_by_how_they_ended(serve: Serve):
    server = serve(HELLO_APP, *SHOWN, "--timeout-keep-alive", "0.2", "--limit-connections", "3")
    port = port_of(server)
    counts_until(port, "penstock_connections_closed_total", LOOKED)
    with server.connect() as idle, server.connect() as reset, server.connect() as third:
        idle.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200 ")
        counts_until(port, "penstock_connections_open", 3)
        with server.connect() as fourth:
            assert fourth.recv(1000).startswith(b"HTTP/1.1 503 ")
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        reset.close()
        third.close()
        assert idle.recv(1000) == b""
    samples = counts_until(port, "penstock_connections_open", 0)
    ended = {
        reason: total(samples, "penstock_connections_closed_total", reason=reason)
        for reason in ("finished", "idle", "stalled", "aborted", "failed")
    }
    assert ended == {"finished": 2 + LOOKED, "idle": 1, "stalled": 0, "aborted": 0, "failed": 1}
    assert total(samples, "penstock_connections_refused_total", reason="limit") == 1
    assert total(samples, "penstock_http_responses_total", code="503") == 1


def test_what_a_killed_worker_had_counted_is_not_lost(serve: Serve):
    server = serve(HELLO_APP, *SHOWN, "--workers", "2")
    port = port_of(server)
    wait_until(lambda: total(scrape(port), "penstock_workers", state="ready") == 2)
    for _ in range(20):
        server.get()
    before = counts_until(port, "penstock_http_responses_total", 20)
    starts = total(before, "penstock_worker_starts_total")
    for worker in json_of(port, "status")["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    wait_until(lambda: total(scrape(port), "penstock_worker_starts_total") == starts + 2)
    wait_until(lambda: total(scrape(port), "penstock_workers", state="ready") == 2)
    after = scrape(port)
    assert total(after, "penstock_http_responses_total") == 20
    for series, value in before.items():
        if series[0].endswith(("_total", "_count", "_sum", "_bucket")) and "cpu" not in series[0]:
            assert after[series] >= value, f"{series} went back"
    server.get()
    counts_until(port, "penstock_http_responses_total", 21)


def test_a_reload_leaves_counts_and_takes_levels_along(serve: Serve):
    server = serve(HELLO_APP, *SHOWN, "--workers", "1")
    port = port_of(server)
    server.get()
    counts_until(port, "penstock_http_responses_total", 1)
    with server.connect() as held:
        held.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert held.recv(1000)
        counts_until(port, "penstock_connections_open", 1)
        server.signal(signal.SIGHUP)
        wait_until(lambda: total(scrape(port), "penstock_worker_info", generation="2", state="ready") == 1)
    wait_until(lambda: total(scrape(port), "penstock_worker_info") == 1)
    samples = scrape(port)
    assert total(samples, "penstock_http_responses_total") == 2
    assert total(samples, "penstock_connections_open") == 0
    assert total(samples, "penstock_workers") == 1


def test_an_upgrade_hands_the_place_of_the_metrics_over(serve: Serve):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve(HELLO_APP, "--metrics-bind", str(port), "--lifespan", "off", "--workers", "1")
    former = json_of(port, "status")["pid"]
    assert former == server.process.pid
    server.signal(signal.SIGUSR2)

    def successor() -> int | None:
        try:
            now = json_of(port, "status")["pid"]
        except OSError:
            return None  # Between the two, for half a second at most.
        return now if now != former else None

    pid = wait_until(successor)
    try:
        assert server.process.wait(TIMEOUT_S) == 0  # Its log goes on: the successor writes it.
        assert server.get().startswith(b"HTTP/1.1 200 ")
        counts_until(port, "penstock_http_responses_total", 1)
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or b") Z" in Path(f"/proc/{pid}/stat").read_bytes())


def test_several_event_loops_are_told_apart_and_so_is_who_accepts_for_them(serve: Serve):
    server = serve(HELLO_APP, *SHOWN, "--reactors", "2")
    port = port_of(server)
    for _ in range(6):
        server.get()
    samples = counts_until(port, "penstock_http_responses_total", 6)
    assert total(samples, "penstock_connections_accepted_total", worker="main") == 6 + LOOKED
    given = [total(samples, "penstock_connections_handed_over_total", worker=worker) for worker in ("0", "1", "main")]
    assert (sum(given), given[2]) == (6 + LOOKED, 0)
    assert total(samples, "penstock_workers", state="ready") == 3
    # One process, told of once.
    assert len([name for name, _ in samples if name == "penstock_worker_resident_memory_bytes"]) == 1


def test_wsgi_threads_and_static_files_have_theirs(serve: Serve, tmp_path: Path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    server = serve(
        """
        def app(environ, start_response):
            start_response("200 OK", [("content-length", "2")])
            return [b"ok"]
        """,
        "--metrics-bind",
        "127.0.0.1:0",
        "--threads",
        "3",
        "--static",
        f"/files={tmp_path / 'files'}",
    )
    port = port_of(server)
    server.get()
    for _ in range(3):
        assert server.get("/files/a.txt").endswith(b"\r\n\r\na")
    samples = counts_until(port, "penstock_http_responses_total", 4, code="200")
    samples = wait_until(lambda: (found := scrape(port)) and total(found, "penstock_wsgi_threads") == 3 and found)
    assert total(samples, "penstock_wsgi_requests_taken_total") == 1
    assert total(samples, "penstock_http_native_answers_total") == 3
    assert total(samples, "penstock_static_lookups_total", result="hit") >= 1
    assert total(samples, "penstock_static_lookups_total") == 3
    assert total(samples, "penstock_static_cache_bytes") > 1000


def test_the_applications_own_metrics_are_shown_beside_the_servers(serve: Serve):
    server = serve(COUNTING, *SHOWN)
    port = port_of(server)
    for path in ("/a", "/a", "/b"):
        server.get(path)
    for accept in ("text/plain", OPENMETRICS):
        samples = scrape(port, accept)
        assert total(samples, "visits_total", path="/a") == 2
        assert total(samples, "visits_total") == 3
        assert total(samples, "penstock_turns_total") == 0, "the server's names are the server's"
        assert total(samples, "penstock_http_responses_total") == 3


def test_over_several_workers_they_add_up_and_outlive_their_worker(serve: Serve):
    server = serve(COUNTING, *SHOWN, "--workers", "2")
    port = port_of(server)
    pids = {int(server.get("/a").rpartition(b"\r\n\r\n")[2]) for _ in range(10)}
    for accept in ("text/plain", OPENMETRICS):
        assert total(scrape(port, accept), "visits_total") == 10
    assert total(scrape(port), "level") == 3 * len(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: total(scrape(port), "level") == 0, "live gauges go with their worker")
    after = scrape(port)
    assert total(after, "visits_total") == 10
    assert total(after, "size_count") == 10
    assert total(after, "size_bucket", le="10.0") == 10
    wait_until(lambda: total(scrape(port), "penstock_workers", state="ready") == 2)
    server.get("/b")
    assert total(scrape(port), "visits_total") == 11


def test_their_directory_does_not_grow_with_workers_that_are_gone_and_goes_in_the_end(serve: Serve, tmp_path: Path):
    server = serve(COUNTING, *SHOWN, "--workers", "1", env={"TMPDIR": str(tmp_path)})
    port = port_of(server)
    for generation in range(2, 5):
        server.get()
        server.signal(signal.SIGHUP)
        wait_until(
            lambda now=str(generation): total(scrape(port), "penstock_worker_info", generation=now, state="ready") == 1
        )
    wait_until(lambda: total(scrape(port), "penstock_worker_info") == 1)
    assert total(scrape(port), "visits_total") == 3
    (directory,) = tmp_path.glob("penstock-metrics-*")
    assert {file.name for file in directory.iterdir()} <= {"counter_gone.db", "histogram_gone.db"} | {
        file.name for file in directory.glob(f"*_{json_of(port, 'status')['workers'][0]['pid']}.db")
    }
    server.stop()
    assert not directory.exists()


def test_a_registry_that_fails_costs_its_own_metrics_alone(serve: Serve):
    server = serve(
        """
        from prometheus_client import REGISTRY

        class Broken:
            def describe(self):
                return []
            def collect(self):
                raise RuntimeError("no database")

        REGISTRY.register(Broken())
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        """,
        *SHOWN,
    )
    server.get()
    assert total(scrape(port_of(server)), "penstock_http_responses_total", code="204") == 1
    server.wait_for_log("no database")


def test_an_application_that_keeps_the_interpreter_delays_no_scrape(serve: Serve):
    server = serve(
        """
        import time
        async def app(scope, receive, send):
            time.sleep(30)
        """,
        *SHOWN,
    )
    port = port_of(server)
    with server.connect() as stuck:
        stuck.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        counts_until(port, "penstock_http_requests_total", 1)
        began = time.monotonic()
        assert total(scrape(port), "penstock_http_requests_total") == 1
        assert time.monotonic() - began < 15
    server.process.kill()
    server.wait()


def test_an_application_that_will_not_tell_is_left_out_in_the_end(serve: Serve):
    server = serve(
        """
        import time
        from prometheus_client import REGISTRY

        class Slow:
            def describe(self):
                return []
            def collect(self):
                time.sleep(30)
                return []

        REGISTRY.register(Slow())
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        """,
        *SHOWN,
    )
    samples = scrape(port_of(server))
    assert total(samples, "penstock_workers", state="ready") == 1
    server.process.kill()
    server.wait()


def test_a_worker_that_is_forked_meanwhile_keeps_no_scrape_open(serve: Serve):
    server = serve(HELLO_APP, *SHOWN, "--workers", "1")
    port = port_of(server)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /-/status.json HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(1 << 20).startswith(b"HTTP/1.1 200 ")
        os.kill(json_of(port, "status")["workers"][0]["pid"], signal.SIGKILL)
        wait_until(lambda: total(scrape(port), "penstock_worker_starts_total") == 2)
        wait_until(lambda: total(scrape(port), "penstock_workers", state="ready") == 1)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        received = b""
        while piece := connection.recv(1 << 20):
            received += piece
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.endswith(b"\n")
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/metrics", 405),
        ("DELETE", "/-/", 405),
        ("GET", "/-/../etc", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/", 302),
    ],
)
def test_there_is_nothing_but_reading(serve: Serve, method: str, path: str, status: int):
    port = port_of(serve(HELLO_APP, *SHOWN))
    response, _ = fetch(port, path, method=method)
    assert response.status == status
    head, body = fetch(port, "/metrics", method="HEAD")
    assert (head.status, body) == (200, "")
    assert int(head.headers["content-length"]) > 1000


def test_a_port_alone_is_one_of_this_machine(serve: Serve):
    server = serve(HELLO_APP, "--metrics-bind", "0", "--lifespan", "off")
    server.wait_for_log("Metrics at http://127.0.0.1:")
    assert total(scrape(port_of(server)), "penstock_workers", state="ready") == 1


def test_a_unix_socket_will_do(serve: Serve, tmp_path: Path):
    path = tmp_path / "m"
    server = serve(HELLO_APP, "--metrics-bind", f"unix:{path}", "--lifespan", "off")
    server.wait_for_log(f"Metrics at unix:{path}")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    server.stop()
    assert not path.exists()


def test_a_place_that_is_taken_ends_the_start_and_says_which_setting(penstock: Any, write_app: Any, taken_port: int):
    write_app()
    for more in ([], ["--workers", "1"]):
        outcome = penstock("serve", "--port", "0", "--metrics-bind", f"127.0.0.1:{taken_port}", *more, "main:app")
        assert outcome.returncode != 0
        assert f"--metrics-bind 127.0.0.1:{taken_port}: " in outcome.stderr
        assert "already in use" in outcome.stderr


@pytest.mark.parametrize("wrong", ["", "99999", "http://a/", "[::1", "[::1]", "localhost", "-1", "unix:"])
def test_a_place_that_is_none_is_refused(wrong: str):
    with pytest.raises(ConfigError, match=r"--metrics-bind: expected a port of 127\.0\.0\.1, "):
        ServerConfig(metrics_bind=wrong)


def test_settings_are_shown_without_what_headers_say():
    config = ServerConfig(header=("X-Api-Key: hunter2",), forwarded_allow_ips="10.0.0.0/8", static=("/a=/tmp",))
    shown = {each["name"]: each for group in metrics.described(config)["groups"] for each in group["settings"]}
    assert "hunter2" not in str(shown)
    assert shown["header"]["value"] == ["X-Api-Key: (not shown)"]
    assert shown["forwarded_allow_ips"] == shown["forwarded_allow_ips"] | {"value": "10.0.0.0/8", "is_default": False}
    assert shown["port"]["is_default"]


def test_json_has_the_same_numbers(serve: Serve):
    server = serve(STATUSES, *SHOWN)
    port = port_of(server)
    for path in ("/", "/404"):
        server.get(path)
    counts_until(port, "penstock_connections_closed_total", 2 + LOOKED)
    status = json_of(port, "status")
    assert status["listeners"] == [server.address]
    assert status["metrics"]["http_responses"] == {"200": 1, "404": 1}
    durations = status["metrics"]["http_request_duration_seconds"]
    assert durations["count"] == sum(count for _, count in durations["buckets"]) == 2
    assert 0 < durations["p50"] <= durations["p999"] <= durations["buckets"][-1][0] < 20
    (worker,) = status["workers"]
    assert (worker["worker"], worker["pid"], worker["state"]) == ("0", server.process.pid, "ready")
    assert json_of(port, "connections")["workers"][0]["metrics"]["connections_closed"]["finished"] == 2 + LOOKED
    assert json_of(port, "reactors")["workers"][0]["metrics"]["loop_turns"] > 0
    assert any(group["name"] == "Metrics and tracing" for group in json_of(port, "config")["groups"])


def test_the_lag_of_timers_and_the_time_at_work_are_measured(serve: Serve):
    server = serve(
        """
        import time
        async def app(scope, receive, send):
            time.sleep(0.5)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        """,
        *SHOWN,
    )
    port = port_of(server)
    server.get()
    samples = wait_until(
        lambda: (
            (found := scrape(port))
            and total(found, "penstock_loop_lag_seconds_sum") > 0.2
            and total(found, "penstock_python_gil_hold_seconds_sum") >= 0.5
            and found
        )
    )
    assert total(samples, "penstock_loop_busy_seconds_total") >= 0.5
    over = total(samples, "penstock_loop_turn_duration_seconds_count") - total(
        samples, "penstock_loop_turn_duration_seconds_bucket", le="0.25"
    )
    assert over >= 1
    assert total(samples, "penstock_python_gil_wait_seconds_count") > 0


def test_without_a_place_nothing_is_measured_and_nothing_listens(serve: Serve):
    server = serve(HELLO_APP, "--lifespan", "off")
    server.get()
    assert "Metrics at" not in server.log
    loop_threads = {
        Path(each, "comm").read_text().strip() for each in Path(f"/proc/{server.process.pid}/task").iterdir()
    }
    assert not any(name.startswith("penstock-m") for name in loop_threads)


def test_every_metric_has_a_group_and_a_meaning():
    names = [name for name, *_ in _core.metrics_table()]
    assert len(names) == len(set(names)) > 50
    assert all(name.startswith("penstock_") and meaning.endswith(".") for name, *_, meaning in _core.metrics_table())
