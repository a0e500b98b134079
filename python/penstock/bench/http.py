"""An HTTP/1.1 load by Penstock's own generator: closed loop, or open at a rate.

In a closed loop each connection asks again once it was answered, so a server that stalls is asked less, and the stall
is one slow answer among many: throughput is told well, latency too kindly. In an open loop requests are due at a rate,
whatever the server does, and each latency counts from when its request was due (no coordinated omission): what users
of a busy service meet.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .. import _core
from ..errors import ConfigError, PenstockError
from .figures import PERCENTILES, Figures

DEFAULT_PORT = 80
CONNECT_TIMEOUT_S = 5.0

# Seconds since the start, good answers so far, errors so far.
Progress = Callable[[float, int, int], object]


class BenchError(PenstockError):
    """The load could not be made: there is no server, or it went away."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the load goes: the address that answered, and what the URL says beside it."""

    url: str
    address: str
    port: int
    host: str  # as the Host header has it
    path: str

    @classmethod
    def of(cls, url: str) -> Target:
        """Raises `ConfigError` for what is no http URL, and `BenchError` if nobody listens at any of its addresses."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError as error:
            raise ConfigError(f"URL: expected http://HOST:PORT/PATH, got {url!r}: {error}") from None
        if parts.scheme != "http" or not host or parts.username is not None:
            raise ConfigError(f"URL: expected http://HOST:PORT/PATH, got {url!r}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not path.isascii() or not path.isprintable() or " " in path:
            raise ConfigError(f"URL: expected a path of visible ASCII, got {path!r}; escape the rest with %")
        return cls(url=parts.geturl(), address=_reachable(host, port), port=port, host=parts.netloc, path=path)


def _reachable(host: str, port: int) -> str:
    """The first of a name's addresses that takes a connection: localhost may be ::1, where the server is not."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BenchError(f"{host} has no address: {error.strerror or error}") from error
    refused: list[str] = []
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            try:
                probe.connect(address)
            except OSError as error:
                refused.append(f"{address[0]} port {port}: {error.strerror or error}")
                continue
            return str(address[0])
    raise BenchError(f"expected a server at {host}, got none ({'; '.join(refused)}): is it running?")


@dataclass(frozen=True, kw_only=True)
class HttpLoad:
    """One load. `rate` is requests a second in all, and None a closed loop; times are in seconds."""

    target: Target
    connections: int = 64
    duration_s: float = 10.0
    warm_up_s: float = 1.0
    rate: float | None = None
    pipeline: int = 1
    method: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    answer_timeout_s: float = 10.0

    @property
    def verb(self) -> str:
        return self.method or ("GET" if self.body is None else "POST")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a load found. `buckets` are latencies: at most so many microseconds, and how many answers took that."""

    figures: Figures
    body_mean: float
    reconnects: int
    errors_by_kind: dict[str, int] = field(default_factory=dict[str, int])
    first_error: str | None = None
    buckets: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])


def run(load: HttpLoad, progress: Progress | None = None) -> Found:
    """Make the load in this thread, with the interpreter free. Raises `BenchError` and `ConfigError`."""
    before = _cpu_s()
    try:
        report = _core.run_http_load(
            load.target.address,
            load.target.port,
            targets=[(load.target.path, 1, 0)],
            connections=load.connections,
            pipeline=load.pipeline,
            rate=load.rate,
            duration_s=load.duration_s,
            warm_up_s=load.warm_up_s,
            answer_timeout_s=load.answer_timeout_s,
            method=load.method,
            host_header=load.target.host,
            headers=list(load.headers),
            body=load.body,
            statuses=(200, 399),
            progress=progress,
        )
    except ConnectionError as error:
        raise BenchError(str(error)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return _found(report, _cpu_s() - before)


def _found(report: _core.LoadReport, cpu_s: float) -> Found:
    [target] = report["targets"]
    latency = report["latency_us"]
    figures = Figures(
        tool="penstock",
        answers=report["answers_in_time"],
        rate=report["rate"],
        cpu_us=cpu_s * 1e6 / report["answers"] if report["answers"] else None,
        latency_us={"mean": latency["mean"], **{name: latency[name] for name in PERCENTILES}, "max": latency["max"]},
        errors=report["errors"],
    )
    return Found(
        figures=figures,
        body_mean=target["body_bytes"] / target["answers"] if target["answers"] else 0.0,
        reconnects=report["reconnects"],
        errors_by_kind={kind: count for kind, count in target["errors"].items() if count},
        first_error=target["first_error"],
        buckets=report["histogram_us"],
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
