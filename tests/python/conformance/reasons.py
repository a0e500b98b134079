"""Why Penstock's outcome is not another server's, for every case in which it is not: `reasons.toml`, read."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .cases import Case


@dataclass(frozen=True)
class Reason:
    group: str
    patterns: tuple[str, ...]
    """Of the names of its cases."""
    text: str

    def is_for(self, case: Case) -> bool:
        return any(self.matches(pattern, case) for pattern in self.patterns)

    def matches(self, pattern: str, case: Case) -> bool:
        return case.group == self.group and fnmatchcase(case.name, pattern)


def _load() -> list[Reason]:
    told = tomllib.loads((Path(__file__).parent / "reasons.toml").read_text(encoding="utf-8"))["reason"]
    return [Reason(each["group"], tuple(each["cases"]), " ".join(each["text"].split())) for each in told]


REASONS = _load()


def reasons_for(case: Case) -> list[Reason]:
    return [reason for reason in REASONS if reason.is_for(case)]
