"""Loads for servers that send back what they are sent: a framed message over TCP, numbered datagrams over UDP."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .. import _core
from ..errors import ConfigError
from .outcome import Found, Progress, addresses_of, measured, reachable
from .trust import THIS_MACHINE, Trust

_ENDPOINT = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+(?:%\w+)?)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A host and a port, and the address that the host stands for."""

    text: str
    address: str
    port: int
    host: str = ""

    @classmethod
    def of(cls, text: str, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> Endpoint:
        """Raises `ConfigError` for what is none, and `BenchError` if nobody takes a connection there."""
        found = _ENDPOINT.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 65_536:
            raise ConfigError(f"ADDRESS: expected HOST:PORT, or [ADDRESS]:PORT for version 6, got {text!r}")
        host, port = found["six"] or found["host"], int(found["port"])
        address = reachable(host, port) if kind is socket.SOCK_STREAM else addresses_of(host, port, kind)[0]
        return cls(text=text, address=address, port=port, host=host)


def _raw(payload: bytes) -> bytes:
    return payload


def _line(payload: bytes) -> bytes:
    return payload + b"\n"


def _length(header_bytes: int) -> Callable[[bytes], bytes]:
    def framed(payload: bytes) -> bytes:
        if len(payload) >= 1 << 8 * header_bytes:
            raise ConfigError(
                f"--size: expected at most {(1 << 8 * header_bytes) - 1} with a length of {header_bytes} bytes, "
                f"got {len(payload)}"
            )
        return len(payload).to_bytes(header_bytes, "big") + payload

    return framed


def _varint(payload: bytes) -> bytes:
    left, header = len(payload), bytearray()
    while left > 0x7F:
        header.append(left & 0x7F | 0x80)
        left >>= 7
    header.append(left)
    return bytes(header) + payload


# How a message is framed, by the names that the command line has for it.
FRAMES: Mapping[str, Callable[[bytes], bytes]] = {
    "raw": _raw,
    "line": _line,
    "length1": _length(1),
    "length2": _length(2),
    "length4": _length(4),
    "varint": _varint,
}


@dataclass(frozen=True, kw_only=True)
class TcpLoad:
    """Each message of `size` bytes, with its frame, is to come back byte for byte. Times are in seconds."""

    endpoint: Endpoint
    frame: str = "raw"
    size: int = 64
    connections: int = 64
    duration_s: float = 10.0
    warm_up_s: float = 1.0
    rate: float | None = None
    pipeline: int = 1
    answer_timeout_s: float = 10.0
    tls: bool = False
    trust: Trust = THIS_MACHINE

    @property
    def message(self) -> bytes:
        # No newline in it, so that a line is one.
        return FRAMES[self.frame](bytes(ord("a") + at % 26 for at in range(self.size)))

    @property
    def title(self) -> str:
        over = " over TLS" if self.tls else ""
        return f"tcp {self.endpoint.text}{over}, messages of {self.size:,} bytes, {self.frame}"

    @property
    def told(self) -> Mapping[str, object]:
        parts = {"protocol": "tcp", "address": self.endpoint.text, "frame": self.frame, "size": self.size}
        return {**parts, "over_tls": self.tls}


@dataclass(frozen=True, kw_only=True)
class UdpLoad:
    """Each datagram of `size` bytes is to come back. The connections are sockets, each with an address of its own."""

    endpoint: Endpoint
    size: int = 64
    connections: int = 16
    duration_s: float = 10.0
    warm_up_s: float = 1.0
    rate: float | None = None
    pipeline: int = 1
    answer_timeout_s: float = 1.0

    @property
    def title(self) -> str:
        return f"udp {self.endpoint.text}, datagrams of {self.size:,} bytes"

    @property
    def told(self) -> Mapping[str, object]:
        return {"protocol": "udp", "address": self.endpoint.text, "size": self.size}


def run_tcp(load: TcpLoad, progress: Progress | None = None) -> Found:
    """Make the load in this thread, with the interpreter free. Raises `BenchError` and `ConfigError`."""
    message = load.message
    tls = (load.endpoint.host, load.trust.authorities()) if load.tls else None
    return measured(
        lambda: _core.run_tcp_load(
            load.endpoint.address,
            load.endpoint.port,
            message=message,
            connections=load.connections,
            pipeline=load.pipeline,
            rate=load.rate,
            duration_s=load.duration_s,
            warm_up_s=load.warm_up_s,
            answer_timeout_s=load.answer_timeout_s,
            tls=tls,
            progress=progress,
        )
    )


def run_udp(load: UdpLoad, progress: Progress | None = None) -> Found:
    """Make the load in this thread, with the interpreter free. Raises `BenchError` and `ConfigError`."""
    return measured(
        lambda: _core.run_udp_load(
            load.endpoint.address,
            load.endpoint.port,
            size=load.size,
            connections=load.connections,
            pipeline=load.pipeline,
            rate=load.rate,
            duration_s=load.duration_s,
            warm_up_s=load.warm_up_s,
            answer_timeout_s=load.answer_timeout_s,
            progress=progress,
        )
    )
