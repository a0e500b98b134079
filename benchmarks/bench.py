"""Measure Penstock beside its peers and write a report: `make bench`, or .venv/bin/python benchmarks/bench.py --help.

One process does it all: it starts each server on one processor, loads it from another, and reads what it cost.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import plots
import report
from bars import BARS, Verdict
from measure import BenchError, Cpus, affinity, machine_busy_share, raise_descriptor_limit, running
from peers import Peers
from penstock._core import DEBUG_BUILD
from provenance import ROOT, Provenance
from report import Findings
from servers import Server, Servers
from works import METRICS, WORKS, Effort, Figures, Work

OUT = ROOT / "benchmarks" / "out"
# What client and server need besides the connections of the idle work.
SPARE_DESCRIPTORS = 500
# A machine that is busier than this before or after the run was not Penstock's alone.
QUIET_SHARE = 0.05

FULL = Effort(seconds=3.0, warm_up_s=1.0, idle_connections=15_000, settle_s=1.5)
FULL_ROUNDS = 5
QUICK = Effort(seconds=0.5, warm_up_s=0.2, idle_connections=1_500, settle_s=0.2)
QUICK_SERVERS = ("penstock", "nginx", "uvicorn")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__)
    parser.add_argument("--work", type=names_of(WORKS), default=list(WORKS), help=f"of {','.join(WORKS)}; default: all")
    parser.add_argument("--only", type=names_of(known_servers()), help="servers to measure; default: all installed")
    parser.add_argument("--rounds", type=number(int, 1), help=f"of every server; default: {FULL_ROUNDS}")
    parser.add_argument("--seconds", type=number(float, 0.1), help=f"of a measurement; default: {FULL.seconds:g}")
    parser.add_argument("--quick", action="store_true", help="does it all run? Under a minute; judge nothing by it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round there")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md and README.md's figures")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="an environment with the peers; default: .venv-peers")
    options = parser.parse_args(argv)
    if options.publish and (options.quick or options.only or options.work != list(WORKS)):
        parser.error("--publish writes all works and servers: leave out --quick, --only and --work")
    return options


def known_servers() -> set[str]:
    return {name for work in WORKS.values() for name in work.servers}


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """A comma-separated option."""

    def parse_names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
        return found

    return parse_names


Number = TypeVar("Number", int, float)


def number(kind: type[Number], least: Number) -> Callable[[str], Number]:
    def parse_number(text: str) -> Number:
        value = kind(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is too little; expected at least {least}")
        return value

    return parse_number


class Bench:
    """One run: goes through the works and gathers what it finds."""

    def __init__(self, findings: Findings, servers: Servers, cpus: Cpus, only: Collection[str] | None) -> None:
        self.findings = findings
        self.servers = servers
        self.cpus = cpus
        self.only = only

    def run(self, progress: Progress, scratch: Path) -> None:
        plan = [(work, self._installed(work)) for work in map(WORKS.__getitem__, self.findings.works)]
        total = sum(self._rounds(work) * len(servers) for work, servers in plan)
        bar = progress.add_task("", total=total)
        for work, servers in plan:
            for number in range(self._rounds(work)):
                for server in random.sample(servers, len(servers)):
                    progress.update(bar, description=f"{work.name}: {server.name}", refresh=True)
                    self._measure(work, server, number, scratch / work.name / server.name, progress.console)
                    progress.update(bar, advance=1, refresh=True)

    def _rounds(self, work: Work) -> int:
        return 1 if work.once else self.findings.rounds

    def _installed(self, work: Work) -> list[Server]:
        wanted = [name for name in work.servers if self.only is None or name in self.only]
        servers = [self.servers.get(name, work.app) for name in wanted]
        self.findings.skipped.update({server.name: server.missing for server in servers if server.missing})
        return [server for server in servers if not server.missing]

    def _measure(self, work: Work, server: Server, number: int, directory: Path, console: Console) -> None:
        """One server, one round, every case of the work. One that failed is not tried again."""
        key = f"{work.name}: {server.name}"
        if key in self.findings.failures:
            return
        try:
            with running(server, directory, self.cpus.server if work.pinned else None) as process:
                for case in work.cases:
                    figures = work.measure(process, case, self.findings.effort)
                    self.findings.add(case.name, server.name, number, figures)
                    tell(console, f"{case.name:14s} {server.name:14s} {summary(figures)}")
        except (BenchError, OSError) as error:
            self.findings.failures[key] = str(error) or type(error).__name__
            tell(console, f"{key} failed: {self.findings.failures[key]}", style="red")


def tell(console: Console, text: str, style: str | None = None) -> None:
    """One line, however wide."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def summary(figures: Figures) -> str:
    return "   ".join(f"{METRICS[name].label}: {value:,.{METRICS[name].decimals}f}" for name, value in figures.items())


def plan_effort(options: argparse.Namespace, descriptors: int, notes: list[str]) -> Effort:
    """What each measurement gets: as asked, and as many idle connections as the descriptor limit allows."""
    effort = QUICK if options.quick else FULL
    effort = replace(effort, seconds=options.seconds or effort.seconds)
    allowed = descriptors - SPARE_DESCRIPTORS
    if allowed >= effort.idle_connections:
        return effort
    notes.append(
        f"The idle work held {allowed:,} connections, not {effort.idle_connections:,}: "
        f"the limit of open files is {descriptors:,} (ulimit -Hn)."
    )
    return replace(effort, idle_connections=allowed)


def prepare(options: argparse.Namespace, peers: Peers, cpus: Cpus) -> Findings:
    notes: list[str] = []
    effort = plan_effort(options, raise_descriptor_limit(), notes)
    if options.quick:
        notes.append("This was a quick run: it shows that everything runs, and judges nothing.")
    if cpus.server == cpus.load:
        notes.append("Servers and load shared the only processor: latencies are the load's too.")
    return Findings(
        provenance=Provenance.gather(Servers(peers).versions()),
        effort=effort,
        rounds=options.rounds or (1 if options.quick else FULL_ROUNDS),
        placement=f"servers on processor {cpus.server}, load on processor {cpus.load}",
        works=options.work,
        notes=notes,
    )


def write(findings: Findings, options: argparse.Namespace) -> Path:
    """The report and its plots, into docs/ or out/."""
    path = ROOT / "docs" / "benchmarks.md" if options.publish else OUT / "report.md"
    pictures = path.parent / "benchmarks" if options.publish else OUT
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw_all(findings, pictures)
    relative = {name: plot.relative_to(path.parent).as_posix() for name, plot in drawn.items()}
    path.write_text(report.markdown(findings, relative))
    if options.publish:
        readme = ROOT / "README.md"
        readme.write_text(report.with_figures(readme.read_text(), report.readme_figures(findings)))
    if options.json:
        options.json.write_text(findings.to_json())
    return path


def print_verdicts(findings: Findings, console: Console) -> None:
    styles = {Verdict.PASS: "green", Verdict.MISS: "bold red", Verdict.UNDECIDED: "yellow"}
    for bar in BARS:
        case, promise, limit, _, found, verdict = report.verdict_row(bar, findings.results)
        style = styles.get(bar.judge(bar.values(findings.results)))
        tell(console, f"{verdict.strip('*'):13s}{case:14s}{promise}: {found} ({limit})", style=style)


def main(argv: list[str]) -> int:
    options = parse(argv)
    console = Console()
    if DEBUG_BUILD:
        console.print("bench: expected a release build of Penstock, found a debug build: run make build", style="red")
        return 2
    peers = Peers(options.peers or ROOT / ".venv-peers")
    if options.peers is None:
        peers.ensure(console.print)
    cpus = Cpus.choose()
    findings = prepare(options, peers, cpus)
    only = options.only or (QUICK_SERVERS if options.quick else None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No thread of its own to draw with: it would share the load's processor.
    progress = Progress(*columns, TimeRemainingColumn(), console=console, auto_refresh=False)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch, affinity(cpus.load), progress:
        others = machine_busy_share()
        Bench(findings, Servers(peers), cpus, only).run(progress, Path(scratch))
        others = max(others, machine_busy_share())
    if others > QUIET_SHARE:
        findings.notes.append(f"Other programs used {others:.0%} of the processors: take these on a quiet machine.")
    path = write(findings, options)
    print_verdicts(findings, console)
    console.print(f"Report: {path.relative_to(ROOT)}")
    return 1 if any(key.endswith(": penstock") for key in findings.failures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
