"""Answers lines in capitals: `python examples/unix_server.py upper.sock`, then `nc -U upper.sock`."""

import sys

import penstock
from penstock import Connection
from penstock.protocol import Line


async def handler(connection: Connection) -> None:
    async for line in connection:
        connection.send(line.upper())
        await connection.drain()


if __name__ == "__main__":
    penstock.TCPServer(handler=handler, protocol=Line()).run(f"unix:{sys.argv[1]}")
