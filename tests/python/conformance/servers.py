"""The servers, each on a free port of 127.0.0.1 with an application that says what it saw.

It says it in a header, so that HEAD is answered alike: the method, the target, and the body if there is one. nginx has
no application; what it would have shown one is what it passes on, to a backend of a few lines here.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import programs

START_TIMEOUT_S = 30.0

APPLICATION = '''
"""Answers every request with what it saw of it."""


def shown(method: str, target: bytes, body: bytes) -> bytes:
    text = method.encode("latin-1") + b" " + (target if len(target) < 60 else b"%d bytes" % len(target))
    if body:
        text += b" + " + (body if len(body) < 60 else b"%d bytes" % len(body))
    return b"".join(bytes([byte]) if 32 <= byte < 127 else b"\\\\x%02x" % byte for byte in text)


async def app(scope, receive, send):
    assert scope["type"] == "http", scope["type"]
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    headers = [(b"x-saw", shown(scope["method"], target, body)), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})
'''

NGINX_CONFIG = """
daemon off;
master_process off;
error_log stderr emerg;
pid {home}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{backend}; }}
    }}
}}
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"nothing listens on port {port}: {process.args}") from error
            time.sleep(0.01)


@contextlib.contextmanager
def running(command: list[str], port: int, home: Path) -> Generator[int]:
    log = home / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=home, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True
        )
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(log.read_text(errors="replace")[-4000:])


def _write_application(home: Path) -> None:
    (home / "main.py").write_text(APPLICATION, encoding="utf-8")


def penstock(home: Path) -> AbstractContextManager[int]:
    _write_application(home)
    port = free_port()
    options = ["--port", str(port), "--timeout-keep-alive", "60", "--no-access-log"]
    return running([sys.executable, "-m", "penstock", "serve", *options, "main:app"], port, home)


def uvicorn(home: Path, parser: str) -> AbstractContextManager[int]:
    _write_application(home)
    port = free_port()
    options = [
        "--port",
        str(port),
        "--http",
        parser,
        "--lifespan",
        "off",
        "--timeout-keep-alive",
        "60",
        "--no-access-log",
    ]
    return running([sys.executable, "-m", "uvicorn", *options, "main:app"], port, home)


class _Backend(socketserver.StreamRequestHandler):
    """One request of nginx's own making, which is plain HTTP/1.0, answered as the application answers."""

    def handle(self) -> None:
        line = self.rfile.readline().rstrip(b"\r\n")
        length = 0
        while header := self.rfile.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if line:
            method, _, rest = line.partition(b" ")
            saw = _shown(method.decode("latin-1"), rest.rpartition(b" ")[0], self.rfile.read(length))
            self.wfile.write(b"HTTP/1.0 200 OK\r\nx-saw: " + saw + b"\r\ncontent-length: 0\r\n\r\n")


_names: dict[str, Callable[[str, bytes, bytes], bytes]] = {}
exec(APPLICATION, _names)
_shown = _names["shown"]


class _BackendServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024


@contextlib.contextmanager
def nginx(home: Path) -> Generator[int]:
    with _BackendServer(("127.0.0.1", 0), _Backend) as backend:
        thread = threading.Thread(target=backend.serve_forever, daemon=True)
        thread.start()
        port, backend_port = free_port(), backend.server_address[1]
        config = home / "nginx.conf"
        config.write_text(NGINX_CONFIG.format(home=home, port=port, backend=backend_port), encoding="utf-8")
        try:
            with running([_nginx_binary(), "-p", str(home), "-c", str(config)], port, home):
                yield port
        finally:
            backend.shutdown()
            thread.join()


def _nginx_binary() -> str:
    found = programs.find("nginx")
    if found is None:
        raise FileNotFoundError("nginx")
    return found


def _nginx_version() -> str:
    told = subprocess.run([_nginx_binary(), "-v"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"nginx/([\d.]+)", told)
    assert found, told
    return found[1]


def _version_of(*modules: str) -> Callable[[], str]:
    def version() -> str:
        from importlib.metadata import version

        return " with ".join(f"{module} {version(module)}" for module in modules)

    return version


SERVERS: dict[str, Callable[[Path], AbstractContextManager[int]]] = {
    "penstock": penstock,
    "nginx": nginx,
    "uvicorn-h11": lambda home: uvicorn(home, "h11"),
    "uvicorn-httptools": lambda home: uvicorn(home, "httptools"),
}

VERSIONS: dict[str, Callable[[], str]] = {
    "nginx": lambda: f"nginx {_nginx_version()}",
    "uvicorn-h11": _version_of("uvicorn", "h11"),
    "uvicorn-httptools": _version_of("uvicorn", "httptools"),
}


def installed_version(server: str) -> str | None:
    """Which version of a peer is here, or None if none is."""
    from importlib.metadata import PackageNotFoundError

    try:
        return VERSIONS[server]()
    except (PackageNotFoundError, FileNotFoundError):
        return None
