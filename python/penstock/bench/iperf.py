"""What iperf3 carries on the path that an echo's load takes: a yardstick for the path, whatever the server does.

iperf3 speaks only with itself. On this machine a server of its own is started for it, beside the one under load;
elsewhere one has to be there already. It sends both ways at once, as an echo's bytes go, without waiting for anything
to come back.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .echo import TcpLoad, UdpLoad
from .outcome import BenchError, Found
from .tool import LeftOut, Ran, find, run

NAME = "iperf3"
PORT = 5201
MOST_STREAMS = 128
MOST_BLOCK_BYTES = 1 << 20
LEAST_DATAGRAM_BYTES = 16
CONNECT_TIMEOUT_S = 5.0
START_TIMEOUT_S = 10.0
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Bytes a second that went each way, and the client's CPU time for a MiB that was sent and another that came."""

    tool: str
    each_way: float
    cpu_us_per_mib: float | None
    how: str


def ours(found: Found) -> Carried:
    figures = found.figures
    cost = figures.cpu_us * MIB / found.body_mean if figures.cpu_us is not None and found.body_mean else None
    return Carried(
        tool=figures.tool, each_way=found.body_mean * figures.rate, cpu_us_per_mib=cost, how="each byte comes back"
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What iperf3 is asked for, and how that is less than the load, where it is."""

    arguments: tuple[str, ...]
    how: str


def plan_for(load: TcpLoad | UdpLoad) -> Plan:
    """Raises `LeftOut` for what iperf3 cannot do at all. Pure."""
    size = load.size if isinstance(load, UdpLoad) else len(load.message)
    if isinstance(load, TcpLoad) and load.tls:
        raise LeftOut(f"{NAME} speaks no TLS")
    if isinstance(load, UdpLoad) and size < LEAST_DATAGRAM_BYTES:
        raise LeftOut(f"{NAME} sends datagrams of {LEAST_DATAGRAM_BYTES} bytes at least")
    streams, block = min(load.connections, MOST_STREAMS), min(size, MOST_BLOCK_BYTES)
    less = [f"{streams} streams, which is its most"] if streams < load.connections else [f"{streams} streams"]
    less += [f"blocks of {block:,} bytes, which is its most"] if block < size else [f"{block:,} bytes at a time"]
    bits = "0" if load.rate is None else str(max(1, round(load.rate * size * 8 / streams)))
    paced = ["--bitrate", bits] if load.rate is not None or isinstance(load, UdpLoad) else []
    arguments = (
        *("--parallel", str(streams), "--length", str(block), "--time", str(max(1, round(load.duration_s)))),
        *("--bidir", "--json", "--connect-timeout", str(round(CONNECT_TIMEOUT_S * 1000))),
        *(["--udp"] if isinstance(load, UdpLoad) else []),
        *paced,
    )
    return Plan(arguments=arguments, how=", ".join(less))


def run_iperf3(load: TcpLoad | UdpLoad) -> Carried:
    """Raises `LeftOut` if it is not here, has nobody to speak with or cannot do it, and `BenchError` if it fails."""
    plan, program = plan_for(load), find(NAME, NAME)
    address = load.endpoint.address
    if not _is_here(address):
        return _carried(plan, run(_client(program, address, PORT, plan), load), address)
    with _server(program, address) as port:
        return _carried(plan, run(_client(program, address, port, plan), load), address)


def _client(program: str, address: str, port: int, plan: Plan) -> list[str]:
    return [program, "--client", address, "--port", str(port), *plan.arguments]


def _is_here(address: str) -> bool:
    """Whether it is one of this machine's: nobody else's can be bound."""
    with _bound(address) as probe:
        return probe is not None


@contextmanager
def _bound(address: str) -> Generator[socket.socket | None]:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            yield None
        else:
            yield probe


@contextmanager
def _server(program: str, address: str) -> Generator[int]:
    """One for one test, on a free port of the address; ended whatever happens."""
    with _bound(address) as probe:
        if probe is None:
            raise BenchError(f"no port of {address} is free for {NAME}'s server")
        port: int = probe.getsockname()[1]
    command = [program, "--server", "--one-off", "--bind", address, "--port", str(port), "--forceflush"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        try:
            _wait_until_it_listens(process, said)
            yield port
        finally:
            process.kill()
            process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], said: Any) -> None:
    """A connection would be taken for the test, so its own word counts."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        said.seek(0)
        text = said.read()
        if "listening" in text:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"{NAME}'s server did not start: {text.strip() or 'it said nothing'}")
        time.sleep(0.005)


def _carried(plan: Plan, ran: Ran, address: str) -> Carried:
    told = _told(ran)
    error = str(told.get("error", ""))
    if "unable to connect" in error:
        raise LeftOut(f"{NAME}: nobody listens at {address} port {PORT}: start `iperf3 --server` there")
    if ran.status or error:
        raise BenchError(f"{NAME} ended with {ran.status}: {error or 'it said nothing'}")
    sent, came = (_bytes(told, name) for name in ("sum_received", "sum_received_bidir_reverse"))
    each_way, seconds = (sent[0] + came[0]) / 2, max(sent[1], came[1])
    return Carried(
        tool=NAME,
        each_way=each_way / seconds,
        cpu_us_per_mib=ran.cpu_s * 1e6 * MIB / each_way if each_way else None,
        how=plan.how,
    )


def _told(ran: Ran) -> Mapping[str, Any]:
    try:
        return json.loads(ran.output)
    except ValueError:
        raise BenchError(f"expected JSON in {NAME}'s output, got ...{ran.output[-300:]!r}") from None


def _bytes(told: Mapping[str, Any], name: str) -> tuple[float, float]:
    """How many arrived, and in how many seconds."""
    try:
        found = told["end"][name]
        return float(found["bytes"]), float(found["seconds"])
    except (KeyError, TypeError) as error:
        raise BenchError(f"expected end.{name} in {NAME}'s output, got ...{json.dumps(told)[-300:]}") from error
