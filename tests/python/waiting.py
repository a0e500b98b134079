"""Waiting for what is to come, instead of sleeping for as long as it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 20.0


def wait_until(
    look: Callable[[], Any], complaint: str | Callable[[], str] = "it never came to be", *, timeout_s: float = TIMEOUT_S
) -> Any:
    """What `look` returns, once that is true. Fails after the time-out, with the complaint or what that says then."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, complaint if isinstance(complaint, str) else complaint()
        time.sleep(0.005)
    return found
