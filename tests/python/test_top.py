"""`penstock top`: what it works out, what it draws, and that a terminal is as it was afterwards."""

from __future__ import annotations

import copy
import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from conftest import HELLO_APP, PENSTOCK, Server, clean_environment
from scrapes import TIMEOUT_S, json_of, loaded, port_of

from penstock import ConfigError, top

Serve = Callable[..., Server]
SHOWN = ("--metrics-bind", "0", "--lifespan", "off")


def test_one_look_tells_what_happened_in_it(serve: Serve, penstock: Any):
    server = serve(HELLO_APP, *SHOWN, "--workers", "2")
    with loaded(server):
        told = penstock("top", str(port_of(server)), "--once", "--interval", "0.5")
    assert told.returncode == 0, told.stderr
    assert f"pid {server.process.pid}  {server.address}  up 0 min" in told.stdout
    found = re.search(r"^responses +([\d.]+)/s  2xx ([\d.]+)$", told.stdout, re.MULTILINE)
    assert found is not None, told.stdout
    assert float(found[1]) > 0
    assert re.search(r"^time +p50 [\d.]+ (us|ms|s)  p90 ", told.stdout, re.MULTILINE)
    rows = [line.split() for line in told.stdout.splitlines() if "ready" in line]
    assert [row[0] for row in rows] == ["0", "1"]
    assert {row[1] for row in rows} == {str(worker["pid"]) for worker in json_of(port_of(server), "status")["workers"]}


def test_a_unix_socket_and_an_address_will_do(serve: Serve, penstock: Any, tmp_path: Path):
    server = serve(HELLO_APP, "--metrics-bind", f"unix:{tmp_path}/m", "--lifespan", "off")
    server.wait_for_log("Metrics at ")
    assert penstock("top", f"unix:{tmp_path}/m", "--once", "--interval", "0.1").returncode == 0
    other = serve(HELLO_APP, *SHOWN)
    for address in ("127.0.0.1:{}", "http://127.0.0.1:{}", "http://127.0.0.1:{}/-/"):
        assert top.Source(address.format(port_of(other))).ask()["pid"] == other.process.pid


def test_who_gives_the_wrong_place_is_told(serve: Serve, penstock: Any, taken_port: int):
    server = serve(HELLO_APP, *SHOWN)
    told = penstock("top", str(server.port), "--once")
    assert (told.returncode, told.stdout) == (1, "")
    assert "is not a server's --metrics-bind: give that, not where it serves" in told.stderr
    server.stop()
    told = penstock("top", str(server.port), "--once")
    assert told.returncode == 1
    assert "connection refused (the server's --metrics-bind says where they are)" in told.stderr
    told = penstock("top", "nonsense", "--once")
    assert told.returncode == 2
    assert "got 'nonsense'" in told.stderr
    told = penstock("top", str(taken_port))
    assert told.returncode == 2
    assert "no terminal: say --once" in told.stderr


class Terminal:
    """`penstock top` on a terminal of its own, and what it has drawn since it was last asked."""

    def __init__(self, *arguments: str) -> None:
        self.end, theirs = pty.openpty()
        self.before = subprocess.run(["stty", "-g"], stdin=theirs, capture_output=True, check=True).stdout
        self._theirs = theirs
        self.process = subprocess.Popen(
            [*PENSTOCK, "top", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=clean_environment({"COLUMNS": "120", "LINES": "30", "TERM": "xterm"}),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = ""

    def wait_for(self, pattern: str) -> str:
        """Until it has drawn that, after what was seen before."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, self.seen[-3000:]
            if select.select([self.end], [], [], 0.1)[0]:
                self.seen += os.read(self.end, 1 << 16).decode()
        self.seen = self.seen[found.end() :]
        return found[0]

    def press(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def settings(self) -> bytes:
        return subprocess.run(["stty", "-g"], stdin=self._theirs, capture_output=True, check=True).stdout

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.end)
        os.close(self._theirs)


@pytest.fixture
def terminal() -> Generator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.mark.parametrize("leave", ["q", "\x03"])
def test_a_terminal_is_live_and_as_it_was_afterwards(serve: Serve, terminal: Callable[..., Terminal], leave: str):
    server = serve(HELLO_APP, *SHOWN)
    seen = terminal(str(port_of(server)), "--interval", "0.2")
    with loaded(server):
        seen.wait_for(r"\x1b\[\?1049h")
        seen.wait_for(r"responses +[1-9][\d.]*/s  2xx")
        seen.wait_for("▁|▂|▃|▄|▅|▆|▇|█")
    seen.wait_for("by worker")
    seen.press("s")
    seen.wait_for("by responses")
    seen.press("p")
    seen.wait_for("paused")
    seen.press("p")
    seen.wait_for("by responses")
    server.stop()
    seen.wait_for("no metrics at .*connection refused")
    seen.press(leave)
    seen.wait_for(r"\x1b\[\?1049l")
    assert seen.process.wait(TIMEOUT_S) == 0
    assert seen.settings() == seen.before


# ---- what it works out


def status(**metrics: Any) -> top.Status:
    times = {"count": 0, "buckets": []}
    return {
        "version": "1",
        "pid": 9,
        "uptime_s": 10.0,
        "listeners": ["http://a"],
        "workers": [
            {
                "worker": "0",
                "pid": 10,
                "generation": 1,
                "state": "ready",
                "connections": 3,
                "in_progress": 1,
                "responses": 100,
                "busy_seconds": 1.0,
                "cpu_seconds": 2.0,
                "resident_bytes": 3 << 20,
            }
        ],
        "metrics": {
            "connections_open": 3,
            "http_requests_in_progress": 1,
            "http_responses": {"200": 90, "404": 10},
            "connections_accepted": 5,
            "connections_closed": {"finished": 2},
            "received_bytes": 0,
            "sent_bytes": 0,
            "stream_frames_received": 0,
            "stream_frames_sent": 0,
            "http_request_duration_seconds": {"count": 3, "buckets": [[0.001, 2], [0.01, 1]]},
            "loop_turn_duration_seconds": times,
            "loop_lag_seconds": times,
            "python_gil_wait_seconds": times,
            "python_gil_hold_seconds": times,
            **metrics,
        },
    }


def later(before: top.Status, seconds: float) -> top.Status:
    now = copy.deepcopy(before)
    now["uptime_s"] += seconds
    return now


def test_rates_are_of_the_time_between_two_looks():
    before = status()
    now = later(before, 2.0)
    now["metrics"]["http_responses"]["200"] += 30
    now["metrics"]["http_responses"]["503"] = 2
    now["metrics"]["sent_bytes"] = 4096
    now["metrics"]["http_request_duration_seconds"]["buckets"] = [[0.001, 2], [0.002, 9], [0.01, 1], [None, 1]]
    now["workers"][0].update(responses=132, busy_seconds=2.0, cpu_seconds=2.5)
    view = top.between(before, now)
    assert (view.responses, view.by_class, view.sent) == (16, {"2xx": 15, "5xx": 1}, 2048)
    assert view.quantiles == {"p50": 0.002, "p90": 0.002, "p99": float("inf"), "p99.9": float("inf")}
    (row,) = view.workers
    assert (row.responses, row.loop, row.processor) == (16, 0.5, 0.25)
    text = top.lines(view, [1.0, 4.0, 2.0], width=100, height=40)
    assert text[2].endswith("▂█▄")
    assert text[3] == "time         p50 2.0 ms  p90 2.0 ms  p99 > 100 s  p99.9 > 100 s"
    assert text[-1].split() == ["0", "10", "1", "ready", "3", "1", "16", "50.0%", "25.0%", "3.0", "MiB"]


def test_a_worker_in_anothers_place_and_another_server_are_not_compared():
    before = status()
    now = later(before, 1.0)
    now["workers"][0].update(pid=11, responses=101, cpu_seconds=0.1)
    (row,) = top.between(before, now).workers
    assert (row.responses, row.processor) == (1, None)
    restarted = later(before, -5.0)
    assert top.between(before, restarted).responses is None
    assert top.between(None, now).quantiles["p99"] is None
    assert "responses    -/s" in top.lines(top.between(None, now), [], width=80, height=24)[2]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (20, 3), (1, 1), (300, 100)])
def test_nothing_is_drawn_beyond_the_screen(width: int, height: int):
    view = top.between(None, status())
    drawn = top.lines(view, [1.0] * 500, width=width, height=height)
    assert len(drawn) <= height
    assert max(map(len, drawn)) <= width


def test_workers_are_in_the_order_asked_for():
    now = status()
    now["workers"] = [{**now["workers"][0], "worker": str(n), "connections": n % 7} for n in range(12)]
    view = top.between(None, now)
    by_worker = [line.split()[0] for line in top.lines(view, [], width=120, height=40)[top.TABLE_AT + 1 :]]
    assert by_worker == [str(n) for n in range(12)]
    busiest = top.lines(view, [], width=120, height=40, sort="connections")[top.TABLE_AT + 1].split()[0]
    assert busiest == "6"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0"), (3.14, "3.1"), (999, "999"), (12_345, "12.3k"), (2.5e6, "2.50M")]
)
def test_numbers_are_short(value: float | None, text: str):
    assert top.number(value) == text


def test_a_place_that_is_none_is_refused():
    for wrong in ("", "a", "fd://3", "99999999"):
        with pytest.raises(ConfigError, match="expected where a server shows its metrics"):
            top.Source(wrong)
