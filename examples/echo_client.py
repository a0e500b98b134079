"""Sends lines to the echo server and shows what comes back: `python examples/echo_client.py 127.0.0.1:9000`."""

import asyncio
import sys

import penstock


async def main(address: str, count: int) -> None:
    client = penstock.TCPClient()
    async with client:
        await client.start(address)
        for number in range(count):
            sent = f"line {number}\n".encode()
            client.send(sent)
            received = b""
            while len(received) < len(sent):
                received += await client.receive() or sys.exit("the server has left")
            print(received.decode(), end="")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=penstock.EventLoop) as runner:
        runner.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9000", 3))
