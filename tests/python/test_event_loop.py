"""`penstock.EventLoop` does what asyncio asks of a loop: its own tests where they can be had, and ours beside them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import os
import random
import re
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock

TIMEOUT_S = 20.0


def run(main: Coroutine[Any, Any, Any], **options: Any) -> Any:
    with asyncio.Runner(loop_factory=penstock.EventLoop, **options) as runner:
        return runner.run(main)


def on_the_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test is a coroutine, and runs on a loop of its own."""

    @functools.wraps(test)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            assert isinstance(asyncio.get_running_loop(), penstock.EventLoop)
            async with asyncio.timeout(TIMEOUT_S):
                await test(*args, **kwargs)

        run(main())

    return wrapped


# ---- CPython's own tests ------------------------------------------------------------------------------------------

# What is left out sleeps for seconds, guesses at free ports, counts references after collections, or tests no loop.
SUITE = [
    "test_events EPoll HandleTests TimerTests GetEventLoop !ssl !dual_stack !local_addr",
    "test_base_events !env_var_debug",
    "test_buffered_proto",
    "test_context",
    "test_locks",
    "test_queues",
    "test_sendfile EPoll !ssl !force_unsupported",
    "test_server",
    "test_sock_lowlevel EPoll",
    "test_sslproto SelectorStartTLS !memory_leak !handshake_timeout !slow",
    "test_streams",
    "test_subprocess ThreadedWatcher PidfdWatcher !issue43884 !read_stdout_after_process_exit",
    "test_taskgroups !taskgroup_23",
    "test_threads",
    "test_timeouts",
    "test_unix_events TestFunctional SignalTests UnixSocket",
    "test_waitfor",
]


@pytest.mark.parametrize("arguments", SUITE, ids=lambda arguments: arguments.partition(" ")[0])
def test_it_passes_cpythons_own_tests(arguments: str) -> None:
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_asyncio") is None:
        pytest.skip("this Python was installed without its own test suite")
    module = arguments.partition(" ")[0]
    if importlib.util.find_spec(f"test.test_asyncio.{module}") is None:
        pytest.skip(f"this Python has no test_asyncio.{module}")
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "asyncio_suite.py"), *arguments.split()],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = re.search(r"(\d+) tests ran, on (\d+) loops", ended.stdout)
    assert found is not None
    assert int(found[1]) > 0
    assert int(found[2]) > 0, "none of these tests used the loop"


# ---- callbacks and timers -----------------------------------------------------------------------------------------


@on_the_loop
async def test_callbacks_run_in_the_order_in_which_they_were_scheduled() -> None:
    order: list[int] = []
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for n in range(1000):
        loop.call_soon(order.append, n)
    loop.call_soon(done.set)
    await done.wait()
    assert order == list(range(1000))


@on_the_loop
async def test_a_thousand_timers_fire_in_the_order_of_their_times_and_never_early() -> None:
    loop = asyncio.get_running_loop()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rounds = random.Random(seed)
    begin = loop.time()
    delays = [rounds.random() * 0.2 for _ in range(1000)]
    fired: list[tuple[float, float]] = []
    done = asyncio.Event()
    for delay in delays:
        loop.call_at(begin + delay, lambda delay=delay: fired.append((delay, loop.time() - begin)))
    loop.call_at(begin + 0.21, done.set)
    await done.wait()
    assert [delay for delay, _ in fired] == sorted(delays)
    # The loop's own resolution is a nanosecond; the poller must not wake it before.
    assert all(at >= delay - 1e-6 for delay, at in fired)
    # A loop that sleeps past its timers wakes by the last of them; a busy machine alone does not take that long.
    assert sorted(at - delay for delay, at in fired)[500] < 0.5


@on_the_loop
async def test_cancelled_timers_do_not_fire_and_do_not_pile_up() -> None:
    loop: Any = asyncio.get_running_loop()
    fired: list[str] = []
    kept = loop.call_later(0.02, fired.append, "kept")
    for _ in range(1000):
        loop.call_later(0.01, fired.append, "cancelled").cancel()
    await asyncio.sleep(0.03)
    assert fired == ["kept"]
    assert not kept.cancelled()
    assert len(loop._scheduled) < 10


@on_the_loop
async def test_a_timer_of_no_time_runs_in_the_next_iteration() -> None:
    loop = asyncio.get_running_loop()
    ran = asyncio.Event()
    loop.call_later(0, ran.set)
    loop.call_later(-1, ran.set)
    await asyncio.wait_for(ran.wait(), 1)


@on_the_loop
async def test_a_timer_made_by_a_callback_of_the_same_time_is_not_forgotten() -> None:
    loop = asyncio.get_running_loop()
    fired: list[int] = []
    done = asyncio.Event()

    def again(left: int) -> None:
        fired.append(left)
        loop.call_later(0.001, again, left - 1) if left else done.set()

    again(50)
    await done.wait()
    assert fired == list(range(50, -1, -1))


@on_the_loop
async def test_a_storm_of_callbacks_does_not_starve_input_or_timers() -> None:
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    one.setblocking(False)
    stop = False

    def storm() -> None:
        if not stop:
            loop.call_soon(storm)

    with one, other:
        for _ in range(20):
            storm()
        timer = loop.create_future()
        loop.call_later(0.01, timer.set_result, None)
        other.send(b"x")
        assert await asyncio.wait_for(loop.sock_recv(one, 1), 5) == b"x"
        await asyncio.wait_for(timer, 5)
        stop = True


@on_the_loop
async def test_an_exception_in_a_callback_is_reported_and_the_loop_goes_on() -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def fail() -> None:
        raise ZeroDivisionError("in a callback")

    loop.call_soon(fail)
    await asyncio.sleep(0.001)
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


def test_stopping_in_a_callback_ends_run_forever_and_it_can_run_again() -> None:
    loop = penstock.EventLoop()
    ran: list[int] = []
    for n in range(3):
        loop.call_soon(ran.append, n)
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert ran == [0, 1, 2]
    loop.call_soon(ran.append, 3)
    loop.stop()
    loop.run_forever()
    assert ran == [0, 1, 2, 3]
    loop.close()


# ---- threads ------------------------------------------------------------------------------------------------------


@on_the_loop
async def test_callbacks_from_many_threads_all_run_on_the_loops_thread() -> None:
    loop = asyncio.get_running_loop()
    here = threading.get_ident()
    count, ran = 8 * 500, 0
    done = asyncio.Event()

    def callback() -> None:
        nonlocal ran
        assert threading.get_ident() == here
        ran += 1
        if ran == count:
            done.set()

    def call() -> None:
        for _ in range(500):
            loop.call_soon_threadsafe(callback)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    await done.wait()
    for thread in threads:
        thread.join()
    assert ran == count


@on_the_loop
async def test_a_sleeping_loop_is_woken_by_another_thread_at_once() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(20):
        future = loop.create_future()
        woken_at: list[float] = []

        def wake(future: Any = future, woken_at: Any = woken_at) -> None:
            time.sleep(0.002)
            woken_at.append(time.monotonic())
            loop.call_soon_threadsafe(future.set_result, None)

        thread = threading.Thread(target=wake)
        thread.start()
        await future
        thread.join()
        assert time.monotonic() - woken_at[0] < 1


@on_the_loop
async def test_executors_run_blocking_calls_beside_the_loop() -> None:
    loop = asyncio.get_running_loop()
    results = await asyncio.gather(*(loop.run_in_executor(None, lambda n=n: n * n) for n in range(50)))
    assert results == [n * n for n in range(50)]
    assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 // 0)


def test_a_loop_made_in_one_thread_runs_in_another() -> None:
    loop = penstock.EventLoop()
    results: list[Any] = []

    async def main() -> str:
        await asyncio.sleep(0.001)
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(main())))
    thread.start()
    thread.join(TIMEOUT_S)
    assert results
    assert results[0] != "MainThread"
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_two_loops_in_two_threads_do_not_disturb_each_other() -> None:
    async def main(name: str) -> list[str]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        seen = []
        for n in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{name}{n}\n".encode())
            seen.append((await reader.readline()).decode().strip())
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return seen

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    results: dict[str, list[str]] = {}
    threads = [threading.Thread(target=lambda name=name: results.update({name: run(main(name))})) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert results == {name: [f"{name}{n}" for n in range(50)] for name in "ab"}


@on_the_loop
async def test_another_thread_that_reaches_into_a_running_loop_is_told_so() -> None:
    loop: Any = asyncio.get_running_loop()
    one, other = socket.socketpair()
    failures: list[BaseException] = []

    def reach() -> None:
        for _ in range(10_000):
            try:
                loop.reactor.watch(one.fileno(), selectors.EVENT_READ)
                loop.reactor.unwatch(one.fileno())
            except RuntimeError as error:
                failures.append(error)
                return
            except KeyError:
                continue

    with one, other:
        thread = threading.Thread(target=reach)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        thread.join()
    assert "call_soon_threadsafe" in str(failures[0])


# ---- descriptors --------------------------------------------------------------------------------------------------


@on_the_loop
async def test_readers_and_writers_are_called_while_their_descriptors_are_ready() -> None:
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    one.setblocking(False)
    received: list[bytes] = []
    writable = loop.create_future()
    with one, other:
        loop.add_reader(one, lambda: received.append(one.recv(10)))
        loop.add_writer(one, lambda: writable.done() or writable.set_result(None))
        await writable
        assert loop.remove_writer(one)
        assert not loop.remove_writer(one)
        other.send(b"first")
        while not received:
            await asyncio.sleep(0)
        assert loop.remove_reader(one)
        other.send(b"second")
        await asyncio.sleep(0.005)
        assert received == [b"first"]
        loop.add_reader(one.fileno(), lambda: received.append(one.recv(10)))
        while len(received) < 2:
            await asyncio.sleep(0)
        loop.remove_reader(one)
    assert received == [b"first", b"second"]


@on_the_loop
async def test_a_descriptor_that_was_closed_and_opened_anew_can_be_watched_again() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(50):
        one, other = socket.socketpair()
        one.setblocking(False)
        with one, other:
            other.send(b"x")
            assert await loop.sock_recv(one, 1) == b"x"
            future = loop.create_future()
            loop.add_reader(one, lambda future=future: future.done() or future.set_result(None))
            other.send(b"y")
            await future
            loop.remove_reader(one)


def test_the_selector_keeps_the_promises_of_selectors() -> None:
    loop: Any = penstock.EventLoop()
    selector = loop._selector
    one, other = socket.socketpair()
    with one, other:
        key = selector.register(one, selectors.EVENT_READ, "data")
        assert (key.fileobj, key.fd, key.events, key.data) == (one, one.fileno(), selectors.EVENT_READ, "data")
        assert selector.get_key(one) is key
        assert selector.get_map()[one.fileno()] is key
        assert one.fileno() in list(selector.get_map())
        with pytest.raises(KeyError):
            selector.register(one, selectors.EVENT_READ)
        assert selector.modify(one, selectors.EVENT_WRITE, "other").data == "other"
        assert selector.unregister(one).fd == one.fileno()
        for unknown in (one, other):
            with pytest.raises(KeyError):
                selector.unregister(unknown)
            with pytest.raises(KeyError):
                selector.modify(unknown, selectors.EVENT_READ)
            with pytest.raises(KeyError):
                selector.get_key(unknown)
        for events in (0, 4, 8):
            with pytest.raises(ValueError, match="EVENT_READ"):
                selector.register(one, events)
        for nothing in (-1, "text", None, object()):
            with pytest.raises(ValueError):  # noqa: PT011, as selectors say it
                selector.register(nothing, selectors.EVENT_READ)
        selector.register(one, selectors.EVENT_READ)
        one.close()
        assert selector.unregister(one).fileobj is one, "closed since, and still found by the object"
    loop.close()


@on_the_loop
async def test_a_file_that_cannot_be_polled_is_refused_as_epoll_refuses_it() -> None:
    loop = asyncio.get_running_loop()
    with open(__file__, "rb") as file, pytest.raises(PermissionError):
        loop.add_reader(file, print)
    # And the loop is none the worse.
    await asyncio.sleep(0)


@on_the_loop
async def test_many_descriptors_that_are_ready_at_once_are_all_told() -> None:
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(200)]
    ready: set[int] = set()
    for n, (one, _) in enumerate(pairs):
        loop.add_reader(one, ready.add, n)
    for _, other in pairs:
        other.send(b"x")
    while len(ready) < len(pairs):
        await asyncio.sleep(0)
    for one, other in pairs:
        loop.remove_reader(one)
        one.close()
        other.close()


# ---- streams, sockets, datagrams ----------------------------------------------------------------------------------


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, path: str | None = None, **options: Any) -> AsyncGenerator[asyncio.Server]:
    """A server whose connections are all closed when it ends.

    One that is left behind would be found by the garbage collector, in whichever test runs then.
    """
    handling = set[asyncio.Task[None] | None]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    starting = (
        asyncio.start_unix_server(handle, path) if path else asyncio.start_server(handle, "127.0.0.1", 0, **options)
    )
    async with await starting as server:
        yield server
        await asyncio.gather(*(task for task in handling if task))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


async def _through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
    body = random.Random(size).randbytes(size)

    async def write() -> None:
        for at in range(0, size, 50_000):
            writer.write(body[at : at + 50_000])
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    writing = asyncio.create_task(write())
    assert await reader.readexactly(size) == body
    await writing
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@on_the_loop
async def test_streams_over_tcp() -> None:
    async with serving(_echo) as server:
        port = server.sockets[0].getsockname()[1]
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        await asyncio.gather(*(_through(reader, writer, 1_000_000) for reader, writer in clients))


@on_the_loop
async def test_streams_over_unix_sockets(tmp_path: Path) -> None:
    path = os.path.relpath(tmp_path / "s")
    async with serving(_echo, path):
        await _through(*await asyncio.open_unix_connection(path), 1_000_000)


@on_the_loop
async def test_streams_over_tls(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_context, client_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server_context)
    authority.configure_trust(client_context)
    async with serving(_echo, ssl=server_context) as server:
        port = server.sockets[0].getsockname()[1]
        await _through(
            *await asyncio.open_connection("127.0.0.1", port, ssl=client_context, server_hostname="localhost"), 500_000
        )
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=True, server_hostname="localhost")


@on_the_loop
async def test_a_writer_that_nobody_reads_is_paused_and_goes_on() -> None:
    go_on = asyncio.Event()
    received = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await go_on.wait()
        while piece := await reader.read(1 << 20):
            received += len(piece)

    async with serving(slow) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(bytes(32 << 20))
        draining = asyncio.create_task(writer.drain())
        done, _ = await asyncio.wait([draining], timeout=0.05)
        assert not done
        go_on.set()
        await draining
        writer.close()
        await writer.wait_closed()
    assert received == 32 << 20


@on_the_loop
async def test_connecting_to_nobody_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@on_the_loop
async def test_the_low_level_socket_methods() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        accepted, _ = await accepting
        with accepted:
            body = random.Random(3).randbytes(3_000_000)
            sending = asyncio.create_task(loop.sock_sendall(client, body))
            received = bytearray()
            buffer = bytearray(100_000)
            while len(received) < len(body):
                if len(received) % 2:
                    received += await loop.sock_recv(accepted, 100_000)
                else:
                    count = await loop.sock_recv_into(accepted, buffer)
                    received += buffer[:count]
            await sending
            assert received == body
            waiting = asyncio.create_task(loop.sock_recv(accepted, 1))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(accepted, 1) == b"x"


@on_the_loop
async def test_files_are_sent_over_sockets(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    body = random.Random(4).randbytes(700_000)
    (tmp_path / "file").write_bytes(body)
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    with one, other, open(tmp_path / "file", "rb") as file:
        sending = asyncio.create_task(loop.sock_sendfile(one, file))
        received = bytearray()
        while len(received) < len(body):
            received += await loop.sock_recv(other, 65536)
        assert await sending == len(body)
    assert received == body


@on_the_loop
async def test_datagrams_go_both_ways() -> None:
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data.upper(), addr)

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            answers.put_nowait(data)

    server, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    client, _ = await loop.create_datagram_endpoint(Client, remote_addr=server.get_extra_info("sockname"))
    for n in range(10):
        client.sendto(b"datagram %d" % n)
        assert await answers.get() == b"DATAGRAM %d" % n
    client.close()
    server.close()


@on_the_loop
async def test_names_are_looked_up_beside_the_loop() -> None:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert found[0][4] == ("127.0.0.1", 80)
    assert (await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV))[1] == "80"


# ---- processes and signals ----------------------------------------------------------------------------------------


@on_the_loop
async def test_subprocesses_with_pipes() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; data = sys.stdin.read(); print(data.upper(), end=''); print('oops', file=sys.stderr); sys.exit(7)",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(b"a line\n" * 20_000)
    assert out == b"A LINE\n" * 20_000
    assert err.strip() == b"oops"
    assert process.returncode == 7


@on_the_loop
async def test_subprocesses_can_be_killed_and_many_can_run_at_once() -> None:
    sleepers = [await asyncio.create_subprocess_exec("sleep", "60") for _ in range(5)]
    for sleeper in sleepers:
        sleeper.kill()
    assert await asyncio.gather(*(sleeper.wait() for sleeper in sleepers)) == [-signal.SIGKILL] * 5
    shell = await asyncio.create_subprocess_shell("echo $((6*7))", stdout=asyncio.subprocess.PIPE)
    assert (await shell.communicate())[0].strip() == b"42"


@on_the_loop
async def test_signal_handlers_run_on_the_loop() -> None:
    loop = asyncio.get_running_loop()
    handled = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, handled.set)
    # While the loop sleeps, so that the signal itself must wake it.
    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    await handled.wait()
    timer.join()
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert not loop.remove_signal_handler(signal.SIGUSR1)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler of SIGINT, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_cancels_the_main_task_and_raises_keyboard_interrupt() -> None:
    ended: list[type[BaseException]] = []

    async def main() -> None:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.sleep(TIMEOUT_S)
        except BaseException as error:
            ended.append(type(error))
            raise

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert ended == [asyncio.CancelledError]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_interrupts_a_loop_that_has_nothing_to_do() -> None:
    loop = penstock.EventLoop()
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    timer.join()
    assert not loop.is_running()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# ---- asyncio's own tools ------------------------------------------------------------------------------------------


@on_the_loop
async def test_timeouts_groups_and_waits() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(TIMEOUT_S)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    finished: list[int] = []

    async def work(n: int) -> None:
        await asyncio.sleep(0.001 * n)
        finished.append(n)

    async with asyncio.TaskGroup() as group:
        for n in (3, 1, 2):
            group.create_task(work(n))
    assert finished == [1, 2, 3]

    sleeping: list[asyncio.Task[None]] = []

    async def fail_beside_a_sleeping_one() -> None:
        async with asyncio.TaskGroup() as group:
            sleeping.append(group.create_task(asyncio.sleep(TIMEOUT_S)))
            group.create_task(asyncio.to_thread(lambda: 1 // 0))

    with pytest.raises(ExceptionGroup) as failure:
        await fail_beside_a_sleeping_one()
    assert [type(each) for each in failure.value.exceptions] == [ZeroDivisionError]
    assert sleeping[0].cancelled()


@on_the_loop
async def test_cancelling_a_task_that_waits_for_input() -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    with one, other:
        task = asyncio.create_task(asyncio.get_running_loop().sock_recv(one, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_asynchronous_generators_are_closed_at_shutdown() -> None:
    closed: list[str] = []

    async def generate() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    async def main() -> None:
        generator = generate()
        main_holds.append(generator)
        await anext(generator)

    main_holds: list[Any] = []
    run(main())
    assert closed == ["closed"]


def test_debug_mode_tells_of_slow_callbacks_and_of_calls_from_the_wrong_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert loop.get_debug()
        loop.slow_callback_duration = 0.01
        loop.call_soon(time.sleep, 0.03)
        await asyncio.sleep(0.001)
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await asyncio.to_thread(loop.call_soon, print)

    run(main(), debug=True)
    assert any("Executing" in record.getMessage() and "took" in record.getMessage() for record in caplog.records)


@on_the_loop
async def test_an_idle_loop_uses_no_processor_time() -> None:
    before = time.process_time()
    await asyncio.sleep(0.3)
    assert time.process_time() - before < 0.1


# ---- the loop's own life ------------------------------------------------------------------------------------------


def test_closing_twice_is_allowed_and_a_closed_loop_says_so() -> None:
    loop = penstock.EventLoop()
    loop.close()
    loop.close()
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()
    with pytest.raises(RuntimeError, match="closed"):
        loop.reactor.connections  # noqa: B018, the reactor says so itself


def test_a_running_loop_cannot_be_closed_or_run_again() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        with pytest.raises(RuntimeError, match="running"):
            loop.run_forever()

    run(main())


def test_a_loop_leaves_no_descriptor_and_no_object_behind() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        run(main())
        gc.collect()
        before = descriptors()
        loops = []
        for _ in range(10):
            loop = penstock.EventLoop()
            loop.run_until_complete(main())
            loops.append(weakref.ref(loop))
            loop.close()
            del loop
        gc.collect()
        assert descriptors() == before
    assert [loop() for loop in loops] == [None] * 10


def test_a_loop_that_is_dropped_open_warns_as_asyncios_own_do() -> None:
    loops = [penstock.EventLoop()]
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        _drop(loops)


def _drop(objects: list[Any]) -> None:
    objects.clear()
    gc.collect()


def test_an_unknown_poller_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="epoll"):
        penstock.EventLoop("unknown")


def test_a_forked_child_can_run_a_loop_of_its_own() -> None:
    """As multiprocessing does it; the child must not touch what it inherited."""
    script = """
import asyncio, os, penstock
parent = penstock.EventLoop()
parent.run_until_complete(asyncio.sleep(0.001))
pid = os.fork()
if pid == 0:
    child = penstock.EventLoop()
    child.run_until_complete(asyncio.sleep(0.001))
    child.close()
    os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
parent.run_until_complete(asyncio.sleep(0.001))
parent.close()
print("both ran")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert ended.stdout.strip() == "both ran", ended.stderr
