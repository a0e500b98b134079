"""docs/http-conformance.md, out of the cases, their recorded outcomes and the reasons."""

from __future__ import annotations

from itertools import groupby

from .cases import CASES, Case
from .reasons import reasons_for
from .record import Record
from .servers import SERVERS

PEERS = [server for server in SERVERS if server != "penstock"]

_HEAD = """\
# HTTP/1.1, beside other servers

<!-- Made by `make docs` from tests/python/conformance: change it there. -->

The same {count} pieces of raw bytes, right, doubtful and hostile, were sent to Penstock and to
{versions},
each with an application that tells what it saw (nginx: what it passed on to a backend). In {same} cases all four do the
same. The others are below, each with its reason: Penstock refuses what two servers could read differently, and repairs
nothing.

How to read an outcome: `200 POST / + hello` is an answer to a request of which the application saw this method, target
and body; a number alone was answered by the server itself; `closed` or `open` is what became of the connection. `=`
means: as Penstock.

`tests/python/test_differential.py` holds every outcome to what is written here.
"""


def differing(record: Record) -> list[Case]:
    ours = record.outcomes["penstock"]
    return [case for case in CASES if any(record.outcomes[peer][case.key] != ours[case.key] for peer in PEERS)]


def page() -> str:
    record = Record.load()
    different = differing(record)
    versions = ", ".join(record.versions[peer] for peer in PEERS)
    head = _HEAD.format(count=len(CASES), versions=versions, same=len(CASES) - len(different))
    sections = [
        "\n".join([f"## {group.capitalize()}", "", *_section(record, list(cases), different)])
        for group, cases in groupby(CASES, key=lambda case: case.group)
    ]
    return "\n\n".join([head.rstrip(), *sections]) + "\n"


def _section(record: Record, cases: list[Case], different: list[Case]) -> list[str]:
    lines: list[str] = []
    rows = [case for case in cases if case in different]
    if rows:
        lines += [f"| case | Penstock | {' | '.join(PEERS)} |", "| --- " * (len(PEERS) + 2) + "|"]
        lines += [_row(record, case) for case in rows]
        texts = dict.fromkeys(reason for case in rows for reason in reasons_for(case))
        lines += [""]
        for reason in texts:
            names = ", ".join(f"*{_escaped(_short(case.name))}*" for case in rows if reason.is_for(case))
            lines += [f"- {names}: {reason.text}"]
        lines += [""]
    same = [case for case in cases if case not in different]
    if same:
        lines += [
            "All the same: " + "; ".join(_escaped(f"{case.name} ({_brief(record, case)})") for case in same) + "."
        ]
    return lines


def _row(record: Record, case: Case) -> str:
    ours = record.outcomes["penstock"][case.key]
    theirs = [record.outcomes[peer][case.key] for peer in PEERS]
    cells = [f"`{_cell(ours)}`", *("=" if outcome == ours else f"`{_cell(outcome)}`" for outcome in theirs)]
    return f"| {_escaped(_short(case.name))} | {' | '.join(cells)} |"


def _cell(outcome: str) -> str:
    return _short(outcome).replace("|", "\\|").replace("`", "'")


def _short(text: str) -> str:
    """Without the middle of long words, and with what does not print escaped."""
    printable = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return " ".join(word if len(word) <= 48 else f"{word[:12]}…{word[-12:]}" for word in printable.split(" "))


def _brief(record: Record, case: Case) -> str:
    """The statuses alone."""
    parts = record.outcomes["penstock"][case.key].split(", ")
    statuses = [part.split(" ")[0] for part in parts[:-1]]
    return ", ".join(statuses) or parts[-1]


def _escaped(text: str) -> str:
    for mark in "\\`*_{}[]<>#|":
        text = text.replace(mark, f"\\{mark}")
    return text
