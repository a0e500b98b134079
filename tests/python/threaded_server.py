"""A server in a thread of the test's own process: started in a millisecond, and the test can look inside.

What needs a process of its own (signals, exit statuses, memory) is tested with the `serve` fixture instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any

from waiting import wait_until

from penstock import EventLoop, ServerConfig, listener, logs
from penstock.server import Worker

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
# ASGI or WSGI.
App = Callable[..., Any]

TIMEOUT_S = 20.0


class Records(logging.Handler):
    """What was logged, kept."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)

    @property
    def text(self) -> str:
        return "\n".join(logging.Formatter().format(record) for record in self.kept)


class ThreadedServer:
    """A worker that serves `app` on a free port of 127.0.0.1 until `stop`."""

    def __init__(self, app: App, **settings: Any) -> None:
        where: dict[str, Any] = {} if "uds" in settings else {"port": 0}
        self.config = ServerConfig(**(where | {"access_log": False, "lifespan": "off"} | settings))
        self._app = app
        self._listeners = listener.open_listeners(self.config)
        self._attached = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self.records = Records()
        self.failure: BaseException | None = None

    def start(self) -> ThreadedServer:
        self._level = logs.error_logger.level
        logs.error_logger.setLevel(logging.INFO)
        logs.error_logger.addHandler(self.records)
        self._thread.start()
        assert self._attached.wait(TIMEOUT_S), "the server did not start"
        if self.failure is not None:
            self._thread.join(TIMEOUT_S)
            raise self.failure
        return self

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: EventLoop(self.config.poller)) as runner:
                runner.run(self._main())
        except BaseException as error:
            self.failure = error
        finally:
            self._attached.set()
            listener.close_listeners(self._listeners)

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, EventLoop)
        self.loop = loop
        self.worker = Worker(self._app, self._listeners, self.config)
        # Its turn comes once the worker waits to be stopped.
        main = asyncio.create_task(self.worker.main())
        while not main.done() and not logged(self.records, "running on "):
            await asyncio.sleep(0)
        if not main.done():
            self._attached.set()
        await main

    def stop(self) -> None:
        """Stop gracefully, and raise what the worker raised."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # It may have ended just now.
                self.loop.call_soon_threadsafe(self.worker.stop)
        self._thread.join(TIMEOUT_S)
        logs.error_logger.removeHandler(self.records)
        logs.error_logger.setLevel(self._level)
        assert not self._thread.is_alive(), "the server did not stop"
        if self.failure is not None:
            raise self.failure

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the server's thread, and return what it returns."""

        async def act() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(act(), self.loop).result(TIMEOUT_S)

    @property
    def log(self) -> str:
        return self.records.text

    def wait_for_log(self, text: str) -> None:
        """Return once `text` has been logged; fail if it has not been in time."""
        wait_until(lambda: text in self.log, lambda: f"not logged: {text!r}\n{self.log}")

    @property
    def port(self) -> int:
        return int(self._listeners[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, *, timeout_s: float = TIMEOUT_S) -> socket.socket:
        if self.config.uds is None:
            return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        connection.connect(self.config.uds)
        return connection

    def exchange(self, request: bytes) -> bytes:
        """Send raw bytes on a connection of their own, and return all that comes until the server closes it."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_to_end(connection)

    def get(self, path: str = "/") -> bytes:
        """The whole response to a GET, after which the connection is closed."""
        return self.exchange(f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())


def logged(records: Records, text: str) -> bool:
    return any(text in record.getMessage() for record in records.kept)


@contextlib.contextmanager
def threaded_server(app: App, **settings: Any) -> Generator[ThreadedServer]:
    server = ThreadedServer(app, **settings).start()
    try:
        yield server
    finally:
        server.stop()


def read_to_end(connection: socket.socket) -> bytes:
    received = bytearray()
    while piece := connection.recv(1 << 16):
        received += piece
    return bytes(received)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What comes up to and with `end`; nothing behind it is read."""
    received = bytearray()
    while not received.endswith(end):
        piece = connection.recv(1)
        assert piece, f"closed after {bytes(received)!r}"
        received += piece
    return bytes(received)


def read_head(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and headers of the response that comes next."""
    lines = read_until(connection, b"\r\n\r\n").decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split(" ")[1]), headers


def read_response(connection: socket.socket, *, to_head: bool = False) -> tuple[int, dict[str, str], bytes]:
    """One whole response, framed by content-length or chunked."""
    status, headers = read_head(connection)
    if to_head or status in (204, 304):
        return status, headers, b""
    if headers.get("transfer-encoding") == "chunked":
        return status, headers, read_chunked(connection)
    return status, headers, read_exactly(connection, int(headers["content-length"]))


def read_exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = connection.recv(count - len(received))
        assert piece, f"closed after {len(received)} bytes of {count}"
        received += piece
    return bytes(received)


def read_chunked(connection: socket.socket) -> bytes:
    received = bytearray()
    while size := int(read_until(connection, b"\r\n"), 16):
        received += read_exactly(connection, size)
        assert read_exactly(connection, 2) == b"\r\n"
    assert read_exactly(connection, 2) == b"\r\n"
    return bytes(received)


async def respond(send: Send, body: bytes | bytearray = b"", status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError(message["type"])
        body += message["body"]
        more = message["more_body"]
    return bytes(body)
