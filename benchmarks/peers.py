"""The peers' own virtual environment: made when it is missing or its requirements have changed.

Each requirement is installed by itself, so that one which this machine cannot have leaves the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements-peers.txt"
DISTRIBUTIONS = (
    "uvicorn",
    "uvloop",
    "httptools",
    "granian",
    "gunicorn",
    "socketify",
    "starlette",
    "fastapi",
    "pydantic",
)

# Asked of the peers' interpreter, which may be another version than ours.
VERSIONS_CODE = """
import importlib.metadata, json, sys
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""
SITE_CODE = "import sysconfig; print(sysconfig.get_path('purelib'))"


class Peers:
    """One environment of peers. It may lack any of them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.python = self.bin / "python"

    def ensure(self, tell: Callable[[str], None]) -> None:
        """Bring the environment to what the requirements say; tell what could not be installed.

        What is no longer wanted means a new environment; what failed before is only tried again.
        """
        wanted = requirements(REQUIREMENTS.read_text())
        remembered = self.home / ".installed"
        installed = remembered.read_text().splitlines() if remembered.exists() else []
        if set(installed) == set(wanted):
            return
        if not installed or not set(installed) <= set(wanted):
            tell(f"Making {self.home.name} with the peers that Penstock is measured beside (once)")
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.home)], check=True)
            installed = []
        missing = [requirement for requirement in wanted if requirement not in installed]
        installed += [requirement for requirement in missing if self._install(requirement, tell)]
        remembered.write_text("\n".join(installed))

    def _install(self, requirement: str, tell: Callable[[str], None]) -> bool:
        command = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            tell(f"{requirement} could not be installed: {lines[-1]}")
        return done.returncode == 0

    def versions(self) -> dict[str, str]:
        """The version of each distribution that is installed."""
        return json.loads(self._ask(VERSIONS_CODE, *DISTRIBUTIONS) or "{}")

    def site_packages(self) -> Path | None:
        """Where the peers' packages are: the frameworks among them are lent to Penstock, so that all run the same."""
        found = self._ask(SITE_CODE)
        return Path(found) if found else None

    def _ask(self, code: str, *arguments: str) -> str:
        if not self.python.exists():
            return ""
        command = [str(self.python), "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def requirements(text: str) -> list[str]:
    """The lines that name something."""
    return [line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line]
