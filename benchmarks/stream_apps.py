"""Servers of the works about streams: `python stream_apps.py penstock|uvloop echo|framed|broadcast PORT`.

The same service twice: with Penstock's TCPServer, and as a uvloop Protocol written with care (a buffer only for partial
frames, one call of the handler and one write for what one read brought).
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any, ClassVar

HEAD = struct.Struct(">I")


def serve_penstock(work: str, port: int) -> None:
    import penstock
    from penstock.protocol import LengthPrefixed

    def echo(connection: penstock.Connection, data: bytes) -> None:
        connection.send(data)

    def echo_frames(connection: penstock.Connection, frames: list[bytes]) -> None:
        connection.send_many(frames)

    def broadcast(connection: penstock.Connection, frame: bytes) -> None:
        group.send(frame)

    def join(connection: penstock.Connection) -> None:
        group.add(connection)

    protocol = LengthPrefixed(header_bytes=4, max_frame_bytes=1 << 20)
    limits = penstock.StreamLimits(max_unsent_bytes=1 << 24)
    if work == "broadcast":
        server = penstock.TCPServer(broadcast, on_connect=join, protocol=protocol, limits=limits)
    elif work == "framed":
        server = penstock.TCPServer(on_messages=echo_frames, protocol=protocol, limits=limits)
    else:
        server = penstock.TCPServer(echo, limits=limits)
    group = server.group()
    server.run(f"127.0.0.1:{port}")


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Framed(asyncio.Protocol):
    """Cuts frames, and hands those of one read to `on_messages`."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.rest = transport, b""

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        at, end, unpack, frames = 0, len(data), HEAD.unpack_from, list[bytes]()
        while end - at >= 4:
            (length,) = unpack(data, at)
            if length > 1 << 20:
                self.transport.abort()
                return
            start = at + 4
            if end - start < length:
                break
            at = start + length
            frames.append(data[start:at])
        self.rest = data[at:]
        if frames:
            self.on_messages(frames)

    def on_messages(self, frames: list[bytes]) -> None:
        out, pack = list[bytes](), HEAD.pack
        for frame in frames:
            out.append(pack(len(frame)))
            out.append(frame)
        self.transport.write(b"".join(out))


class Broadcast(Framed):
    members: ClassVar[set[Any]] = set()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.members.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.members.discard(self.transport)

    def on_messages(self, frames: list[bytes]) -> None:
        for frame in frames:
            wire = HEAD.pack(len(frame)) + frame
            for member in self.members:
                member.write(wire)


def serve_uvloop(work: str, port: int) -> None:
    import uvloop  # pyright: ignore[reportMissingImports]: installed among the peers only

    async def main() -> None:
        protocol = {"echo": Echo, "framed": Framed, "broadcast": Broadcast}[work]
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=4096)
        await server.serve_forever()

    uvloop.run(main())


if __name__ == "__main__":
    _, kind, work, port = sys.argv
    (serve_penstock if kind == "penstock" else serve_uvloop)(work, int(port))
