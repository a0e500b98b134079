"""One plot for each work: a bar for each server at the median of its rounds, with their range."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt

from bars import Results, Spread
from report import Findings, column
from works import METRICS, WORKS, Case, Work

PENSTOCK_COLOUR = "#0b6e99"
PEER_COLOUR = "#b8c4cc"
BAR_INCHES = 0.34
PANEL_INCHES = 5.6

# Text stays text, and the same figures give the same file.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "penstock",
    "font.size": 9,
    "font.family": "sans-serif",
}


def draw_all(findings: Findings, directory: Path) -> dict[str, Path]:
    """Draw every work that has figures: the paths by work."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Path] = {}
    for name in findings.works:
        if any(case.name in findings.results for case in WORKS[name].cases):
            # A link in Markdown ends at a space.
            drawn[name] = directory / (name.replace(" ", "-") + ".svg")
            draw(WORKS[name], findings.results, drawn[name])
    return drawn


def draw(work: Work, results: Results, path: Path) -> None:
    """A row of panels for each case, a panel for each plotted metric."""
    cases = [case for case in work.cases if case.name in results]
    bars = max(len(results[case.name]) for case in cases)
    size = (PANEL_INCHES * len(work.plotted), (BAR_INCHES * bars + 0.9) * len(cases))
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(len(cases), len(work.plotted), figsize=size, squeeze=False, layout="constrained")
        for row, case in enumerate(cases):
            for place, metric in enumerate(work.plotted):
                draw_panel(axes[row][place], case, metric, results[case.name])
        figure.suptitle(work.title, x=0.01, ha="left", fontweight="bold")
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw_panel(axes: Any, case: Case, metric: str, rows: Mapping[str, Mapping[int, Any]]) -> None:
    spreads = {server: Spread.of(column(rounds, metric)) for server, rounds in rows.items()}
    servers = sorted(spreads, key=lambda server: -spreads[server].median)
    medians = [spreads[server].median for server in servers]
    errors = [
        [spreads[server].median - spreads[server].least for server in servers],
        [spreads[server].most - spreads[server].median for server in servers],
    ]
    colours = [PENSTOCK_COLOUR if server == "penstock" else PEER_COLOUR for server in servers]
    axes.barh(servers, medians, xerr=errors, color=colours, error_kw={"ecolor": "#444444", "capsize": 2})
    for place, (server, median) in enumerate(zip(servers, medians, strict=True)):
        text = f" {median:,.{METRICS[metric].decimals}f}"
        axes.text(spreads[server].most, place, text, va="center", fontsize=8)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"{METRICS[metric].label} ({case.name})")
