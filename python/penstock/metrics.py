"""The metrics of a server: what it takes to show them, for a process that serves alone and for a supervisor.

Counting is the data plane's, in shards that the processes share; so is answering. Python's part is to open the
listener, to say what the settings are, and to make those tell who are asked only when somebody wants to know: the
application of its own metrics (`prometheus_client`), event loops of their connections. A thread does in a process that
serves alone, the supervisor in between where there are workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

from . import _core, app_metrics, bind, listener, logs, surveys
from .config import SETTINGS, ServerConfig
from .errors import AddressError
from .socket_options import SocketOptions

_BACKLOG = 128
_SECRET = re.compile("password|passphrase|secret|token|key(?!file)|credential")


class Board:
    """The scoreboard of a process that serves alone: a slot for each event loop, and one for a main reactor."""

    def __init__(self, loops: int, *, accepts_apart: bool) -> None:
        self.main_slot = loops
        self.names = [*map(str, range(loops)), "main"]
        self.scoreboard = _core.Scoreboard(loops + 1)
        self.slots = range(loops + accepts_apart)
        for slot in self.slots:
            self.scoreboard.claim(slot, os.getpid(), 1)

    def tell(self, state: Any) -> None:
        for slot in self.slots:
            self.scoreboard.set_state(slot, state)


def open_listeners(where: str | None) -> list[socket.socket]:
    """Where metrics are shown; none if they are not. Raises `AddressError`."""
    if where is None:
        return []
    try:
        return listener.open_place(bind.parse_local(where), _BACKLOG, SocketOptions())
    except AddressError as error:
        raise type(error)(f"--metrics-bind {where}: {error}") from None


@contextlib.contextmanager
def shown(
    board: Board, own: Sequence[socket.socket], served_at: Sequence[str], settings: dict[str, Any]
) -> Generator[None]:
    """Show the metrics of this process, which serves alone, at its `own` listeners, until the block ends.

    `settings` as `described` has them.
    """
    if not own:
        yield
        return
    server = _make(settings, board.scoreboard, board.names, served_at, expects_app=app_metrics.are_possible())
    _listen(server, own)
    server.start()
    loops = surveys.Loops(board.scoreboard)
    asking = threading.Thread(target=_supply_until_stopped, args=(server, loops), name="penstock-asking", daemon=True)
    asking.start()
    try:
        yield
    finally:
        server.stop()
        asking.join(1.0)


def _supply_until_stopped(server: _core.MetricsServer, loops: surveys.Loops) -> None:
    while wanted := server.wait_for_wanted():
        if query := _query_in(wanted):
            server.supply(wanted, surveys.as_json(loops.ask(query)))
        else:
            server.supply(wanted, app_metrics.collect(wanted))


def _query_in(wanted: str) -> str | None:
    """Of connections that are wanted."""
    return wanted[1:] if wanted.startswith("?") else None


class SupervisedMetrics:
    """The metrics of all workers, shown by their supervisor, whose loop turns this when `fileno` is readable."""

    def __init__(
        self,
        config: ServerConfig,
        scoreboard: _core.Scoreboard,
        addresses: list[str],
        settings: Sequence[str] | None = None,
        survey: Callable[[str, Callable[[surveys.Told], None]], bool] | None = None,
    ) -> None:
        """`survey` asks the workers of their connections."""
        self._survey = survey
        expects_app = app_metrics.are_possible()
        own = open_listeners(config.metrics_bind)
        try:
            self._server = _make(described(config, settings), scoreboard, [], addresses, expects_app=expects_app)
            _listen(self._server, own)
        except BaseException:
            listener.close_listeners(own)
            raise
        self._own = own

    def fileno(self) -> int:
        return self._server.fileno()

    def turn(self) -> None:
        self._server.turn()
        while wanted := self._server.take_wanted():
            query = _query_in(wanted)
            if query is None:
                self._supply(wanted, app_metrics.collect(wanted))
            elif self._survey is not None:
                # Where too many wait this one is told nothing, in time.
                self._survey(query, lambda told, wanted=wanted: self._supply(wanted, surveys.as_json(told)))

    def _supply(self, wanted: str, text: bytes) -> None:
        self._server.supply(wanted, text)
        self._server.turn()

    def abandon(self) -> None:
        """In a forked child."""
        self._server.abandon()
        listener.close_listeners(self._own)

    def close(self) -> None:
        self._server.stop()
        listener.close_listeners(self._own)


def _make(
    settings: dict[str, Any],
    scoreboard: _core.Scoreboard,
    names: Sequence[str],
    served_at: Sequence[str],
    *,
    expects_app: bool,
) -> _core.MetricsServer:
    config = json.dumps(settings).encode()
    return _core.MetricsServer(scoreboard, names=names, listeners=served_at, config=config, expects_app=expects_app)


def _listen(server: _core.MetricsServer, own: Sequence[socket.socket]) -> None:
    for each in own:
        server.add_listener(each.fileno())
        logs.error_logger.info("Metrics at %s", _path_of(listener.describe(each)))


def _path_of(where: str) -> str:
    return where if where.startswith("unix:") else f"{where}/metrics, pages at {where}/-/"


def described(config: ServerConfig, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings, or those of these names, as others may see them: by group, each with its value and whether that is
    the default's."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, known in SETTINGS.items():
        if names is not None and name not in names:
            continue
        value = getattr(config, name)
        groups.setdefault(known.group, []).append(
            {
                "name": name,
                "flag": known.flag,
                "value": _without_secrets(name, value),
                "is_default": value == known.default,
                "help": known.help,
            }
        )
    return {"groups": [{"name": name, "settings": settings} for name, settings in groups.items()]}


def _without_secrets(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET.search(name):
        return "(not shown)"
    if name == "header":
        # What a header says may be between the server and its clients; that there is one is no secret.
        return [f"{line.partition(':')[0]}: (not shown)" for line in value]
    if isinstance(value, str):
        return value
    return [str(dataclasses.asdict(each)) if dataclasses.is_dataclass(each) else str(each) for each in value]  # type: ignore[arg-type]
