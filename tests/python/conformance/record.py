"""What the servers made of the cases when they were last asked. Owned by tools/record_conformance.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).parent / "outcomes.json"


@dataclass(frozen=True)
class Record:
    versions: dict[str, str]
    """Of the peers: `nginx 1.22.1`."""
    outcomes: dict[str, dict[str, str]]
    """By server, then by case."""

    @classmethod
    def load(cls) -> Record:
        loaded = json.loads(PATH.read_text(encoding="utf-8"))
        return cls(loaded["versions"], loaded["outcomes"])
