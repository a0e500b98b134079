"""What only shows after gigabytes and millions: `make soak`. Memory and descriptors must stay flat.

1. A 10 GiB upload and a 10 GiB download, the application slow, then the client slow.
2. A million short connections, of which some end with a reset.
3. A million short connections to a `TCPServer`, ended in every way that a peer can end one.

`--scale 0.01` does a hundredth of it. Exit status 0 if everything stayed within its bound.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
GIB = 1 << 30
# What a server may grow by while gigabytes pass: queues at their bounds, allocator slack; not the body.
MEMORY_BOUND_BYTES = 16 << 20
CLIENT_THREADS = 4
# Politely closed connections linger for two seconds.
LINGER_S = 2.5
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Server:
    """A running server. It is gone when its `with` block ends."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def own_bytes(self) -> int:
        """Anonymous and shared-memory pages (proc(5), smaps_rollup)."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        peer = socket.socket()
        # Or the ports that linger in TIME_WAIT could not be listened on by anybody else for a minute.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        peer.settimeout(60)
        peer.bind((source, 0))
        peer.connect(("127.0.0.1", self.port))
        return peer


@contextmanager
def serving() -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        argv = [sys.executable, "-m", "penstock", "serve", "--app-dir", str(HERE), "--fd", str(listener.fileno())]
        quiet = ["--no-access-log", "--log-level", "warning", "app:app"]
        process = subprocess.Popen([*argv, *quiet], pass_fds=[listener.fileno()], text=True)
        port = listener.getsockname()[1]
    try:
        yield Server(process, port)
    finally:
        process.terminate()
        process.wait(30)


STREAM_SERVER = """
import sys
import penstock
from penstock.protocol import LengthPrefixed

penstock.TCPServer(
    lambda connection, frame: connection.send(frame),
    protocol=LengthPrefixed(),
    on_connect=lambda connection: None,
    on_close=lambda connection, reason: None,
    on_error=lambda connection, error: None,
).run(sys.argv[1], log_level="warning")
"""


@contextmanager
def serving_streams() -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", STREAM_SERVER, f"127.0.0.1:{port}"], text=True)
    server = Server(process, port)
    try:
        while True:
            try:
                server.connect().close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def peak_growth(server: Server) -> Iterator[Callable[[], int]]:
    """How much the server's memory grew at the most while the block ran."""
    before, peak, over = server.own_bytes(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            peak[0] = max(peak[0], server.own_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: peak[0]
    finally:
        over.set()
        watcher.join()


def upload(server: Server, count: int, app_pause_ms: float, client_pause_s: float) -> bool:
    piece = bytes(1 << 20)
    with server.connect() as peer:
        peer.sendall(b"POST /upload?pause_ms=%d HTTP/1.1\r\nHost: a\r\n" % app_pause_ms)
        peer.sendall(b"Content-Length: %d\r\nConnection: close\r\n\r\n" % count)
        for at in range(0, count, len(piece)):
            peer.sendall(piece[: count - at])
            if at % (1 << 26) == 0:
                time.sleep(client_pause_s)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    return answer.endswith(b"\r\n\r\n%d" % count)


def download(server: Server, count: int, app_pause_ms: float, client_pause_s: float) -> bool:
    with server.connect() as peer:
        peer.sendall(b"GET /download?bytes=%d&pause_ms=%d HTTP/1.1\r\nHost: a\r\n" % (count, app_pause_ms))
        peer.sendall(b"Connection: close\r\n\r\n")
        buffer, received, next_pause = bytearray(1 << 20), 0, 1 << 26
        while got := peer.recv_into(buffer):
            received += got
            if received >= next_pause:
                next_pause += 1 << 26
                time.sleep(client_pause_s)
    return received > count


FRAME = struct.pack(">I", 64) + bytes(64)


def one_stream(peer: socket.socket, number: int) -> bool:
    """A frame there and back, and one of eight ends. Whether what was to come came."""
    peer.sendall(FRAME)
    came = b""
    while len(came) < len(FRAME) and (piece := peer.recv(len(FRAME) - len(came))):
        came += piece
    match number % 8:
        case 0:  # A reset.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        case 1:  # Half closed: the server's end comes, too.
            peer.shutdown(socket.SHUT_WR)
            return came == FRAME and peer.recv(1) == b""
        case 2:  # Within a frame.
            peer.sendall(FRAME[:10])
        case 3:  # A frame longer than is taken: the server closes.
            peer.sendall(b"\xff" * 4)
            return came == FRAME and peer.recv(1) == b""
        case 4:  # With an answer on its way.
            peer.sendall(FRAME)
        case _:
            pass
    return came == FRAME


def short_streams(server: Server, count: int) -> bool:
    return all_short(server, count, one_stream)


def one_request(peer: socket.socket, number: int) -> bool:
    peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    if number % 10 == 0:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    return peer.recv(4096).startswith(b"HTTP/1.1 200")


def short_connections(server: Server, count: int) -> bool:
    """Each is opened, asks once, and is closed by its client; every tenth with a reset."""
    return all_short(server, count, one_request)


def all_short(server: Server, count: int, one: Callable[[socket.socket, int], bool]) -> bool:
    failures: list[str] = []

    def one_thread(number: int) -> None:
        for n in range(count // CLIENT_THREADS):
            # Many source addresses, or the ports of one run out while they linger in TIME_WAIT.
            with server.connect(f"127.{number + 1}.{n // 20000 % 200}.1") as peer:
                if not one(peer, n):
                    failures.append("no answer")

    threads = [threading.Thread(target=one_thread, args=(number,)) for number in range(CLIENT_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return not failures


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the full soak to do")
    parser.add_argument("--only", choices=["http", "streams"], help="one of the servers")
    given = parser.parse_args(argv)
    scale, only = given.scale, given.only
    size, connections = int(10 * GIB * scale), int(1_000_000 * scale)
    works: list[tuple[str, Callable[[Server], bool]]] = [
        (f"upload of {size} bytes, slow application", lambda server: upload(server, size, 20, 0)),
        (f"upload of {size} bytes, slow client", lambda server: upload(server, size, 0, 0.02)),
        (f"download of {size} bytes, slow application", lambda server: download(server, size, 20, 0)),
        (f"download of {size} bytes, slow client", lambda server: download(server, size, 0, 0.02)),
        (f"{connections} short connections", lambda server: short_connections(server, connections)),
    ]
    streams: list[tuple[str, Callable[[Server], bool]]] = [
        (f"{connections} short connections to a TCPServer", lambda server: short_streams(server, connections)),
    ]
    is_flat = True
    if only != "streams":
        with serving() as server:
            short_connections(server, 4000)
            upload(server, 1 << 26, 0, 0)
            download(server, 1 << 26, 0, 0)
            is_flat &= all(stays_flat(server, *each) for each in works)
    if only != "http":
        with serving_streams() as server:
            short_streams(server, 4000)
            is_flat &= all(stays_flat(server, *each) for each in streams)
    return int(not is_flat)


def stays_flat(server: Server, name: str, work: Callable[[Server], bool]) -> bool:
    """Do this work, and say whether it went right with memory and descriptors flat."""
    time.sleep(LINGER_S)
    descriptors, began = server.descriptors(), time.monotonic()
    with peak_growth(server) as growth:
        right = work(server)
    took = time.monotonic() - began
    time.sleep(LINGER_S)
    flat = growth() <= MEMORY_BOUND_BYTES and server.descriptors() <= descriptors
    print(
        f"{'ok  ' if right and flat else 'FAIL'} {name}: {took:.1f} s, memory grew by at most "
        f"{growth() / 2**20:.2f} MiB, {server.descriptors()} descriptors (before: {descriptors})"
    )
    return right and flat


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
