"""Servers over TLS that the tests make themselves, with certificates of a made-up authority."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

Serve = Callable[[ssl.SSLSocket], None]


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: an authority, and a chain with its key for 127.0.0.1 and localhost."""

    authority: Path
    chain: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def certificates(directory: Path, *names: str) -> Certificates:
    made = Certificates(directory / "authority.pem", directory / "chain.pem", directory / "key.pem")
    authority = trustme.CA()
    own = authority.issue_cert(*(names or ("127.0.0.1", "localhost")))
    authority.cert_pem.write_to_path(made.authority)
    own.private_key_pem.write_to_path(made.key)
    for part in own.cert_chain_pems:
        part.write_to_path(made.chain, append=True)
    return made


@contextmanager
def server(context: ssl.SSLContext | None, serve: Callable[..., None]) -> Generator[int]:
    """`serve` is given each connection, on a thread of its own, once it has a session; at once, without a context."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection: socket.socket = self.request
            connection.settimeout(20)
            try:
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False)
                serve(connection)
            except OSError:
                pass
            finally:
                connection.close()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield listening.server_address[1]
        finally:
            listening.shutdown()
            thread.join()


def requests(connection: socket.socket) -> Generator[bytes]:
    """The body of each request, until the client leaves."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            if not (piece := connection.recv(65_536)):
                return
            received += piece
        head, _, received = received.partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = lengths[0] if lengths else 0
        while len(received) < length:
            if not (piece := connection.recv(65_536)):
                return
            received += piece
        body, received = received[:length], received[length:]
        yield body


def answer(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", body])
