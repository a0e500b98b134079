"""A place to listen at, as `--bind` takes it: `HOST:PORT`, `unix:PATH` or `fd://N`.

Nothing is opened or looked up here; `listener` does that.
"""

from __future__ import annotations

from dataclasses import dataclass

SYNTAX = "HOST:PORT, unix:PATH or fd://N, such as 127.0.0.1:8000, [::]:80 or unix:/run/app.sock"
DEFAULT_PORT = 8000
MAX_FD = 1_048_575


@dataclass(frozen=True)
class TcpPlace:
    host: str
    port: int


@dataclass(frozen=True)
class UnixPlace:
    path: str


@dataclass(frozen=True)
class InheritedPlace:
    fd: int


Place = TcpPlace | UnixPlace | InheritedPlace


def parse(text: str, default_port: int | None = DEFAULT_PORT) -> Place:
    """The place that `text` names; `ValueError` if none. No port is `default_port`, no host every IPv4 address."""
    text = text.strip()
    if not text or "\0" in text:
        raise ValueError(text)
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # unix:///run/app.sock is a URL; unix:/run/app.sock and unix:app.sock are paths.
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path:
            raise ValueError(text)
        return UnixPlace(path)
    if text.startswith("fd://"):
        return InheritedPlace(_number(text.removeprefix("fd://"), MAX_FD))
    return _parse_tcp(text.removeprefix("tcp://"), default_port)


def parse_local(text: str) -> Place:
    """The same, but there must be a port, and one alone is of 127.0.0.1."""
    text = text.strip()
    return TcpPlace("127.0.0.1", _number(text, 65535)) if text.isdigit() else parse(text, None)


def _parse_tcp(text: str, default_port: int | None) -> TcpPlace:
    if "/" in text:
        raise ValueError(text)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not host or (rest and not rest.startswith(":")):
            raise ValueError(text)
        return TcpPlace(host, _port(rest[1:] if rest else None, default_port))
    host, colon, port = text.partition(":")
    if ":" in port:
        raise ValueError(text)  # An IPv6 address belongs in brackets.
    return TcpPlace(host or "0.0.0.0", _port(port if colon else None, default_port))


def _port(text: str | None, default: int | None) -> int:
    if text is None and default is not None:
        return default
    return _number(text or "", 65535)


def _number(text: str, maximum: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > maximum:
        raise ValueError(text)
    return int(text)
