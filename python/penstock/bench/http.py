"""An HTTP/1.1 load by Penstock's own generator, over TLS where the URL says so: closed loop, or open at a rate.

In a closed loop each connection asks again once it was answered, so a server that stalls is asked less, and the stall
is one slow answer among many: throughput is told well, latency too kindly. In an open loop requests are due at a rate,
whatever the server does, and each latency counts from when its request was due (no coordinated omission): what users
of a busy service meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from .. import _core
from ..errors import ConfigError
from .outcome import Found, Progress, measured, reachable
from .trust import THIS_MACHINE, Trust

DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the load goes: the address that answered, and what the URL says beside it."""

    url: str
    address: str
    port: int
    host: str  # as the Host header has it
    path: str
    name: str | None = None  # whom a certificate has to be for; None is plain HTTP

    @property
    def scheme(self) -> str:
        return "http" if self.name is None else "https"

    @classmethod
    def of(cls, url: str) -> Target:
        """Raises `ConfigError` for what is no such URL, and `BenchError` if nobody listens at any of its addresses."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            host, port = parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
        except (ValueError, KeyError) as error:
            why = f": {error}" if isinstance(error, ValueError) else ""
            raise ConfigError(f"URL: expected http(s)://HOST:PORT/PATH, got {url!r}{why}") from None
        if not host or parts.username is not None:
            raise ConfigError(f"URL: expected http(s)://HOST:PORT/PATH, got {url!r}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not path.isascii() or not path.isprintable() or " " in path:
            raise ConfigError(f"URL: expected a path of visible ASCII, got {path!r}; escape the rest with %")
        return cls(
            url=parts.geturl(),
            address=reachable(host, port),
            port=port,
            host=parts.netloc,
            path=path,
            name=host if parts.scheme == "https" else None,
        )


@dataclass(frozen=True, kw_only=True)
class HttpLoad:
    """One load. `rate` is requests a second in all, and None a closed loop; times are in seconds."""

    target: Target
    connections: int = 64
    duration_s: float = 10.0
    warm_up_s: float = 1.0
    rate: float | None = None
    pipeline: int = 1
    method: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    answer_timeout_s: float = 10.0
    trust: Trust = THIS_MACHINE

    @property
    def verb(self) -> str:
        return self.method or ("GET" if self.body is None else "POST")

    @property
    def title(self) -> str:
        return f"{self.verb} {self.target.url}" + (f" with {len(self.body):,} bytes" if self.body else "")

    @property
    def told(self) -> Mapping[str, object]:
        body_bytes = len(self.body or b"")
        return {
            "url": self.target.url,
            "address": self.target.address,
            "method": self.verb,
            "request_body_bytes": body_bytes,
        }


def run(load: HttpLoad, progress: Progress | None = None) -> Found:
    """Make the load in this thread, with the interpreter free. Raises `BenchError` and `ConfigError`."""
    name = load.target.name
    tls = None if name is None else (name, load.trust.authorities())
    return measured(
        lambda: _core.run_http_load(
            load.target.address,
            load.target.port,
            targets=[(load.target.path, 1, 0)],
            connections=load.connections,
            pipeline=load.pipeline,
            rate=load.rate,
            duration_s=load.duration_s,
            warm_up_s=load.warm_up_s,
            answer_timeout_s=load.answer_timeout_s,
            method=load.method,
            host_header=load.target.host,
            headers=list(load.headers),
            body=load.body,
            statuses=(200, 399),
            tls=tls,
            progress=progress,
        )
    )
