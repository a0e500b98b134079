"""Behind a proxy: X-Forwarded headers, held against uvicorn's own middleware, and the PROXY protocol of HAProxy."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import programs
import pytest
from conftest import Server
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

Serve = Callable[..., Server]

WHO_APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    told = repr((scope["client"], scope["scheme"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told})
"""

Client = tuple[str, int] | None


def ask(server: Server, *headers: tuple[str, str], before: bytes = b"") -> tuple[Client, str]:
    """Who the application believes is asking, and by which scheme."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    request = f"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{lines}\r\n".encode("latin1")
    response = server.exchange(before + request)
    assert response.startswith(b"HTTP/1.1 200 "), response
    return eval(response.partition(b"\r\n\r\n")[2])


def host_of(client: Client) -> str:
    """Of the peer itself, whose port is a real one, or of the client that was named."""
    assert client is not None
    assert client[1] > 0 or client[0] != "127.0.0.1"
    return client[0]


# ---------------------------------------------------------------- X-Forwarded, as uvicorn has it


def by_uvicorn(allow: str, headers: tuple[tuple[str, str], ...], client: Client) -> tuple[Client, str]:
    """What uvicorn's middleware makes of the same headers."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"], scope["scheme"]))

    raw = [(name.lower().encode(), value.encode("latin1")) for name, value in headers]
    scope: Any = {"type": "http", "client": client, "scheme": "http", "headers": raw}
    nothing: Any = None
    asyncio.run(ProxyHeadersMiddleware(app, allow)(scope, nothing, nothing))
    return seen[0]


FOR, PROTO = "X-Forwarded-For", "X-Forwarded-Proto"
HEADERS = [
    (),
    ((FOR, "203.0.113.9"),),
    ((FOR, "6.6.6.6, 203.0.113.9"),),
    ((FOR, "6.6.6.6,203.0.113.9 ,127.0.0.1,  127.0.0.2"),),
    ((FOR, "127.0.0.1, 127.0.0.1"),),
    ((FOR, "10.0.0.1, 10.0.0.2"),),
    ((FOR, "6.6.6.6"), ("x-forwarded-for", "203.0.113.9")),
    ((FOR, "6.6.6.6"), (FOR, "127.0.0.1")),
    ((FOR, ""),),
    ((FOR, ", ,"),),
    ((FOR, "203.0.113.9,"),),
    ((FOR, ""), (FOR, "203.0.113.9")),
    ((FOR, "unknown"),),
    ((FOR, "6.6.6.6, inner"),),
    ((FOR, "_hidden, 203.0.113.9:4711"),),
    ((FOR, "203.0.113.9:4711, 127.0.0.1:80"),),
    ((FOR, "203.0.113.9:port"),),
    ((FOR, "[2001:db8::1]:4711"),),
    ((FOR, "[2001:db8::1]"),),
    ((FOR, "2001:db8::1"),),
    ((FOR, "2001:DB8:0::1, ::1"),),
    ((FOR, "::ffff:203.0.113.9"),),
    ((FOR, "::ffff:127.0.0.1"),),
    ((FOR, "[::1"),),
    ((FOR, "[::1]x"),),
    ((FOR, "[::1]:"),),
    ((FOR, "1.2.3.4:"),),
    ((FOR, "1.2.3.4:5:6"),),
    ((FOR, "203.0.113.09"),),
    ((FOR, "caf\xe9"),),
    ((FOR, "\xa0203.0.113.9\x85"),),
    ((FOR, "x" * 2000),),
    ((PROTO, "https"),),
    ((PROTO, "HTTPS"),),
    ((PROTO, "https, http"),),
    ((PROTO, "wss"),),
    ((PROTO, "gopher"),),
    ((PROTO, ""),),
    ((PROTO, "https"), (PROTO, "http")),
    ((PROTO, "https"), (PROTO, "nonsense")),
    ((PROTO, "https"), (FOR, "203.0.113.9")),
    (("X-Forwarded-Port", "99"), ("X-Forwarded-Host", "evil"), ("Forwarded", "for=6.6.6.6")),
    (("X-Forwarded-Fox", "1.2.3.4"), ("X-Forwarded-Protos", "https")),
]


@pytest.mark.parametrize(
    "allow", ["127.0.0.1,::1", "*", "127.0.0.0/8, 10.0.0.0/8,::1, 2001:db8::/32", "127.0.0.1,inner", "10.0.0.0/8", ""]
)
def test_the_client_and_the_scheme_are_what_uvicorn_finds(serve: Serve, allow: str):
    server = serve(WHO_APP, "--forwarded-allow-ips", allow)
    nobody = ("127.0.0.1", -1)
    for headers in HEADERS:
        expected, expected_scheme = by_uvicorn(allow, headers, nobody)
        client, scheme = ask(server, *headers)
        assert scheme == expected_scheme, headers
        if expected == nobody:
            assert host_of(client) == "127.0.0.1", headers
        else:
            assert client == expected, headers


def test_by_default_this_machine_alone_is_believed(serve: Serve):
    server = serve(WHO_APP)
    assert ask(server, (FOR, "203.0.113.9"), (PROTO, "https")) == (("203.0.113.9", 0), "https")


def test_switched_off_nobody_is_believed(serve: Serve):
    server = serve(WHO_APP, "--no-proxy-headers", "--forwarded-allow-ips", "*")
    client, scheme = ask(server, (FOR, "203.0.113.9"), (PROTO, "https"))
    assert (host_of(client), scheme) == ("127.0.0.1", "http")


@pytest.mark.parametrize(
    ("environment", "arguments", "believed"),
    [
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1"}, [], False),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1", "PENSTOCK_FORWARDED_ALLOW_IPS": "127.0.0.0/8"}, [], True),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.0/99"}, ["--forwarded-allow-ips", "*"], True),
    ],
)
def test_the_variable_of_other_servers_is_honoured_after_our_own(
    serve: Serve, environment: dict[str, str], arguments: list[str], believed: bool
):
    server = serve(WHO_APP, *arguments, env=environment)
    client, _ = ask(server, (FOR, "203.0.113.9"))
    assert (host_of(client) == "203.0.113.9") == believed


@pytest.mark.parametrize(
    ("allow", "believed"), [("*", True), ("unix", True), ("127.0.0.1", False), ("0.0.0.0/0", False)]
)
def test_a_unix_domain_peer_is_believed_by_name(serve: Serve, tmp_path: Path, allow: str, believed: bool):
    server = serve(WHO_APP, "--uds", str(tmp_path / "s"), "--forwarded-allow-ips", allow)
    expected = (("203.0.113.9", 0), "https") if believed else (None, "http")
    assert ask(server, (FOR, "203.0.113.9"), (PROTO, "https")) == expected


def test_each_request_of_a_connection_has_its_own_client(serve: Serve):
    server = serve(WHO_APP)
    lines = [f"{FOR}: 203.0.113.{number}\r\n" for number in (1, 2)] + ["", "connection: close\r\n"]
    answers = server.exchange("".join(f"GET / HTTP/1.1\r\nhost: test\r\n{line}\r\n" for line in lines).encode())
    assert [answers.count(text) for text in (b"'203.0.113.1'", b"'203.0.113.2'", b"'127.0.0.1'")] == [1, 1, 2]


def test_the_access_log_names_the_client_and_cannot_be_faked(serve: Serve):
    server = serve(WHO_APP)
    ask(server, (FOR, "203.0.113.9"))
    server.wait_for_log('203.0.113.9:0 - "GET / HTTP/1.1" 200 OK')
    ask(server, (FOR, 'x" \xe9'))
    server.wait_for_log('x\\" \\xc3\\xa9:0 - "GET / HTTP/1.1" 200 OK')


@pytest.mark.parametrize(
    "wrong", ["*,127.0.0.1", "10.0.0.1/8", "10.0.0.0/33", "1.2.3.400", "10.0.0.0/255.0.0.0", "a/b"]
)
def test_peers_that_cannot_be_meant_are_refused(penstock: Callable[..., Any], wrong: str):
    done = penstock("serve", "x:y", "--forwarded-allow-ips", wrong)
    assert done.returncode == 2
    assert done.stderr.startswith("penstock: error: --forwarded-allow-ips: expected addresses and networks separated")


# ---------------------------------------------------------------- the PROXY protocol, in bytes

V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, payload: bytes) -> bytes:
    return V2_SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(payload)) + payload


def v2_source(family: int, source: str, port: int, tlvs: bytes = b"") -> bytes:
    packed = socket.inet_pton(family, source)
    kind = 0x11 if family == socket.AF_INET else 0x21
    return v2(1, kind, packed + packed + struct.pack("!HH", port, 443) + tlvs)


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", ("192.0.2.7", 56324)),
        (b"PROXY TCP6 2001:db8::7 ::1 1 443\r\n", ("2001:db8::7", 1)),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 443\r\n", ("192.0.2.7", 1)),
        (v2_source(socket.AF_INET, "192.0.2.7", 56324), ("192.0.2.7", 56324)),
        (v2_source(socket.AF_INET6, "2001:db8::7", 1, b"\x04\x00\x02ab" * 20), ("2001:db8::7", 1)),
        (v2(1, 0x31, bytes(216)), None),
    ],
)
def test_a_proxy_s_header_names_the_client(serve: Serve, header: bytes, client: Client):
    server = serve(WHO_APP, "--proxy-protocol")
    assert ask(server, before=header) == (client, "http")
    shown = f"{client[0]}:{client[1]}".replace("2001:db8::7:", "[2001:db8::7]:") if client else "-"
    server.wait_for_log(f'{shown} - "GET / HTTP/1.1" 200 OK')


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(0, 0, b""), v2(0, 0x11, bytes(12)), v2(1, 0, b"")])
def test_a_proxy_that_speaks_for_itself_is_the_client(serve: Serve, header: bytes):
    server = serve(WHO_APP, "--proxy-protocol")
    client, _ = ask(server, before=header)
    assert host_of(client) == "127.0.0.1"


def test_both_ways_of_naming_the_client_go_together(serve: Serve):
    """The header in front says who speaks HTTP; whether that peer's X-Forwarded-For counts is asked of its address."""
    server = serve(WHO_APP, "--proxy-protocol", "--forwarded-allow-ips", "127.0.0.1,10.0.0.0/8")
    inner, stranger = (b"PROXY TCP4 %s 127.0.0.1 1 2\r\n" % source for source in (b"10.0.0.1", b"192.0.2.7"))
    assert ask(server, (FOR, "203.0.113.9"), before=inner)[0] == ("203.0.113.9", 0)
    assert ask(server, (FOR, "203.0.113.9"), before=stranger)[0] == ("192.0.2.7", 1)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
        b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
        V2_SIGNATURE + b"\x11\x11\x00\x00",
        v2(1, 0x11, bytes(11)),
        v2(1, 0x11, bytes(5000)),
    ],
)
def test_a_connection_without_a_right_header_is_closed_unanswered(serve: Serve, header: bytes):
    server = serve(WHO_APP, "--proxy-protocol")
    assert exchange_or_reset(server, header + b"GET / HTTP/1.1\r\nhost: test\r\n\r\n") == b""
    assert "200 OK" not in server.log


def test_a_header_from_a_stranger_is_not_believed(serve: Serve):
    server = serve(WHO_APP, "--proxy-protocol", "--forwarded-allow-ips", "10.0.0.0/8")
    header = b"PROXY TCP4 10.0.0.1 198.51.100.1 1 2\r\n"
    assert exchange_or_reset(server, header + b"GET / HTTP/1.1\r\nhost: test\r\n\r\n") == b""


def test_without_the_setting_a_header_is_a_bad_request(serve: Serve):
    server = serve(WHO_APP)
    assert server.exchange(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def exchange_or_reset(server: Server, request: bytes) -> bytes:
    try:
        return server.exchange(request)
    except ConnectionResetError:
        return b""


# ---------------------------------------------------------------- HAProxy itself

HAPROXY_CONFIG = """
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend in
    bind 127.0.0.1:{front}
    {forward}
    default_backend app
backend app
    server app 127.0.0.1:{back} {options}
"""


@contextmanager
def haproxy(directory: Path, back: int, options: str) -> Generator[int]:
    """HAProxy in front of `back`; yields its port."""
    program = programs.need("haproxy")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        front: int = probe.getsockname()[1]
    config = directory / "haproxy.cfg"
    forward = "" if options else "option forwardfor\n    http-request set-header X-Forwarded-Proto https"
    config.write_text(HAPROXY_CONFIG.format(front=front, back=back, options=options, forward=forward))
    process = subprocess.Popen([program, "-db", "-f", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", front), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "HAProxy does not start"
                assert time.monotonic() < deadline, "HAProxy takes no connections"
                time.sleep(0.01)
        yield front
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        print(process.stdout.read().decode())
        process.stdout.close()


@pytest.mark.timeout(400)  # It may have to be installed first.
@pytest.mark.parametrize("options", ["", "send-proxy", "send-proxy-v2", "send-proxy-v2 check inter 100ms"])
def test_haproxy_names_its_client(serve: Serve, tmp_path: Path, options: str):
    server = serve(WHO_APP, *(["--proxy-protocol"] if options else []))
    with haproxy(tmp_path, server.port, options) as front:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", front), timeout=10) as connection:
                request = "GET / HTTP/1.1\r\nhost: test\r\n" + ("" if options else f"{FOR}: 203.0.113.9\r\n") + "\r\n"
                connection.sendall(request.encode())
                answer = b""
                while b"')" not in answer and (piece := connection.recv(65536)):
                    answer += piece
                own_port = connection.getsockname()[1]
            client, scheme = eval(answer.partition(b"\r\n\r\n")[2])
            # The header in front gives the port as well. In X-Forwarded-For, HAProxy's own word stands last.
            assert (client, scheme) == ((("127.0.0.1", own_port), "http") if options else (("203.0.113.9", 0), "https"))
