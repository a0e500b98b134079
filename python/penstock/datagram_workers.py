"""A datagram server on several threads or processes: each has a socket of its own at the same address, and the kernel
gives it what a hash of both ends says, so that a peer's datagrams come to the same one.

A Unix socket cannot be had twice: all take from the one, and none of them can have sessions.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from socket import socket
from typing import Any, ClassVar

from . import importer, logs
from .config import ServerConfig
from .errors import AppImportError
from .event_loop import EventLoop
from .observing import observed
from .reactor_thread import ReactorThread, first_of, run_threads
from .server import ends_unless, logging_process
from .socket_options import SocketKind, SocketOptions
from .supervisor.worker import Place, Supervised
from .udp import UDPServer, UnixSocket, bind_datagram, bind_twin, describe, is_reusable
from .watching import PROTOCOL_SETTINGS, Watching


def load_server(server: str | UDPServer) -> UDPServer:
    """The server that `module:attribute` names, or that it is. Raises `AppImportError`."""
    found = importer.load_object(server) if isinstance(server, str) else server
    if not isinstance(found, UDPServer):
        raise AppImportError(f"{server}: expected a penstock.UDPServer, got {type(found).__name__}")
    return found


async def serve_on_threads(server: UDPServer, sock: socket, watching: Watching, stop: asyncio.Event) -> None:
    """Serve at a bound socket, and at others like it, until `stop` or until a reactor ends."""
    twins = [_another(sock, server.options) for _ in range(watching.reactors - 1)]

    async def serve(sock: socket, loop: EventLoop, stop: asyncio.Event, tell_ready: Callable[[Any], None]) -> None:
        server.adopt(sock)
        tell_ready(None)
        await stop.wait()
        await server.close()

    async def wait(threads: list[ReactorThread]) -> None:
        logs.log_banner([where])
        await first_of(None, stop, threads)
        logs.error_logger.info("Shutting down")

    where = describe(sock)
    await run_threads([partial(serve, each) for each in (sock, *twins)], watching, stop, wait)


def _another(sock: socket, options: SocketOptions) -> socket:
    if is_reusable(sock):
        return bind_twin(sock, options)
    return socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))


@dataclass(frozen=True)
class DatagramTrade:
    """A `penstock.UDPServer`, or the name of one, at this address."""

    settings: ClassVar[Sequence[str] | None] = PROTOCOL_SETTINGS

    address: str | tuple[Any, ...]
    options: SocketOptions

    def open(self, config: ServerConfig) -> list[socket]:
        return [bind_datagram(self.address, self.options, reuse_port=True)]

    def twin(self, sock: socket, config: ServerConfig) -> socket:
        return bind_twin(sock, self.options)

    def has_twins(self, sock: socket) -> bool:
        return is_reusable(sock)

    def inherit(self, fd: int) -> socket:
        return UnixSocket.inherit(fd)

    def give_away(self, sockets: Iterable[socket]) -> None:
        for each in sockets:
            if isinstance(each, UnixSocket):
                each.let_go()

    def describe(self, sock: socket) -> str:
        return describe(sock)

    def load(self, app: Any, config: ServerConfig) -> UDPServer:
        server = load_server(app)
        server.check_shared(self.address)
        return server

    def worker(self, place: Place, app: UDPServer) -> Supervised:
        if isinstance(place.app, str):
            # The supervisor has opened the socket without knowing what the server wants of it.
            options = app.options.replaced_by(self.options)
            for each in place.listeners:
                options.set_on(each, SocketKind.of(each))
        return DatagramWorker(place, app)


class DatagramWorker(Supervised):
    """Told to leave, it takes no more datagrams, and lets handlers end. What comes meanwhile is its successor's."""

    def __init__(self, place: Place, server: UDPServer) -> None:
        super().__init__(place)
        self._server = server
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    def leave(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        with logging_process(), observed(loop, self.place.config):
            self.report(loop)
            (sock,) = self.place.listeners
            self._server.adopt(sock)
            self.tell_ready(loop)
            await self._stop.wait()
            self.tell_leaving()
            timeout_s = self.place.config.timeout_graceful_shutdown_s
            if not await ends_unless(self._hurry, self._server.close(timeout_s)):
                await self._server.close(0)
