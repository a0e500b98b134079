"""Protocols: how a stream of bytes becomes frames, and frames bytes.

Those below are cut in Rust. Where none of them fits, write a class with `feed(data)`, which returns the frames that are
whole by now, and `encode(frame)`, which returns bytes; each connection gets an object of its own. `feed` raises
`penstock.FrameError` for what is no frame: `on_error` is told, and the connection closed.

    class Upper:
        def __init__(self): self.rest = b""
        def feed(self, data):
            *frames, self.rest = (self.rest + data).split(b";")
            return frames
        def encode(self, frame): return frame.upper() + b";"

    penstock.TCPServer(on_message, protocol=Upper)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..errors import ConfigError

_MAX_FRAME_BYTES = (1 << 32) - 1
_DEFAULT_MAX_FRAME_BYTES = 1 << 20


class Framer(Protocol):
    """A protocol of one's own, one object a connection."""

    def feed(self, data: bytes, /) -> Iterable[Any]:
        """The frames that are whole by now. What is left of `data` is kept, within a bound of the protocol's own."""
        ...

    def encode(self, frame: Any, /) -> bytes:
        """A frame as it goes over the wire."""
        ...


@dataclass(frozen=True)
class Raw:
    """No frames: a handler is given whatever has arrived."""

    @property
    def native(self) -> tuple[str, dict[str, Any]]:
        return "raw", {}


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Every frame has `frame_bytes` bytes."""

    frame_bytes: int

    def __post_init__(self) -> None:
        _check("frame_bytes", self.frame_bytes)

    @property
    def native(self) -> tuple[str, dict[str, Any]]:
        return "fixed", {"frame_bytes": self.frame_bytes}


@dataclass(frozen=True, kw_only=True)
class LengthPrefixed:
    """A length of `header_bytes` (1, 2, 3, 4 or 8) says how long the frame is.

    `byteorder`: "big" or "little". `counts_header`: the length counts itself and what is before it, too. `offset`:
    bytes before the length (a type, a magic word), up to 8. `adjust`: added to what the length says, such as trailing
    bytes that it leaves out. With an offset a frame is shown and sent whole, its head included; without one handlers
    see the body alone, unless `strip` is False.
    """

    header_bytes: int = 4
    max_frame_bytes: int = _DEFAULT_MAX_FRAME_BYTES
    byteorder: Literal["big", "little"] = "big"
    counts_header: bool = False
    offset: int = 0
    adjust: int = 0
    strip: bool | None = None

    def __post_init__(self) -> None:
        _check("max_frame_bytes", self.max_frame_bytes)
        if self.header_bytes not in (1, 2, 3, 4, 8):
            raise ConfigError(f"header_bytes: expected 1, 2, 3, 4 or 8, got {self.header_bytes!r}")
        if self.byteorder not in ("big", "little"):
            raise ConfigError(f"byteorder: expected big or little, got {self.byteorder!r}")
        if not 0 <= self.offset <= 8:
            raise ConfigError(f"offset: expected 0 to 8 bytes before the length, got {self.offset!r}")
        if self.strip and self.offset:
            raise ConfigError("strip: what is before the length would be lost; with an offset frames are whole")

    @property
    def native(self) -> tuple[str, dict[str, Any]]:
        return "length", {
            "header_bytes": self.header_bytes,
            "max_frame_bytes": self.max_frame_bytes,
            "little_endian": self.byteorder == "little",
            "counts_header": self.counts_header,
            "offset": self.offset,
            "adjust": self.adjust,
            "strip": self.offset == 0 if self.strip is None else self.strip,
        }


@dataclass(frozen=True, kw_only=True)
class Varint:
    """A length of seven bits a byte, the lowest first, as protobuf delimits messages."""

    max_frame_bytes: int = _DEFAULT_MAX_FRAME_BYTES

    def __post_init__(self) -> None:
        _check("max_frame_bytes", self.max_frame_bytes)

    @property
    def native(self) -> tuple[str, dict[str, Any]]:
        return "varint", {"max_frame_bytes": self.max_frame_bytes}


@dataclass(frozen=True)
class Delimiter:
    """A delimiter of 1 to 16 bytes ends every frame."""

    delimiter: bytes
    max_frame_bytes: int = 1 << 16

    def __post_init__(self) -> None:
        _check("max_frame_bytes", self.max_frame_bytes)
        if not 1 <= len(self.delimiter) <= 16:
            raise ConfigError(f"delimiter: expected 1 to 16 bytes, got {len(self.delimiter)}")

    @property
    def native(self) -> tuple[str, dict[str, Any]]:
        return "delimiter", {"delimiter": self.delimiter, "max_frame_bytes": self.max_frame_bytes}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line feed ends every frame; a carriage return before it is no part of it. Lines are sent with LF."""

    max_frame_bytes: int = 1 << 16

    def __post_init__(self) -> None:
        _check("max_frame_bytes", self.max_frame_bytes)

    @property
    def native(self) -> tuple[str, dict[str, Any]]:
        return "line", {"max_frame_bytes": self.max_frame_bytes}


@dataclass(frozen=True, kw_only=True)
class Resp:
    """The Redis serialization protocol, a server's side: a frame is a request, as the list of its arguments.

    What is sent is a reply: bytes is a bulk string, str a simple string, int an integer, None the null, an exception an
    error, a list of those an array.
    """

    max_frame_bytes: int = 64 << 20
    max_arguments: int = 1 << 20

    def __post_init__(self) -> None:
        _check("max_frame_bytes", self.max_frame_bytes)
        _check("max_arguments", self.max_arguments)

    @property
    def native(self) -> tuple[str, dict[str, Any]]:
        return "resp", {"max_frame_bytes": self.max_frame_bytes, "max_arguments": self.max_arguments}


NativeProtocol = Raw | Fixed | LengthPrefixed | Varint | Delimiter | Line | Resp
AnyProtocol = NativeProtocol | Callable[[], Framer]


def _check(name: str, value: int) -> None:
    if not 1 <= value <= _MAX_FRAME_BYTES:
        raise ConfigError(f"{name}: expected 1 to {_MAX_FRAME_BYTES}, got {value!r}")


__all__ = ["AnyProtocol", "Delimiter", "Fixed", "Framer", "LengthPrefixed", "Line", "Raw", "Resp", "Varint"]
