"""A trade is what workers do: how it listens, what it loads, who serves. The supervisor knows nothing more of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from socket import socket
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .. import importer, listener
from ..config import ServerConfig

if TYPE_CHECKING:
    from .worker import Place, Supervised


class Trade(Protocol):
    settings: ClassVar[Sequence[str] | None]
    """The names of the settings that it has; `None`: all that there are."""

    def open(self, config: ServerConfig) -> list[socket]:
        """The sockets to serve at. Raises `AddressError`."""
        ...

    def twin(self, sock: socket, config: ServerConfig) -> socket:
        """Another one at the same address, which gets its share of what comes."""
        ...

    def has_twins(self, sock: socket) -> bool:
        """Whether it can have any."""
        ...

    def inherit(self, fd: int) -> socket:
        """One that another supervisor gives away."""
        ...

    def give_away(self, sockets: Iterable[socket]) -> None:
        """Another supervisor has them, files and all."""
        ...

    def describe(self, sock: socket) -> str:
        """Where it is, as a person would write it."""
        ...

    def load(self, app: Any, config: ServerConfig) -> Any:
        """What serves, by its name or as it is. Raises `AppImportError`."""
        ...

    def worker(self, place: Place, app: Any) -> Supervised:
        """In a worker process, on its running loop: who serves."""
        ...


class HttpTrade:
    """ASGI and WSGI applications."""

    settings: ClassVar[Sequence[str] | None] = None

    def open(self, config: ServerConfig) -> list[socket]:
        return listener.open_listeners(config)

    def twin(self, sock: socket, config: ServerConfig) -> socket:
        return listener.open_twin(sock, config.backlog, listener.options_of(config.socket_option))

    def has_twins(self, sock: socket) -> bool:
        return listener.is_reusable(sock)

    def inherit(self, fd: int) -> socket:
        return listener.inherit(fd)

    def give_away(self, sockets: Iterable[socket]) -> None:
        listener.give_away(sockets)

    def describe(self, sock: socket) -> str:
        return listener.describe(sock)

    def load(self, app: Any, config: ServerConfig) -> Any:
        return importer.load_app(app, factory=config.factory)

    def worker(self, place: Place, app: Any) -> Supervised:
        from .worker import SupervisedWorker

        return SupervisedWorker(place, app)
