"""`--metrics-bind` with `--user` and `--group`: workers that have given their rights up count, and are shown, as others
are; what their supervisor has kept is not theirs."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import HELLO_APP, Server
from others import NOBODY, asked_by_nobody, let_others_in, with_standard_library_at_hand
from scrapes import COUNTING, json_of, port_of, scrape, total
from waiting import wait_until

from penstock.supervisor import control

Serve = Callable[..., Server]
AS_NOBODY = ("--user", str(NOBODY), "--group", str(NOBODY), "--lifespan", "off")
WORKERS = pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def workers_of(port: int) -> list[dict[str, Any]]:
    return json_of(port, "status")["workers"]


def counting(serve: Serve, tmp_path: Path, workers: int) -> Server:
    """Workers of nobody's that count, in a directory where they may make their own."""
    let_others_in(tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    return serve(
        COUNTING,
        *("--metrics-bind", "0", "--workers", str(workers), *AS_NOBODY),
        env=with_standard_library_at_hand(tmp_path) | {"TMPDIR": str(tmp_path / "tmp")},
    )


def kept_in(tmp_path: Path) -> Path:
    """Where those workers keep what they count."""
    (directory,) = (tmp_path / "tmp").glob("penstock-metrics-*")
    return directory


def visited_once(serve: Serve, tmp_path: Path) -> tuple[Server, int, Path]:
    """One worker that has counted a visit; the port of its metrics, and where it keeps what it counts."""
    server = counting(serve, tmp_path, workers=1)
    port = port_of(server)
    server.get("/a")
    wait_until(lambda: total(scrape(port), "visits_total") == 1)
    return server, port, kept_in(tmp_path)


def low_port() -> int:
    """One that only root may listen at, if it comes to that, and that nobody does."""
    for port in range(1023, 600, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.skip("every low port is taken")


@WORKERS
def test_the_place_of_the_metrics_may_ask_for_rights_that_the_application_has_not(
    serve: Serve, tmp_path: Path, workers: tuple[str, ...]
):
    let_others_in(tmp_path)
    port = low_port()
    env = with_standard_library_at_hand(tmp_path)
    server = serve(COUNTING, "--metrics-bind", str(port), *AS_NOBODY, *workers, env=env)
    for _ in range(4):
        server.get("/a")
    samples = wait_until(
        lambda: (found := scrape(port)) and total(found, "penstock_http_responses_total", code="200") == 4 and found
    )
    assert total(samples, "visits_total", path="/a") == 4
    shown = workers_of(port)
    assert [user_of(worker["pid"]) for worker in shown] == [NOBODY] * max(1, len(workers))
    assert all(worker["resident_bytes"] > 1 << 20 for worker in shown)


def test_workers_without_rights_count_in_the_supervisors_memory_and_outlive_their_end(serve: Serve, tmp_path: Path):
    server = counting(serve, tmp_path, workers=2)
    port = port_of(server)
    for _ in range(10):
        server.get("/a")
    before = wait_until(
        lambda: (found := scrape(port)) and total(found, "penstock_http_responses_total") == 10 and found
    )
    assert total(before, "visits_total") == 10
    assert total(before, "penstock_loop_busy_seconds_total") > 0
    directory = kept_in(tmp_path)
    assert (directory.stat().st_uid, stat.S_IMODE(directory.stat().st_mode)) == (NOBODY, 0o700)
    former = {worker["pid"] for worker in workers_of(port)}
    for pid in former:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: total(scrape(port), "penstock_worker_starts_total") == 4)
    wait_until(lambda: total(scrape(port), "penstock_workers", state="ready") == 2)
    successors = {worker["pid"] for worker in workers_of(port)}
    assert not successors & former
    assert {user_of(pid) for pid in successors} == {NOBODY}
    server.get("/b")
    after = wait_until(
        lambda: (found := scrape(port)) and total(found, "penstock_http_responses_total") == 11 and found
    )
    assert total(after, "visits_total") == 11
    assert total(after, "level") == 3, "live gauges of the dead are gone"
    server.signal(signal.SIGHUP)
    wait_until(lambda: total(scrape(port), "penstock_worker_info", generation="2", state="ready") == 2)
    assert total(scrape(port), "visits_total") == 11
    server.stop()
    assert not directory.exists()
    assert "Traceback" not in server.log


def test_what_a_hostile_application_puts_among_its_values_holds_up_nobody(serve: Serve, tmp_path: Path):
    server, port, directory = visited_once(serve, tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(next(directory.glob("counter_*.db")).read_bytes())
    secret.chmod(0o600)
    # A pipe that nobody writes to, a link to what only root may read, a file of somebody else's, one without an end.
    os.mkfifo(directory / "counter_1.db")
    os.chown(directory / "counter_1.db", NOBODY, NOBODY)
    (directory / "counter_2.db").symlink_to(secret)
    (directory / "counter_3.db").write_bytes(secret.read_bytes())
    (directory / "counter_4.db").touch()
    os.truncate(directory / "counter_4.db", 1 << 40)
    os.chown(directory / "counter_4.db", NOBODY, NOBODY)
    assert total(scrape(port), "visits_total") == 1
    server.get("/a")
    wait_until(lambda: total(scrape(port), "visits_total") == 2)


def test_a_link_in_the_place_of_the_values_directory_leads_the_supervisor_nowhere(serve: Serve, tmp_path: Path):
    _, port, directory = visited_once(serve, tmp_path)
    (worker,) = workers_of(port)
    # Where anybody may put something, and which is root's: a pipe there, and what root would write into a file for.
    (everybodys := tmp_path / "everybodys").mkdir()
    everybodys.chmod(0o1777)
    os.mkfifo(everybodys / "counter_1.db")
    (everybodys / f"counter_{worker['pid']}.db").write_bytes(next(directory.glob("counter_*.db")).read_bytes())
    moved = directory.rename(tmp_path / "moved")
    directory.symlink_to(everybodys)
    os.lchown(directory, NOBODY, NOBODY)
    assert total(scrape(port), "visits_total") == 0
    os.kill(worker["pid"], signal.SIGKILL)
    wait_until(lambda: total(scrape(port), "penstock_worker_starts_total") == 2)
    wait_until(lambda: total(scrape(port), "penstock_workers", state="ready") == 1)
    assert not (everybodys / "counter_gone.db").exists()
    directory.unlink()
    moved.rename(directory)
    wait_until(lambda: total(scrape(port), "visits_total") == 1)


def test_the_control_socket_is_the_supervisors_users_and_not_the_workers(serve: Serve, tmp_path: Path):
    let_others_in(tmp_path)
    path = tmp_path / "control"
    server = serve(HELLO_APP, "--metrics-bind", "0", "--workers", "1", "--control", str(path), *AS_NOBODY)
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o600)
    assert asked_by_nobody(path) == "PermissionError"
    (told,) = control.ask(str(path), 20.0, do="status")["workers"]
    (shown,) = workers_of(port_of(server))
    assert (told["pid"], user_of(told["pid"])) == (shown["pid"], NOBODY)
    assert control.ask(str(path), 120.0, do="reload") == {"workers": 1, "generation": 2}
    assert control.ask(str(path), 120.0, do="scale", workers=2)["workers"] == 2
    wait_until(lambda: [worker["state"] for worker in workers_of(port_of(server))] == ["ready"] * 2)
    assert {user_of(worker["pid"]) for worker in workers_of(port_of(server))} == {NOBODY}


@WORKERS
def test_a_unix_socket_is_shown_at_and_found_again_by_the_next_server(
    serve: Serve, tmp_path: Path, workers: tuple[str, ...]
):
    let_others_in(tmp_path)
    path = tmp_path / "metrics"
    for _ in range(2):
        server = serve(HELLO_APP, "--metrics-bind", f"unix:{path}", *AS_NOBODY, *workers)
        assert answers(path) == 200
        server.stop()
        # Who serves alone has no right left to remove what lies in root's directory; the next start does.
        assert path.exists() == (not workers)


def answers(path: Path) -> int:
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(path))
    connection.request("GET", "/metrics")
    try:
        return connection.getresponse().status
    finally:
        connection.close()
