"""Workers under a supervisor, in real processes: spread, replaced, reloaded without losing a request."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PENSTOCK, Server, clean_environment
from others import asked_by_nobody, let_others_in
from threaded_server import TIMEOUT_S, read_response
from waiting import wait_until

from penstock import _core

Serve = Callable[..., Server]

APP = """
import asyncio, os, pathlib, time

here = pathlib.Path(__file__).parent
print("imported", flush=True)

async def start_up():
    if (here / "broken").exists():
        raise RuntimeError("the new version is broken")
    time.sleep(float(os.environ.get("START_S", "0")))

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        try:
            await start_up()
        except RuntimeError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/stuck":
        print("stuck begins", flush=True)
        time.sleep(60)
    if path == "/slow":
        print("slow begins", flush=True)
        await asyncio.sleep(0.4)
    if path == "/endless":
        print("endless begins", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("endless ends", flush=True)
    if path in ("/events", "/answer"):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        if path == "/answer":
            await receive()
            for word in (b"one", b"two", b"three"):
                await send({"type": "http.response.body", "body": b"data: %s\\n\\n" % word, "more_body": True})
                await asyncio.sleep(0.2)
            await send({"type": "http.response.body"})
            return
        try:
            while True:
                await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % os.getpid(), "more_body": True})
                await asyncio.sleep(0.02)
        finally:
            print("subscription ends", flush=True)
    body = b"%d" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def get(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode()


def pid_that_answers(server: Server) -> int:
    return int(server.get().rpartition(b"\r\n\r\n")[2])


def children(server: Server) -> list[int]:
    pid = server.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_others(server: Server, former: set[int]) -> set[int]:
    """As many workers as before, and none of them the same."""

    def others() -> set[int]:
        now = set(children(server))
        return now if len(now) == len(former) and not now & former else set()

    return wait_until(others, lambda: server.log)


def is_alive(pid: int) -> bool:
    """Neither gone nor dead and not yet reaped by whoever has inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Load:
    """Closed-loop requests on connections of their own, from a thread, until its block ends."""

    def __init__(self, server: Server, connections: int = 16) -> None:
        self._port, self._connections = server.port, connections
        self._reports: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            self._reports.append(
                _core.run_http_load(  # type: ignore[arg-type]
                    "127.0.0.1", self._port, targets=[("/", 1, 0)], connections=self._connections, duration_s=0.5
                )
            )

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def answers(self) -> int:
        return sum(report["answers"] for report in self._reports)

    @property
    def failures(self) -> list[Any]:
        return [report["targets"] for report in self._reports if report["errors"]]


def status_of(control: Path) -> dict[str, Any]:
    outcome = ctl(control, "status", "--json")
    return json.loads(outcome)


def ctl(control: Path, *arguments: str) -> str:
    outcome = subprocess.run(
        [*PENSTOCK, "ctl", "--control", str(control), *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=TIMEOUT_S,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.fixture
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Short: a Unix socket's name has 107 bytes at most."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
        yield Path(directory) / "c"


def test_workers_are_processes_and_none_is_left_behind(serve: Serve) -> None:
    server = serve(APP, "--workers", "2")
    workers = children(server)
    assert len(workers) == 2
    assert pid_that_answers(server) in workers
    server.stop()
    assert not any(map(is_alive, workers))
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_web_concurrency_gives_the_number_of_workers(serve: Serve) -> None:
    server = serve(APP, env={"WEB_CONCURRENCY": "3"})
    assert len(children(server)) == 3


@pytest.mark.parametrize("accept", ["shared", "reuseport"])
def test_reloads_under_load_lose_no_request(serve: Serve, accept: str) -> None:
    server = serve(APP, "--workers", "2", "--accept", accept, "--no-access-log", env={"START_S": "0.1"})
    former = set(children(server))
    with Load(server) as load:
        for _ in range(5):
            server.signal(signal.SIGHUP)
            former = wait_for_others(server, former)
    assert load.failures == []
    assert load.answers > 100


def test_scaling_up_and_down_under_load_loses_no_request(serve: Serve) -> None:
    server = serve(APP, "--workers", "2", "--no-access-log")
    with Load(server) as load:
        server.signal(signal.SIGTTIN)
        wait_until(lambda: len(children(server)) == 3)
        for before in (3, 2):
            server.signal(signal.SIGTTOU)
            server.wait_for_log(f"Scaling from {before} to")  # Two signals at once are one.
        wait_until(lambda: len(children(server)) == 1)
    assert load.failures == []
    assert load.answers > 100


def test_subscriptions_to_events_end_in_good_order_and_come_again(serve: Serve) -> None:
    server = serve(APP, "--workers", "1", "--no-access-log")
    (former,) = children(server)
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(server.connect()) for _ in range(20)]
        for stream in streams:
            stream.sendall(get("/events"))
            stream.recv(1)
        server.signal(signal.SIGHUP)
        for stream in streams:
            received = b"".join(iter(lambda stream=stream: stream.recv(65536), b""))
            assert received.endswith(b"0\r\n\r\n")
    wait_until(lambda: former not in children(server))
    wait_until(lambda: server.log.count("subscription ends") == 20)
    assert "Traceback" not in server.log
    with server.connect() as again:
        again.sendall(get("/events"))
        (latter,) = children(server)
        received = b""
        while f"data: {latter}".encode() not in received:
            received += again.recv(65536)


def test_an_answer_that_is_streamed_as_events_is_finished(serve: Serve) -> None:
    """Who asks by POST is given an answer, not a subscription."""
    server = serve(APP, "--workers", "1")
    with server.connect() as connection:
        connection.sendall(b"POST /answer HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n")
        received = connection.recv(65536)
        server.signal(signal.SIGHUP)
        received += _read_until(connection, b"0\r\n\r\n")
    assert b"data: three" in received


def _read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def test_a_reload_waits_no_longer_than_it_may_for_what_does_not_end(serve: Serve) -> None:
    server = serve(APP, "--workers", "1", "--timeout-graceful-shutdown", "0.5")
    (former,) = children(server)
    with server.connect() as connection:
        connection.sendall(get("/endless"))
        server.wait_for_log("endless begins")
        server.signal(signal.SIGHUP)
        wait_until(lambda: pid_that_answers(server) != former)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 500")
    server.wait_for_log("Cancelling 1 requests")
    server.wait_for_log("endless ends")
    wait_until(lambda: not is_alive(former))


def test_an_idle_connection_has_one_more_answer_after_a_reload(serve: Serve) -> None:
    server = serve(APP, "--workers", "1", "--no-access-log")
    (former,) = children(server)
    with server.connect() as connection:
        connection.sendall(get())
        assert read_response(connection)[2] == b"%d" % former
        server.signal(signal.SIGHUP)
        wait_until(lambda: pid_that_answers(server) != former)
        wait_until(lambda: server.log.count("Shutting down") == 1)
        connection.sendall(get())
        _, headers, body = read_response(connection)
        assert (headers["connection"], body) == ("close", b"%d" % former)
    wait_until(lambda: not is_alive(former))


def test_a_reload_that_fails_keeps_the_former_workers(serve: Serve, tmp_path: Path) -> None:
    server = serve(APP, "--workers", "2")
    former = set(children(server))
    (tmp_path / "broken").touch()
    server.signal(signal.SIGHUP)
    server.wait_for_log("Reload failed")
    server.wait_for_log("the new version is broken")
    wait_until(lambda: set(children(server)) == former)
    assert pid_that_answers(server) in former
    (tmp_path / "broken").unlink()
    server.signal(signal.SIGHUP)
    wait_until(lambda: len(children(server)) == 2 and not former & set(children(server)))


@pytest.mark.parametrize(
    ("source", "status", "words"), [("import nothing_there", 4, "nothing_there"), (None, 3, "broken")]
)
def test_first_workers_that_do_not_start_end_the_server_with_the_reason(
    serve: Serve, tmp_path: Path, source: str | None, status: int, words: str
) -> None:
    (tmp_path / "broken").touch()
    server = serve(source or APP, "--workers", "2", ready=False)
    assert server.wait() == status
    assert len(re.findall(f"penstock: error: .*{words}", server.log)) == 1
    assert children_of_nobody(server)


def children_of_nobody(server: Server) -> bool:
    return not Path(f"/proc/{server.process.pid}").exists()


def test_a_worker_that_is_killed_loses_what_it_held_alone_and_is_replaced(serve: Serve) -> None:
    server = serve(APP, "--workers", "2")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(server.connect()) for _ in range(12)]
        owners = []
        for connection in held:
            connection.sendall(get())
            owners.append(int(read_response(connection)[2]))
        victim = owners[0]
        os.kill(victim, signal.SIGKILL)
        for connection, owner in zip(held, owners, strict=True):
            if owner == victim:
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(1) == b""
            else:
                connection.sendall(get())
                assert int(read_response(connection)[2]) == owner
    wait_until(lambda: len(children(server)) == 2 and victim not in children(server))
    server.wait_for_log(f"Worker [{victim}] was killed by SIGKILL")
    assert pid_that_answers(server) != victim


def cpu_s(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)


def test_a_supervisor_that_has_replaced_a_worker_rests(serve: Serve) -> None:
    server = serve(APP, "--workers", "1")
    (victim,) = children(server)
    os.kill(victim, signal.SIGKILL)
    wait_for_others(server, {victim})
    wait_until(lambda: server.log.count("Application startup complete") == 2)
    before, until = cpu_s(server.process.pid), time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > until)
    assert cpu_s(server.process.pid) - before < 0.15


def test_workers_leave_when_their_supervisor_is_killed_even_a_stuck_one(serve: Serve) -> None:
    server = serve(APP, "--workers", "2")
    workers = children(server)
    with server.connect() as connection:
        connection.sendall(get("/stuck"))
        server.wait_for_log("stuck begins")
        server.signal(signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: not any(map(is_alive, workers)))
        took = time.monotonic() - began
    server.wait()
    assert took < 5  # A second, on a machine that has nothing else to do.
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", server.port))
        again.listen()


def test_a_worker_that_stands_still_is_killed_after_its_stacks_went_to_the_log(serve: Serve) -> None:
    server = serve(APP, "--workers", "1", "--timeout-worker", "1.5", env={"START_S": "2.5"})
    (stuck,) = children(server)  # It has taken longer than that to start, and nobody minded.
    with server.connect() as connection:
        connection.sendall(get("/stuck"))
        server.wait_for_log("has stood still")
        server.wait_for_log("in app")
        wait_until(lambda: not is_alive(stuck))
    assert server.log.count("has stood still") == 1
    server.signal(signal.SIGKILL)
    server.wait()


def test_a_worker_that_dies_again_and_again_is_replaced_ever_later() -> None:
    from penstock.supervisor.plan import BackOff

    back_off = BackOff()
    assert [back_off.delay_after(0.0) for _ in range(5)] == [0.0, 0.25, 0.5, 1.0, 2.0]
    assert back_off.delay_after(0.0) == 4.0
    for _ in range(10):
        assert back_off.delay_after(1.0) <= 30.0
    assert back_off.delay_after(3600.0) == 0.0


def test_a_worker_is_replaced_before_it_retires(serve: Serve, control: Path) -> None:
    server = serve(APP, "--workers", "2", "--limit-max-requests", "200", "--no-access-log", "--control", str(control))
    former = set(children(server))
    fewest = [2]

    def look() -> bool:
        stages = Counter(each["stage"] for each in status_of(control)["workers"])
        fewest[0] = min(fewest[0], stages["ready"])
        return not former & set(children(server))

    with Load(server) as load:
        wait_until(look)
    assert load.failures == []
    assert fewest[0] == 2
    server.wait_for_log("(--limit-max-requests)")


def test_a_worker_that_is_too_old_or_too_large_is_replaced(serve: Serve) -> None:
    old = serve(APP, "--worker-lifetime", "0.5")
    (former,) = children(old)
    wait_until(lambda: not is_alive(former))
    old.wait_for_log("(--worker-lifetime)")
    large = serve(APP, "--worker-max-rss", "1000000", "--timeout-graceful-shutdown", "1")
    large.wait_for_log("(--worker-max-rss)")


def test_the_control_socket_is_its_owners_alone_and_does_what_is_asked(serve: Serve, control: Path) -> None:
    server = serve(APP, "--workers", "1", "--control", str(control))
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    (former,) = children(server)
    status = status_of(control)
    assert status["pid"] == server.process.pid
    assert [(each["pid"], each["stage"]) for each in status["workers"]] == [(former, "ready")]
    assert str(former) in ctl(control, "status")
    assert "2 workers" in ctl(control, "scale", "2")
    assert len(children(server)) == 2
    assert "generation 2" in ctl(control, "reload")
    wait_until(lambda: former not in children(server))
    ctl(control, "stop")
    assert server.wait() == 0
    assert not control.exists()


def test_ctl_says_what_is_wrong(penstock: Callable[..., subprocess.CompletedProcess[str]], control: Path) -> None:
    outcome = penstock("ctl", "--control", str(control), "status")
    assert outcome.returncode == 1
    assert "was it started with --control?" in outcome.stderr


def test_what_is_no_request_is_answered_or_dropped_and_harms_nobody(serve: Serve, control: Path) -> None:
    server = serve(APP, "--workers", "1", "--control", str(control))
    for request in (b"\xff\n", b"[]", b'{"do": "dance"}', b'{"do": "scale", "workers": -1}', b'{"do": "scale"}'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(control))
            connection.sendall(request)
            assert b"error" in (answer := connection.recv(4096)) or answer == b""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(control))
    assert status_of(control)["wanted"] == 1
    assert pid_that_answers(server) in children(server)


def test_connections_are_spread_evenly(serve: Serve, control: Path) -> None:
    server = serve(APP, "--workers", "4", "--control", str(control), "--timeout-header", "60")

    def counts() -> list[int]:
        return sorted(each["connections"] for each in status_of(control)["workers"])

    with contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(server.connect())
        wait_until(lambda: sum(counts()) == 400)
        few, *_, many = counts()
        # Each is within its share, and what one turn takes: see src/reactor/fair_share.rs.
        assert many - few <= 4 + 8, counts()


HUNGRY_APP = """
import os, pathlib

here, taken = pathlib.Path(__file__).parent, []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        try:
            os.close(os.open(here / "hungry", os.O_CREAT | os.O_EXCL))
            taken.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(150))
        except FileExistsError:
            pass  # It is the other one.
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    opened = os.open("/dev/null", os.O_RDONLY)  # The application finds some, too.
    os.close(opened)
    body = b"%d" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def test_a_worker_that_is_short_of_descriptors_leaves_connections_to_the_other(serve: Serve) -> None:
    """One has 150 of 240 open by itself. Half of 200 connections would be more than it can take."""
    server = serve(
        HUNGRY_APP,
        *("--workers", "2", "--accept", "shared", "--timeout-keep-alive", "60"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (240, 240)),
    )
    connections = [server.connect() for _ in range(200)]
    answered: Counter[bytes] = Counter()
    for connection in connections:
        connection.sendall(get())
        answered[read_response(connection)[2]] += 1
    fewest, most = sorted(answered.values())
    assert fewest + most == 200, "none was refused"
    assert fewest < 60, answered
    # It takes part again once it has room.
    hungry = answered.most_common()[-1][0]
    for connection in connections:
        connection.close()

    def is_back() -> bool:
        # Held at once: who has more than its share leaves the next to the others; one after another may be all one's.
        held = [server.connect() for _ in range(20)]
        for connection in held:
            connection.sendall(get())
        answers = [read_response(connection)[2] for connection in held]
        for connection in held:
            connection.close()
        return hungry in answers

    wait_until(is_back, lambda: server.log)


def test_a_preloaded_application_is_imported_once(serve: Serve) -> None:
    server = serve(APP, "--workers", "2", "--preload")
    assert server.log.count("imported") == 1
    server.signal(signal.SIGHUP)
    wait_until(lambda: server.log.count("Shutting down") == 2)
    assert server.log.count("imported") == 1


def test_a_supervisor_that_does_not_preload_never_imports_the_application(serve: Serve) -> None:
    server = serve(APP, "--workers", "3")
    assert server.log.count("imported") == 3


def test_threads_and_processes_are_not_had_at_once(penstock: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    outcome = penstock("serve", "--workers", "2", "--reactors", "2", "main:app")
    assert outcome.returncode == 2
    assert "choose threads or processes" in outcome.stderr


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_the_pid_file_is_there_while_the_server_is(serve: Serve, tmp_path: Path, workers: tuple[str, ...]) -> None:
    path = tmp_path / "server.pid"
    path.write_text("999999999")
    server = serve(APP, "--pid", str(path), *workers)
    assert int(path.read_text()) == server.process.pid
    other = serve(APP, "--pid", str(path), *workers, ready=False)
    assert other.wait() == 2
    other.wait_for_log(f"is that of process {server.process.pid}, which runs")
    server.stop()
    assert not path.exists()


def test_another_user_has_no_say_even_where_the_file_s_mode_lets_them_in(serve: Serve, control: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    serve(APP, "--workers", "1", "--control", str(control))
    assert status_of(control)["workers"]
    control.parent.chmod(0o755)
    assert asked_by_nobody(control) == "PermissionError"
    control.chmod(0o666)
    assert asked_by_nobody(control) in ("answer b''", "ConnectionResetError", "BrokenPipeError")
    assert status_of(control)["workers"], "and the supervisor goes on"


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_the_application_runs_as_who_was_asked(serve: Serve, tmp_path: Path, workers: tuple[str, ...]) -> None:
    let_others_in(tmp_path)
    server = serve(
        """
        import os
        before = os.getuid()
        async def app(scope, receive, send):
            mask = os.umask(0)
            body = repr((before, os.getuid(), os.getgid(), os.getgroups(), oct(mask))).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
        """,
        "--user",
        "65534",
        "--group",
        "65534",
        "--umask",
        "027",
        "--lifespan",
        "off",
        *workers,
    )
    assert server.get().endswith(b"(65534, 65534, 65534, [65534], '0o27')")


def test_what_is_no_user_is_refused(penstock: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    outcome = penstock("serve", "--user", "no-such-user", "main:app")
    assert outcome.returncode == 2
    assert "expected a user of this machine" in outcome.stderr


def supervisor_that_takes_over(server: Server) -> int:
    server.wait_for_log("has taken over")
    return int(re.findall(r"Supervisor \[(\d+)\] has taken over", server.log)[-1])


@pytest.mark.parametrize("accept", ["shared", "reuseport"])
def test_a_new_supervisor_takes_over_under_load_and_no_request_is_lost(
    serve: Serve, control: Path, tmp_path: Path, accept: str
) -> None:
    pid_file = tmp_path / "server.pid"
    names = ("--control", str(control), "--pid", str(pid_file))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = serve(APP, "--workers", "2", "--accept", accept, "--no-access-log", "--port", str(port), *names)
    with Load(server) as load:
        server.signal(signal.SIGUSR2)
        successor = supervisor_that_takes_over(server)
        assert server.process.wait(TIMEOUT_S) == 0
    assert load.failures == []
    assert load.answers > 100
    assert int(pid_file.read_text()) == successor
    assert status_of(control)["pid"] == successor
    ctl(control, "stop")
    wait_until(lambda: not is_alive(successor))
    server.wait()
    assert not pid_file.exists()
    assert not control.exists()


def test_a_call_for_a_new_supervisor_that_comes_early_is_heeded_once_there_is_one(serve: Serve, tmp_path: Path) -> None:
    pid_file = tmp_path / "server.pid"
    server = serve(APP, "--workers", "1", "--pid", str(pid_file), env={"START_S": "0.5"}, ready=False)
    server.wait_for_log("Started supervisor process")
    server.signal(signal.SIGUSR2)
    successor = supervisor_that_takes_over(server)
    assert server.process.wait(TIMEOUT_S) == 0
    assert int(pid_file.read_text()) == successor
    os.kill(successor, signal.SIGTERM)
    server.wait()


def test_a_unix_socket_goes_to_the_new_supervisor_with_its_file(serve: Serve, control: Path) -> None:
    path = control.with_name("s")
    server = serve(APP, "--workers", "1", "--uds", str(path))
    server.signal(signal.SIGUSR2)
    successor = supervisor_that_takes_over(server)
    assert server.process.wait(TIMEOUT_S) == 0
    assert b"200 OK" in server.get()
    os.kill(successor, signal.SIGTERM)
    wait_until(lambda: not is_alive(successor))
    server.wait()
    assert not path.exists()


def test_a_new_supervisor_that_does_not_start_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    server = serve(APP, "--workers", "1")
    former = children(server)
    (tmp_path / "broken").touch()
    server.signal(signal.SIGUSR2)
    server.wait_for_log("did not start, and this one goes on")
    assert children(server) == former
    assert pid_that_answers(server) in former
    (tmp_path / "broken").unlink()
