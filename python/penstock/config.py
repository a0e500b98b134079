"""ServerConfig is every setting of the server, stated once: its default, its bounds and one line of reason.

The options of `penstock serve`, the `PENSTOCK_*` environment variables, the keyword arguments of `penstock.run` and
the page `docs/settings.md` are all made from the fields below; a new setting is one new field. This module knows no
socket, no environment and no command line: `settings_from_environment` is handed the mapping that it reads.

A config is checked when it is made, so whoever holds one may rely on its bounds.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from . import bind
from .errors import ConfigError
from .static import SYNTAX, StaticMount, mounts_from, refuse_repetition

ENVIRONMENT_PREFIX = "PENSTOCK_"

Interface = Literal["auto", "asgi", "wsgi"]
Lifespan = Literal["auto", "on", "off"]
LogLevel = Literal["critical", "error", "warning", "info", "debug", "trace"]
AcceptName = Literal["shared", "reuseport"]
PollerName = Literal["auto", "epoll", "io_uring"]

T = TypeVar("T")


class Kind:
    """What values a setting can have: how to read one from text, how to check one, how to tell a person."""

    metavar: ClassVar[str]
    # Given several times, it has several values: a tuple. In one text they are separated by `separator`.
    is_repeatable: ClassVar[bool] = False
    separator: ClassVar[str] = ";"

    @property
    def expectation(self) -> str:
        raise NotImplementedError

    def parse(self, text: str) -> object:
        """The value that `text` stands for; `ValueError` if none."""
        return text

    def parse_one(self, text: str) -> tuple[object, ...]:
        """One of several values, which may hold the separator. `ValueError` if it is none."""
        value = self.parse(text)
        return value if isinstance(value, tuple) else (value,)

    def accepts(self, value: object) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class Text(Kind):
    metavar: ClassVar[str] = "TEXT"
    what: str = "text"

    @property
    def expectation(self) -> str:
        return self.what

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and "\0" not in value


@dataclass(frozen=True)
class FilePath(Text):
    metavar: ClassVar[str] = "PATH"
    what: str = "a path"

    def accepts(self, value: object) -> bool:
        return super().accepts(value) and value != ""


@dataclass(frozen=True)
class RootPath(Text):
    metavar: ClassVar[str] = "PATH"
    what: str = "a path that begins with a slash and does not end with one, such as /api"

    def accepts(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        return value == "" or (value.startswith("/") and not value.endswith("/") and value.isprintable())


@dataclass(frozen=True)
class UrlPath(Text):
    metavar: ClassVar[str] = "PATH"
    what: str = "a path that begins with a slash and needs no escapes, such as /healthz"

    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*", value) is not None


@dataclass(frozen=True)
class Peers(Text):
    metavar: ClassVar[str] = "PEERS"
    what: str = "addresses and networks separated by commas, such as 127.0.0.1,10.0.0.0/8, or unix, or * alone"

    def accepts(self, value: object) -> bool:
        if not isinstance(value, str) or not super().accepts(value):
            return False
        peers = [peer.strip() for peer in value.split(",")]
        return peers == ["*"] or all(map(_is_peer, peers))


def _is_peer(peer: str) -> bool:
    """An address, a network without host bits, or a name that may stand in a list of forwarders."""
    is_numeric = bool(peer) and not set(peer) - set("0123456789.:/abcdefABCDEF") and bool(set(peer) & set(".:"))
    if not is_numeric and ("/" not in peer or peer.startswith("/")):
        return peer != "*"
    try:
        bits = ipaddress.ip_network(peer).prefixlen
    except ValueError:
        return False
    return "/" not in peer or peer.endswith(f"/{bits}")


@dataclass(frozen=True)
class Integer(Kind):
    metavar: ClassVar[str] = "N"
    minimum: int
    maximum: int

    @property
    def expectation(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    def parse(self, text: str) -> object:
        if not text.strip().isascii():
            raise ValueError(text)
        return int(text)

    def accepts(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class WorkerCount(Kind):
    metavar: ClassVar[str] = "N|auto"
    maximum: ClassVar[int] = 512

    @property
    def expectation(self) -> str:
        return f"a whole number from 1 to {self.maximum}, or auto"

    def parse(self, text: str) -> object:
        return "auto" if text.strip().lower() == "auto" else Integer(1, self.maximum).parse(text)

    def accepts(self, value: object) -> bool:
        return value == "auto" or Integer(1, self.maximum).accepts(value)


@dataclass(frozen=True)
class FileMode(Kind):
    metavar: ClassVar[str] = "MODE"

    @property
    def expectation(self) -> str:
        return "an octal mode from 0 to 777, such as 027"

    def parse(self, text: str) -> object:
        return int(text, 8)

    def accepts(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777


@dataclass(frozen=True)
class Seconds(Kind):
    metavar: ClassVar[str] = "SECONDS"
    minimum: float
    maximum: float

    @property
    def expectation(self) -> str:
        return f"a number of seconds from {self.minimum:g} to {self.maximum:g}"

    def parse(self, text: str) -> object:
        return float(text)

    def accepts(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return math.isfinite(value) and self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class Choice(Kind):
    metavar: ClassVar[str] = "CHOICE"
    choices: tuple[str, ...]
    # What else one may be called, by users of other servers.
    also: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])

    @property
    def expectation(self) -> str:
        return f"one of {', '.join(self.choices)}"

    def parse(self, text: str) -> object:
        return self.also.get(text.lower(), text.lower())

    def accepts(self, value: object) -> bool:
        return value in self.choices


@dataclass(frozen=True)
class Switch(Kind):
    metavar: ClassVar[str] = ""
    words: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("1", "true", "yes", "on"), True),
        **dict.fromkeys(("0", "false", "no", "off"), False),
    }

    @property
    def expectation(self) -> str:
        return "true or false"

    def parse(self, text: str) -> object:
        try:
            return self.words[text.strip().lower()]
        except KeyError:
            raise ValueError(text) from None

    def accepts(self, value: object) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Mounts(Kind):
    metavar: ClassVar[str] = "/PREFIX=DIR"
    is_repeatable: ClassVar[bool] = True

    @property
    def expectation(self) -> str:
        return SYNTAX

    def parse(self, text: str) -> object:
        return tuple(StaticMount.parse(each) for each in text.split(self.separator) if each.strip())

    def accepts(self, value: object) -> bool:
        return isinstance(value, tuple) and all(isinstance(mount, StaticMount) for mount in value)


@dataclass(frozen=True)
class Texts(Kind):
    """Several texts, each of which must be something."""

    metavar: ClassVar[str] = "TEXT"
    is_repeatable: ClassVar[bool] = True
    what: str = "texts"

    @property
    def expectation(self) -> str:
        return self.what

    def parse(self, text: str) -> object:
        return tuple(each.strip() for each in text.split(self.separator) if each.strip())

    def parse_one(self, text: str) -> tuple[object, ...]:
        return (text.strip(),)

    def accepts(self, value: object) -> bool:
        return isinstance(value, tuple) and all(isinstance(each, str) and self.accepts_one(each) for each in value)

    def accepts_one(self, text: str) -> bool:
        return text != "" and "\0" not in text


@dataclass(frozen=True)
class Directories(Texts):
    metavar: ClassVar[str] = "DIR"


@dataclass(frozen=True)
class Patterns(Texts):
    metavar: ClassVar[str] = "PATTERN"


@dataclass(frozen=True)
class MetricsPlace(Text):
    metavar: ClassVar[str] = "ADDRESS"
    what: str = f"a port of 127.0.0.1, {bind.SYNTAX}"

    def accepts(self, value: object) -> bool:
        try:
            return isinstance(value, str) and bool(bind.parse_local(value))
        except ValueError:
            return False


@dataclass(frozen=True)
class Places(Texts):
    metavar: ClassVar[str] = "ADDRESS"
    separator: ClassVar[str] = ","
    what: str = bind.SYNTAX

    def accepts_one(self, text: str) -> bool:
        try:
            bind.parse(text)
        except ValueError:
            return False
        return True


LOG_FORMATS = ("auto", "uvicorn", "common", "combined", "json")
# What the binary's own compiler takes; a test holds the two together.
_LOG_TEMPLATE = re.compile(r"([^%]|%%|%\(([hlurtmUqHsBbfaTMDLp]|\{[^)]+\}[ioe])\)s)*")


@dataclass(frozen=True)
class LogFormat(Text):
    metavar: ClassVar[str] = "FORMAT"
    what: str = "auto, uvicorn, common, combined, json, or a template of atoms such as '%(h)s %(r)s %(s)s %(D)s'"

    def accepts(self, value: object) -> bool:
        if not isinstance(value, str) or not super().accepts(value):
            return False
        is_template = "%(" in value and value.isprintable() and _LOG_TEMPLATE.fullmatch(value) is not None
        return value in LOG_FORMATS or is_template


# RFC 9110 sections 5.1 and 5.5. What frames a message or concerns the connection is the server's own to say.
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e\x80-\xff]([ \t\x21-\x7e\x80-\xff]*)?)?")
_FRAMING = {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}


@dataclass(frozen=True)
class Headers(Texts):
    metavar: ClassVar[str] = "NAME:VALUE"
    # A header's value may well have a semicolon.
    separator: ClassVar[str] = "\n"
    what: str = "NAME:VALUE, a header that frames no message, such as X-Frame-Options:DENY"

    def accepts_one(self, text: str) -> bool:
        found = _HEADER.fullmatch(text)
        return found is not None and found[1].lower() not in _FRAMING


@dataclass(frozen=True)
class SocketOptionTexts(Texts):
    """Checked here, and read where sockets are made: the options themselves are known to `socket_options`."""

    metavar: ClassVar[str] = "NAME=VALUE"
    what: str = "name=value, such as receive-buffer-bytes=1048576"

    def accepts_one(self, text: str) -> bool:
        return "=" in text


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a config, as people meet it: on the command line, in the environment, in the documentation."""

    name: str
    default: object
    kind: Kind
    group: str
    help: str
    # Another variable that gives it, if its own is not there: one that users of other servers have set already.
    other_variable: str | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.removesuffix("_s").replace("_", "-")

    @property
    def off_flag(self) -> str | None:
        return "--no-" + self.flag[2:] if isinstance(self.kind, Switch) else None

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.removesuffix("_s").upper()

    def parse(self, text: str, *, called: str | None = None) -> object:
        """The value that `text` stands for, checked; `called` is what the user knows the setting by."""
        return self._read(self.kind.parse, text, called)

    def parse_one(self, text: str, *, called: str | None = None) -> tuple[Any, ...]:
        """The same for one of several values."""
        return self._read(self.kind.parse_one, text, called)

    def _read(self, parse: Callable[[str], Any], text: str, called: str | None) -> Any:
        try:
            value = parse(text)
        except ValueError:
            raise self.wrong(text, called=called) from None
        self.check(value, came=text, called=called)
        return value

    def check(self, value: object, *, came: object = None, called: str | None = None) -> None:
        if value is None and self.default is None:
            return
        if not self.kind.accepts(value):
            raise self.wrong(value if came is None else came, called=called)

    def wrong(self, came: object, *, called: str | None = None) -> ConfigError:
        return ConfigError(f"{called or self.flag}: expected {self.kind.expectation}, got {came!r}")


def setting(default: T, kind: Kind, *, group: str, help: str, other_variable: str | None = None) -> T:
    """A dataclass field that carries what `Setting` needs."""
    metadata = {"kind": kind, "group": group, "help": help, "other_variable": other_variable}
    return dataclasses.field(default=default, metadata=metadata)


WHERE = "Where to listen"
APPLICATION = "Application"
DEVELOPMENT = "Development"
WORKERS = "Workers"
PROCESS = "Process"
CONNECTIONS = "Connections"
LIMITS = "Limits: what one client can cost the others"
PROXIES = "Behind a proxy"
ENGINE = "Engine"
STATIC = "Static files"
OBSERVING = "Metrics and tracing"
LOGGING = "Logging"


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How one server runs. Every setting is described in docs/settings.md; a wrong one raises `ConfigError`."""

    host: str = setting(
        "127.0.0.1",
        Text(what="a host name or an address"),
        group=WHERE,
        help="Host name or address to listen on; every address that the name has is listened on. "
        "0.0.0.0 is every IPv4 address of this machine, :: every IPv6 one.",
    )
    port: int = setting(8000, Integer(0, 65535), group=WHERE, help="TCP port; 0 takes a free one and prints it.")
    uds: str | None = setting(
        None,
        FilePath(),
        group=WHERE,
        help="Listen on this Unix domain socket instead of a port. A socket file that nobody answers at is replaced.",
    )
    fd: int | None = setting(
        None,
        Integer(0, 1_048_575),
        group=WHERE,
        help="Listen on this inherited descriptor, a listening stream socket, instead of a port.",
    )
    bind: Sequence[str] = setting(
        (),
        Places(),
        group=WHERE,
        help="Listen here, in place of --host and --port: HOST:PORT, unix:PATH, or fd://N for an inherited descriptor. "
        "Repeatable.",
    )
    backlog: int = setting(
        4096,
        Integer(1, 65535),
        group=WHERE,
        help="Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn.",
    )
    socket_option: tuple[str, ...] = setting(
        (),
        SocketOptionTexts(),
        group=WHERE,
        help="Set a socket option of the listeners and their connections: any of docs/socket-options.md, such as "
        "congestion=bbr. Repeatable. What the kernel does not grant ends the start with an error.",
    )

    app_dir: str = setting(
        ".", FilePath(what="a directory"), group=APPLICATION, help="Directory put first in Python's module search path."
    )
    factory: bool = setting(
        False, Switch(), group=APPLICATION, help="APP is a function that takes no argument and returns the application."
    )
    interface: Interface = setting(
        "auto",
        Choice(("auto", "asgi", "wsgi"), also={"asgi3": "asgi"}),
        group=APPLICATION,
        help="What the application speaks: told by how it is called (auto: coroutines and three arguments are ASGI, "
        "two arguments WSGI), or the one named.",
    )
    threads: int = setting(
        4,
        Integer(1, 1024),
        group=APPLICATION,
        help="WSGI: threads of each event loop that call the application, and so requests that it answers at once.",
    )
    lifespan: Lifespan = setting(
        "auto",
        Choice(("auto", "on", "off")),
        group=APPLICATION,
        help="ASGI lifespan: use it if the application has it (auto), insist on it (on), or never ask (off).",
    )
    root_path: str = setting(
        "",
        RootPath(),
        group=APPLICATION,
        help="Where the application is mounted, if a proxy strips that prefix: ASGI's root_path, WSGI's SCRIPT_NAME.",
    )

    chdir: str | None = setting(
        None,
        FilePath(what="a directory"),
        group=APPLICATION,
        help="Change to this directory before anything else; other relative paths are then counted from it.",
    )
    env_file: str | None = setting(
        None,
        FilePath(what="a file of NAME=VALUE lines"),
        group=APPLICATION,
        help="Put this file's variables into the environment, for the settings and for the application. A variable "
        "that is there already stays.",
    )

    workers: int | Literal["auto"] | None = setting(
        None,
        WorkerCount(),
        group=WORKERS,
        help="Worker processes under a supervisor, which replaces and reloads them; auto is one for each processor "
        "that this process may use. Without it one process serves by itself.",
        other_variable="WEB_CONCURRENCY",
    )
    accept: AcceptName = setting(
        "shared",
        Choice(("shared", "reuseport")),
        group=WORKERS,
        help="How connections reach the workers: from one listener, which a worker with more than its share leaves to "
        "the others (shared), or spread by the kernel over a listener each (reuseport).",
    )
    preload: bool = setting(
        False,
        Switch(),
        group=WORKERS,
        help="Import the application once, before the workers are forked: they share its memory, and a reload "
        "keeps it.",
    )
    timeout_worker_s: float = setting(
        60.0,
        Seconds(0, 86_400),
        group=WORKERS,
        help="Kill and replace a worker whose event loop stands still for this long, after its stacks have gone to the "
        "log; 0 is never. Starting up may take any time.",
    )
    limit_max_requests: int = setting(
        0,
        Integer(0, 1 << 40),
        group=WORKERS,
        help="Replace a worker that has answered this many requests, looked at twice a second; 0 is any number.",
    )
    limit_max_requests_jitter: int = setting(
        0,
        Integer(0, 1 << 40),
        group=WORKERS,
        help="Add a random number up to this one for each worker, so that not all are replaced at once.",
    )
    worker_lifetime_s: float = setting(
        0.0,
        Seconds(0, 31_536_000),
        group=WORKERS,
        help="Replace a worker that has lived for this long, give or take a tenth; 0 is any time.",
    )
    worker_max_rss: int = setting(
        0,
        Integer(0, 1 << 50),
        group=WORKERS,
        help="Replace a worker whose resident memory has more than this many bytes; 0 is any number.",
    )
    control: str | None = setting(
        None,
        FilePath(),
        group=WORKERS,
        help="Listen at this path for penstock ctl; only this user may open it.",
    )

    user: str | None = setting(
        None,
        Text(what="a user's name or number"),
        group=PROCESS,
        help="Run the application as this user, with the user's groups; the sockets are opened before.",
    )
    group: str | None = setting(
        None, Text(what="a group's name or number"), group=PROCESS, help="Run the application as this group."
    )
    umask: int | None = setting(
        None, FileMode(), group=PROCESS, help="The mode bits, in octal, that files made by the application lack."
    )
    pid: str | None = setting(
        None, FilePath(), group=PROCESS, help="Write the process's number to this file, and remove it at the end."
    )

    reload: bool = setting(
        False,
        Switch(),
        group=DEVELOPMENT,
        help="Start the application anew whenever one of its files changes. The listener stays open meanwhile.",
    )
    reload_dir: Sequence[str] = setting(
        (),
        Directories(what="directories"),
        group=DEVELOPMENT,
        help="Watch this directory, with all below it, instead of --app-dir. Repeatable.",
    )
    reload_include: Sequence[str] = setting(
        (),
        Patterns(what="patterns of file names, such as *.html"),
        group=DEVELOPMENT,
        help="Watch files of this pattern, too, beside *.py; or this very file, wherever it is. Repeatable.",
    )
    reload_exclude: Sequence[str] = setting(
        (),
        Patterns(what="patterns of file or directory names, such as tests"),
        group=DEVELOPMENT,
        help="Leave alone what this pattern matches, file or directory. What begins with a dot, virtual environments, "
        "node_modules, caches and editors' own files are left alone anyway. Repeatable.",
    )
    reload_delay_s: float = setting(
        0.05,
        Seconds(0.01, 60),
        group=DEVELOPMENT,
        help="Start anew when no further file has changed for this long.",
    )

    timeout_keep_alive_s: float = setting(
        5.0,
        Seconds(0, 86_400),
        group=CONNECTIONS,
        help="Close a connection that has been idle between two requests for this long.",
    )
    timeout_graceful_shutdown_s: float = setting(
        30.0,
        Seconds(0, 86_400),
        group=CONNECTIONS,
        help="When asked to stop, give the requests under way this long to finish, then end them.",
    )
    cancel_on_disconnect: bool = setting(
        False,
        Switch(),
        group=CONNECTIONS,
        help="Cancel the application's task when its client goes away; ASGI's own way is the http.disconnect message.",
    )
    server_header: bool = setting(True, Switch(), group=CONNECTIONS, help="Send a Server header by default.")
    date_header: bool = setting(True, Switch(), group=CONNECTIONS, help="Send a Date header by default.")
    health: str | None = setting(
        None,
        UrlPath(),
        group=CONNECTIONS,
        help="Answer this path with 200 and ok, without the application or the interpreter.",
    )
    header: Sequence[str] = setting(
        (),
        Headers(),
        group=CONNECTIONS,
        help="Send this header with every response. Repeatable; in the environment each on a line of its own.",
    )

    timeout_header_s: float = setting(
        10.0,
        Seconds(0.1, 86_400),
        group=LIMITS,
        help="A request's head must be whole this long after its first byte, or the connection's start; else 408.",
    )
    timeout_body_s: float = setting(
        20.0,
        Seconds(0.1, 86_400),
        group=LIMITS,
        help="Over each window of this length a body that the application is ready to read must keep up the minimum "
        "rate; else 408.",
    )
    timeout_write_s: float = setting(
        20.0,
        Seconds(0.1, 86_400),
        group=LIMITS,
        help="Over each window of this length a client must take its response at the minimum rate; else it is cut off.",
    )
    limit_rate_min: int = setting(
        128,
        Integer(0, 1 << 30),
        group=LIMITS,
        help="The minimum rate of bodies and responses, in bytes a second; 0 is none.",
    )
    limit_head_size: int = setting(
        32_768, Integer(256, 1 << 20), group=LIMITS, help="Bytes that a request's head may have; more is answered 431."
    )
    limit_headers: int = setting(
        100, Integer(1, 256), group=LIMITS, help="Header lines that a request may have; more are answered 431."
    )
    limit_target_size: int = setting(
        8192, Integer(16, 1 << 20), group=LIMITS, help="Bytes that a request's target may have; more is answered 414."
    )
    limit_body_size: int = setting(
        0,
        Integer(0, 1 << 62),
        group=LIMITS,
        help="Bytes that a request's body may have; more is answered 413. 0 is any: bodies are streamed, so a large "
        "one costs time and no memory.",
    )
    limit_concurrency: int = setting(
        0,
        Integer(0, 1 << 30),
        group=LIMITS,
        help="Requests under way at once; one more is answered 503 with Retry-After. Idle connections do not count. "
        "0 is any number.",
    )
    limit_queue: int = setting(
        1024,
        Integer(0, 1 << 20),
        group=LIMITS,
        help="WSGI: requests that may wait for a thread of an event loop; one more is answered 503 with Retry-After.",
    )
    limit_spool_size: int = setting(
        256 << 20,
        Integer(0, 1 << 62),
        group=LIMITS,
        help="WSGI: bytes of request bodies beyond 64 KiB that an event loop keeps in unnamed files (in TMPDIR) until "
        "they are whole, so that no thread waits for a client. What finds no room is streamed, and so is all with 0.",
    )
    limit_connections: int = setting(
        0,
        Integer(0, 1 << 30),
        group=LIMITS,
        help="Connections open at once; one more is answered 503 and closed. 0 is as many as there are descriptors.",
    )
    limit_connections_per_address: int = setting(
        0,
        Integer(0, 1 << 30),
        group=LIMITS,
        help="The same for each client address; leave it 0 (any number) behind a proxy, which is one address.",
    )

    proxy_headers: bool = setting(
        True,
        Switch(),
        group=PROXIES,
        help="Take the client's address and the scheme from X-Forwarded-For and X-Forwarded-Proto, if the peer is one "
        "of --forwarded-allow-ips. From anybody else these headers change nothing.",
    )
    forwarded_allow_ips: str = setting(
        "127.0.0.1,::1",
        Peers(),
        group=PROXIES,
        help="Peers that are trusted to name the client: addresses, networks, unix for Unix domain peers, names that "
        "stand in the list of forwarders; or * for everyone, which is right only if nobody else can connect.",
        other_variable="FORWARDED_ALLOW_IPS",
    )
    proxy_protocol: bool = setting(
        False,
        Switch(),
        group=PROXIES,
        help="Every connection begins with a PROXY protocol header, version 1 or 2, that names its client. A "
        "connection without one, or from a peer that is none of --forwarded-allow-ips, is closed.",
    )

    static: Sequence[StaticMount | str] = setting(
        (),
        Mounts(),
        group=STATIC,
        help="Serve the files of DIR at the paths below /PREFIX, without the application. Repeatable. Options follow "
        "after commas: max-age=SECONDS and immutable (for Cache-Control), listing (of directories without an "
        "index.html), hidden (serve names that begin with a dot), fallthrough (what is not there is the application's "
        "to answer), and last, since it takes the rest, cache-control=VALUE.",
    )
    static_cache_size: int = setting(
        32 << 20,
        Integer(0, 1 << 40),
        group=STATIC,
        help="Bytes of small files that each event loop keeps in memory. The kernel sends large ones from its own.",
    )
    static_open_files: int = setting(
        256, Integer(0, 1 << 20), group=STATIC, help="Large files that each event loop keeps open between two requests."
    )

    reactors: int = setting(
        1,
        Integer(1, 1024),
        group=ENGINE,
        help="Event loops, one thread each. With the GIL more than one helps only what needs no Python.",
    )
    poller: PollerName = setting(
        "auto",
        Choice(("auto", "epoll", "io_uring")),
        group=ENGINE,
        help="How to wait for the kernel: the one that measures best here (auto), or the one named.",
    )

    metrics_bind: str | None = setting(
        None,
        MetricsPlace(),
        group=OBSERVING,
        help="Measure, and show what is measured here: /metrics for Prometheus, /-/ for people, JSON for programs. A "
        "port alone is one of 127.0.0.1: whoever can connect may read (docs/metrics.md).",
    )
    slow_callback_s: float = setting(
        0.0,
        Seconds(0, 86_400),
        group=OBSERVING,
        help="When Python keeps an event loop for longer than this, log the stack that is running; 0 is never.",
    )
    otel: bool | None = setting(
        None,
        Switch(),
        group=OBSERVING,
        help="Trace requests with OpenTelemetry: a span each (docs/tracing.md). By default if its variables ask for it "
        "(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER) and its SDK is installed.",
    )

    log_level: LogLevel = setting(
        "info",
        Choice(("critical", "error", "warning", "info", "debug", "trace")),
        group=LOGGING,
        help="Log messages of this weight and above.",
    )
    access_log: bool = setting(True, Switch(), group=LOGGING, help="Log one line for every request.")
    access_logfile: str | None = setting(
        None,
        FilePath(what="a file, or - for standard output"),
        group=LOGGING,
        help="Write the access log to this file, which is opened anew on SIGUSR1, instead of to standard output.",
    )
    access_logformat: str = setting(
        "auto",
        LogFormat(),
        group=LOGGING,
        help="What a line of the access log looks like: uvicorn, common, combined, json, or a template of gunicorn's "
        "atoms (docs/logging.md). auto is uvicorn on standard output and combined in a file.",
    )
    error_logfile: str | None = setting(
        None,
        FilePath(what="a file, or - for standard error"),
        group=LOGGING,
        help="Write what the server has to say to this file, which may be rotated at any time, instead of to standard "
        "error.",
    )
    log_config: str | None = setting(
        None,
        FilePath(what="a file of Python's logging configuration: .ini, .json or .yaml"),
        group=LOGGING,
        help="Set up Python's logging from this file: .json and .yaml as dictConfig takes it, any other as fileConfig "
        "does. The loggers are penstock.error and penstock.access.",
    )
    use_colors: bool | None = setting(
        None, Switch(), group=LOGGING, help="Write in colours; without this option, on a terminal whose user wants any."
    )

    def __post_init__(self) -> None:
        # A program may write mounts as text, and several values as a list.
        object.__setattr__(self, "static", _checked_mounts(self.static))
        for name, known in SETTINGS.items():
            if isinstance(known.kind, Texts) and isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
            known.check(getattr(self, name))
        if self.is_supervised and self.reactors > 1:
            raise ConfigError("--reactors and --workers: choose threads or processes, and leave the other at one")
        refuse_contradictions(
            {name: getattr(self, name) for name, known in SETTINGS.items() if getattr(self, name) != known.default}
        )

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor is needed: for several workers, or for replacing one before it retires.

        `--reload` has one process, whatever an environment made for production says."""
        needs = ("limit_max_requests", "worker_lifetime_s", "worker_max_rss", "control", "preload")
        return not self.reload and (self.workers is not None or any(getattr(self, name) for name in needs))


def _checked_mounts(given: Any) -> tuple[StaticMount, ...]:
    try:
        mounts = mounts_from(given)
    except (TypeError, ValueError):
        raise ConfigError(f"static: expected mounts such as '/assets=dist', got {given!r}") from None
    refuse_repetition(mounts)
    return mounts


def _settings_of(config: type[ServerConfig]) -> dict[str, Setting]:
    return {
        field.name: Setting(name=field.name, default=field.default, **field.metadata)
        for field in dataclasses.fields(config)
    }


# Every setting by its field's name, in the order of the fields.
SETTINGS: Mapping[str, Setting] = _settings_of(ServerConfig)


@dataclass(frozen=True)
class Contradiction:
    """Two settings that cannot both be had, if their values are such."""

    one: str
    other: str
    # With {one} and {other} for what the user has written.
    words: str
    applies: Callable[[Any, Any], bool] = lambda one, other: True


def _wants_reload(reload: bool, other: object) -> bool:
    return reload and other not in (1, False, None)


WHERE_SETTINGS = ("uds", "fd", "bind", "host", "port")
_BOTH_SAY_WHERE = "{one} and {other} both say where to listen: give one of them"
_CONTRADICTIONS = (
    [
        Contradiction(one, other, _BOTH_SAY_WHERE)
        for one, other in itertools.combinations(WHERE_SETTINGS, 2)
        if (one, other) != ("host", "port")
    ]
    + [
        Contradiction(
            one,
            "access_log",
            "{one} asks for an access log and {other} for none: give one of them",
            lambda _, wanted: not wanted,
        )
        for one in ("access_logfile", "access_logformat")
    ]
    + [
        Contradiction("reload", one, "{one} serves in one process that starts anew: leave {other} out", _wants_reload)
        for one in ("workers", "control", "preload", "limit_max_requests", "worker_lifetime_s", "worker_max_rss")
    ]
)


def contradictions(given: Mapping[str, Any], called: Mapping[str, str] | None = None) -> list[ConfigError]:
    """What excludes each other. `given` are the settings that somebody has set, `called` what they wrote for them."""
    names = called or {}
    return [
        ConfigError(
            each.words.format(
                **{
                    place: names.get(name) or _spelt(name, given[name])
                    for place, name in (("one", each.one), ("other", each.other))
                }
            )
        )
        for each in _CONTRADICTIONS
        if each.one in given and each.other in given and each.applies(given[each.one], given[each.other])
    ]


def _spelt(name: str, value: object) -> str:
    """A setting and this value of it, as a command line would have it."""
    known = SETTINGS[name]
    return known.off_flag if value is False and known.off_flag else known.flag


def refuse_contradictions(given: Mapping[str, Any], called: Mapping[str, str] | None = None) -> None:
    for error in contradictions(given, called):
        raise error


def settings_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that `PENSTOCK_*` variables give; an empty variable counts as none."""
    found = ((name, known, variable_of(known, environment)) for name, known in SETTINGS.items())
    return {name: known.parse(environment[called], called=called) for name, known, called in found if called}


def variable_of(known: Setting, environment: Mapping[str, str]) -> str | None:
    """The variable that gives this setting, if one does."""
    variables = (known.variable, known.other_variable)
    return next((variable for variable in variables if variable and environment.get(variable)), None)
