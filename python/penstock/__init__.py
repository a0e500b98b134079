"""Penstock: a network engine for Python. Rust moves the bytes; Python decides.

    import penstock
    penstock.run("main:app", port=8000)

The public names are below. Each is imported when it is first used, so that a command line starts at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import ServerConfig
    from .errors import (
        AddressError,
        AddressForbidden,
        AddressInUse,
        AddressUnavailable,
        AmplificationLimited,
        AppImportError,
        ConfigError,
        ConnectFailed,
        ConnectionClosed,
        DatagramError,
        DatagramQueueFull,
        DatagramTooLong,
        FrameError,
        PeerGone,
        PenstockError,
        SendBufferFull,
        SocketOptionRefused,
        StartupError,
    )
    from .event_loop import EventLoop
    from .runner import run
    from .socket_options import SocketOptions
    from .static import StaticMount
    from .stream_client import Reconnect, TCPClient
    from .streams import CloseReason, Connection, Group, Heartbeat, StreamLimits, TCPServer
    from .udp import Multicast, Peer, Sessions, UDPClient, UDPServer

    __version__: str

# Where each public name lives.
_HOMES = {
    "run": "runner",
    "ServerConfig": "config",
    "StaticMount": "static",
    "SocketOptions": "socket_options",
    "EventLoop": "event_loop",
    "TCPServer": "streams",
    "TCPClient": "stream_client",
    "Reconnect": "stream_client",
    "Connection": "streams",
    "Group": "streams",
    "Heartbeat": "streams",
    "StreamLimits": "streams",
    "CloseReason": "streams",
    "FrameError": "errors",
    "ConnectionClosed": "errors",
    "SendBufferFull": "errors",
    "ConnectFailed": "errors",
    "PenstockError": "errors",
    "ConfigError": "errors",
    "SocketOptionRefused": "errors",
    "StartupError": "errors",
    "AppImportError": "errors",
    "AddressError": "errors",
    "AddressInUse": "errors",
    "AddressForbidden": "errors",
    "AddressUnavailable": "errors",
    "AmplificationLimited": "errors",
    "DatagramError": "errors",
    "DatagramQueueFull": "errors",
    "DatagramTooLong": "errors",
    "PeerGone": "errors",
    "Multicast": "udp",
    "Peer": "udp",
    "Sessions": "udp",
    "UDPClient": "udp",
    "UDPServer": "udp",
}

__all__ = [
    "AddressError",
    "AddressForbidden",
    "AddressInUse",
    "AddressUnavailable",
    "AmplificationLimited",
    "AppImportError",
    "CloseReason",
    "ConfigError",
    "ConnectFailed",
    "Connection",
    "ConnectionClosed",
    "DatagramError",
    "DatagramQueueFull",
    "DatagramTooLong",
    "EventLoop",
    "FrameError",
    "Group",
    "Heartbeat",
    "Multicast",
    "Peer",
    "PeerGone",
    "PenstockError",
    "Reconnect",
    "SendBufferFull",
    "ServerConfig",
    "Sessions",
    "SocketOptionRefused",
    "SocketOptions",
    "StartupError",
    "StaticMount",
    "StreamLimits",
    "TCPClient",
    "TCPServer",
    "UDPClient",
    "UDPServer",
    "__version__",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("penstock")
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
