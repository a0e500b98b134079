"""Opens the listening sockets that a config asks for: hosts and ports, Unix domain sockets, or inherited ones.

The caller owns what it is given and closes it with `close_listeners`, which also removes the socket file of a Unix
domain socket, if this process made it and it is still the same file. Nothing here waits for a connection.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from . import bind, systemd
from .config import ServerConfig
from .errors import (
    AddressError,
    AddressForbidden,
    AddressInUse,
    AddressUnavailable,
    ConfigError,
    SocketOptionRefused,
)
from .socket_options import SocketKind, SocketOptions

# sun_path holds 108 bytes on Linux and 104 elsewhere, with the closing NUL (unix(7)).
MAX_UDS_PATH_BYTES = 107 if os.uname().sysname == "Linux" else 103
# Anybody who may enter the directory may connect, as with a port: the directory's own mode is the fence.
UDS_MODE = 0o666
_PROBE_TIMEOUT_S = 1.0
# With port 0 the first address chooses the port, and another may have it taken: how often to choose anew.
_FREE_PORT_ATTEMPTS = 16
# What a host without this family of addresses says; another address of the same name may still do.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

# A family, and what `bind` wants for it: host, port, and for IPv6 flow label and scope.
Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class OwnListener(socket.socket):
    """A listening socket that this server opened, and knows by which process."""

    def __init__(self, family: socket.AddressFamily, fileno: int | None = None) -> None:
        super().__init__(family, socket.SOCK_STREAM, fileno=fileno)
        self._opener = os.getpid()

    @property
    def is_of_this_process(self) -> bool:
        """False in a child, whose parent holds the listener, too."""
        return self._opener == os.getpid()


class UnixListener(OwnListener):
    """A listening Unix domain socket that removes its file when the process that made it closes it."""

    def __init__(self, fileno: int | None = None) -> None:
        super().__init__(socket.AF_UNIX, fileno)
        self._made: tuple[str, tuple[int, int]] | None = None

    def bind_file(self, path: str) -> None:
        self.bind(path)
        # Absolute: the application may change the working directory.
        self._made = (os.path.abspath(path), _identity(path))
        os.chmod(path, UDS_MODE)

    def give_away(self) -> None:
        """Another process goes on with it, and with its file."""
        self._made = None

    def take_over(self, path: str) -> None:
        self._made = (os.path.abspath(path), _identity(path))

    def close(self) -> None:
        made, self._made = self._made, None
        if made is not None and self.is_of_this_process:
            with suppress(OSError):
                if _identity(made[0]) == made[1]:
                    os.unlink(made[0])
        super().close()


def open_listeners(config: ServerConfig) -> list[socket.socket]:
    """The listening sockets of this config, non-blocking and not inherited by children; at least one.

    Sockets that systemd has handed over are listened on in place of a host and port. Raises `AddressError` or one of
    its kinds, and then leaves nothing open.
    """
    options = _options(config.socket_option)
    listeners: list[socket.socket] = []
    handed_over = systemd.take_sockets() if config.fd is None else []
    try:
        listeners += [_adopt(fd, options) for fd in handed_over]
        for place in places(config) if not handed_over else ():
            listeners += _listen_at(place, config.backlog, options, reuse_port=config.accept == "reuseport")
    except BaseException:
        close_listeners(listeners)
        raise
    return listeners


def places(config: ServerConfig) -> list[bind.Place]:
    """Where this config says to listen."""
    if config.bind:
        return [bind.parse(each) for each in config.bind]
    if config.fd is not None:
        return [bind.InheritedPlace(config.fd)]
    if config.uds is not None:
        return [bind.UnixPlace(config.uds)]
    return [bind.TcpPlace(config.host, config.port)]


def _listen_at(place: bind.Place, backlog: int, options: SocketOptions, *, reuse_port: bool) -> list[socket.socket]:
    match place:
        case bind.InheritedPlace(fd):
            return [_adopt(fd, options)]
        case bind.UnixPlace(path):
            return [_listen_unix(path, backlog, options)]
        case bind.TcpPlace(host, port):
            return _listen_tcp(host, port, backlog, options, reuse_port=reuse_port)


def try_addresses(config: ServerConfig) -> None:
    """Whether all could be listened on, if nobody did; nothing is listened on, or left behind.

    Raises `AddressError`; not for an address in use, which the server about to be replaced may have.
    """
    options = _options(config.socket_option)
    beside = [] if config.metrics_bind is None else [bind.parse_local(config.metrics_bind)]
    for place in [*places(config), *beside]:
        with suppress(AddressInUse):
            _try(place, options)


def _try(place: bind.Place, options: SocketOptions) -> None:
    match place:
        case bind.InheritedPlace(fd):
            _adopt(fd, options).detach()
        case bind.UnixPlace(path):
            _refuse_long_path(path)
            directory = os.path.dirname(os.path.abspath(path))
            if not os.path.isdir(directory):
                raise _unix_error(OSError(errno.ENOENT, ""), path)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise _unix_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), path)
        case bind.TcpPlace(host, port):
            # A backlog of None: bound, and not listening.
            close_listeners(_listen_tcp(host, port, None, options))


def open_place(place: bind.Place, backlog: int, options: SocketOptions) -> list[socket.socket]:
    """The listening sockets at this place. Raises `AddressError`."""
    return _listen_at(place, backlog, options, reuse_port=False)


def open_at(address: str, backlog: int, options: SocketOptions) -> list[socket.socket]:
    """The listening sockets at `host:port` (an empty host is every address of the machine) or `unix:/path`.

    Raises `ConfigError` for what is no address, otherwise as `open_listeners` does.
    """
    if address.startswith("unix:"):
        return [_listen_unix(address.removeprefix("unix:"), backlog, options)]
    host, port = host_and_port(address)
    return _listen_tcp(host, port, backlog, options)


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `host:port` or `[::1]:port`. Raises `ConfigError`."""
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and bare == host):
        raise ConfigError(
            f"expected an address such as 127.0.0.1:9000, [::1]:9000 or unix:/run/app.sock, got {address!r}"
        )
    return bare, int(port)


def _options(written: tuple[str, ...]) -> SocketOptions:
    options = SocketOptions.parse(written)
    if options.no_delay is False:
        # A response leaves whole, with one call: Nagle's algorithm could only delay its last segment.
        raise ConfigError("--socket-option no-delay=off: an HTTP server has it on, always; leave the option out")
    return options


def inherit(fd: int) -> socket.socket:
    """A listener of a former process of this server's, which gives it away, file and all, when this one is ready."""
    with socket.socket(fileno=os.dup(fd)) as same:
        family, name = same.family, same.getsockname()
    if family != socket.AF_UNIX:
        return OwnListener(family, fd)
    listener = UnixListener(fd)
    with suppress(OSError):  # An abstract name, or a file that somebody has removed.
        listener.take_over(os.fsdecode(name))
    return listener


def give_away(listeners: Iterable[socket.socket]) -> None:
    for listener in listeners:
        if isinstance(listener, UnixListener):
            listener.give_away()


def close_listeners(listeners: Iterable[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


def is_last_holder(listeners: Iterable[socket.socket]) -> bool:
    """Whether no other process can have these listeners: none was inherited, and this one opened them."""
    return all(isinstance(each, OwnListener) and each.is_of_this_process for each in listeners)


def describe(listener: socket.socket) -> str:
    """Where a listener listens, as a person would write it: `http://127.0.0.1:8000`, `unix:/run/app.sock`."""
    name = listener.getsockname()
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        return f"http://{_host_and_port(name[0], name[1])}"
    path = os.fsdecode(name)
    return f"unix:@{path[1:]}" if path.startswith("\0") else f"unix:{path}"


def is_reusable(listener: socket.socket) -> bool:
    """Whether it can have twins."""
    is_internet = listener.family in (socket.AF_INET, socket.AF_INET6)
    return is_internet and listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1


def open_twin(listener: socket.socket, config: ServerConfig) -> socket.socket:
    """Another listener of the same address, which gets its share of the connections. Raises `AddressError`."""
    address, options = listener.getsockname(), _options(config.socket_option)
    try:
        return _bind_tcp(listener.family, address, config.backlog, options, reuse_port=True)
    except OSError as error:
        raise _tcp_error(error, address[0], address[1]) from None


def _listen_tcp(
    host: str, port: int, backlog: int | None, options: SocketOptions, *, reuse_port: bool = False
) -> list[socket.socket]:
    addresses = _look_up(host, port)
    attempts = _FREE_PORT_ATTEMPTS if port == 0 and len(addresses) > 1 else 1
    while True:
        listeners: list[socket.socket] = []
        try:
            _listen_on_each(addresses, backlog, options, listeners, reuse_port)
            return listeners
        except AddressError as error:
            close_listeners(listeners)
            attempts -= 1
            if attempts == 0 or not isinstance(error, AddressInUse):
                raise


def _look_up(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AddressUnavailable(f"--host: cannot find an address for {host!r}: {reason}") from None
    # A name may be listed twice in the hosts file; a dict keeps the order.
    return list(dict.fromkeys((family, (str(address[0]), port, *address[2:])) for family, _, _, _, address in found))


def _listen_on_each(
    addresses: list[Address],
    backlog: int | None,
    options: SocketOptions,
    listeners: list[socket.socket],
    reuse_port: bool,
) -> None:
    """Append a listener for each address; one that this machine lacks is left out while another is had."""
    lacking: tuple[Address, OSError] | None = None
    for family, address in addresses:
        if listeners and address[1] == 0:
            address = (address[0], listeners[0].getsockname()[1], *address[2:])
        try:
            listeners.append(_bind_tcp(family, address, backlog, options, reuse_port=reuse_port))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise _tcp_error(error, address[0], address[1]) from None
            lacking = lacking or ((family, address), error)
    if not listeners and lacking is not None:
        (_, address), error = lacking
        raise _tcp_error(error, address[0], address[1]) from None


def _bind_tcp(
    family: socket.AddressFamily,
    address: tuple[Any, ...],
    backlog: int | None,
    options: SocketOptions,
    *,
    reuse_port: bool = False,
) -> socket.socket:
    listener = OwnListener(family)
    try:
        # Without it a restart fails for a minute, while connections of the former server are in TIME_WAIT (tcp(7)).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Else :: takes the IPv4 port too, and a name with both addresses cannot be listened on.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        options.set_on(listener, SocketKind.TCP_LISTENER)
        listener.bind(address)
        if backlog is not None:
            listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _tcp_error(error: OSError, host: str, port: int) -> AddressError:
    where = _host_and_port(host, port)
    if error.errno == errno.EADDRINUSE:
        look = f"ss -ltnp 'sport = :{port}'"
        return AddressInUse(f"{where} is already in use: find by whom with {look}, or choose another --port")
    if error.errno in (errno.EACCES, errno.EPERM):
        cause = "ports below 1024 need root or CAP_NET_BIND_SERVICE" if port < 1024 else "the system forbids it"
        return AddressForbidden(f"not allowed to listen on {where}: {cause}; choose another --port")
    if error.errno in _NOT_HERE:
        return AddressUnavailable(f"{host} is not an address of this machine: see those it has with ip address")
    return AddressError(f"cannot listen on {where}: {_reason(error)}")


def _listen_unix(path: str, backlog: int, options: SocketOptions) -> socket.socket:
    _refuse_long_path(path)
    remove_stale(path)
    listener = UnixListener()
    try:
        options.set_on(listener, SocketKind.UNIX_LISTENER)
        listener.bind_file(path)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _unix_error(error, path) from None
    except SocketOptionRefused:
        listener.close()
        raise
    return listener


def _refuse_long_path(path: str) -> None:
    length = len(os.fsencode(path))
    if length > MAX_UDS_PATH_BYTES:
        raise AddressUnavailable(
            f"--uds: expected a path of at most {MAX_UDS_PATH_BYTES} bytes, got one of {length}: {path}"
        )


def remove_stale(path: str, flag: str = "--uds") -> None:
    """Remove a socket file that nobody answers at; refuse one that is answered, and whatever is no socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # Nothing there, or nothing we may see: bind says which.
    if not stat.S_ISSOCK(mode):
        raise AddressInUse(f"{flag}: {path} exists and is not a socket: remove it, or choose another path")
    if _is_answered(path):
        raise AddressInUse(f"{path} is already in use: find by whom with ss -lxp, or choose another {flag}")
    try:
        os.unlink(path)
    except OSError as error:
        raise _unix_error(error, path) from None


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # Busy, or not for us: somebody is there.
    return True


def _unix_error(error: OSError, path: str) -> AddressError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"{path} is already in use: find by whom with ss -lxp, or choose another --uds")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AddressForbidden(f"not allowed to make the socket {path}: {_reason(error)}; choose another --uds")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return AddressUnavailable(f"cannot make the socket {path}: its directory does not exist")
    return AddressError(f"cannot listen on {path}: {_reason(error)}")


def _adopt(fd: int, options: SocketOptions) -> socket.socket:
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        what = "is not open" if error.errno == errno.EBADF else "is not a socket"
        raise AddressUnavailable(f"--fd: expected a listening stream socket, but descriptor {fd} {what}") from None
    kind = _refusal(listener)
    if kind is not None:
        listener.detach()  # Whoever gave it to us may still want it.
        raise AddressUnavailable(f"--fd: expected a listening stream socket, but descriptor {fd} is {kind}")
    try:
        options.set_on(listener, SocketKind.of(listener, listens=True))
    except SocketOptionRefused:
        listener.detach()
        raise
    listener.setblocking(False)
    listener.set_inheritable(False)
    return listener


def _refusal(listener: socket.socket) -> str | None:
    if listener.type != socket.SOCK_STREAM:
        return "a socket of another type"
    if listener.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "a socket of another family"
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "a stream socket that does not listen"
    return None


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
