"""A supervisor that replaces itself (USR2): a new one, of whatever version is installed now, inherits the listeners.

The new one is started by the command that started the old. When its workers are ready it says so, and the old one's
retire as at a reload. If it ends before, the old one goes on as if nothing had been.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

from .. import logs

_VARIABLE = "PENSTOCK_SUCCESSION"
# As it was at the start: an application may go elsewhere.
_DIRECTORY = os.getcwd()


@dataclass(frozen=True)
class Inheritance:
    """What a new supervisor has of the old one."""

    pid: int
    # Listeners by seat.
    seats: dict[int, list[int]]
    # Where it says that it is ready.
    news: socket.socket

    @classmethod
    def take(cls) -> Inheritance | None:
        """Said once: what this process starts is nobody's successor."""
        written = os.environ.pop(_VARIABLE, None)
        if written is None:
            return None
        told = json.loads(written)
        for fd in (told["news"], *(fd for fds in told["seats"].values() for fd in fds)):
            os.set_inheritable(fd, False)
        seats = {int(seat): fds for seat, fds in told["seats"].items()}
        return cls(told["pid"], seats, socket.socket(fileno=told["news"]))

    def tell_ready(self) -> None:
        self.news.sendall(b"ready")
        self.news.close()


class Successor:
    """The new supervisor, as the old one has it."""

    def __init__(self, seats: dict[int, list[socket.socket]]) -> None:
        self.news, theirs = socket.socketpair()
        with theirs:
            fds = {seat: [each.fileno() for each in listeners] for seat, listeners in seats.items()}
            told = {"pid": os.getpid(), "seats": fds, "news": theirs.fileno()}
            self.process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                cwd=_DIRECTORY,
                env={**os.environ, _VARIABLE: json.dumps(told)},
                pass_fds=[theirs.fileno(), *(fd for each in fds.values() for fd in each)],
            )
        logs.error_logger.info("Started supervisor [%d] to take over", self.process.pid)

    def has_taken_over(self) -> bool:
        """Asked when there is news of it: that it is ready, or that it is gone."""
        with self.news:
            return self.news.recv(16) == b"ready"
