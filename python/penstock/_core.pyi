"""Penstock's data plane: what of the binary module Python may use. Made by hand; a test holds it against the binary."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, TypedDict, final

from .config import ServerConfig
from .logs import AccessLogPlan
from .streams import CloseReason

__version__: Final[str]
"""The version of the binary, which is that of the package."""

DEBUG_BUILD: Final[bool]
"""Built without optimisation, and many times slower."""

class ClientDisconnected(ConnectionError):
    """The client has gone away: nothing more can be sent. An OSError, as ASGI's spec_version 2.4 asks."""

@final
class Reactor:
    """A poller, its connections and their timers: what turns an `EventLoop`.

    It belongs to the thread that runs its loop. From any other only `wake`, `handle`, `counters` and what has to do
    with stalls may be called; the rest raise RuntimeError while the loop is at work, and always once it is closed.
    """

    def __new__(cls, poller: str = "auto", scoreboard: Scoreboard | None = None, slot: int = 0) -> Reactor:
        """`poller`: "auto", or the name of one. With a scoreboard it counts in that slot, for others to see.

        Raises ValueError for an unknown poller, IndexError for an unknown slot, OSError if the kernel refuses.
        """

    @property
    def poller(self) -> str:
        """Which way of waiting for the kernel is in use."""

    @property
    def connections(self) -> int:
        """Open connections."""

    @property
    def requests_in_progress(self) -> int:
        """Requests whose response is not complete."""

    def watch(self, fd: int, events: int) -> None:
        """Be told by `select` when a descriptor is readable (1), writable (2) or either (3). Again: instead of before.

        Raises OSError for a descriptor that cannot be polled.
        """

    def unwatch(self, fd: int) -> None:
        """Undo `watch`. Raises KeyError if the descriptor is not watched."""

    def select(self, timeout: float | None, ready_callbacks: Sequence[Any], timers: list[Any]) -> list[tuple[int, int]]:
        """Turn until asyncio has something to do, or `timeout` seconds have passed (None: no limit).

        Something to do is a watched descriptor that is ready, an entry in `ready_callbacks`, a new first timer in
        `timers` (asyncio's own containers, looked at and not changed), or a `wake`. Returns the ready descriptors as
        (fd, events).
        """

    def wake(self) -> None:
        """Make `select` come back. From any thread, and after `close` to no effect."""

    def handle(self) -> ReactorHandle:
        """For a main reactor, which hands connections over to this one. From any thread."""

    def attach_wsgi(self, wsgi: WsgiServer) -> None:
        """Serve HTTP with this WSGI application, on its own threads, on every listener added from now on."""

    def attach_asgi(self, asgi: AsgiServer) -> None:
        """Serve HTTP with this application on every listener added from now on."""

    def add_listener(self, fd: int) -> None:
        """Accept connections from a listening socket. The descriptor is duplicated: the caller keeps its own.

        The first added has the number 0 in the application's list of listeners, the next one 1. Raises OSError for a
        descriptor that does not listen.
        """

    def remove_listeners(self, last: bool = False) -> None:
        """Stop accepting: close this reactor's descriptors of its listeners, once what waits at them has been taken.

        As the `last` who holds them it lets nobody new in from now on, and takes a tenth of a second or two for those
        whose handshake is under way, so that nobody who could connect is reset. Never say so of a listener that another
        process holds: it would get no more connections.
        """

    def leave_listeners(self) -> None:
        """Stop accepting, where other processes hold the listeners, too: who waits there is theirs."""

    def report_to(self, scoreboard: Scoreboard, slot: int, shares: bool) -> None:
        """Tell of this reactor in a slot of the scoreboard, from now on.

        With `shares`, leave connections to the other workers that are ready while this one has more than its share.
        """

    def measure(self) -> None:
        """Measure durations, and tell levels, from now on: at the cost of a few looks at the clock for each turn."""

    def note_lag(self, late_s: float) -> None:
        """A timer was called so late."""

    def wait_for_stall(self, threshold_s: float) -> float | None:
        """Wait until Python has been at work in this loop for so long without a break, and tell for how long.

        Once for each such time; None after `stop_watching`. For a thread that watches the loop's; it needs no
        interpreter while it waits.
        """

    def wait_for_end_of_stall(self) -> float | None:
        """Wait until what `wait_for_stall` told of is over, and tell how long it took. None after `stop_watching`."""

    @property
    def is_stalled(self) -> bool:
        """Whether what `wait_for_stall` told of goes on."""

    def stop_watching(self) -> None:
        """Let go of who waits for a stall, for good."""

    def drain(self, patience: bool = False) -> None:
        """Close idle connections now, and the others after the response they wait for; then `on_quiet` is called.

        What was handed over by now is among them. With `patience`, idle ones stay as long as they might have been kept
        alive, and have one more answer. Subscriptions to events (`text/event-stream`, asked for by GET) end at once.
        """

    def counters(self) -> dict[str, int]:
        """What this reactor has counted since it was made, by name. From any thread."""

    def close(self) -> None:
        """Close every connection and descriptor of the reactor. Again: to no effect."""

@final
class ReactorHandle:
    """What a main reactor needs of a reactor. Good for any thread, and after the reactor's end."""

    @property
    def connections(self) -> int:
        """Connections that the reactor has, or that are on their way to it."""

@final
class MainReactor:
    """Accepts on a thread of its own, and hands each connection to the reactor with the fewest."""

    def __new__(
        cls,
        reactors: Sequence[ReactorHandle],
        poller: str = "auto",
        scoreboard: Scoreboard | None = None,
        slot: int = 0,
    ) -> MainReactor:
        """Raises ValueError without a reactor or for an unknown poller, OSError if the kernel refuses it."""

    def add_listener(self, fd: int, number: int) -> None:
        """Accept from a listening socket, whose connections have this number in the applications' lists of listeners.

        The descriptor is duplicated: the caller keeps its own. Raises OSError for a descriptor that does not listen,
        ValueError if another listener has the number, RuntimeError once stopped.
        """

    def remove_listener(self, number: int, last: bool = False) -> None:
        """Accept no more from this listener; `last` as for `Reactor.remove_listeners`.

        On return all that its clients believe accepted has been handed over.

        Raises ValueError if there is none of this number, RuntimeError once stopped.
        """

    def stop(self, last: bool = False) -> None:
        """Remove every listener, as `Reactor.remove_listeners` does, and end the thread. Again: to no effect.

        Raises the OSError that ended it early.
        """

    @property
    def deserted(self) -> bool:
        """Whether a connection had to be closed because no reactor was left to take it."""

    def counters(self) -> dict[str, int]:
        """What it has counted since it was made, by name."""

class WorkerFigures(TypedDict):
    """What a worker tells of itself, as of its reactor's last turn; all zero and "free" if the slot is nobody's."""

    state: Literal["free", "starting", "ready", "draining"]
    pid: int
    generation: int
    ticks: int
    """Goes on with each turn. Even: the reactor waits for the kernel; odd: it is at work."""
    connections: int
    in_progress: int
    served: int
    shut: int
    """1 while it leaves new connections to the others."""

@final
class Scoreboard:
    """A slot for each worker process, in memory that forked processes share. From any thread."""

    def __new__(cls, slots: int) -> Scoreboard:
        """Raises ValueError for less than 1 or more than 65536 slots. The methods raise IndexError for one beyond."""

    def claim(self, slot: int, pid: int, generation: int) -> None:
        """The slot is this worker's, which starts."""

    def release(self, slot: int) -> None:
        """The worker of this slot is gone."""

    def set_state(self, slot: int, state: Literal["starting", "ready", "draining"]) -> None:
        """How far a worker is. Only those that are ready count in the others' shares."""

    def read(self, slot: int) -> WorkerFigures:
        """What the slot tells."""

@final
class Survey:
    """The open connections of one reactor that somebody asked to see."""

    def __new__(cls, reactor: Reactor, query: str) -> Survey:
        """`query`: `sort=oldest&state=idle&peer=10.0.0.0/8&rows=100`, each left out if it does not matter. ValueError
        for what is none."""

    def step(self) -> dict[str, Any] | None:
        """Look at further connections for 200 us; None while there are more. In the reactor's thread."""

def survey_query(text: str) -> str:
    """A query as all write it that ask for the same. ValueError for what is none."""

@final
class MetricsServer:
    """Shows the metrics of a scoreboard's workers: /metrics, /-/ and JSON. On its own thread, or turned by somebody."""

    def __new__(
        cls,
        scoreboard: Scoreboard,
        *,
        names: Sequence[str],
        listeners: Sequence[str],
        config: bytes,
        expects_app: bool = False,
    ) -> MetricsServer:
        """`names`: what the first slots are called. `listeners`: what the server listens at. `config`: its settings, as
        JSON, without secrets. `expects_app`: somebody supplies the application's own metrics when they are wanted; a
        scrape waits for them for two seconds."""

    def add_listener(self, fd: int) -> None:
        """Accept from a listening socket; the descriptor is duplicated. Before `start`."""

    def start(self) -> None:
        """Turn on a thread of its own, which knows no Python, until `stop`."""

    def fileno(self) -> int:
        """Readable when `turn` has something to do. RuntimeError once started."""

    def turn(self) -> None:
        """Do what there is to do, without waiting. Also now and then without news: connections have deadlines."""

    def abandon(self) -> None:
        """In a forked child, whose server it is not: close its descriptors, and touch nothing of the parent's."""

    def wait_for_wanted(self) -> str | None:
        """Wait until something is wanted that only others can tell; None once stopped. From any thread.

        "text" and "openmetrics" are the application's metrics, in this format; "?" with a query behind it, as `Survey`
        takes it, is connections.
        """

    def take_wanted(self) -> str | None:
        """The same without waiting: None if nothing is wanted."""

    def supply(self, wanted: str, text: bytes) -> None:
        """What was wanted, by the same name: the application's metrics, without an end of their own, or connections as
        JSON. From any thread."""

    def stop(self) -> None:
        """Close its listeners and connections. Idempotent."""

def metrics_table() -> list[tuple[str, str, str, list[str], str, str]]:
    """Every metric: its name, kind, unit, labels, group and meaning."""

def exit_after_hang_up(fd: int, grace_s: float, status: int) -> None:
    """End this process, at the latest `grace_s` after the other end of a stream socket has been closed.

    Whatever it is doing then: a thread of its own waits, which needs no interpreter. The descriptor is duplicated.
    """

@final
class AsgiServer:
    """An ASGI application attached to a reactor."""

    def __new__(
        cls,
        reactor: Reactor,
        app: Callable[..., Any],
        event_loop: asyncio.AbstractEventLoop,
        config: ServerConfig,
        *,
        listeners: Sequence[tuple[str, tuple[str, int | None] | None]],
        report: Callable[[str, BaseException | None], object],
        on_quiet: Callable[[], object],
        state: dict[str, Any] | None = None,
        access_log: AccessLogPlan | None = None,
    ) -> AsgiServer:
        """Made within the context that every request's is a copy of.

        `listeners`: for each, in the order in which they will be added, its scheme and its address for the scope.
        `report`: called with what went wrong in the application. `on_quiet`: called when a drained server has nothing
        more to do. `state`: the lifespan's, copied into every scope. `access_log`: what each
        line looks like, and where it goes. Raises ValueError for a format that is none.
        """

    def suspended_tasks(self) -> list[asyncio.Task[None]]:
        """The tasks of requests whose application is suspended, answered or not."""

@final
class WsgiServer:
    """A WSGI application attached to a reactor, and the pool of threads that call it."""

    def __new__(
        cls,
        app: Callable[..., Any],
        config: ServerConfig,
        *,
        listeners: Sequence[tuple[str, tuple[str, int | None] | None]],
        errors: object,
        report: Callable[[str, BaseException | None], object],
        on_quiet: Callable[[], object],
        multithread: bool,
        multiprocess: bool,
        access_log: AccessLogPlan | None = None,
    ) -> WsgiServer:
        """Made within the context that every request's is a copy of.

        `listeners`, `report`, `on_quiet`, `access_log`: as an `AsgiServer` has them. `errors`: `wsgi.errors`.
        """

    def run_thread(self) -> None:
        """Serve requests on this thread until `close`. The server must be attached."""

    def close(self) -> None:
        """Let the threads go, each when it has nothing to do any more. From any thread."""

    def figures(self) -> PoolFigures:
        """The pool as it is now. From any thread."""

class PoolFigures(TypedDict):
    """`threads`, and those `busy` with the application; requests `queued` for one now, and the most that ever were;
    since the pool began, requests `taken` by threads, those `rejected` (answered 503 because the queue was full), and
    how long those taken had waited, in all."""

    threads: int
    busy: int
    queued: int
    most_queued: int
    taken: int
    rejected: int
    waited_s: float

@final
class StartResponse:
    """What `start_response` belongs to. Called, it is the `write` that `start_response` returns."""

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | None = None,
    ) -> Callable[[bytes], None]:
        """Begin the response. Until its head has left it can be begun anew, if `exc_info` tells why.

        Raises TypeError or ValueError for a status or header out of order, AssertionError for a second call without
        `exc_info`, and what `exc_info` holds if the head has left.
        """

    def __call__(self, data: bytes) -> None:
        """Send a piece of the body at once. Raises ClientDisconnected when the client has gone."""

@final
class WsgiInput:
    """`wsgi.input`: a request's body. Reading waits for what has not arrived.

    Raises ClientDisconnected if the client goes before its request is whole.
    """

    def read(self, size: int | None = None) -> bytes:
        """At most `size` bytes, fewer only at the body's end; all there are without a size."""

    def readline(self, size: int | None = None) -> bytes:
        """A line with its newline, or at most `size` bytes of it."""

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """The lines that are left; with a `hint`, until they are that many bytes."""

    def __iter__(self) -> WsgiInput:
        """Itself: iterating yields lines."""

    def __next__(self) -> bytes:
        """The next line."""

@final
class FileWrapper:
    """`wsgi.file_wrapper`: a file as a response's body. A regular one is sent by the kernel; any other is read."""

    def __new__(cls, filelike: Any, blksize: int = 8192) -> FileWrapper:
        """`filelike`: what has `read(size)`. `blksize`: how much is read at once, where it has to be read."""

    @property
    def filelike(self) -> Any:
        """The file, from where it stands."""

    @property
    def blksize(self) -> int:
        """How many bytes a block has."""

    def __iter__(self) -> FileWrapper:
        """Itself: iterating yields blocks."""

    def __next__(self) -> bytes:
        """The next block."""

    def close(self) -> None:
        """Close the file, if it can be closed."""

@final
class HttpCycle:
    """One request as its application sees it: what `receive` and `send` are bound to. Only a server makes them."""

    def receive(self) -> Awaitable[dict[str, Any]]:
        """The next message of this request: `http.request`, then `http.disconnect`.

        Nothing is taken before the result is awaited, or when that is cancelled.
        """

    def send(self, message: Mapping[str, Any]) -> Awaitable[None]:
        """Send a message of the response: `http.response.start`, then `http.response.body`.

        The result is ready once there is room for more. Raises RuntimeError, TypeError or ValueError for a message out
        of order or form, and ClientDisconnected, an OSError, once nothing can be sent any more.
        """

def check_access_log_format(format: str) -> None:
    """Raise ValueError if `format` cannot be that of an access log."""

def reopen_access_logs() -> None:
    """Have every access log of this process that goes to a file of a name open it anew. From any thread."""

class LatencyReport(TypedDict):
    """How long answers took, in microseconds."""

    count: int
    mean: float
    p50: float
    p75: float
    p90: float
    p99: float
    p99_9: float
    p99_99: float
    max: float

class TargetReport(TypedDict):
    """What one target of a load answered; its name is a path, or a server's address."""

    name: str
    connections: int
    answers: int
    body_bytes: int
    errors: dict[str, int]
    first_error: str | None
    fewest_on_one: int
    most_on_one: int
    latency_us: LatencyReport

class LoadReport(TypedDict):
    """What a load came to; `rate` in answers a second.

    `answers` are all good ones, those of the warm-up included; `answers_in_time` those of the measured time. The
    buckets of `histogram_us` are latencies in microseconds, and how many took at most that, and more than the one
    before. `tls` is the version, the cipher suite and how many sessions there were.
    """

    duration_s: float
    answers: int
    answers_in_time: int
    errors: int
    reconnects: int
    rate: float
    latency_us: LatencyReport
    histogram_us: list[tuple[float, int]]
    tls: tuple[str, str, int] | None
    targets: list[TargetReport]

def run_http_load(
    host: str,
    port: int,
    *,
    targets: Sequence[tuple[str, int, int]],
    connections: int = 64,
    pipeline: int = 1,
    rate: float | None = None,
    duration_s: float = 3.0,
    warm_up_s: float = 0.0,
    answer_timeout_s: float = 10.0,
    method: str | None = None,
    host_header: str | None = None,
    headers: Sequence[tuple[str, str]] = ...,
    body: bytes | None = None,
    statuses: tuple[int, int] = ...,
    sleeps: bool = False,
    tls: tuple[str, Sequence[bytes] | None] | None = None,
    progress: Callable[[float, int, int], object] | None = None,
) -> LoadReport:
    """Load the HTTP server at `host:port` and tell what it answered.

    `targets` are `(path, weight, body_bytes)`: the connections are shared by weight, and a target with a body is
    POSTed to. Without `rate` the loop is closed: each connection asks again once it was answered (`pipeline` requests
    at a time); with it, that many requests a second are due in all, and each latency counts from then.
    `sleeps` lets it sleep until a request is due, for a load that shares its processor; else it spins, so that no
    wake-up's delay counts as the server's.

    `method`, `host_header`, `headers` and `body` are every request's; an answer is good if its status is within
    `statuses`. About ten times a second `progress` is called with the seconds so far, the good answers and the errors.
    `tls` is the server's name and the certificates (DER) of the authorities that are trusted, or None for anybody's.
    Raises ValueError for an impossible plan and ConnectionError when there is no server; requests that fail are
    counted by kind.
    """

def run_tcp_load(
    host: str,
    port: int,
    *,
    message: bytes,
    connections: int = 64,
    pipeline: int = 1,
    rate: float | None = None,
    duration_s: float = 3.0,
    warm_up_s: float = 0.0,
    answer_timeout_s: float = 10.0,
    tls: tuple[str, Sequence[bytes] | None] | None = None,
    progress: Callable[[float, int, int], object] | None = None,
) -> LoadReport:
    """Load the TCP server at `host:port`, which is to send each `message` back, byte for byte.

    The rest is as in `run_http_load`.
    """

def run_udp_load(
    host: str,
    port: int,
    *,
    size: int = 64,
    connections: int = 16,
    pipeline: int = 1,
    gso: bool = False,
    rate: float | None = None,
    duration_s: float = 3.0,
    warm_up_s: float = 0.0,
    answer_timeout_s: float = 1.0,
    progress: Callable[[float, int, int], object] | None = None,
) -> LoadReport:
    """Load the UDP server at `host:port`, which is to send each datagram of `size` bytes back.

    The rest is as in `run_http_load`, of sockets; a datagram that has not come back within the timeout is lost, and
    counts as timed out. With `gso` what a socket sends at once leaves as one where it can; else each is a packet.
    """

class CrowdReport(TypedDict):
    """What a phase of a crowd came to. `lost` are the connections that it cost, by reason; the rest as a load's."""

    open: int
    asked: int
    answered: int
    lost: dict[str, int]
    first_lost: str | None
    elapsed_s: float
    latency_us: LatencyReport
    histogram_us: list[tuple[float, int]]

@final
class Crowd:
    """Very many connections of one process to one server: opened, held, asked, and counted exactly.

    A question is a path to GET, or a pair of bytes: what is sent, and what is to come back. One that does not answer
    within `answer_timeout_s` is lost, and not opened again. `progress(open, answered, lost)` is called about ten times
    a second.
    """

    def __new__(
        cls, host: str, port: int, *, sources: Sequence[str], connections: int, answer_timeout_s: float = 10.0
    ) -> Crowd:
        """`sources` are addresses of this machine to connect from, by turns. Raises ValueError for what cannot be."""

    @property
    def connections(self) -> int:
        """Connections that are open."""

    def open(
        self, question: str | tuple[bytes, bytes], progress: Callable[[int, int, int], object] | None = None
    ) -> CrowdReport:
        """Open all of them; the last of each batch asks, so that no backlog overflows."""

    def ask_all(
        self,
        question: str | tuple[bytes, bytes],
        at_a_time: int = 64,
        progress: Callable[[int, int, int], object] | None = None,
    ) -> CrowdReport:
        """Ask every one, so many at a time, and wait for the last answer."""

    def expect(self, answer: bytes, progress: Callable[[int, int, int], object] | None = None) -> CrowdReport:
        """Wait until the server has said `answer` to every one."""

    def hold(
        self,
        control: int,
        question: str | tuple[bytes, bytes],
        interval_s: float | None = None,
        progress: Callable[[int, int, int], object] | None = None,
    ) -> CrowdReport:
        """Hold them until the descriptor `control` is readable, asking each once in `interval_s`, if that is given."""

    def close(self) -> None:
        """Close all, with a reset."""

def socket_option_table() -> list[tuple[str, str, str, str]]:
    """Every socket option that there is: its level and name in the manual, the kind of its value, and what it does."""

def set_socket_option(fd: int, name: str, value: bool | int | str) -> None:
    """Set one option of a socket, by its name in the manual.

    Raises ValueError for an unknown name, and OSError with the reason; without an errno where the kernel takes the
    value and does not do what was asked.
    """

def get_socket_option(fd: int, name: str) -> bool | int | str:
    """What one option of a socket is; False for a time that is off. Raises ValueError or OSError."""

@final
class DatagramEndpoint:
    """A datagram socket of a reactor. `UDPServer` and `UDPClient` are made of it."""

    def __new__(
        cls,
        reactor: Reactor,
        fd: int,
        *,
        on_datagram: Callable[[DatagramPeer, bytes], Any],
        on_open: Callable[[DatagramPeer], Any] | None,
        on_close: Callable[[DatagramPeer, str], Any] | None,
        on_error: Callable[[DatagramPeer | None, Exception], Any],
        on_coroutine: Callable[[DatagramPeer, Coroutine[Any, Any, Any]], Any],
        on_drained: Callable[[], Any],
        on_gone: Callable[[], Any],
        max_datagram_bytes: int,
        max_queued_bytes: int,
        gather_s: float,
        idle_timeout_s: float,
        max_peers: int,
        evicts: bool,
        amplification: int | None,
    ) -> DatagramEndpoint:
        """Serve a bound or connected datagram socket. The descriptor is duplicated: the caller keeps its own.

        Raises OSError for anything else.
        """

    def send(self, datagram: bytes | bytearray | memoryview, peer: DatagramPeer) -> None:
        """Queue a datagram for a peer; it leaves with this turn. Raises a `penstock.DatagramError`, or ValueError."""

    def peer_at(self, address: str) -> DatagramPeer:
        """Somebody at an address, heard of or not. Raises ValueError for what is none."""

    @property
    def peer(self) -> DatagramPeer | None:
        """Whom the socket is connected to."""

    def pause(self) -> None:
        """Hand no more datagrams over, and receive none, until `resume`."""

    def resume(self) -> None:
        """Undo `pause`."""

    def close(self) -> None:
        """Receive no more, send what is queued, and go; `on_gone` is called at the end."""

    def want_drained(self) -> None:
        """Call `on_drained` once little is left to be sent."""

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""

    @property
    def max_sent_bytes(self) -> int:
        """Bytes that one datagram may have on its way out."""

    @property
    def known_peers(self) -> int:
        """Peers known."""

    def set_membership(self, group: str, interface: int, joined: bool) -> None:
        """Join a multicast group on an interface (its number; 0: the one that routing finds), or leave it.

        Raises ValueError for what is no group, and OSError where the kernel refuses.
        """

    def set_multicast(self, hops: int | None, looped: bool | None, interface: int | None) -> None:
        """How far multicast datagrams go, whether to this machine, too, and through which interface."""

    @property
    def address(self) -> Any:
        """Where it is bound, in the form of the socket module."""

@final
class DatagramPeer:
    """Somebody that datagrams come from and go to: `penstock.Peer`. Only an endpoint makes them."""

    def __repr__(self) -> str:
        """With its address."""

    def send(self, datagram: bytes | bytearray | memoryview) -> None:
        """Queue a datagram for this peer; it leaves with this turn, from the address that the peer sent to.

        Raises `DatagramTooLong`, `DatagramQueueFull`, `AmplificationLimited` or `PeerGone`.
        """

    @property
    def address(self) -> Any:
        """Where it is, in the form of the socket module: (host, port), or a Unix socket's path, or None."""

    @property
    def local_host(self) -> str | None:
        """The address of this machine that it sent to, where the socket is bound to all of them."""

    @property
    def verified(self) -> bool:
        """Whether it is known to be where it says: then the amplification limit is no more. May be set."""

    @verified.setter
    def verified(self, verified: bool) -> None:
        """It has proved its address, or not."""

    @property
    def is_open(self) -> bool:
        """Whether its session goes on."""

    @property
    def received_bytes(self) -> int:
        """Bytes that came from it, in this session."""

    @property
    def sent_bytes(self) -> int:
        """Bytes that were sent to it, in this session."""

    @property
    def state(self) -> Any:
        """Whatever the program wants to remember of this peer. May be set."""

    @state.setter
    def state(self, state: Any) -> None:
        """Remember something of this peer."""

    def close(self) -> None:
        """End its session. What it sends later begins another."""

@final
class StreamServer:
    """One endpoint of a reactor: a protocol, its handlers, its connections. `penstock.TCPServer` has one a reactor."""

    def __new__(
        cls,
        reactor: Reactor,
        event_loop: asyncio.AbstractEventLoop,
        protocol: Any,
        handlers: dict[str, Any],
        settings: dict[str, Any],
        report: Callable[[str, BaseException | None], object],
    ) -> StreamServer:
        """Made within the context that every handler's is a copy of.

        `protocol`: one of `penstock.protocol`'s, or a factory of protocols in Python. `handlers`: `on_message`,
        `on_messages` or `handler`; `on_connect`, `on_close`, `on_error`. `settings`: the bounds and the heartbeat.
        Raises ValueError for what cannot be.
        """

    @property
    def listener_number(self) -> int:
        """What a main reactor hands this server's connections over with; plus 256 for each further listener."""

    @property
    def connections(self) -> int:
        """Open connections."""

    def add_listener(self, fd: int) -> None:
        """Accept connections from a listening socket. The descriptor is duplicated: the caller keeps its own."""

    def remove_listeners(self) -> None:
        """Accept no more; who waits at the listeners is let in still, with the next turn."""

    def adopt(self, fd: int) -> Connection:
        """Take a connected, non-blocking socket. The descriptor is duplicated: the caller closes its own."""

    def group(self) -> StreamGroup:
        """A set of connections that frames can be sent to at once."""

    def stop(self) -> None:
        """Close every connection once what was sent has left, and take no more."""

    def abort_all(self) -> None:
        """Cut off what has not closed."""

    def detach(self) -> None:
        """It has no connection any more, and gets none: its place is another's."""

    def suspended_tasks(self) -> list[asyncio.Task[None]]:
        """The tasks of handlers that are suspended."""

    def counters(self) -> dict[str, int]:
        """What has been counted, by name."""

@final
class Connection:
    """One stream of frames, as its handlers see it. Only a server or client makes them.

    It belongs to its event loop's thread. What is done with it after its end raises `penstock.ConnectionClosed`, or
    does nothing.
    """

    @property
    def peer(self) -> tuple[str, int] | str | None:
        """Who is at the other end: (address, port), "unix", or None when nobody can say any more."""

    @property
    def state(self) -> Any:
        """Whatever the user wants to keep with the connection; None at first."""

    @state.setter
    def state(self, value: Any) -> None:
        """Keep this with the connection, and the connection's object as long as it is open."""

    @property
    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for the peer."""

    @property
    def reason(self) -> CloseReason | None:
        """Why it was closed; None while it is open."""

    def send(self, frame: Any) -> bool:
        """Send a frame. True while the peer keeps up; False: better wait for `drain()` before sending more.

        Raises `ConnectionClosed`, `SendBufferFull`, `FrameError` or TypeError, and then has queued nothing.
        """

    def send_many(self, frames: Any) -> bool:
        """Send several frames; they leave together."""

    def write(self, data: bytes | bytearray | memoryview) -> bool:
        """Send bytes as they are, without a frame around them."""

    def drain(self) -> Awaitable[None]:
        """Wait until the peer has read nearly all that was sent. Raises `ConnectionClosed`."""

    def receive(self) -> Awaitable[Any]:
        """Wait for the next frame; None at the end of the stream. Raises `FrameError`.

        Nothing is lost if the wait is cancelled.
        """

    def __repr__(self) -> str:
        """Who it is with, and how it is."""

    def __aiter__(self) -> Connection:
        """The frames, to the end of the stream: `async for frame in connection`."""

    def __anext__(self) -> Awaitable[Any]:
        """The next frame. Raises StopAsyncIteration at the end of the stream, and FrameError."""

    def wait_closed(self) -> Awaitable[CloseReason]:
        """Wait until the connection is closed, and return the reason."""

    def pause_reading(self) -> None:
        """Ask for no more frames; what the peer sends meanwhile waits with it, but for a bounded part."""

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""

    def close(self) -> None:
        """Close once what was sent has left. Frames not yet handled are dropped."""

    def abort(self) -> None:
        """Close now; what was sent and has not left is lost, and the peer is told by a reset."""

    def end(self) -> None:
        """Send no more, and tell the peer so once everything has left; receiving goes on."""

@final
class StreamGroup:
    """Connections of one server on one reactor. `penstock.Group` is made of them."""

    def add(self, connection: Connection) -> None:
        """Raises ValueError for another server's, or reactor's."""

    def discard(self, connection: Connection) -> None:
        """Undo `add`."""

    def send(self, frame: Any, exclude: Connection | None = None) -> int:
        """Send a frame to every member but `exclude`; to how many. A peer that leaves too much unread is cut off."""

    def __len__(self) -> int:
        """Members that are open."""

    def __contains__(self, key: Connection) -> bool:
        """Whether it was added, and not discarded."""
