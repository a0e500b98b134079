"""The load of the works about streams: frames back and forth, and one that is told to ten thousand."""

from __future__ import annotations

import selectors
import socket
import struct
import time

from measure import BenchError

FRAME = struct.pack(">I", 64) + bytes(64)
NEWS = struct.pack(">I", 100) + bytes(100)
CONNECTIONS, IN_FLIGHT = 64, 16


def framed_echo(port: int, seconds: float) -> int:
    """64-byte frames, 16 in flight on each of 64 connections; how many came back."""
    batch, expected = FRAME * IN_FLIGHT, len(FRAME) * IN_FLIGHT
    peers = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(CONNECTIONS)]
    selector, received = selectors.DefaultSelector(), dict.fromkeys(peers, 0)
    try:
        for peer in peers:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(peer, selectors.EVENT_READ)
            peer.sendall(batch)
        frames, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in selector.select(1.0):
                peer = key.fileobj
                assert isinstance(peer, socket.socket)
                came = len(peer.recv(65536))
                if not came:
                    raise BenchError("the server closed a connection")
                received[peer] += came
                if received[peer] >= expected:
                    received[peer] -= expected
                    frames += IN_FLIGHT
                    peer.sendall(batch)
        return frames
    finally:
        selector.close()
        for peer in peers:
            peer.close()


class Audience:
    """Members of a broadcast, and one who speaks."""

    def __init__(self, port: int, members: int) -> None:
        self.selector, self.peers = selectors.DefaultSelector(), list[socket.socket]()
        for _ in range(members):
            peer = socket.create_connection(("127.0.0.1", port), 10)
            self.peers.append(peer)
            self.selector.register(peer, selectors.EVENT_READ)
        self.speaker = self.peers[0]

    def __enter__(self) -> Audience:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def broadcast(self, rounds: int, together: int) -> int:
        """Say `together` things at once, wait until all have heard all, again and again; how many deliveries."""
        expected = len(self.peers) * len(NEWS) * together
        for _ in range(rounds):
            self.speaker.sendall(NEWS * together)
            came = 0
            while came < expected:
                ready = self.selector.select(10.0)
                if not ready:
                    raise BenchError(f"{came} of {expected} bytes of a broadcast arrived")
                for key, _ in ready:
                    assert isinstance(key.fileobj, socket.socket)
                    came += len(key.fileobj.recv(65536))
        return rounds * together * len(self.peers)

    def close(self) -> None:
        self.selector.close()
        for peer in self.peers:
            peer.close()
