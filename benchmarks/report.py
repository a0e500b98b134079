"""The report: what was promised and found, every figure beside its spread, and where it all comes from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bars import BARS, Bar, Results, Spread, Verdict, ratios
from provenance import Provenance
from works import METRICS, WORKS, Case, Effort, Figures, Work

Rounds = Mapping[int, Figures]

# What Penstock is called in a work: its HTTP server, or its streams.
OURS = ("penstock", "penstock-stream")
# The columns of the README's table, and what their server is called in one work or another.
README_PEERS = {
    "nginx": ("nginx",),
    "uvicorn": ("uvicorn",),
    "granian": ("granian", "granian-wsgi"),
    "gunicorn": ("gunicorn",),
    "uvloop": ("uvloop",),
}
README_BEGIN, README_END = "<!-- figures: written by `make bench ARGS=--publish` -->", "<!-- end of figures -->"


@dataclass
class Findings:
    """Everything that one run of the benchmarks found."""

    provenance: Provenance
    effort: Effort
    rounds: int
    placement: str
    works: list[str]
    results: dict[str, dict[str, dict[int, Figures]]] = field(default_factory=dict[str, dict[str, dict[int, Figures]]])
    # Servers that are not here, and why.
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    # By "work: server", the first thing that went wrong; such a server is not measured further in that work.
    failures: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])

    def add(self, case: str, server: str, number: int, figures: Figures) -> None:
        self.results.setdefault(case, {}).setdefault(server, {})[number] = figures

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


def markdown(findings: Findings, plots: Mapping[str, str]) -> str:
    """The whole report. `plots` are paths by work, relative to where the report will be."""
    parts = [
        "# Benchmarks\n",
        "Penstock beside its peers, on one machine in one run; `make bench` takes all of this again.\n",
        provenance_lines(findings),
        "## What was promised, and what was found\n",
        verdict_table(findings.results),
        "A figure is the median of its rounds with their range. A bar that lies inside the range is undecided.\n",
        *(work_section(WORKS[name], findings.results, plots.get(name)) for name in findings.works),
        METHOD,
        *troubles(findings),
    ]
    return "\n".join(parts).rstrip() + "\n"


def readme_figures(findings: Findings) -> str:
    """The short table: what each work costs on Penstock, and how many times that on its peers."""
    rows = [
        readme_row(work, case, findings.results[case.name])
        for work in map(WORKS.__getitem__, findings.works)
        for case in work.cases
        if (found := findings.results.get(case.name, {})) and ours(found) and readme_peers(found)
    ]
    origin = findings.provenance
    taken = (
        f"Taken on {origin.date} ({origin.cpu}, {origin.python}), commit {origin.commit}. The median of "
        f"{count(findings.rounds, 'round')}; peers as multiples of Penstock in the same round, so above 1x is dearer "
        "than Penstock. Every round's spread, latencies, what was promised and what was missed: "
        "[docs/benchmarks.md](docs/benchmarks.md)."
    )
    return table(("", "Penstock", *README_PEERS), rows, right=range(1, len(README_PEERS) + 2)) + f"\n{taken}\n"


def readme_row(work: Work, case: Case, rows: Mapping[str, Rounds]) -> tuple[str, ...]:
    own = rows[ours(rows) or ""]
    cost = cost_metric(rows)
    title = work.title if len(work.cases) == 1 else f"{case.name}: {work.title}"
    found = f"{Spread.of(column(own, cost)).median:,.{METRICS[cost].decimals}f}"
    there = readme_peers(rows)
    paired = [ratios(rows[there[peer]], own, cost) if peer in there else [] for peer in README_PEERS]
    peers = [f"{Spread.of(values).median:.2f}x" if values else "" for values in paired]
    return (f"{title}: {METRICS[cost].label}", f"**{found}**", *peers)


def readme_peers(rows: Mapping[str, Rounds]) -> dict[str, str]:
    """By column, the server of these rows that belongs there."""
    return {column: name for column, names in README_PEERS.items() for name in names if name in rows}


def with_figures(readme: str, figures: str) -> str:
    """The README with these figures in their place."""
    before, begin, rest = readme.partition(README_BEGIN)
    _, end, after = rest.partition(README_END)
    if not (begin and end):
        raise ValueError(f"README.md: expected {README_BEGIN!r} and {README_END!r} around the figures; put them back")
    return f"{before}{begin}\n\n{figures}\n{end}{after}"


METHOD = """\
## How it is measured

- Servers run in random order, every one once a round, each as one worker on one processor; the load has another.
  Figures are divided by each other only within a round.
- Cost is the CPU time of the server's whole process tree, in user and kernel mode, divided by its answers.
- A closed loop asks again as soon as it is answered, so a slow server gets fuller batches than a fast one, which
  flatters the slow. At a fixed rate all get the same, and each latency counts from when its request was due.
- The load is Penstock's own generator (`src/load/`): every answer's status and length is checked, and one failure
  fails the measurement.
- User bytes per connection are anonymous and shared pages grown from before the connections were opened
  (`Pss_Anon` and `Pss_Shmem`), without the kernel's sockets. Afterwards every connection has to answer again.
"""


def provenance_lines(findings: Findings) -> str:
    origin, effort = findings.provenance, findings.effort
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items()) or "none installed"
    taken = f"{count(findings.rounds, 'round')} of {effort.seconds:g} s after {effort.warm_up_s:g} s of warm-up"
    lines = [
        f"- Date: {origin.date}",
        f"- Machine: {origin.cpu}; {origin.kernel}",
        f"- Penstock {origin.penstock}, commit {origin.commit}, {origin.python}",
        f"- Peers: {versions}",
        f"- Command: `{origin.command}`",
        f"- Effort: {taken}; {findings.placement}",
    ]
    return "\n".join(lines) + "\n"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def verdict_table(results: Results) -> str:
    rows = [verdict_row(bar, results) for bar in BARS]
    return table(("work", "promise", "bar", "aim", "found", "verdict"), rows, right=(2, 3))


def verdict_row(bar: Bar, results: Results) -> tuple[str, ...]:
    values = bar.values(results)
    verdict = bar.judge(values)
    shown = f"**{verdict.value}**" if verdict is Verdict.MISS else verdict.value
    limit = f"<= {bar.at_most:g}" if bar.at_most is not None else f">= {bar.at_least:g}"
    found = spread_text(Spread.of(values), 2, bar.versus is not None) if values else "-"
    return bar.case, bar.promise, limit, "-" if bar.aim is None else f"{bar.aim:g}", found, shown


def spread_text(spread: Spread, decimals: int, is_ratio: bool) -> str:
    mark = "x" if is_ratio else ""
    if spread.least == spread.most:
        return f"{spread.median:,.{decimals}f}{mark}"
    return f"{spread.median:,.{decimals}f}{mark} ({spread.least:,.{decimals}f}-{spread.most:,.{decimals}f})"


def work_section(work: Work, results: Results, plot: str | None) -> str:
    parts = [f"## {work.name}: {work.title}\n"]
    parts += [case_table(work, case, results[case.name]) for case in work.cases if case.name in results]
    if plot:
        parts.append(f"![{work.title}]({plot})\n")
    return "\n".join(parts) if len(parts) > 1 else parts[0] + "\nNothing was measured.\n"


def case_table(work: Work, case: Case, rows: Mapping[str, Rounds]) -> str:
    """Servers by what they cost, cheapest first."""
    metrics = [name for name in METRICS if any(name in figures for figures in first_figures(rows))]
    cost = cost_metric(rows)
    by_cost = sorted(rows, key=lambda server: Spread.of(column(rows[server], cost)).median)
    head = (case.name, *(METRICS[name].label for name in metrics), "against penstock")
    body = [server_row(server, metrics, cost, rows) for server in by_cost]
    return table(head, body, right=range(1, len(head)))


def server_row(server: str, metrics: list[str], cost: str, rows: Mapping[str, Rounds]) -> tuple[str, ...]:
    cells = [spread_text(Spread.of(column(rows[server], name)), METRICS[name].decimals, False) for name in metrics]
    own = ours(rows)
    paired = ratios(rows[server], rows[own], cost) if own else []
    ratio = spread_text(Spread.of(paired), 2, True) if paired else "-"
    return (f"**{server}**" if server == own else server, *cells, ratio)


def ours(rows: Mapping[str, Rounds]) -> str | None:
    return next((name for name in OURS if name in rows), None)


def cost_metric(rows: Mapping[str, Rounds]) -> str:
    """What servers are compared by: the first of METRICS that is a cost and was measured."""
    return next(
        name for name, metric in METRICS.items() if metric.is_cost and any(name in f for f in first_figures(rows))
    )


def first_figures(rows: Mapping[str, Rounds]) -> Iterable[Figures]:
    return (next(iter(rounds.values())) for rounds in rows.values())


def column(rounds: Mapping[int, Figures], metric: str) -> list[float]:
    return [figures[metric] for figures in rounds.values()]


def troubles(findings: Findings) -> list[str]:
    lines = [f"- {name} was skipped: {why}" for name, why in sorted(findings.skipped.items())]
    lines += [f"- {name} failed: {why}" for name, why in sorted(findings.failures.items())]
    lines += [f"- {note}" for note in findings.notes]
    return ["## What to know besides\n", "\n".join(lines) + "\n"] if lines else []


def table(head: Iterable[str], rows: Iterable[Iterable[str]], right: Iterable[int] = ()) -> str:
    head, right = list(head), set(right)
    rule = ["---:" if index in right else "---" for index in range(len(head))]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *map(list, rows))]
    return "\n".join(lines) + "\n"
