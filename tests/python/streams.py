"""What the tests of streams share: a server on an event loop of the test's own, and plain sockets beside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import penstock

T = TypeVar("T")
TIMEOUT_S = 20.0


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a test's coroutine on a Penstock event loop, bounded in time."""

    async def bounded() -> T:
        async with asyncio.timeout(TIMEOUT_S):
            return await main()

    with asyncio.Runner(loop_factory=penstock.EventLoop) as runner:
        return runner.run(bounded())


async def started(server: penstock.TCPServer) -> tuple[str, int]:
    await server.start("127.0.0.1:0")
    return server.listeners[0].getsockname()


class Peer:
    """A plain socket at the other end, on the test's own loop."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    async def connect(cls, address: Any, *, receive_buffer: int | None = None) -> Peer:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, address)
        return cls(sock)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, count: int) -> bytes:
        """Exactly so many bytes, or what came before the end."""
        loop, received = asyncio.get_running_loop(), b""
        while len(received) < count and (piece := await loop.sock_recv(self.sock, min(count - len(received), 1 << 20))):
            received += piece
        return received

    async def receive_all(self) -> bytes:
        return await self.receive(1 << 40)

    async def is_closed(self) -> bool:
        """Wait for the server's end, in good order or by a reset, whatever it still sends."""
        with contextlib.suppress(ConnectionError):
            await self.receive_all()
        return True

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds; the run's own time bounds it."""
    while not condition():
        await asyncio.sleep(0.002)
