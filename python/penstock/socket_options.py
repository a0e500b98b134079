"""SocketOptions is every socket option worth setting, stated once: its name, unit, bounds, and when to use it.

The page docs/socket-options.md and `--socket-option` are made from the fields below; what the kernel does with an
option is declared in Rust (src/net/options.rs), and a new one is a line in each. Options are set right after a socket
is made, before it is bound or connected. What the kernel lacks, refuses, or takes without doing it is a
`SocketOptionRefused` when a server or client starts, never silence.
"""

from __future__ import annotations

import dataclasses
import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from . import _core
from .errors import ConfigError, SocketOptionRefused

# Written as in `Integer` of a command line: what everybody knows as off and on.
_WORDS = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}


class SocketKind(Enum):
    """What a socket is for: an option is set only where it means something."""

    TCP_LISTENER = "TCP listener"
    TCP_CLIENT = "TCP client"
    UDP = "UDP"
    UNIX_LISTENER = "Unix listener"
    UNIX_CLIENT = "Unix client"
    UNIX_DATAGRAM = "Unix datagram"

    @classmethod
    def of(cls, sock: socket.socket, *, listens: bool = False) -> SocketKind:
        is_unix, is_datagram = sock.family == socket.AF_UNIX, sock.type == socket.SOCK_DGRAM
        if is_datagram:
            return cls.UNIX_DATAGRAM if is_unix else cls.UDP
        if listens:
            return cls.UNIX_LISTENER if is_unix else cls.TCP_LISTENER
        return cls.UNIX_CLIENT if is_unix else cls.TCP_CLIENT


_TCP = (SocketKind.TCP_LISTENER, SocketKind.TCP_CLIENT)
_UNIX = (SocketKind.UNIX_LISTENER, SocketKind.UNIX_CLIENT, SocketKind.UNIX_DATAGRAM)
_IP = (*_TCP, SocketKind.UDP)
_ALL = (*_IP, *_UNIX)
_LISTENER = (SocketKind.TCP_LISTENER,)
_CLIENT = (SocketKind.TCP_CLIENT,)


@dataclass(frozen=True)
class Switch:
    expectation = "on or off"
    unit = "on or off"

    def parse(self, text: str) -> object:
        return _WORDS[text.strip().lower()]

    def accepts(self, value: object) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Number:
    unit: str
    minimum: int
    maximum: int

    @property
    def expectation(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum} ({self.unit})"

    def parse(self, text: str) -> object:
        return int(text)

    def accepts(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class Name:
    expectation = "a name of 1 to 15 ASCII characters"
    unit = "name"

    def parse(self, text: str) -> object:
        return text

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and 0 < len(value) < 16 and value.isascii() and value.isprintable()


@dataclass(frozen=True, kw_only=True)
class KnownOption:
    """One field of `SocketOptions`, as people meet it."""

    field: str
    # Its name in the manual, and for `set_socket_option`.
    name: str
    kind: Switch | Number | Name
    # Without it.
    default: str
    when: str
    where: tuple[SocketKind, ...]
    manual: str

    @property
    def written(self) -> str:
        """Its name on a command line."""
        return self.field.replace("_", "-")

    def check(self, value: object) -> None:
        if value is not None and not self.kind.accepts(value):
            raise self.wrong(value)

    def parse(self, text: str) -> object:
        """The value that `text` stands for; `ConfigError` if none."""
        try:
            value = self.kind.parse(text)
        except (ValueError, KeyError):
            raise self.wrong(text) from None
        self.check(value)
        return value

    def wrong(self, came: object) -> ConfigError:
        return ConfigError(f"socket option {self.field} ({self.name}): expected {self.kind.expectation}, got {came!r}")


def _option(
    name: str,
    kind: Switch | Number | Name,
    *,
    default: str,
    when: str,
    where: tuple[SocketKind, ...] = _IP,
    manual: str,
) -> Any:
    known = {"name": name, "kind": kind, "default": default, "when": when, "where": where, "manual": manual}
    return dataclasses.field(default=None, metadata=known)


_MAX_BYTES = (1 << 30) - 1


@dataclass(frozen=True, kw_only=True)
class SocketOptions:
    """Socket options for a listener and what it accepts, for a client, or for a datagram socket.

    `None`, every field's default, leaves the option as Penstock and the system have it. A value out of its bounds is a
    `ConfigError`; one that a kernel does not grant is a `SocketOptionRefused` at start. docs/socket-options.md has the
    table.
    """

    reuse_address: bool | None = _option(
        "SO_REUSEADDR",
        Switch(),
        default="on for TCP listeners, off elsewhere",
        when="Leave it on for servers. On for several UDP sockets that all listen to one multicast group and port.",
        manual="socket(7)",
    )
    reuse_port: bool | None = _option(
        "SO_REUSEPORT",
        Switch(),
        default="off; on with several reactors of a UDPServer",
        when="Several processes serve one port without a supervisor. Each connection or peer is bound to one of them "
        "by "
        "a hash, so the load is only about even, and what waits at one that ends is lost.",
        manual="socket(7)",
    )
    keep_alive: bool | None = _option(
        "SO_KEEPALIVE",
        Switch(),
        default="off",
        when="Long-lived connections that may be silent: the peer's machine may be gone, or a middlebox may have "
        "forgotten the connection.",
        where=_TCP,
        manual="tcp(7)",
    )
    keep_alive_idle_s: int | None = _option(
        "TCP_KEEPIDLE",
        Number("seconds", 1, 32_767),
        default="net.ipv4.tcp_keepalive_time, 7200",
        when="With keep_alive: two hours are too long for nearly everybody; NATs forget after minutes.",
        where=_TCP,
        manual="tcp(7)",
    )
    keep_alive_interval_s: int | None = _option(
        "TCP_KEEPINTVL",
        Number("seconds", 1, 32_767),
        default="net.ipv4.tcp_keepalive_intvl, 75",
        when="With keep_alive: how fast a vanished peer is noticed is idle + interval * probes.",
        where=_TCP,
        manual="tcp(7)",
    )
    keep_alive_probes: int | None = _option(
        "TCP_KEEPCNT",
        Number("probes", 1, 127),
        default="net.ipv4.tcp_keepalive_probes, 9",
        when="With keep_alive: more of them where packets are often lost.",
        where=_TCP,
        manual="tcp(7)",
    )
    linger_s: int | None = _option(
        "SO_LINGER",
        Number("seconds", 0, 65_535),
        default="off: close returns at once, and the kernel goes on sending",
        when="0 to reset instead of closing, so that no TIME_WAIT stays (load generators). More than 0 makes close "
        "wait, "
        "and with it every other connection of the reactor: leave that to programs with a thread a connection.",
        where=_TCP,
        manual="socket(7)",
    )
    send_buffer_bytes: int | None = _option(
        "SO_SNDBUF",
        Number("bytes", 2_304, _MAX_BYTES),
        default="net.ipv4.tcp_wmem (it grows by itself), net.core.wmem_default",
        when="TCP: rarely, since a fixed size ends the automatic growth. Unix datagrams: it bounds what one may hold.",
        where=_ALL,
        manual="socket(7)",
    )
    receive_buffer_bytes: int | None = _option(
        "SO_RCVBUF",
        Number("bytes", 1_152, _MAX_BYTES),
        default="net.ipv4.tcp_rmem (it grows by itself), net.core.rmem_default; 4 MiB for a UDPServer, where it is "
        "granted",
        when="UDP: as much as arrives while the server is busy with something else, or datagrams are dropped. TCP: "
        "rarely, as with send_buffer_bytes.",
        where=_ALL,
        manual="socket(7)",
    )
    no_delay: bool | None = _option(
        "TCP_NODELAY",
        Switch(),
        default="on",
        when="Leave it on: Penstock sends what belongs together with one call. Off for many tiny sends that may wait.",
        where=_TCP,
        manual="tcp(7)",
    )
    cork: bool | None = _option(
        "TCP_CORK",
        Switch(),
        default="off",
        when="Bulk senders that never wait for an answer: only full segments leave, the last one 200 ms late.",
        where=_TCP,
        manual="tcp(7)",
    )
    quick_ack: bool | None = _option(
        "TCP_QUICKACK",
        Switch(),
        default="the kernel decides, by what it has seen",
        when="A peer that waits for the acknowledgement before it sends on (Nagle's algorithm at its end). The kernel "
        "goes back to deciding after a while.",
        where=_TCP,
        manual="tcp(7)",
    )
    defer_accept_s: int | None = _option(
        "TCP_DEFER_ACCEPT",
        Number("seconds", 0, 32_767),
        default="0: a connection is accepted as soon as it is there",
        when="Clients speak first, and many connect without saying anything: those cost no descriptor until they do. "
        "Not for protocols in which the server greets.",
        where=_LISTENER,
        manual="tcp(7)",
    )
    fast_open_queue: int | None = _option(
        "TCP_FASTOPEN",
        Number("connections", 0, 65_535),
        default="0: off",
        when="Short connections over long distances, from clients that use it, and requests that may be repeated: data "
        "in the first segment can arrive twice.",
        where=_LISTENER,
        manual="tcp(7)",
    )
    fast_open_connect: bool | None = _option(
        "TCP_FASTOPEN_CONNECT",
        Switch(),
        default="off",
        when="The client's side of it, for requests that may be repeated.",
        where=_CLIENT,
        manual="tcp(7)",
    )
    user_timeout_ms: int | None = _option(
        "TCP_USER_TIMEOUT",
        Number("milliseconds", 0, 2_147_483_647),
        default="0: net.ipv4.tcp_retries2 decides, about 15 minutes",
        when="A peer that vanished with data under way must be noticed soon. It also bounds how long keep-alive "
        "probes.",
        where=_TCP,
        manual="tcp(7)",
    )
    not_sent_low_water_bytes: int | None = _option(
        "TCP_NOTSENT_LOWAT",
        Number("bytes", 0, _MAX_BYTES),
        default="64 KiB for what a server accepts, else net.ipv4.tcp_notsent_lowat (no limit)",
        when="Lower, so that what is sent last leaves soon although much was sent before (priorities, fresh data "
        "instead "
        "of stale).",
        where=_TCP,
        manual="tcp(7)",
    )
    busy_poll_us: int | None = _option(
        "SO_BUSY_POLL",
        Number("microseconds", 0, 1_000_000),
        default="net.core.busy_read, 0: off",
        when="A few microseconds of latency matter more than a processor that never rests. Raising it needs "
        "CAP_NET_ADMIN.",
        manual="socket(7)",
    )
    congestion: str | None = _option(
        "TCP_CONGESTION",
        Name(),
        default="net.ipv4.tcp_congestion_control, mostly cubic",
        when="bbr for long distances with some loss.",
        where=_TCP,
        manual="tcp(7)",
    )
    type_of_service: int | None = _option(
        "IP_TOS",
        Number("byte", 0, 255),
        default="0",
        when="Networks that treat traffic by its class: 184 (EF) for voice, 32 (CS1) for bulk. On IPv6 it is the "
        "traffic "
        "class.",
        manual="ip(7), ipv6(7)",
    )
    v6_only: bool | None = _option(
        "IPV6_V6ONLY",
        Switch(),
        default="on for listeners and UDPServer",
        when="Off to serve IPv4 on the same socket as :: ; addresses then look like ::ffff:192.0.2.1. IPv6 sockets "
        "only.",
        manual="ipv6(7)",
    )
    incoming_cpu: int | None = _option(
        "SO_INCOMING_CPU",
        Number("processor", 0, 8_191),
        default="none",
        when="With reuse_port and pinned processes: each takes what its own processor has received.",
        where=(SocketKind.TCP_LISTENER, SocketKind.UDP),
        manual="socket(7)",
    )
    bind_address_no_port: bool | None = _option(
        "IP_BIND_ADDRESS_NO_PORT",
        Switch(),
        default="off",
        when="Clients that bind to an address of several and open tens of thousands of connections to different "
        "servers.",
        where=(SocketKind.TCP_CLIENT, SocketKind.UDP),
        manual="ip(7)",
    )
    free_bind: bool | None = _option(
        "IP_FREEBIND",
        Switch(),
        default="off",
        when="The address comes later, or moves between machines (VRRP, keepalived).",
        manual="ip(7)",
    )
    bind_to_device: str | None = _option(
        "SO_BINDTODEVICE",
        Name(),
        default="none",
        when="Several networks with the same addresses, or a service for one network only, multicast above all.",
        manual="socket(7)",
    )
    broadcast: bool | None = _option(
        "SO_BROADCAST",
        Switch(),
        default="off",
        when="Datagrams go to everybody in the network, as in discovery. IPv4 only.",
        where=(SocketKind.UDP,),
        manual="socket(7)",
    )

    def __post_init__(self) -> None:
        for field, known in KNOWN.items():
            known.check(getattr(self, field))

    @classmethod
    def parse(cls, written: Iterable[str]) -> SocketOptions:
        """Options written as name=value, the name as here (with - or _) or as in the manual; the last one counts."""
        values: dict[str, Any] = {}
        for text in written:
            name, equals, value = text.partition("=")
            known = _by_any_name().get(name.strip().lower().replace("-", "_"))
            if not equals or known is None:
                raise ConfigError(f"socket option: expected name=value with a name of {_names()}, got {text!r}")
            values[known.field] = known.parse(value.strip())
        return cls(**values)

    def given(self) -> list[tuple[str, Any]]:
        """Those that have a value: the manual's name and the value, in the order in which they are set."""
        return [(known.name, value) for known, value in self._given()]

    def or_else(self, **values: Any) -> SocketOptions:
        """The same, with these values where this has none."""
        return dataclasses.replace(
            self, **{name: value for name, value in values.items() if getattr(self, name) is None}
        )

    def replaced_by(self, other: SocketOptions) -> SocketOptions:
        """The same, but for what the other gives."""
        return dataclasses.replace(self, **{known.field: value for known, value in other._given()})

    def set_on(self, sock: socket.socket, kind: SocketKind) -> None:
        """Set all of them on a socket that is neither bound nor connected. Raises `SocketOptionRefused`."""
        for known, value in self._given():
            if kind not in known.where:
                places = ", ".join(each.value for each in known.where)
                raise SocketOptionRefused(
                    known.field,
                    f"{_asked(known, value)}: it has no meaning for a {kind.value} socket, but for {places}",
                )
            try:
                _core.set_socket_option(sock.fileno(), known.name, value)
            except OSError as error:
                raise SocketOptionRefused(
                    known.field, f"{_asked(known, value)}: {error.strerror or error}; {_advice(known, error)}"
                ) from None

    def _given(self) -> Iterator[tuple[KnownOption, Any]]:
        for field, known in KNOWN.items():
            value = getattr(self, field)
            if value is not None:
                yield known, value


# Every option by its field's name, in the order of the fields.
KNOWN: Mapping[str, KnownOption] = {
    each.name: KnownOption(field=each.name, **each.metadata) for each in dataclasses.fields(SocketOptions)
}


def get_option(sock: socket.socket, field: str) -> Any:
    """What an option of a socket is now, by its field's name. Raises OSError where the socket has none."""
    return _core.get_socket_option(sock.fileno(), KNOWN[field].name)


def _by_any_name() -> dict[str, KnownOption]:
    return {name.lower(): known for known in KNOWN.values() for name in (known.field, known.name)}


def _names() -> str:
    return ", ".join(known.written for known in KNOWN.values())


def _asked(known: KnownOption, value: object) -> str:
    told = {True: "on", False: "off"}[value] if isinstance(value, bool) else repr(value)
    return f"socket option {known.field} ({known.name}), asked to be {told}"


def _advice(known: KnownOption, error: OSError) -> str:
    """What to do about a refusal."""
    match known.name, error.errno:
        case "TCP_CONGESTION", errno.ENOENT:
            return f"choose one of those there are: {_congestion_algorithms()}"
        case "SO_BINDTODEVICE", errno.ENODEV:
            return f"choose an interface of {', '.join(name for _, name in socket.if_nameindex())}"
        case (("SO_SNDBUF" | "SO_RCVBUF"), None):
            return "raise that limit (sysctl), grant CAP_NET_ADMIN, or ask for less"
        case "TCP_FASTOPEN", None:
            return "set it to 3 (sysctl), or leave the option out"
        case _, (errno.EPERM | errno.EACCES):
            return "grant CAP_NET_ADMIN, or leave the option out"
        case _, (errno.ENOPROTOOPT | errno.EOPNOTSUPP):
            return "this kernel or this socket does not have it: leave the option out"
        case _:
            return f"see {known.manual}, or leave the option out"


def _congestion_algorithms() -> str:
    with suppress(OSError):
        return Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().strip().replace(" ", ", ")
    return "net.ipv4.tcp_available_congestion_control"
