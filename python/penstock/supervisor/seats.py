"""The listeners, owned by the supervisor as long as it takes connections: that alone makes a reload lossless.

A seat is what one worker listens on, and after it its successor. All seats are the same listeners, unless each is to
have its own (`--accept reuseport`): then the kernel spreads connections over the seats, by a hash of their addresses.
"""

from __future__ import annotations

import socket

from .. import listener
from ..config import ServerConfig


class Seats:
    def __init__(self, config: ServerConfig) -> None:
        self._first = listener.open_listeners(config)
        self.addresses = [listener.describe(each) for each in self._first]
        self._config = config
        # Unix sockets and inherited ones cannot be had twice.
        self.are_own = config.accept == "reuseport" and all(map(listener.is_reusable, self._first))
        self._others: dict[int, list[socket.socket]] = {}

    def of(self, seat: int) -> list[socket.socket]:
        if seat == 0 or not self.are_own:
            return list(self._first)
        if seat not in self._others:
            self._others[seat] = [listener.open_twin(each, self._config) for each in self._first]
        return list(self._others[seat])

    def give_up(self, seat: int) -> None:
        """Nobody sits there any more; whoever leaves it takes those who wait there along."""
        listener.close_listeners(self._others.pop(seat, ()))

    def close(self) -> None:
        """In every process that has them they are closed, never shut down: who waits there is a worker's still."""
        for each in (self._first, *self._others.values()):
            listener.close_listeners(each)
