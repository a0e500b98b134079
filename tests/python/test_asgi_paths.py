"""What the scope says of a request's target, beside what uvicorn says of it, and of the address the request came to."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from conftest import Server

Serve = Callable[..., Server]

KEYS = ("path", "raw_path", "query_string", "root_path", "method", "http_version", "scheme", "type")
TARGET_APP = f"""
async def app(scope, receive, send):
    assert scope["type"] == "http"
    told = repr({{key: scope[key] for key in {KEYS}}}).encode()
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]}})
    await send({{"type": "http.response.body", "body": told}})
"""

# Targets of which both say the same.
TARGETS = [
    "/",
    "/plain/path",
    "/a%20b",
    "/a+b",
    "/%C3%A9",
    "/%c3%a9",
    "/%E2%82%AC/x",
    "/%FF",
    "/%C3",
    "/%ED%A0%80",
    "/%F0%9F%98%80",
    "/a%2Fb",
    "/a%2fb%2E%2e",
    "/%41%42",
    "/%25",
    "/%2525",
    "/%",
    "/%4",
    "/%zz",
    "/%%41",
    "/100%",
    "/%00",
    "/%0d%0a",
    "/a//b///",
    "/./../x/..",
    "/a;b=c,d",
    "/~user/(x)'*!$&",
    "/a?b=c&d=e%20f",
    "/a?",
    "/?",
    "/?a?b?c",
    "/?%C3%A9=%2F",
    "/a:b@c",
    '/"<>\\^`{|}',
    "/" + "x" * 4000,
]

# Targets of which uvicorn (its httptools parser) says something else than Penstock: the path it finds, or its refusal.
DIFFERENCES = {
    # RFC 9110 section 4.2.3: an absolute target without a path means the path "/".
    "http://host.example": (400, "/"),
    "http://host.example?q": (400, "/"),
    # RFC 9112 section 3.2: no form of a target has a fragment, ...
    "/a#fragment": ("/a", 400),
    # ... and this server is asked for http and https alone, ...
    "ftp://host/x": ("/x", 400),
    # ... without user information, which RFC 9110 section 4.2.4 has recipients take for an attempt to deceive.
    "http://user:password@host/x": ("/x", 400),
}

ABSOLUTE = ["http://host.example/x/%C3%A9?q=1", "https://host.example:8443/x", "HTTP://host.example/x", "//host/path"]

# Of these both say 400.
REFUSED = ["/caf\xe9", "path", "http:///x", "/a\tb"]


def ask(address: tuple[str, int], target: str, method: str = "GET", host: str = "host.example") -> dict[str, Any] | int:
    """What the application was told, or the status of a refusal."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode("latin1"))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, told = received.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if status != 200:
        return status
    start = told.index(b"{")
    return eval(told[start : told.rindex(b"}") + 1])


@contextmanager
def uvicorn_serving(root_path: str) -> Generator[tuple[str, int]]:
    """uvicorn with the same application, in a thread of this process."""
    names: dict[str, Any] = {}
    exec(TARGET_APP, names)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        names["app"], root_path=root_path, lifespan="off", log_level="critical", http="httptools", loop="asyncio"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        # The listener takes connections from its start; they are answered when the server is there.
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.mark.parametrize("root_path", ["", "/api", "/caf%C3%A9"])
def test_a_target_is_understood_as_uvicorn_does(serve: Serve, root_path: str):
    server = serve(TARGET_APP, "--root-path", root_path)
    with uvicorn_serving(root_path) as beside:
        for target in [*TARGETS, *ABSOLUTE]:
            assert ask(("127.0.0.1", server.port), target) == ask(beside, target), target
        assert ask(("127.0.0.1", server.port), "*", "OPTIONS") == ask(beside, "*", "OPTIONS")


def test_where_uvicorn_differs_the_standard_decides(serve: Serve):
    server = serve(TARGET_APP)
    with uvicorn_serving("") as beside:
        for target, expected in DIFFERENCES.items():
            both = [ask(beside, target), ask(("127.0.0.1", server.port), target)]
            assert tuple(told if isinstance(told, int) else told["path"] for told in both) == expected, target
        for target in REFUSED:
            assert ask(beside, target) == ask(("127.0.0.1", server.port), target) == 400, target


# ---------------------------------------------------------------- the server's own address

ADDRESS_APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr((scope["server"], scope["client"])).encode()})
"""


def addresses(family: int, address: str, port: int) -> tuple[Any, Any]:
    """The scope's server and client of three requests on one connection, which agree."""
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect((address, port))
        ending = b"connection: close\r\n\r\n"
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"\r\nGET / HTTP/1.1\r\nhost: x\r\n" * 2 + ending)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        told = {part.partition(b"HTTP/1.1 ")[0] for part in received.split(b"\r\n\r\n")[1:]}
        assert len(told) == 1, told
        server, client = eval(told.pop())
        assert client[1] == connection.getsockname()[1]
        return server, client[0]


def test_a_listener_on_every_address_tells_the_one_that_was_asked(serve: Serve):
    server = serve(ADDRESS_APP, "--host", "0.0.0.0")
    for address in ("127.0.0.1", "127.0.0.2", "127.1.2.3", "127.0.0.1"):
        assert addresses(socket.AF_INET, address, server.port)[0] == (address, server.port)


def test_a_listener_on_one_address_tells_that(serve: Serve):
    server = serve(ADDRESS_APP, "--host", "127.0.0.3")
    assert addresses(socket.AF_INET, "127.0.0.3", server.port)[0] == ("127.0.0.3", server.port)


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_a_listener_on_every_ipv6_address_tells_the_one_that_was_asked(serve: Serve):
    server = serve(ADDRESS_APP, "--host", "::")
    assert addresses(socket.AF_INET6, "::1", server.port) == (("::1", server.port), "::1")


def test_a_unix_domain_listener_tells_its_path_and_no_client(serve: Serve, tmp_path: Any):
    server = serve(ADDRESS_APP, "--uds", str(tmp_path / "s"))
    told = server.get().partition(b"\r\n\r\n")[2]
    assert eval(told) == ((str(tmp_path / "s"), None), None)
