"""The peer of the `udp` work: an echo on uvloop's datagram transport, as its users write it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop  # pyright: ignore[reportMissingImports]


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def main(port: int) -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", port))
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1])))
