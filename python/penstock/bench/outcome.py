"""What every load has: somebody to tell how far it is, what it found, and the ways in which it cannot be made."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigError, PenstockError
from .figures import PERCENTILES, Figures

if TYPE_CHECKING:
    from .._core import LoadReport

CONNECT_TIMEOUT_S = 5.0

# Seconds since the start, good answers so far, errors so far.
Progress = Callable[[float, int, int], object]


class BenchError(PenstockError):
    """The load could not be made: there is no server, or it went away."""


class Load(Protocol):
    """A load, as a report speaks of it. `rate` is requests a second in all, and None a closed loop."""

    @property
    def title(self) -> str: ...

    @property
    def told(self) -> Mapping[str, object]:
        """For programs: what the title says, in parts."""
        ...

    @property
    def connections(self) -> int: ...

    @property
    def pipeline(self) -> int: ...

    @property
    def rate(self) -> float | None: ...

    @property
    def duration_s(self) -> float: ...

    @property
    def warm_up_s(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Tls:
    """What the first session agreed on, and how many there were: one for each time that a connection was opened."""

    version: str
    cipher_suite: str
    sessions: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a load found. `buckets` are latencies: at most so many microseconds, and how many answers took that."""

    figures: Figures
    body_mean: float
    reconnects: int
    errors_by_kind: dict[str, int] = field(default_factory=dict[str, int])
    first_error: str | None = None
    buckets: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    tls: Tls | None = None


def measured(make: Callable[[], LoadReport]) -> Found:
    """Make a load, and tell what it found. Raises `BenchError` and `ConfigError`."""
    before = _cpu_s()
    try:
        report = make()
    except ConnectionError as error:
        raise BenchError(str(error)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return _found(report, _cpu_s() - before)


def _found(report: LoadReport, cpu_s: float) -> Found:
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
        tls=_tls(report),
    )


def _tls(report: LoadReport) -> Tls | None:
    if report["tls"] is None:
        return None
    version, cipher_suite, sessions = report["tls"]
    return Tls(version=version, cipher_suite=cipher_suite, sessions=sessions)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def addresses_of(host: str, port: int, kind: socket.SocketKind) -> list[str]:
    """All that a name stands for. Raises `BenchError` if it is nothing."""
    try:
        found = socket.getaddrinfo(host, port, type=kind)
    except OSError as error:
        raise BenchError(f"{host} has no address: {error.strerror or error}") from error
    return [str(address[0]) for _, _, _, _, address in found]


def reachable(host: str, port: int) -> str:
    """The first of a name's addresses that takes a connection: localhost may be ::1, where the server is not."""
    refused: list[str] = []
    for address in addresses_of(host, port, socket.SOCK_STREAM):
        try:
            socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            refused.append(f"{address} port {port}: {error.strerror or error}")
            continue
        return address
    raise BenchError(f"expected a server at {host}, got none ({'; '.join(refused)}): is it running?")
