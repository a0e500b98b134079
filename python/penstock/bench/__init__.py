"""Load for a server, and what it answered: what `penstock bench` runs, for programs.

`http` and `echo` make a load (in Rust, see src/load; `trust` is for those over TLS), `beside` gives an HTTP load to
other tools that are installed, `iperf` shows what an echo's path carries, `report` shows them. Figures of any tool have
one form, `Figures`; what every load has is in `outcome`.
"""

from __future__ import annotations

from .echo import Endpoint, TcpLoad, UdpLoad, run_tcp, run_udp
from .figures import Figures
from .http import HttpLoad, Target, run
from .outcome import BenchError, Found, Progress
from .trust import Trust

__all__ = [
    "BenchError",
    "Endpoint",
    "Figures",
    "Found",
    "HttpLoad",
    "Progress",
    "Target",
    "TcpLoad",
    "Trust",
    "UdpLoad",
    "run",
    "run_tcp",
    "run_udp",
]
