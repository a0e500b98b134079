"""`penstock serve --check-config`: everything that a start would stumble over, without starting.

The files that the settings name are read, logging is set up, the application is imported, and its addresses are
tried: bound, and let go without listening. One that is in use is no mistake, since the server about to be replaced may
have it. The application's lifespan is not run: what it does belongs to a start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import importer, listener, runner
from .config import ServerConfig
from .errors import PenstockError


def find_mistakes(app: str, config: ServerConfig) -> Iterator[PenstockError]:
    """What is wrong; each as the start would have told it, the application's last."""
    prepared = yield from _caught(lambda: runner.prepare(app, config))
    yield from _caught(lambda: listener.try_addresses(prepared or config))
    yield from _caught(lambda: importer.load_app(app, factory=config.factory))


def _caught(step: Callable[[], Any]) -> Iterator[PenstockError]:
    try:
        return step()
    except PenstockError as error:
        yield error
    return None
