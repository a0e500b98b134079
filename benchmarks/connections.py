"""Hold 10,000, 100,000 and 1,000,000 connections and write docs/performance-connections.md: `make bench-connections`.

    .venv/bin/python benchmarks/connections.py take --target 1000000    # one run, kept in out/connections
    .venv/bin/python benchmarks/connections.py report                   # of all that are kept

A run takes the whole machine, so each is kept by itself, with where it comes from. What the machine cannot hold is left
out, and it is said so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt

from plots import PEER_COLOUR, PENSTOCK_COLOUR, STYLE
from provenance import ROOT, Provenance
from report import table

KEPT = ROOT / "benchmarks" / "out" / "connections"
PAGE = ROOT / "docs" / "performance-connections.md"
PLOTS = ROOT / "docs" / "performance-connections"

TARGETS = (10_000, 100_000, 1_000_000)
PROTOCOLS = ("tcp", "http")
NAMES = {"tcp": "framed TCP to a Python handler", "http": "HTTP keep-alive behind an ASGI application"}
BAR_OF_USER_BYTES = {"tcp": 200, "http": 300}
BAR_TO_OPEN_S = 120.0
BAR_OF_HEARTBEATS = 0.6
MILLION = 1_000_000

# Of a long hold, other work may share the machine later on.
FIRST_S = 60.0
# When to look where the time goes, and for how long.
PROFILE_AFTER_S = 12.0
PROFILE_S = 6.0

Run = dict[str, Any]
Profile = dict[str, Any]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="connections.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    take = commands.add_parser("take", help="make one run, and keep what it found")
    take.add_argument("--target", type=int, default=10_000)
    take.add_argument("--protocol", choices=PROTOCOLS, default="tcp")
    take.add_argument("--hold", type=float, default=60.0)
    take.add_argument("--heartbeat", type=float, default=30.0)
    take.add_argument("--note", default="", help="what readers must know of this run")
    take.add_argument("--profile", action="store_true", help="where the time of the heartbeats goes, by perf")
    commands.add_parser("all", help="take every run that this machine can hold, and report")
    commands.add_parser("report", help="write the page of the runs that are kept")
    given = parser.parse_args(argv)
    if given.command == "take":
        return keep(given.target, given.protocol, given.hold, given.heartbeat, given.note, profiled=given.profile)
    if given.command == "all":
        for protocol in PROTOCOLS:
            for target in TARGETS:
                keep(target, protocol, 60.0, 30.0)
            keep(MILLION, protocol, 300.0, 30.0)
    write_report(kept_runs())
    return 0


def keep(
    target: int, protocol: str, hold_s: float, heartbeat_s: float, note: str = "", *, profiled: bool = False
) -> int:
    command = ["bench", "connections", "--target", str(target), "--protocol", protocol, "--hold", f"{hold_s:g}"]
    command += ["--heartbeat", f"{heartbeat_s:g}", "--json"]
    if protocol == "tcp":
        command.append("--broadcast")
    origin = dataclasses.asdict(Provenance.gather({}))  # Before: a long run outlasts the commit that it is of.
    origin["command"] = " ".join(["penstock", *command])
    told, status, profile = run(command, profiled)
    if not told:
        print(f"{protocol} {target}: left out, see above", file=sys.stderr)
        return status
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{protocol}-{target}-{hold_s:g}s.json"
    kept = {"provenance": origin, "found": json.loads(told), "profile": profile, "note": note}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"kept {path.relative_to(ROOT)}")
    return status


def run(command: list[str], profiled: bool) -> tuple[str, int, Profile | None]:
    """What it printed, its status, and where the time went while the connections were held."""
    profile: Profile | None = None
    with tempfile.TemporaryFile("w+") as output:
        started = [sys.executable, "-m", "penstock", *command, "--progress"]
        with subprocess.Popen(started, stdout=output, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                print(line, end="", file=sys.stderr)
                if profiled and line.startswith("hold"):
                    time.sleep(PROFILE_AFTER_S)
                    profile = take_profile()
        output.seek(0)
        return output.read(), process.returncode, profile


def take_profile() -> Profile | None:
    """Of the whole machine, for a few seconds: kernel and user space, and the functions that take most."""
    if shutil.which("perf") is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        recorded = f"{directory}/perf.data"
        sleep = ["sleep", f"{PROFILE_S:g}"]
        perf = ["perf", "record", "--quiet", "--all-cpus", "--freq", "199", "--output", recorded, "--", *sleep]
        if subprocess.run(perf, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            return None
        told = ["perf", "report", "--input", recorded, "--stdio", "--no-children", "--sort"]
        told += ["comm,dso,symbol", "--field-separator", ";"]
        rows = subprocess.run(told, capture_output=True, text=True).stdout.splitlines()
    found = [row.split(";") for row in rows if row.count(";") >= 3 and not row.startswith("#")]
    mine = [row for row in found if row[1].strip().startswith(("penstock", "python", "ksoftirqd"))]
    functions: defaultdict[str, float] = defaultdict(float)
    kernel = user = 0.0
    for share, _, dso, symbol, *_ in mine:
        percent = float(share.strip().rstrip("%"))
        kind, _, name = symbol.strip().partition(" ")
        kernel, user = (kernel + percent, user) if kind == "[k]" else (kernel, user + percent)
        functions[f"{name.strip()} ({'kernel' if kind == '[k]' else dso.strip()})"] += percent
    total = kernel + user
    if not total:
        return None
    return {
        "kernel": kernel / total,
        "user": user / total,
        "functions": [
            (name, percent / total) for name, percent in sorted(functions.items(), key=lambda each: -each[1])[:14]
        ],
    }


def kept_runs() -> list[Run]:
    runs = [json.loads(path.read_text()) for path in sorted(KEPT.glob("*.json"))]
    return sorted(runs, key=lambda run: (PROTOCOLS.index(protocol_of(run)), target_of(run), held_s(run)))


def target_of(run: Run) -> int:
    return run["found"]["load"]["target"]


def held_s(run: Run) -> float:
    return run["found"]["load"]["hold_s"]


def protocol_of(run: Run) -> str:
    return run["found"]["load"]["protocol"]


def phase(run: Run, name: str) -> Run | None:
    return next((each for each in run["found"]["phases"] if each["name"] == name), None)


def memory(run: Run, when: str) -> dict[str, float]:
    return run["found"]["memory"].get(when, {})


def write_report(runs: list[Run]) -> None:
    if not runs:
        sys.exit(f"expected runs in {KEPT.relative_to(ROOT)}, got none: take some first")
    PLOTS.mkdir(parents=True, exist_ok=True)
    draw_opening(runs, PLOTS / "opening.svg")
    draw_memory(runs, PLOTS / "memory.svg")
    draw_heartbeats(runs, PLOTS / "heartbeats.svg")
    PAGE.write_text("\n".join(lines(runs)).rstrip() + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def lines(runs: list[Run]) -> Iterator[str]:
    yield HEAD
    yield table(("promised of a million", "bar", "found", "verdict"), verdicts(runs))
    for protocol in PROTOCOLS:
        of_it = [run for run in runs if protocol_of(run) == protocol]
        if of_it:
            yield f"## {NAMES[protocol][0].upper()}{NAMES[protocol][1:]}\n"
            yield table(("connections", *FIGURES), ([many(target_of(run)), *figures(run)] for run in of_it), range(11))
            yield MEANING[protocol]
    if noted := [f"- {name_of(run)}: {run['note']}" for run in runs if run.get("note")]:
        yield "## What to know of these runs\n"
        yield "\n".join(noted) + "\n"
    yield "## In pictures\n"
    yield "![Connections opened over time](performance-connections/opening.svg)\n"
    yield "![Bytes for each connection](performance-connections/memory.svg)\n"
    yield "![Processor time of heartbeats](performance-connections/heartbeats.svg)\n"
    yield from profile_lines(runs)
    yield METHOD
    yield "## Where it comes from\n"
    yield table(("run", "date", "machine", "versions", "command"), map(origin, runs))


HEAD = """\
# A million connections

<!-- Made by `make bench-connections` from its runs: take them again to change it. -->

Both ends on one machine, a Python handler at the server's: 10,000, 100,000 and 1,000,000 connections opened, asked,
held under heartbeats, told something all at once, and asked again. Every connection is counted in every phase;
[`penstock bench connections`](bench.md#very-many-connections) does it on any Linux.
"""

FIGURES = (
    "opened in",
    "a second",
    "server, bytes each",
    "client, bytes each",
    "kernel objects, bytes each (both ends)",
    "all answered in",
    "held for",
    "heartbeats a second, processors",
    "told in",
    "lost",
)

MEANING = {
    "tcp": """\
Heartbeats are answered by the reactor, without the interpreter; "all answered" is a frame to each through the Python
handler, and back. "Told" is one frame to everybody, sent as a group.
""",
    "http": """\
Here every heartbeat is a request to the application, through the interpreter: HTTP/1.1 has nothing less.
""",
}

METHOD = """\
## How it is measured

- Processes come in pairs, a server and a client that holds all of its connections, as many pairs as the limit of
  descriptors asks for (20,000 a process here). The server is a `penstock.TCPServer` with `on_message`, `on_connect` and
  a group, or the worker that `penstock serve` runs; nothing in either knows that it is measured. The client is Rust.
- Clients connect from as many addresses of 127.64.0.0/10 as keep each below half of its ports.
- A pair shares a processor, and all processes run under SCHED_BATCH, so that neither end interrupts the other at each
  message. Across a network the two ends would not share one.
- Opening counts from the first `connect` until a server has accepted the last; as many pairs are opened at a time as
  there are processors. Each connection then has to answer.
- User bytes are the growth of resident memory (`Rss` of `smaps_rollup`, all processes of that end) since all had
  started and nothing was open, once all have been asked. The kernel's are the growth of its objects (`Slab` of
  `/proc/meminfo`), of both ends, as the machine has both; a few thousand find room that others have left.
- Processors are CPU time of all processes of both ends, by the time that passed. On loopback the kernel does the work
  of both ends' network in that time as well.
"""


def profile_lines(runs: list[Run]) -> Iterator[str]:
    profiled = [run for run in runs if run.get("profile") and target_of(run) == MILLION]
    for run in profiled[:1]:
        profile = run["profile"]
        yield "## Where the time of heartbeats goes\n"
        yield (
            f"A million, {NAMES[protocol_of(run)]}: {profile['kernel']:.0%} of both ends' time is the kernel's, "
            f"{profile['user']:.0%} is spent in Penstock and Python (perf, {PROFILE_S:g} s of the hold; the processes "
            "of both ends, and the kernel's threads that receive for them).\n"
        )
        rows = ((name, f"{share:.1%}") for name, share in profile["functions"])
        yield table(("function", "share"), rows, right=(1,))


def verdicts(runs: list[Run]) -> Iterator[tuple[str, ...]]:
    for protocol in PROTOCOLS:
        millions = [run for run in runs if protocol_of(run) == protocol and target_of(run) == MILLION]
        if not millions:
            yield NAMES[protocol], "-", "not taken", "**open**"
            continue
        run, longest = millions[0], millions[-1]
        opened, bytes_each = phase(run, "open"), memory(run, "asked").get("server", 0.0)
        assert opened is not None
        if protocol == "tcp":
            yield row(f"{NAMES[protocol]}: opened in", BAR_TO_OPEN_S, opened["elapsed_s"], "s", 0)
        yield row(f"{NAMES[protocol]}: user bytes at the server", BAR_OF_USER_BYTES[protocol], bytes_each, "B", 0)
        lost = sum(target_of(each) - each["found"]["open_at_the_end"] for each in millions)
        held = phase(run, "hold")
        yield row(f"{NAMES[protocol]}: lost, held for {held_s(longest):.0f} s", 0, lost, "", 0)
        if protocol == "tcp" and held:
            yield row("heartbeats at 30 s, processors, both ends", BAR_OF_HEARTBEATS, held["cores"], "", 2)
            if first := [(at_s, used_s) for at_s, used_s in held.get("cpu_course", ()) if at_s <= FIRST_S + 1]:
                used = first[-1][1] / first[-1][0]
                yield row(f"the same, in the first {first[-1][0]:.0f} s", BAR_OF_HEARTBEATS, used, "", 2)


def row(promise: str, bar: float, found: float, unit: str, decimals: int) -> tuple[str, ...]:
    shown, most = f"{found:,.{decimals}f} {unit}".strip(), f"<= {bar:g} {unit}".strip()
    return promise, most, shown, "met" if found <= bar else "**missed**"


def many(number: float) -> str:
    return f"{number:,.0f}"


def figures(run: Run) -> Iterator[str]:
    opened, check, held, told = (phase(run, name) for name in ("open", "check", "hold", "broadcast"))
    assert opened is not None
    yield f"{opened['elapsed_s']:.1f} s"
    yield many(opened["open"] / opened["elapsed_s"])
    for end in ("server", "client", "kernel_slab"):
        yield many(memory(run, "asked").get(end, 0.0))
    yield f"{check['elapsed_s']:.1f} s" if check else "-"
    yield f"{held_s(run):.0f} s"
    yield f"{many(held['answered'] / held['elapsed_s'])}, {held['cores']:.2f}" if held else "-"
    yield f"{told['elapsed_s']:.1f} s" if told else "-"
    yield many(target_of(run) - run["found"]["open_at_the_end"])


def origin(run: Run) -> tuple[str, ...]:
    came = run["provenance"]
    versions = f"Penstock {came['penstock']}, commit {came['commit']}, {came['python']}"
    return name_of(run), came["date"], f"{came['cpu']}; {came['kernel']}", versions, f"`{came['command']}`"


def name_of(run: Run) -> str:
    return f"{protocol_of(run)} {many(target_of(run))}, {held_s(run):.0f} s"


def draw_opening(runs: list[Run], path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(TARGETS), figsize=(11, 3), layout="constrained", squeeze=False)
        for panel, target in zip(panels[0], TARGETS, strict=True):
            for run in (run for run in runs if target_of(run) == target):
                opened = phase(run, "open")
                assert opened is not None
                course = [*opened["course"], (opened["elapsed_s"], opened["open"])]
                colour = PENSTOCK_COLOUR if protocol_of(run) == "tcp" else "#d1495b"
                panel.plot(*zip(*course, strict=True), color=colour, label=protocol_of(run))
            panel.set_title(many(target))
            panel.set_xlabel("seconds")
            panel.set_ylim(bottom=0)
            panel.set_xlim(left=0)
            panel.yaxis.set_major_formatter(lambda value, _: many(value))
            panel.spines[["top", "right"]].set_visible(False)
            if panel.lines:
                panel.legend(frameon=False)
        figure.suptitle("Connections opened over time", x=0.01, ha="left", fontweight="bold")
        save(figure, path)


def draw_memory(runs: list[Run], path: Path) -> None:
    names = [name_of(run) for run in runs]
    with matplotlib.rc_context(STYLE):
        figure, (user, kernel) = plt.subplots(1, 2, figsize=(11, 0.4 * len(runs) + 1), layout="constrained")
        bars(user, names, (memory(run, "asked").get("server", 0.0) for run in runs), PENSTOCK_COLOUR)
        user.set_xlabel("user bytes a connection, server")
        bars(kernel, names, (memory(run, "asked").get("kernel_slab", 0.0) for run in runs), PEER_COLOUR)
        kernel.set_xlabel("kernel bytes a connection, both ends")
        figure.suptitle("What a connection costs", x=0.01, ha="left", fontweight="bold")
        save(figure, path)


def draw_heartbeats(runs: list[Run], path: Path) -> None:
    beaten = [(run, held) for run in runs if (held := phase(run, "hold")) and held["answered"]]
    with matplotlib.rc_context(STYLE):
        figure, panel = plt.subplots(figsize=(8, 0.4 * len(beaten) + 1), layout="constrained")
        names = [name_of(run) for run, _ in beaten]
        costs = [
            (held["server_cpu_s"] / held["answered"] * 1e6, held["client_cpu_s"] / held["answered"] * 1e6)
            for _, held in beaten
        ]
        panel.barh(names, [server for server, _ in costs], color=PENSTOCK_COLOUR, label="server")
        clients = [client for _, client in costs]
        panel.barh(names, clients, left=[server for server, _ in costs], color=PEER_COLOUR, label="client")
        panel.set_xlabel("processor time for each heartbeat, in us")
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
        figure.suptitle("What a heartbeat costs both ends", x=0.01, ha="left", fontweight="bold")
        save(figure, path)


def bars(panel: Any, names: list[str], values: Iterable[float], colour: str) -> None:
    widths = list(values)
    panel.barh(names, widths, color=colour)
    for place, width in enumerate(widths):
        panel.text(width, place, f" {many(width)}", va="center", fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
