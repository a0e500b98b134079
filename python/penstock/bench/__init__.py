"""Load for a server, and what it answered: what `penstock bench` runs, for programs.

`http` makes the load (in Rust, see src/load), `beside` gives the same load to other tools that are installed, `report`
shows both. Figures of any tool have one form, `Figures`.
"""

from __future__ import annotations

from .figures import Figures
from .http import HttpLoad, Progress, Target, run

__all__ = ["Figures", "HttpLoad", "Progress", "Target", "run"]
