"""A channel is one end of what a supervisor and a worker talk through: a stream socket, a JSON object a line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

# More than any message has: what a failed worker tells is cut to fit.
MAX_LINE_BYTES = 65536


class Channel:
    """Owns its end of the pair. `None` among what it receives is the other end's death."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._received = b""
        self._unsent = b""

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        return cls(one), cls(other)

    def send(self, **message: Any) -> None:
        """Nearly all of them are short. What the kernel does not take at once goes with the next, or with `flush`."""
        self._unsent += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> bool:
        """Send what is left. False: not all of it, for now."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.end.send(self._unsent) :]
        except BlockingIOError:
            return False
        except OSError:
            self._unsent = b""  # The other end is gone.
        return True

    def receive(self) -> Iterator[dict[str, Any] | None]:
        """The messages that have arrived."""
        try:
            piece = self.end.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            yield None
            return
        *lines, self._received = (self._received + piece).split(b"\n")
        yield from map(json.loads, lines)

    def close(self) -> None:
        self.end.close()
