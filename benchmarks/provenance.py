"""Where figures come from: without it a number is a rumour."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from penstock import __version__

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Provenance:
    """What must be known to take the figures again."""

    date: str
    cpu: str
    kernel: str
    python: str
    penstock: str
    commit: str
    versions: dict[str, str]
    command: str

    @classmethod
    def gather(cls, versions: dict[str, str]) -> Provenance:
        return cls(
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            cpu=f"{cpu_model(Path('/proc/cpuinfo').read_text())}, {os.cpu_count()} processors",
            kernel=f"{platform.system()} {platform.release()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            penstock=__version__,
            commit=commit(),
            versions=versions,
            command=command(sys.argv),
        )


def cpu_model(cpuinfo: str) -> str:
    """The model as /proc/cpuinfo names it; the machine's architecture where it names none (as on ARM)."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def commit() -> str:
    """The commit that is checked out, and whether anything but the report differs from it."""
    try:
        name = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":!docs/benchmarks.md", ":!docs/benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"
    return f"{name} with uncommitted changes" if changed else name


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def command(argv: list[str]) -> str:
    """How to run the same again from the project's root, whatever the machine's paths are."""
    local = [argument.replace(f"{ROOT}/", "").replace(str(Path.home()), "~") for argument in argv[1:]]
    return shlex.join([".venv/bin/python", "benchmarks/bench.py", *local])
