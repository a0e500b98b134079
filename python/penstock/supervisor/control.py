"""The control socket: what `penstock ctl` asks of a supervisor, and how it is answered.

A request is a line of JSON, `{"do": "scale", "workers": 4}`, and so is its answer, which comes when what was asked is
done. The socket's mode lets in its owner alone, and a peer of another user is turned away besides.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
from collections.abc import Callable
from typing import Any

from .. import listener
from ..errors import ConfigError, PenstockError

_MAX_REQUEST_BYTES = 4096
# One more, and the oldest is closed.
_MAX_CLIENTS = 16
_PEER = struct.Struct("3i")

Answer = Callable[[dict[str, Any]], None]
Handler = Callable[[dict[str, Any], Answer], None]


class ControlError(PenstockError):
    """The supervisor could not be reached, or did not do what was asked."""


class ControlSocket:
    """Owns the listening socket, its file, and the connections of those who ask."""

    def __init__(self, path: str, selector: selectors.BaseSelector, handle: Handler, *, takes_over: bool) -> None:
        self._path = os.path.abspath(path)
        self._selector, self._handle = selector, handle
        self._clients: list[socket.socket] = []
        if not takes_over:
            listener.remove_stale(self._path, "--control")
        self._socket = _listen(self._path)
        self._made = os.stat(self._path).st_ino
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._socket.accept()
            client.setblocking(False)
            self._clients.append(client)
            if len(self._clients) > _MAX_CLIENTS:
                self._drop(self._clients[0])
            if _is_ours(client):
                self._selector.register(client, selectors.EVENT_READ, lambda: self._hear(client))
            else:
                self._drop(client)

    def _hear(self, client: socket.socket) -> None:
        if client not in self._clients:
            return  # Dropped since it was found readable.
        try:
            # Requests are short, and sent whole.
            request = json.loads(client.recv(_MAX_REQUEST_BYTES))
        except (OSError, ValueError):
            request = None
        if isinstance(request, dict):
            self._handle(request, lambda answer: self._answer(client, answer))
        else:
            self._drop(client)

    def _answer(self, client: socket.socket, answer: dict[str, Any]) -> None:
        if client not in self._clients:
            return
        with contextlib.suppress(OSError):
            client.setblocking(True)
            client.settimeout(1.0)
            client.sendall(json.dumps(answer).encode() + b"\n")
        self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        self._clients.remove(client)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client)
        client.close()

    def close_descriptors(self) -> None:
        """In a forked child, whose file it is not."""
        for each in (self._socket, *self._clients):
            each.close()

    def close(self) -> None:
        for client in list(self._clients):
            self._drop(client)
        self._selector.unregister(self._socket)
        self._socket.close()
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == self._made:
                os.unlink(self._path)


def _listen(path: str) -> socket.socket:
    """Made under another name, so that whoever replaces another takes its place in one step."""
    temporary = f"{path}.{os.getpid()}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(temporary)
        made.listen(_MAX_CLIENTS)
        made.setblocking(False)
        os.replace(temporary, path)
    except OSError as error:
        made.close()
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise ConfigError(f"--control: cannot make {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        os.umask(before)
    return made


def _is_ours(client: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, user, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return user in (0, os.geteuid())


def ask(path: str, timeout_s: float, **request: Any) -> dict[str, Any]:
    """Ask the supervisor that listens at `path`, and wait until it is done. Raises `ControlError`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(path)
            connection.sendall(json.dumps(request).encode())
            received = b""
            while piece := connection.recv(65536):
                received += piece
    except TimeoutError:
        raise ControlError(f"no answer from {path} within {timeout_s:g} s: look at the server's log") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ControlError(f"cannot reach a supervisor at {path}: {why}; was it started with --control?") from None
    if not received:
        raise ControlError(f"the supervisor at {path} turned the request away: it answers its own user alone")
    answer = json.loads(received)
    if "error" in answer:
        raise ControlError(str(answer["error"]))
    return answer
