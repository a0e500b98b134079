"""`deploy/prometheus` and `deploy/grafana`, by Prometheus itself: its own checks, its own tests of alerts, and a scrape
of a loaded server, of which every rule and every panel finds what it asks for."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import programs
import pytest
import yaml
from conformance.servers import free_port, running
from conftest import Server
from scrapes import OPENMETRICS, fetch, port_of
from waiting import wait_until

from penstock import _core

Serve = Callable[..., Server]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = ["penstock-recording.yml", "penstock-alerts.yml"]
WAIT_S = 30

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "penstock.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]

pytestmark = pytest.mark.timeout(300)  # Prometheus may have to be installed first.

APP = """
from prometheus_client import Counter

visits = Counter("visits", "Visits.")

async def app(scope, receive, send):
    visits.inc()
    status = 500 if scope["path"] == "/wrong" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def promtool(*arguments: str, stdin: str = "", directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [programs.need("promtool"), *arguments],
        input=stdin,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_promtool_finds_nothing_wrong_with_rules_and_configuration():
    checked = promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    linted = promtool(
        "check", "rules", "--lint=all", "--lint-fatal", *(str(DEPLOY / "prometheus" / each) for each in RULES)
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_promtool_finds_nothing_wrong_with_what_is_shown(serve: Serve):
    server = serve(APP, "--metrics-bind", "0", "--lifespan", "off")
    server.get()
    _, shown = fetch(port_of(server), "/metrics")
    checked = promtool("check", "metrics", stdin=shown)
    told = [line for line in (checked.stdout + checked.stderr).splitlines() if "penstock_" in line]
    assert told == []


# ---- each alert fires when it should, and not before -----------------------------------------------------------------

OF_A_WORKER = 'instance="a", job="penstock", worker="0"'
OF_A_SERVER = 'instance="a", job="penstock"'
DURATIONS = "penstock_http_request_duration_seconds_bucket"

# What brings it about, as promtool's tests write series; one value a minute. And what keeps it quiet.
FIRING: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "PenstockDown": ({f"up{{{OF_A_SERVER}}}": "0x30"}, {f"up{{{OF_A_SERVER}}}": "1x30"}),
    "PenstockNoWorkerReady": (
        {f'penstock_workers{{{OF_A_SERVER}, state="ready"}}': "0x30"},
        {f'penstock_workers{{{OF_A_SERVER}, state="ready"}}': "1x30"},
    ),
    "PenstockServerErrors": (
        {
            f'penstock_http_responses_total{{{OF_A_WORKER}, code="200"}}': "0+600x30",
            f'penstock_http_responses_total{{{OF_A_WORKER}, code="503"}}': "0+60x30",
        },
        {f'penstock_http_responses_total{{{OF_A_WORKER}, code="200"}}': "0+600x30"},
    ),
    "PenstockSlow": (
        {
            f'{DURATIONS}{{{OF_A_WORKER}, le="1.0"}}': "0x30",
            f'{DURATIONS}{{{OF_A_WORKER}, le="2.5"}}': "0+60x30",
            f'{DURATIONS}{{{OF_A_WORKER}, le="+Inf"}}': "0+60x30",
        },
        {f'{DURATIONS}{{{OF_A_WORKER}, le="1.0"}}': "0+60x30", f'{DURATIONS}{{{OF_A_WORKER}, le="+Inf"}}': "0+60x30"},
    ),
    "PenstockLoopSaturated": (
        {f"penstock_loop_busy_seconds_total{{{OF_A_WORKER}}}": "0+58x30"},
        {f"penstock_loop_busy_seconds_total{{{OF_A_WORKER}}}": "0+30x30"},
    ),
    "PenstockLoopLate": (
        {
            f'penstock_loop_lag_seconds_bucket{{{OF_A_WORKER}, le="0.25"}}': "0x30",
            f'penstock_loop_lag_seconds_bucket{{{OF_A_WORKER}, le="1.0"}}': "0+240x30",
            f'penstock_loop_lag_seconds_bucket{{{OF_A_WORKER}, le="+Inf"}}': "0+240x30",
        },
        {
            f'penstock_loop_lag_seconds_bucket{{{OF_A_WORKER}, le="0.25"}}': "0+240x30",
            f'penstock_loop_lag_seconds_bucket{{{OF_A_WORKER}, le="1.0"}}': "0+240x30",
            f'penstock_loop_lag_seconds_bucket{{{OF_A_WORKER}, le="+Inf"}}': "0+240x30",
        },
    ),
    "PenstockWorkersRestart": (
        {
            f"penstock_worker_starts_total{{{OF_A_WORKER}}}": "0+2x30",
            f'penstock_workers{{{OF_A_SERVER}, state="ready"}}': "1x30",
        },
        {
            f"penstock_worker_starts_total{{{OF_A_WORKER}}}": "1x10 2x20",
            f'penstock_workers{{{OF_A_SERVER}, state="ready"}}': "1x30",
        },
    ),
    "PenstockOutOfDescriptors": (
        {f"penstock_accept_failures_total{{{OF_A_WORKER}}}": "0+1x30"},
        {f"penstock_accept_failures_total{{{OF_A_WORKER}}}": "3x30"},
    ),
    "PenstockRequestsOverLimit": (
        {f'penstock_http_requests_refused_total{{{OF_A_WORKER}, reason="over_limit"}}': "0+120x30"},
        {f'penstock_http_requests_refused_total{{{OF_A_WORKER}, reason="malformed"}}': "0+120x30"},
    ),
    "PenstockWsgiThreadsBusy": (
        {f"penstock_wsgi_requests_queued{{{OF_A_WORKER}}}": "3x30"},
        {f"penstock_wsgi_requests_queued{{{OF_A_WORKER}}}": " ".join(["3 0"] * 15)},
    ),
    "PenstockLogLinesDropped": (
        {f"penstock_log_lines_dropped_total{{{OF_A_WORKER}}}": "0+7x30"},
        {f"penstock_log_lines_dropped_total{{{OF_A_WORKER}}}": "7x30"},
    ),
}


def alerts() -> dict[str, dict[str, Any]]:
    text = (DEPLOY / "prometheus" / "penstock-alerts.yml").read_text(encoding="utf-8")
    return {rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}


def test_every_alert_has_its_test_a_severity_and_a_summary():
    assert alerts().keys() == FIRING.keys()
    for rule in alerts().values():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]


def test_each_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path):
    tests: list[dict[str, Any]] = []
    for name, (bad, good) in FIRING.items():
        for series, fires in ((bad, True), (good, False)):
            # promtool compares labels and annotations whole: how many there are is asked as a query instead.
            expected = [{"value": 1, "labels": "{}"}] if fires else []
            tests.append(
                {
                    "name": f"{name} {'fires' if fires else 'is quiet'}",
                    "interval": "1m",
                    "input_series": [{"series": each, "values": values} for each, values in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                            "eval_time": "25m",
                            "exp_samples": expected,
                        }
                    ],
                }
            )
    files = [str(DEPLOY / "prometheus" / each) for each in RULES]
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": files, "evaluation_interval": "1m", "tests": tests})
    )
    done = promtool("test", "rules", str(tmp_path / "tests.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


# ---- a Prometheus that scrapes a loaded server -----------------------------------------------------------------------


class Prometheus:
    def __init__(self, port: int) -> None:
        self._port = port
        wait_until(self._is_ready, "Prometheus has not replayed its log")

    def _is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=WAIT_S).close()
        except urllib.error.HTTPError as error:
            error.close()
            return False
        return True

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=WAIT_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                pytest.fail(f"{query or path}: {error.read().decode()}")

    def find(self, query: str) -> list[dict[str, Any]]:
        return self.ask("query", query=query)["result"]

    def value(self, query: str) -> float:
        """Of the one series that there is; NaN before there is one."""
        found = self.find(query)
        return float(found[0]["value"][1]) if len(found) == 1 else float("nan")


def start_prometheus(program: str, directory: Path, target: int) -> Any:
    """With our files, but for the address and the times: a scrape a second."""
    for name in RULES:
        text = (DEPLOY / "prometheus" / name).read_text(encoding="utf-8")
        (directory / name).write_text(re.sub(r"\[5m\]", "[10s]", text), encoding="utf-8")
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:9090", f"127.0.0.1:{target}").replace("15s", "1s")
    (directory / "prometheus.yml").write_text(text, encoding="utf-8")
    port = free_port()
    command = [
        program,
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    return port, running(command, port, directory)


@pytest.fixture
def scraped(serve: Serve, tmp_path: Path) -> Generator[tuple[Server, Prometheus]]:
    program = programs.need("prometheus")
    server = serve(APP, "--metrics-bind", "0", "--workers", "2", "--lifespan", "off")
    port, prometheus = start_prometheus(program, tmp_path, port_of(server))
    with prometheus:
        yield server, Prometheus(port)


def load_until(server: Server, is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S * 2
    while not is_so():
        assert time.monotonic() < deadline, what
        for path in ("/", "/", "/", "/wrong"):
            server.get(path)
        time.sleep(0.1)


def filled_in(query: str) -> str:
    for name, value in (("$__rate_interval", "10s"), ("$job", ".*"), ("$instance", ".*"), ("$worker", ".*")):
        query = query.replace(name, value)
    return query


def test_prometheus_scrapes_a_loaded_server_and_every_rule_and_panel_finds_it(scraped: tuple[Server, Prometheus]):
    server, prometheus = scraped
    load_until(
        server, lambda: prometheus.value("instance:penstock_http_responses:rate5m") > 0, "no responses were seen"
    )
    load_until(
        server,
        lambda: 0.2 < prometheus.value("instance:penstock_http_server_errors:ratio_rate5m") < 0.3,
        "one response in four is an error",
    )
    assert prometheus.value("sum(visits_total)") > 0, "the application's own are there"
    assert 0 < prometheus.value("instance:penstock_http_request_duration_seconds:p99_rate5m") < 10
    groups = prometheus.ask("rules")["groups"]
    broken = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]
    assert broken == []
    empty = [query for query in QUERIES if not prometheus.find(filled_in(query))]
    assert empty == []
    targets = prometheus.ask("targets")["activeTargets"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")]
    (target,) = targets
    assert target["scrapePool"] == "penstock"


def test_prometheus_of_these_days_is_given_openmetrics(serve: Serve):
    server = serve(APP, "--metrics-bind", "0", "--lifespan", "off")
    accept = f"{OPENMETRICS},*/*;q=0.1"
    response, text = fetch(port_of(server), "/metrics", accept=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


# ---- the dashboard ---------------------------------------------------------------------------------------------------


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\bpenstock_\w+", query))


def known_names() -> set[str]:
    names: set[str] = set()
    for name, kind, *_ in _core.metrics_table():
        names |= {f"{name}{suffix}" for suffix in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names


def test_the_dashboard_and_the_rules_name_metrics_that_there_are():
    rules = [
        rule
        for file in RULES
        for group in yaml.safe_load((DEPLOY / "prometheus" / file).read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for query in [*QUERIES, *(rule["expr"] for rule in rules)]:
        for name in recorded:
            query = query.replace(name, "")
        assert names_in(query) <= known_names(), query
    assert names_in(" ".join(QUERIES)), "it asks for something"


def test_the_dashboard_is_one_that_grafana_takes():
    assert DASHBOARD["uid"] == "penstock"
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance", "worker"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
    for panel in PANELS:
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
