"""`penstock bench connections`: planned before anything is opened, spread over processes, and counted exactly."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import PENSTOCK, clean_environment
from waiting import wait_until

from penstock.bench.crowd import CrowdFound, CrowdLoad, Phase, Plan, Room, plan_for, report, room
from penstock.bench.crowd.memory import Memory, PerConnection
from penstock.bench.crowd.plan import OWN_FILES
from penstock.bench.outcome import BenchError
from penstock.errors import ConfigError

GIB = 1 << 30
LARGE = Room(cpus=2, descriptors=20_000, files=2_400_000, watches=5_000_000, memory=22 * GIB, ports=28_232)


def sources(plan: Plan) -> list[str]:
    return [source for pair in plan.pairs for source in pair.sources]


def test_a_million_is_spread_over_as_many_pairs_as_the_descriptors_ask_for():
    plan = plan_for(CrowdLoad(target=1_000_000), LARGE)
    shares = [pair.connections for pair in plan.pairs]
    assert sum(shares) == 1_000_000
    assert max(shares) - min(shares) <= 1
    assert max(shares) <= 20_000 - OWN_FILES
    assert len(shares) == 51
    assert plan.memory_needed < plan.memory_there


def test_no_address_is_used_beyond_half_of_its_ports_and_none_twice():
    plan = plan_for(CrowdLoad(target=1_000_000), LARGE)
    assert all(pair.connections / len(pair.sources) <= LARGE.ports / 2 for pair in plan.pairs)
    assert len(set(sources(plan))) == len(sources(plan)) == 102
    assert all(source.startswith("127.") for source in sources(plan))


def test_a_few_connections_still_use_every_processor():
    assert [pair.connections for pair in plan_for(CrowdLoad(target=5), LARGE).pairs] == [3, 2]
    assert [pair.connections for pair in plan_for(CrowdLoad(target=1), LARGE).pairs] == [1]


def test_what_the_machine_cannot_hold_is_refused_with_what_fits():
    small = replace(LARGE, memory=4 * GIB)
    with pytest.raises(
        BenchError, match=r"1,000,000 connections need .* GiB .* are to be had: --target (\d+) fits"
    ) as refused:
        plan_for(CrowdLoad(target=1_000_000), small)
    fits = int(str(refused.value).rpartition("--target ")[2].split()[0])
    assert 200_000 < fits < 500_000
    plan_for(CrowdLoad(target=fits), small)
    for lacking, setting in (({"files": 100_000}, "fs.file-max"), ({"watches": 100_000}, "max_user_watches")):
        with pytest.raises(BenchError, match=setting):
            plan_for(CrowdLoad(target=1_000_000), replace(LARGE, **lacking))
    with pytest.raises(BenchError, match="RLIMIT_NOFILE"):
        plan_for(CrowdLoad(target=10), replace(LARGE, descriptors=200))


def test_an_impossible_load_is_a_wrong_setting():
    with pytest.raises(ConfigError, match="expected from 1"):
        plan_for(CrowdLoad(target=0), LARGE)
    with pytest.raises(ConfigError, match="--protocol tcp"):
        plan_for(CrowdLoad(target=10, protocol="http", broadcast=True), LARGE)


def test_this_machine_has_room():
    assert min(room().descriptors, room().memory, room().ports, room().files, room().watches) > 0


def bench(*arguments: str, descriptors: int | None = None, status: int = 0) -> dict[str, Any]:
    """Run it as a command, with its result. `descriptors` lowers the limit of each process."""

    def limited() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    done = subprocess.run(
        [*PENSTOCK, "bench", "connections", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        preexec_fn=limited,
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if status == 0 else {"error": done.stderr}


def phase_of(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(phase for phase in found["phases"] if phase["name"] == name)


def test_two_thousand_over_tcp_are_opened_held_told_and_each_answers():
    found = bench("--target", "2000", "--hold", "1", "--heartbeat", "0.5", "--broadcast", descriptors=OWN_FILES + 800)
    # More than one process may have: three pairs.
    assert found["plan"]["processes"] == 6
    assert (found["open_at_the_end"], found["server_connections"], found["lost"]) == (2000, 2000, {})
    for name in ("check", "check again", "broadcast"):
        assert (phase_of(found, name)["asked"], phase_of(found, name)["answered"]) == (2000, 2000), name
    assert found["broadcast_sent"] == 2000
    held = phase_of(found, "hold")
    assert held["asked"] == held["answered"] > 2000
    # The reactor answered them, and no handler: also those that open the batches.
    assert found["pings_answered"] >= held["answered"]
    assert 0 < found["memory"]["opened"]["server"] < 2000
    course = phase_of(found, "open")["course"]
    assert course == sorted(course)
    assert course[-1][1] <= 2000


def test_a_broadcast_leaves_no_memory_of_a_crowd_of_queues_behind():
    found = bench("--target", "10000", "--hold", "0", "--heartbeat", "0", "--broadcast")
    assert found["lost"] == {}
    # What is not given back is 200 bytes a connection.
    assert found["memory"]["told"]["server"] < found["memory"]["asked"]["server"] + 60


def test_http_connections_are_kept_alive_behind_an_application():
    found = bench("--target", "500", "--protocol", "http", "--hold", "0.6", "--heartbeat", "0.3")
    assert (found["open_at_the_end"], found["lost"]) == (500, {})
    assert phase_of(found, "check")["answered"] == 500
    assert phase_of(found, "hold")["answered"] >= 500


def test_what_people_are_told_says_how_many_and_what_they_cost():
    done = subprocess.run(
        [*PENSTOCK, "bench", "connections", "--target", "60", "--hold", "0.2", "--progress", "--broadcast"],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "framed TCP to a Python handler" in done.stderr, "the plan comes before"
    assert "memory:" in done.stderr
    assert "60 of 60 answered by the handler" in done.stdout
    assert "60 of 60 frames arrived" in done.stdout
    assert "Lost        none of 60" in done.stdout


def test_a_process_that_dies_ends_the_run_with_its_name_and_no_process_is_left():
    run = subprocess.Popen(
        [*PENSTOCK, "bench", "connections", "--target", "60", "--hold", "60", "--no-progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    try:
        crew = wait_for_crew(run.pid, 2 * min(60, len(os.sched_getaffinity(0))))
        os.kill(crew[0], signal.SIGKILL)
        _, told = run.communicate(timeout=30)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 1
    assert "server 1" in told, told
    assert "was killed by SIGKILL" in told, told
    assert not [pid for pid in crew[1:] if Path(f"/proc/{pid}").exists()]


def test_a_process_that_dies_while_memory_is_measured_leaves_the_telling_to_whoever_asks_it_next():
    child = subprocess.Popen(["sleep", "60"])
    alive = Memory.now([child.pid], [])
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
    dead = Memory.now([child.pid], [])
    child.wait()
    gone = Memory.now([child.pid], [])
    assert alive.server_rss > 0
    assert dead.server_rss == gone.server_rss == 0


def wait_for_crew(pid: int, count: int) -> list[int]:
    """The processes that a run has forked, once there are so many and all are at work."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if len(children) == count:
            return sorted(map(int, children))
        time.sleep(0.01)
    raise AssertionError(f"expected {count} processes within 20 s")


def test_an_interrupted_run_leaves_no_process():
    run = subprocess.Popen(
        [*PENSTOCK, "bench", "connections", "--target", "60", "--hold", "60", "--no-progress"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    try:
        crew = wait_for_crew(run.pid, 2 * min(60, len(os.sched_getaffinity(0))))
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=30) == 130
    finally:
        run.kill()
        run.wait()
    # They go by themselves once they notice.
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in crew), f"some of {crew} stay")


def test_a_load_that_does_not_fit_ends_before_anything_is_started():
    refused = bench("--target", "16000000", status=1)
    assert refused["error"].startswith("penstock: error: 16,000,000 connections ")


def test_a_lost_connection_shows_by_its_reason_in_what_is_told():
    lost = Phase(
        name="check",
        elapsed_s=2.0,
        asked=10,
        answered=8,
        open=8,
        lost={"timed_out": 2},
        first_lost="no whole answer within 30 s",
        buckets=[(100.0, 6), (200.0, 2)],
        server_cpu_s=0.5,
        client_cpu_s=0.5,
        machine_busy_s=1.0,
    )
    load = CrowdLoad(target=10)
    told = report.text(load, plan_for(load, LARGE), CrowdFound(phases=[lost]))
    assert "lost: 2 timed out; the first: no whole answer within 30 s" in told
    assert "Lost        2 of 10" in told
    assert (lost.percentile_us(50), lost.percentile_us(99), lost.cores) == (100.0, 200.0, 0.5)


def test_what_a_connection_costs_is_what_was_taken_by_how_many():
    before = Memory(
        server_rss=1000,
        server_pss=500,
        client_rss=1000,
        client_pss=500,
        slab=10_000,
        page_tables=0,
        tcp_buffers=0,
        available=100_000,
    )
    now = replace(
        before, server_rss=3000, server_pss=2000, client_rss=1200, client_pss=700, slab=50_000, available=50_000
    )
    each = PerConnection.of(before, now, 10)
    assert (each.server, each.client, each.kernel_slab) == (200.0, 20.0, 4000.0)
    assert each.kernel == (50_000 - 1500 - 200) / 10
