"""Another user, for tests that have the rights to become one."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

import penstock

NOBODY = 65534
_TIMEOUT_S = 20.0


def let_others_in(directory: Path) -> None:
    """Have another user find what is in a test's directory; skip the test where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for each in directory.parents[:4]:
        if each.name.startswith(("pytest-", "popen-")):
            each.chmod(0o755)  # pytest keeps its directories from others.
    directory.chmod(0o755)
    if not all(map(_may_be_entered, (directory, penstock.__file__))):
        pytest.skip("another user cannot read this interpreter, or this checkout")


# Run before the server: what the client is made of stays imported, and the client itself is left to be imported anew.
_BEFOREHAND = """
import sys
import prometheus_client, prometheus_client.multiprocess
for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
    del sys.modules[name]
"""


def with_standard_library_at_hand(directory: Path) -> dict[str, str]:
    """The environment in which an application of another user can count, even with an interpreter in root's home."""
    (directory / "beforehand").mkdir()
    (directory / "beforehand" / "sitecustomize.py").write_text(_BEFOREHAND)
    return {"PYTHONPATH": str(directory / "beforehand")}


def _may_be_entered(path: str | Path) -> bool:
    return all(directory.stat().st_mode & stat.S_IXOTH for directory in Path(path).resolve().parents)


def asked_by_nobody(control: Path) -> str:
    """What comes of asking a control socket for the status as the user nobody."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_TIMEOUT_S)
                client.connect(str(control))
                client.sendall(b'{"do": "status"}\n')
                told = f"answer {client.recv(1000)!r}"
        except OSError as error:
            told = type(error).__name__
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return told
