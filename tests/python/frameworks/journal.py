"""What happened inside an application, in order, in the file that `JOURNAL` names: a test compares two servers'."""

from __future__ import annotations

import os


def note(event: str) -> None:
    with open(os.environ["JOURNAL"], "a", encoding="utf-8") as journal:
        journal.write(event + "\n")


def told() -> str:
    with open(os.environ["JOURNAL"], encoding="utf-8") as journal:
        return journal.read()
