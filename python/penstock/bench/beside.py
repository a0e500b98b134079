"""The same load by other tools, where they are installed: wrk, h2load and ab, each on one thread.

A tool is a command line and what its output says, both in one entry of `TOOLS`. What a tool cannot do is told and left
out; it is never given another load than was asked for.
"""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .figures import Figures
from .http import HttpLoad, Target
from .outcome import BenchError, addresses_of
from .tool import LeftOut, find, run


@dataclass(frozen=True, kw_only=True)
class Tool:
    """`cannot` says what of a load this tool has no way to make; `figures` reads its output."""

    name: str
    package: str
    cannot: Callable[[HttpLoad], str | None]
    arguments: Callable[[HttpLoad, Path], list[str]]
    figures: Callable[[str], Figures]


def run_beside(name: str, load: HttpLoad) -> Figures:
    """Give the load to a tool. Raises `LeftOut` if it is not here or cannot make it, `BenchError` if it fails."""
    tool = TOOLS[name]
    program = find(name, tool.package)
    if reason := tool.cannot(load):
        raise LeftOut(f"{name} {reason}")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        ran = run([program, *tool.arguments(load, Path(directory))], load)
    if ran.status:
        last = ran.output.strip().splitlines()[-1:] or ["it said nothing"]
        raise BenchError(f"{name} ended with {ran.status}: {last[0]}")
    figures = tool.figures(ran.output)
    cpu_us = ran.cpu_s * 1e6 / figures.answers if figures.answers else None
    return Figures(**{**vars(figures), "cpu_us": cpu_us})


def _headers(load: HttpLoad, flag: str) -> list[str]:
    return [word for name, value in load.headers for word in (flag, f"{name}: {value}")]


def _url(load: HttpLoad) -> str:
    """By the address that answered, so that every tool talks to the same one. A certificate is for a name: over TLS it
    is asked for by that, where a tool finds the same address by it."""
    target = load.target
    host = target.name if target.name and _finds(target.name, target) else target.address
    return f"{target.scheme}://{f'[{host}]' if ':' in host else host}:{target.port}{target.path}"


def _finds(name: str, target: Target) -> bool:
    return addresses_of(name, target.port, socket.SOCK_STREAM)[0] == target.address


def _number(pattern: str, output: str, default: float | None = None) -> float:
    """The number that `pattern` finds. Raises `BenchError` if there is none, with how the output ends."""
    if found := re.search(pattern, output, re.MULTILINE):
        return float(found[1])
    if default is not None:
        return default
    raise BenchError(f"expected {pattern!r} in the tool's output, got ...{output[-300:]!r}")


_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


def _time_us(word: str) -> float:
    """`250.3us`, `1.20ms`, `1.5s`."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", word)
    if found is None:
        raise BenchError(f"expected a time such as 1.20ms in the tool's output, got {word!r}")
    return float(found[1]) * _UNITS_US[found[2]]


# --- wrk


def _wrk_cannot(load: HttpLoad) -> str | None:
    if load.rate is not None:
        return "has no open loop"
    return None


def _wrk_arguments(load: HttpLoad, directory: Path) -> list[str]:
    script = directory / "request.lua"
    script.write_text(_wrk_script(load), encoding="utf-8")
    return [
        *("--threads", "1", "--connections", str(load.connections), "--latency"),
        *("--duration", f"{max(1, round(load.duration_s))}s", "--timeout", f"{max(1, round(load.answer_timeout_s))}s"),
        *_headers(load, "--header"),
        *("--script", str(script)),
        _url(load),
    ]


def _wrk_script(load: HttpLoad) -> str:
    """Only what the options do not say. A request made in a function for each time would be slower."""
    lines = [f'wrk.method = "{load.verb}"']
    if load.body is not None:
        # Each byte by its number, so that no body can end the string.
        lines.append('wrk.body = "' + "".join(f"\\{byte:03d}" for byte in load.body) + '"')
    if load.pipeline > 1:
        lines += [
            "init = function(args)",
            f"  local r = {{}} for i = 1, {load.pipeline} do r[i] = wrk.format() end",
            "  req = table.concat(r)",
            "end",
            "request = function() return req end",
        ]
    return "\n".join(lines) + "\n"


def _wrk_figures(output: str) -> Figures:
    percentiles = dict(re.findall(r"^\s+(50|75|90|99)%\s+(\S+)$", output, re.MULTILINE))
    mean = re.search(r"^\s+Latency\s+(\S+)\s+\S+\s+(\S+)", output, re.MULTILINE)
    bad = _number(r"Non-2xx or 3xx responses: (\d+)", output, 0)
    broken = sum(int(count) for count in re.findall(r"(?:connect|read|write|timeout) (\d+)", output))
    return Figures(
        tool="wrk",
        answers=int(_number(r"^\s+(\d+) requests in", output)) - int(bad),
        rate=_number(r"^Requests/sec:\s+([\d.]+)", output),
        latency_us={
            **({"mean": _time_us(mean[1])} if mean else {}),
            **{f"p{percent}": _time_us(word) for percent, word in percentiles.items()},
            **({"max": _time_us(mean[2])} if mean else {}),
        },
        errors=int(bad) + broken,
    )


# --- h2load


def _h2load_cannot(_: HttpLoad) -> str | None:
    return None


def _h2load_arguments(load: HttpLoad, directory: Path) -> list[str]:
    body: list[str] = []
    if load.body is not None:
        file = directory / "body"
        file.write_bytes(load.body)
        body = ["--data", str(file)]
    each = [] if load.rate is None else ["--rps", f"{load.rate / load.connections:g}"]
    return [
        *("--h1", "--threads", "1", "--clients", str(load.connections), "--max-concurrent-streams", str(load.pipeline)),
        *("--duration", str(max(1, round(load.duration_s)))),
        *each,
        *body,
        *_headers(load, "--header"),
        *([] if load.method is None else ["--header", f":method: {load.method}"]),
        _url(load),
    ]


def _h2load_figures(output: str) -> Figures:
    counts = r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored"
    found = re.search(counts, output)
    if found is None:
        raise BenchError(f"expected a line of requests in h2load's output, got ...{output[-300:]!r}")
    times = re.search(r"^time for request:\s+(\S+)\s+(\S+)\s+(\S+)", output, re.MULTILINE)
    return Figures(
        tool="h2load",
        answers=int(found[1]),
        rate=_number(r"finished in \S+, ([\d.]+) req/s", output),
        latency_us={"mean": _time_us(times[3]), "max": _time_us(times[2])} if times else {},
        errors=int(found[2]),
    )


# --- ab


def _ab_cannot(load: HttpLoad) -> str | None:
    if load.rate is not None:
        return "has no open loop"
    if load.pipeline > 1:
        return "cannot pipeline"
    if load.connections > 20_000:
        return "opens at most 20,000 connections"
    return None


def _ab_arguments(load: HttpLoad, directory: Path) -> list[str]:
    body: list[str] = []
    if load.body is not None:
        file = directory / "body"
        file.write_bytes(load.body)
        kind = next(
            (value for name, value in load.headers if name.lower() == "content-type"), "application/octet-stream"
        )
        body = ["-u" if load.verb == "PUT" else "-p", str(file), "-T", kind]
    elif load.method is not None:
        body = ["-m", load.method]
    others = [(name, value) for name, value in load.headers if name.lower() != "content-type" or load.body is None]
    return [
        # The count goes after the time, which would set it to 50,000.
        *("-q", "-k", "-r", "-t", str(max(1, round(load.duration_s))), "-n", "10000000"),
        *("-c", str(load.connections), "-s", str(max(1, round(load.answer_timeout_s)))),
        *body,
        *[word for name, value in others for word in ("-H", f"{name}: {value}")],
        _url(load),
    ]


def _ab_figures(output: str) -> Figures:
    percentiles = dict(re.findall(r"^\s+(50|75|90|99|100)%\s+(\d+)", output, re.MULTILINE))
    bad = int(_number(r"^Non-2xx responses:\s+(\d+)", output, 0)) + int(_number(r"^Failed requests:\s+(\d+)", output))
    names = {"100": "max"}
    return Figures(
        tool="ab",
        answers=int(_number(r"^Complete requests:\s+(\d+)", output)) - bad,
        rate=_number(r"^Requests per second:\s+([\d.]+)", output),
        latency_us={
            "mean": _number(r"^Time per request:\s+([\d.]+) \[ms\] \(mean\)", output) * 1e3,
            **{names.get(percent, f"p{percent}"): float(value) * 1e3 for percent, value in percentiles.items()},
        },
        errors=bad,
    )


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(name="wrk", package="wrk", cannot=_wrk_cannot, arguments=_wrk_arguments, figures=_wrk_figures),
        Tool(
            name="h2load",
            package="nghttp2-client",
            cannot=_h2load_cannot,
            arguments=_h2load_arguments,
            figures=_h2load_figures,
        ),
        Tool(name="ab", package="apache2-utils", cannot=_ab_cannot, arguments=_ab_arguments, figures=_ab_figures),
    )
}
