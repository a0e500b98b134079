"""A stream server on several processes: the supervisor's workers, each with an event loop and its handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from socket import socket
from typing import Any, ClassVar

from . import listener
from .config import ServerConfig
from .observing import observed
from .server import ends_unless, logging_process
from .socket_options import SocketKind, SocketOptions
from .streams import TCPServer, describe, load_server, open_all, running_loop
from .supervisor.worker import Place, Supervised
from .watching import PROTOCOL_SETTINGS

# How often one that leaves looks whether its last connection has ended.
_LOOK_EVERY_S = 0.05
_FLUSH_S = 1.0


@dataclass(frozen=True)
class StreamTrade:
    """A `penstock.TCPServer`, or the name of one, at these addresses."""

    settings: ClassVar[Sequence[str] | None] = PROTOCOL_SETTINGS

    addresses: Sequence[str]
    backlog: int
    options: SocketOptions

    def open(self, config: ServerConfig) -> list[socket]:
        return open_all(self.addresses, self.backlog, self.options, reuse_port=config.accept == "reuseport")

    def twin(self, sock: socket, config: ServerConfig) -> socket:
        return listener.open_twin(sock, self.backlog, self.options)

    def has_twins(self, sock: socket) -> bool:
        return listener.is_reusable(sock)

    def inherit(self, fd: int) -> socket:
        return listener.inherit(fd)

    def give_away(self, sockets: Iterable[socket]) -> None:
        listener.give_away(sockets)

    def describe(self, sock: socket) -> str:
        return describe(sock)

    def load(self, app: Any, config: ServerConfig) -> TCPServer:
        return load_server(app)

    def worker(self, place: Place, app: TCPServer) -> Supervised:
        if isinstance(place.app, str):
            # The supervisor has opened the listeners without knowing what the server wants of them.
            options = app.options.replaced_by(self.options)
            for each in place.listeners:
                options.set_on(each, SocketKind.of(each, listens=True))
        return StreamWorker(place, app)


class StreamWorker(Supervised):
    """Told to leave, it takes nobody new, and serves those that it has until they go, or its time is up."""

    def __init__(self, place: Place, server: TCPServer) -> None:
        super().__init__(place)
        self._server = server
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._has_patience = False

    def leave(self) -> None:
        if not self._stop.is_set():
            self._has_patience = True
            self._stop.set()

    def stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def main(self) -> None:
        loop = running_loop()
        with logging_process(), observed(loop, self.place.config):
            part = self._server.add_part(loop)
            self.report(loop)
            for each in self.place.listeners:
                part.server.add_listener(each.fileno())
            self.tell_ready(loop)
            await self._stop.wait()
            self.tell_leaving()
            listener.close_listeners(self.place.listeners)
            deadline_s = loop.time() + self.place.config.timeout_graceful_shutdown_s
            if self._has_patience:
                if not self._sees_off:
                    loop.reactor.leave_listeners()
                await ends_unless(self._hurry, self._have_gone(), deadline_s - loop.time())
                # Told to stop while it had patience: that was the first time.
                self._hurry.clear()
            # What is sent by now leaves in any case.
            if not await ends_unless(self._hurry, part.stop(max(deadline_s - loop.time(), _FLUSH_S))):
                await part.stop(0)
            self._server.parts.clear()

    async def _have_gone(self) -> None:
        while any(part.server.connections for part in self._server.parts):
            await asyncio.sleep(_LOOK_EVERY_S)
