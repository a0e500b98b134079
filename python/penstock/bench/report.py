"""What was found, for people and for programs. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from .figures import PERCENTILES, Figures
from .iperf import Carried, ours
from .outcome import Found, Load

WIDEST_BAR = 50
_LATENCIES = ("mean", *PERCENTILES, "max")


def text(load: Load, found: Found, beside: Sequence[Figures | Carried] = (), left_out: Sequence[str] = ()) -> str:
    """The load, its outcome, latencies and their histogram, and what the other tools found."""
    lines = [*_outcome(load, found), "", *_latencies(load, found), "", *_histogram(found.buckets)]
    if beside or left_out:
        figures = [each for each in beside if isinstance(each, Figures)]
        carried = [each for each in beside if isinstance(each, Carried)]
        lines += ["", *(_carried([ours(found), *carried]) if carried else _beside([found.figures, *figures]))]
        lines += [f"left out: {reason}" for reason in left_out]
    return "\n".join(lines)


def _outcome(load: Load, found: Found) -> Iterator[str]:
    figures = found.figures
    pace = "closed loop" if load.rate is None else f"open loop, {load.rate:,g} requests a second"
    pipelined = f", {load.pipeline} requests at a time" if load.pipeline > 1 else ""
    yield load.title
    times = f"{load.duration_s:g} s after {load.warm_up_s:g} s of warm-up"
    yield f"{load.connections:,} connections{pipelined}, {pace}, {times}"
    yield ""
    yield f"Answers    {figures.answers:,}, {figures.rate:,.0f} a second"
    yield f"Bodies     {_bytes(found.body_mean)} each, {_bytes(found.body_mean * figures.rate)} a second"
    if found.tls is not None:
        yield f"TLS        {found.tls.version}, {found.tls.cipher_suite}, {found.tls.sessions:,} sessions"
    yield from _errors(found)
    yield from _client(load, figures)


def _client(load: Load, figures: Figures) -> Iterator[str]:
    """A client that is full measures itself. In an open loop it polls, so its CPU says nothing of the work."""
    if figures.cpu_us is None:
        return
    share = figures.cpu_us * figures.rate / 1e4
    if load.rate is not None:
        yield f"Client     {share:.0f}% of one CPU: it polls, so as to ask and to look on time"
        return
    limit = ": the client may be the limit" if share > 95 else ""
    yield f"Client     {figures.cpu_us:.2f} us of CPU for each answer, {share:.0f}% of one CPU{limit}"


def _errors(found: Found) -> Iterator[str]:
    if not found.figures.errors:
        yield "Errors     none"
        return
    kinds = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in found.errors_by_kind.items())
    yield f"Errors     {kinds}; the first: {found.first_error}"
    if found.reconnects:
        yield f"           {found.reconnects:,} connections opened again"


def _latencies(load: Load, found: Found) -> Iterator[str]:
    since = "its request was sent; --rate tells what users meet" if load.rate is None else "its request was due"
    yield f"Latency    until an answer's last byte, since {since}"
    told = [(name, found.figures.latency_us[name]) for name in _LATENCIES if name in found.figures.latency_us]
    yield "           " + "  ".join(f"{_percent(name):>8}" for name, _ in told)
    yield "           " + "  ".join(f"{_time(value):>8}" for _, value in told)


def _percent(name: str) -> str:
    return name.replace("_", ".")


def _time(microseconds: float) -> str:
    """Three digits and a unit: `83.2 us`, `1.50 ms`."""
    for unit in ("us", "ms"):
        if microseconds < 999.5:
            return f"{_three_digits(microseconds)} {unit}"
        microseconds /= 1000
    return f"{_three_digits(microseconds)} s"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def _histogram(buckets: Iterable[tuple[float, int]]) -> Iterator[str]:
    """A bar for each bucket, on a scale of the fullest; something that is not nothing shows as something."""
    rows = [(limit, count) for limit, count in buckets if count]
    most = max((count for _, count in rows), default=0)
    total = sum(count for _, count in rows)
    for at, (limit, count) in enumerate(rows):
        bar = "#" * max(1, round(WIDEST_BAR * count / most))
        title = "Histogram" if at == 0 else ""
        yield f"{title:<10} <= {_time(limit):>8}  {count:>12,}  {count / total:>7.2%}  {bar}"


def _beside(found: Sequence[Figures]) -> Iterator[str]:
    """A row for each tool; a dash where it does not tell."""
    names = ("mean", "p50", "p90", "p99", "max")
    yield (
        f"           {'answers/s':>10}  {'of ours':>7}  {'CPU each':>9}  " + "  ".join(f"{name:>8}" for name in names)
    )
    ours = found[0].rate
    for each in found:
        share = f"{each.rate / ours:.0%}" if ours else "-"
        cpu = "-" if each.cpu_us is None else _time(each.cpu_us)
        latencies = (_time(each.latency_us[name]) if name in each.latency_us else "-" for name in names)
        errors = f"  {each.errors:,} errors" if each.errors else ""
        row = f"{each.rate:>10,.0f}  {share:>7}  {cpu:>9}  " + "  ".join(f"{latency:>8}" for latency in latencies)
        yield f"{each.tool:<11}{row}{errors}"


def _carried(found: Sequence[Carried]) -> Iterator[str]:
    """A row for each tool: what went each way, and what a MiB cost."""
    yield f"           {'each way/s':>10}  {'of ours':>7}  {'CPU a MiB':>9}"
    most = found[0].each_way
    for each in found:
        share = f"{each.each_way / most:.0%}" if most else "-"
        cpu = "-" if each.cpu_us_per_mib is None else _time(each.cpu_us_per_mib)
        yield f"{each.tool:<11}{_bytes(each.each_way):>10}  {share:>7}  {cpu:>9}  {each.how}"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def as_json(load: Load, found: Found, beside: Sequence[Figures | Carried] = (), left_out: Sequence[str] = ()) -> str:
    told = {
        "load": {
            **load.told,
            "connections": load.connections,
            "pipeline": load.pipeline,
            "rate": load.rate,
            "warm_up_s": load.warm_up_s,
            "duration_s": load.duration_s,
        },
        **vars(found.figures),
        "body_mean": found.body_mean,
        "reconnects": found.reconnects,
        "errors_by_kind": found.errors_by_kind,
        "first_error": found.first_error,
        "tls": None if found.tls is None else vars(found.tls),
        "histogram_us": found.buckets,
        "beside": [vars(each) for each in beside],
        "left_out": list(left_out),
    }
    return json.dumps(told, indent=2)
