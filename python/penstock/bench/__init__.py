"""Load for a server, and what it answered: what `penstock bench` runs, for programs.

`http` and `echo` make a load (in Rust, see src/load), `beside` gives an HTTP load to other tools that are installed,
`report` shows both. Figures of any tool have one form, `Figures`; what every load has is in `outcome`.
"""

from __future__ import annotations

from .echo import Endpoint, TcpLoad, UdpLoad, run_tcp, run_udp
from .figures import Figures
from .http import HttpLoad, Target, run
from .outcome import BenchError, Found, Progress

__all__ = [
    "BenchError",
    "Endpoint",
    "Figures",
    "Found",
    "HttpLoad",
    "Progress",
    "Target",
    "TcpLoad",
    "UdpLoad",
    "run",
    "run_tcp",
    "run_udp",
]
