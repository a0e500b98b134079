"""The listeners, owned by the supervisor as long as it takes connections: that alone makes a reload lossless.

A seat is what one worker listens on, and after it its successor. All seats are the same listeners, unless each is to
have its own (`--accept reuseport`): then the kernel spreads connections over the seats, by a hash of their addresses.
"""

from __future__ import annotations

import socket

from .. import listener
from ..config import ServerConfig
from .trade import Trade


class Seats:
    def __init__(self, trade: Trade, config: ServerConfig, inherited: dict[int, list[int]] | None = None) -> None:
        seats = {seat: [trade.inherit(fd) for fd in fds] for seat, fds in (inherited or {}).items()}
        self._first = seats.pop(0, None) or trade.open(config)
        self.addresses = [trade.describe(each) for each in self._first]
        self._trade, self._config = trade, config
        # Unix sockets and inherited ones cannot be had twice.
        self.are_own = config.accept == "reuseport" and all(map(trade.has_twins, self._first))
        self._others: dict[int, list[socket.socket]] = seats
        self.are_given_away = False

    def of(self, seat: int) -> list[socket.socket]:
        if seat == 0 or not self.are_own:
            return list(self._first)
        if seat not in self._others:
            self._others[seat] = [self._trade.twin(each, self._config) for each in self._first]
        return list(self._others[seat])

    def give_up(self, seat: int) -> None:
        """Nobody sits there any more; whoever leaves it takes those who wait there along."""
        listener.close_listeners(self._others.pop(seat, ()))

    @property
    def all(self) -> dict[int, list[socket.socket]]:
        """For a successor."""
        return {0: self._first, **self._others}

    @property
    def end_here(self) -> bool:
        """Whether nobody else can have the listeners once they are closed: no successor, nor who handed them over."""
        return not self.are_given_away and listener.is_last_holder(self._first)

    def give_away(self) -> None:
        self.are_given_away = True
        self._trade.give_away(self._first)

    def close(self) -> None:
        """In every process that has them they are closed, never shut down: who waits there is a worker's still."""
        for each in (self._first, *self._others.values()):
            listener.close_listeners(each)
