"""The load, as the benchmarks speak of it: Penstock's own generator, run in this process and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from measure import BenchError
from penstock._core import run_http_load, run_tcp_load, run_udp_load

CONNECTIONS = 64


@dataclass(frozen=True)
class Target:
    path: str = "/"
    weight: int = 1
    body_bytes: int = 0


@dataclass(frozen=True)
class TargetLoad:
    """What one target answered; latencies in microseconds."""

    answers: int
    fewest_on_one: int
    most_on_one: int
    latency_us: dict[str, float]


@dataclass(frozen=True)
class Load:
    """What a run found. Every request of it was answered whole, with status 200."""

    answers: int
    rate: float
    latency_us: dict[str, float]
    targets: list[TargetLoad]


def http_load(
    port: int,
    targets: list[Target],
    *,
    seconds: float,
    rate: float | None = None,
    connections: int = CONNECTIONS,
    sleeps: bool = False,
) -> Load:
    """Load the server on this port. Raises BenchError unless every request was answered with what was expected.

    A load that `sleeps` between requests leaves its processor to others.
    """
    try:
        found: Mapping[str, Any] = run_http_load(
            "127.0.0.1",
            port,
            targets=[(target.path, target.weight, target.body_bytes) for target in targets],
            connections=connections,
            rate=rate,
            duration_s=seconds,
            sleeps=sleeps,
        )
    except ConnectionError as error:
        raise BenchError(str(error)) from error
    check_errors(found)
    for target, answered in zip(targets, found["targets"], strict=True):
        check_echo(target, answered)
    if not found["answers"]:
        raise BenchError(f"no answer at all within {seconds:g} s")
    latency_us = cast("dict[str, float]", found["latency_us"])
    return Load(found["answers"], found["rate"], latency_us, [target_load(t) for t in found["targets"]])


def target_load(found: Mapping[str, Any]) -> TargetLoad:
    return TargetLoad(found["answers"], found["fewest_on_one"], found["most_on_one"], found["latency_us"])


def check_errors(found: Mapping[str, Any]) -> None:
    if not found["errors"]:
        return
    kinds = {kind: count for target in found["targets"] for kind, count in target["errors"].items() if count}
    first = next(target["first_error"] for target in found["targets"] if target["first_error"])
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    raise BenchError(f"{found['errors']} requests failed ({counts}) beside {found['answers']} answers: {first}")


def check_echo(target: Target, found: Mapping[str, Any]) -> None:
    """What was posted comes back, all of it."""
    expected = target.body_bytes * found["answers"]
    if target.body_bytes and found["body_bytes"] != expected:
        raise BenchError(f"expected {expected} bytes echoed in {found['answers']} answers, got {found['body_bytes']}")


def stream_echo(port: int, message: bytes, seconds: float) -> Load:
    """The message on each connection, which must come back byte for byte, and then again."""
    try:
        found: Mapping[str, Any] = run_tcp_load(
            "127.0.0.1",
            port,
            message=message,
            connections=CONNECTIONS,
            duration_s=seconds,
        )
    except ConnectionError as error:
        raise BenchError(str(error)) from error
    check_errors(found)
    if not found["answers"]:
        raise BenchError(f"no echo at all within {seconds:g} s")
    latency_us = cast("dict[str, float]", found["latency_us"])
    return Load(found["answers"], found["rate"], latency_us, [target_load(each) for each in found["targets"]])


@dataclass(frozen=True)
class UdpLoad:
    """What a run found: echoes, and datagrams without one."""

    answers: int
    rate: float
    lost: int
    latency_us: dict[str, float]


def udp_load(port: int, *, flows: int, window: int, datagram_bytes: int, in_runs: bool, seconds: float) -> UdpLoad:
    """Load the echo server on this port. Raises BenchError if what comes back is not what was sent."""
    try:
        found: Mapping[str, Any] = run_udp_load(
            "127.0.0.1",
            port,
            connections=flows,
            pipeline=window,
            size=datagram_bytes,
            gso=in_runs,
            duration_s=seconds,
        )
    except ConnectionError as error:
        raise BenchError(str(error)) from error
    lost = found["targets"][0]["errors"]["timed_out"]
    if found["errors"] > lost:
        check_errors(found)
    if not found["answers"]:
        raise BenchError(f"no echo at all within {seconds:g} s")
    latency_us = cast("dict[str, float]", found["latency_us"])
    return UdpLoad(found["answers"], found["rate"], lost, latency_us)
