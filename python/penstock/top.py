"""What `penstock top` shows: two answers of a server's status page, and what happened between them.

Asking, working out and drawing are apart: `Source` knows HTTP, `between` knows numbers, `lines` knows a screen's size.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from . import bind
from .errors import ConfigError, ConnectFailed

TIMEOUT_S = 5.0

_BARS = " ▁▂▃▄▅▆▇█"

Status = dict[str, Any]


class Source:
    """The status of the server whose metrics are at `address`, as `--metrics-bind` has it."""

    def __init__(self, address: str) -> None:
        try:
            self._place = bind.parse_local(
                address.removeprefix("http://").split("/")[0] if "unix:" not in address else address
            )
        except ValueError:
            self._place = None
        if not isinstance(self._place, bind.TcpPlace | bind.UnixPlace):
            raise ConfigError(f"expected where a server shows its metrics, {bind.SYNTAX}, got {address!r}")
        self.address = address

    def ask(self) -> Status:
        """Raises `ConnectFailed` if nobody answers, or something else does."""
        connection = self._connection()
        try:
            connection.request("GET", "/-/status.json")
            answer = connection.getresponse()
            status = json.loads(answer.read())
            if answer.status != 200 or "workers" not in status:
                raise ValueError(answer.status)
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ConnectFailed(
                f"no metrics at {self.address}: {why.lower()} (the server's --metrics-bind says where they are)"
            ) from None
        except ValueError:
            raise ConnectFailed(
                f"what is at {self.address} is not a server's --metrics-bind: give that, not where it serves"
            ) from None
        else:
            return status
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self._place, bind.UnixPlace):
            return _UnixConnection(self._place.path)
        assert isinstance(self._place, bind.TcpPlace)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._place.host, self._place.host)
        return http.client.HTTPConnection(host, self._place.port, timeout=TIMEOUT_S)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


# ---- what happened


@dataclass(frozen=True)
class WorkerRow:
    worker: str
    pid: int
    generation: int
    state: str
    connections: int
    in_progress: int
    # For a second; None where it is not known.
    responses: float | None
    loop: float | None
    processor: float | None
    memory_bytes: float | None


@dataclass(frozen=True)
class View:
    """Rates are for a second, times in seconds; None is unknown."""

    version: str
    pid: int
    listeners: list[str]
    uptime_s: float
    connections: int
    in_progress: int
    by_class: dict[str, float]
    responses: float | None
    quantiles: dict[str, float | None]
    accepted: float | None
    closed: float | None
    received: float | None
    sent: float | None
    waits: dict[str, float | None]
    workers: list[WorkerRow]


SORTS: dict[str, Callable[[WorkerRow], Any]] = {
    "worker": lambda row: (len(row.worker), row.worker),
    "responses": lambda row: -(row.responses or 0.0),
    "loop": lambda row: -(row.loop or 0.0),
    "connections": lambda row: -row.connections,
    "memory": lambda row: -(row.memory_bytes or 0.0),
}


def between(before: Status | None, now: Status) -> View:
    """What there is now, and what has happened since `before`, which may be another server's."""
    if before is not None and (before["pid"] != now["pid"] or before["uptime_s"] >= now["uptime_s"]):
        before = None
    seconds = now["uptime_s"] - before["uptime_s"] if before else 0.0
    m, b = now["metrics"], before["metrics"] if before else None

    def rate(of: Callable[[dict[str, Any]], float]) -> float | None:
        return None if b is None else _rate(of(m), of(b), seconds)

    def in_class(first: str) -> Callable[[dict[str, Any]], float]:
        return lambda metrics: sum(n for code, n in metrics["http_responses"].items() if code.startswith(first))

    def p(name: str, share: float) -> float | None:
        return quantile(m[name]["buckets"], b[name]["buckets"], share) if b else None

    by_class = {f"{first}xx": rate(in_class(first)) for first in "2345"}
    former = {worker["worker"]: worker for worker in before["workers"]} if before else {}
    duration = "http_request_duration_seconds"
    return View(
        version=now["version"],
        pid=now["pid"],
        listeners=now["listeners"],
        uptime_s=now["uptime_s"],
        connections=m["connections_open"],
        in_progress=m["http_requests_in_progress"],
        responses=rate(in_class("")),
        by_class={name: value for name, value in by_class.items() if value},
        quantiles={name: p(duration, share) for name, share in QUANTILES.items()},
        accepted=rate(lambda metrics: metrics["connections_accepted"]),
        closed=rate(lambda metrics: sum(metrics["connections_closed"].values())),
        received=rate(lambda metrics: metrics["received_bytes"]),
        sent=rate(lambda metrics: metrics["sent_bytes"]),
        waits={
            "turn": p("loop_turn_duration_seconds", 0.99),
            "timers late": p("loop_lag_seconds", 0.99),
            "GIL waited": p("python_gil_wait_seconds", 0.99),
            "GIL held": p("python_gil_hold_seconds", 0.99),
        },
        workers=[_row(worker, former.get(worker["worker"]), seconds) for worker in now["workers"]],
    )


QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def _row(now: dict[str, Any], before: dict[str, Any] | None, seconds: float) -> WorkerRow:
    # Another process in the same place: what it has counted goes on, its processor time does not.
    same = before if before and before["pid"] == now["pid"] else None

    def rate(name: str, former: dict[str, Any] | None) -> float | None:
        known = former is not None and name in now and name in former
        return _rate(now[name], former[name], seconds) if known and former else None

    return WorkerRow(
        worker=now["worker"],
        pid=now["pid"],
        generation=now["generation"],
        state=now["state"],
        connections=now["connections"],
        in_progress=now["in_progress"],
        responses=rate("responses", before),
        loop=rate("busy_seconds", before),
        processor=rate("cpu_seconds", same),
        memory_bytes=now.get("resident_bytes"),
    )


def _rate(now: float, before: float, seconds: float) -> float | None:
    return (now - before) / seconds if seconds > 0 and now >= before else None


def quantile(now: Iterable[Sequence[Any]], before: Iterable[Sequence[Any]], share: float) -> float | None:
    """What a share of the values that came in between did not exceed, to a tenth; None if none came.

    Buckets are pairs of the largest value that it holds (None: without an end) and how many it does.
    """
    former = dict(map(tuple, before))
    grown = [(end, count - former.get(end, 0)) for end, count in now]
    wanted = share * sum(count for _, count in grown)
    if wanted <= 0:
        return None
    for end, count in grown:
        wanted -= count
        if wanted <= 1e-9:
            return end if end is not None else float("inf")
    return None


# ---- a screen

BOLD, FAINT, RED, INVERSE, PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[7m", "\033[0m"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.{1 if suffix == 'k' else 2}f}{suffix}"
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"


def size(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1:
        return f"{value:.2f} s" if value != float("inf") else "> 100 s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} us"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def age(seconds: float) -> str:
    minutes, hours, days = int(seconds / 60) % 60, int(seconds / 3600) % 24, int(seconds / 86400)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds) % 60} s"


def sparkline(values: Sequence[float], width: int) -> str:
    """The newest values, a character each, the tallest the highest of them."""
    values = values[-width:] if width > 0 else []
    top = max(values, default=0.0)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1)) if top > 0 else 0] for value in values)


_COLUMNS: dict[str, Callable[[WorkerRow], str]] = {
    "worker": lambda row: row.worker,
    "pid": lambda row: str(row.pid),
    "gen": lambda row: str(row.generation),
    "state": lambda row: row.state,
    "connections": lambda row: number(row.connections),
    "in progress": lambda row: number(row.in_progress),
    "responses/s": lambda row: number(row.responses),
    "loop": lambda row: share(row.loop),
    "processor": lambda row: share(row.processor),
    "memory": lambda row: size(row.memory_bytes),
}


def lines(view: View, past: Sequence[float], *, width: int, height: int, sort: str = "worker") -> list[str]:
    """As many as there is room for, none longer than the screen is wide; without colours."""
    served_at = ", ".join(view.listeners)
    head = [
        f"penstock {view.version}  pid {view.pid}  {served_at}  up {age(view.uptime_s)}",
        "",
        _labelled("responses", f"{number(view.responses)}/s", *(f"{k} {number(v)}" for k, v in view.by_class.items())),
        _labelled("time", *(f"{name} {duration(value)}" for name, value in view.quantiles.items())),
        _labelled(
            "connections",
            f"{number(view.connections)} open",
            f"{number(view.accepted)}/s accepted",
            f"{number(view.closed)}/s closed",
            f"{number(view.in_progress)} requests in progress",
        ),
        _labelled("traffic", f"{size(view.received)}/s in", f"{size(view.sent)}/s out"),
        _labelled("p99 of", *(f"{name} {duration(value)}" for name, value in view.waits.items())),
        "",
    ]
    if past:
        head[2] = f"{head[2]:<52}  {sparkline(past, width - 54)}".rstrip()
    rows = sorted(view.workers, key=SORTS[sort])
    table = [list(_COLUMNS), *([show(row) for show in _COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    body = ["  ".join(cell.rjust(wide) for cell, wide in zip(row, widths, strict=True)) for row in table]
    return [line[:width] for line in [*head, *body][:height]]


TABLE_AT = 8
"""The line with the names of the table's columns."""


def _labelled(label: str, *parts: str) -> str:
    return f"{label:<12} {'  '.join(parts)}"
