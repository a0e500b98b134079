"""The errors Penstock raises for what the world did: each says what was expected, what came, and what to do.

The command line prints an error's text as one line and leaves with its `exit_status`, so that whoever started the
server (systemd, a container runtime, a script) can tell the reasons apart:

| status | reason |
| --- | --- |
| 0 | stopped as asked |
| 1 | any other error of Penstock's |
| 2 | a setting, flag or argument is wrong (`ConfigError`) |
| 3 | the application refused to start: its lifespan start-up failed (`StartupError`) |
| 4 | the application could not be imported (`AppImportError`) |
| 5 | the address could not be listened on (`AddressError`) |

A bug of Penstock's own is never one of these: it is an assertion, and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class PenstockError(Exception):
    """The base of all of them; `str(error)` is one line without a full stop.

    `details` is text worth showing above that line, such as the traceback of the user's own code.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, details: str | None = None) -> None:
        super().__init__(message)
        self.details = details


class ConfigError(PenstockError):
    """A setting has a value that it cannot have, or contradicts another."""

    exit_status = 2


class SocketOptionRefused(ConfigError):
    """The kernel lacks a socket option, refuses it, or takes it without doing what was asked. `option` is its field."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class StartupError(PenstockError):
    """The application's lifespan start-up failed, or `lifespan="on"` and it has none."""

    exit_status = 3


class AppImportError(PenstockError):
    """The application named by `module:attribute` could not be had."""

    exit_status = 4


class AddressError(PenstockError):
    """An address could not be listened on."""

    exit_status = 5


class AddressInUse(AddressError):
    """Somebody listens there already."""


class AddressForbidden(AddressError):
    """This user may not listen there."""


class AddressUnavailable(AddressError):
    """The address is not this machine's, or no address at all."""


class DatagramError(PenstockError):
    """A datagram was not taken, or not sent."""


class DatagramTooLong(DatagramError):
    """It has more bytes than its kind of socket, or its receiver, takes."""


class DatagramQueueFull(DatagramError):
    """As much as may wait to be sent waits already."""


class AmplificationLimited(DatagramError):
    """A peer that has not proved its address would get too much for what it sent."""


class PeerGone(DatagramError):
    """The peer's session, or the socket, has ended."""


class FrameError(PenstockError):
    """A peer sent what is no frame of its protocol, or a frame cannot be sent. `kind`: "too_long", "malformed" or
    "truncated"."""

    def __init__(self, message: str, kind: str = "malformed") -> None:
        super().__init__(message)
        self.kind = kind


class ConnectionClosed(PenstockError, ConnectionError):
    """The connection is closed, or about to be: nothing more can be sent. An OSError, as those of sockets are."""


class SendBufferFull(PenstockError):
    """The peer does not read: more waits for it than `max_unsent_bytes` allows. Nothing of this frame was queued."""


class ConnectFailed(PenstockError, ConnectionError):
    """No address of the server could be connected to, in time."""
