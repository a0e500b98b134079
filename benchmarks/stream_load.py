"""Loads of the works about streams that are made in Python: one frame each, and one that is told to ten thousand."""

from __future__ import annotations

import selectors
import shutil
import socket
import struct
import subprocess

from measure import BenchError

FRAME = struct.pack(">I", 64) + bytes(64)
NEWS = struct.pack(">I", 100) + bytes(100)
# To find out whether all are there.
ATTEMPTS = 10


def echo_one_frame(peers: list[socket.socket]) -> None:
    """One frame on each, and each back."""
    for peer in peers:
        peer.sendall(FRAME)
    for peer in peers:
        came = b""
        while len(came) < len(FRAME):
            part = peer.recv(len(FRAME) - len(came))
            if not part:
                raise BenchError("closed an idle connection, which was expected to answer again")
            came += part
        if came != FRAME:
            raise BenchError("a frame came back that was not sent")


def redis_benchmark(port: int, count: int) -> None:
    """So many SETs and so many GETs."""
    command = shutil.which("redis-benchmark")
    if command is None:
        raise BenchError("no redis-benchmark: Debian has it in redis-tools")
    load = ["-t", "set,get", "-n", str(count), "-P", "16", "-c", "50", "-r", "100000", "-q"]
    told = subprocess.run([command, "-h", "127.0.0.1", "-p", str(port), *load], capture_output=True, text=True)
    if told.returncode or "rror" in told.stdout + told.stderr:
        raise BenchError(f"redis-benchmark: {(told.stderr or told.stdout).strip()[:200]}")


class Audience:
    """Members of a broadcast, and one who speaks."""

    def __init__(self, port: int, members: int) -> None:
        self.selector, self.peers = selectors.DefaultSelector(), list[socket.socket]()
        for _ in range(members):
            peer = socket.create_connection(("127.0.0.1", port), 10)
            self.peers.append(peer)
            self.selector.register(peer, selectors.EVENT_READ)
        self.speaker = self.peers[0]
        try:
            self.wait_until_all_hear()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Audience:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_all_hear(self) -> None:
        """A connection that is open here may still wait for the server to accept it."""
        for _ in range(ATTEMPTS):
            self.speaker.sendall(NEWS)
            if self.hear(len(self.peers) * len(NEWS), patience_s=1.0):
                return
        raise BenchError(f"{len(self.peers)} members did not all hear one of {ATTEMPTS} things said")

    def broadcast(self, rounds: int, together: int) -> int:
        """Say `together` things at once, wait until all have heard all, again and again; how many deliveries."""
        expected = len(self.peers) * len(NEWS) * together
        for _ in range(rounds):
            self.speaker.sendall(NEWS * together)
            if not self.hear(expected, patience_s=10.0):
                raise BenchError(f"not all of the {expected} bytes of a broadcast arrived")
        return rounds * together * len(self.peers)

    def hear(self, expected: int, *, patience_s: float) -> bool:
        """Read what comes; whether all did before it was quiet for so long."""
        came = 0
        while came < expected:
            ready = self.selector.select(patience_s)
            if not ready:
                return False
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                came += len(key.fileobj.recv(65536))
        return True

    def close(self) -> None:
        self.selector.close()
        for peer in self.peers:
            peer.close()
