"""The benchmarks' own reckoning, and one tiny measurement of a server that is made for it."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest

import load
import measure
import peers
import provenance
import report
from bars import BARS, Bar, Spread, Verdict, ratios
from servers import Launch, Server, Servers
from works import METRICS, WORKS, Effort, measure_fairness, measure_get, measure_idle, measure_post

EFFORT = Effort(seconds=0.2, warm_up_s=0.05, idle_connections=60, settle_s=0.01)

# Greets, echoes what is posted, and stops answering 200 at /broken; a thread for each connection would do no less.
TINY_SERVER = """
import asyncio, sys

async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            length = next((int(l[15:]) for l in head.split(b"\\r\\n") if l.lower().startswith(b"content-length:")), 0)
            body = await reader.readexactly(length) or b"Hello, World!"
            status = b"500 Oops" if b" /broken " in head else b"200 OK"
            writer.write(b"HTTP/1.1 %s\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (status, len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""


def python_server(code: str) -> Server:
    return Server("tiny", lambda port, directory: Launch([sys.executable, "-c", code, str(port)]))


def rounds(*values: float) -> dict[int, dict[str, float]]:
    return {number: {"cost_us": value} for number, value in enumerate(values)}


def test_ratios_are_paired_within_a_round_and_leave_out_what_has_no_partner():
    own = {0: {"cost_us": 2.0}, 1: {"cost_us": 9.0}, 3: {"cost_us": 8.0}}
    other = {0: {"cost_us": 1.0}, 2: {"cost_us": 5.0}, 3: {"cost_us": 2.0}}
    assert ratios(own, other, "cost_us") == [2.0, 4.0]


def test_a_ratio_to_nothing_is_left_out():
    assert ratios(rounds(1.0, 1.0), rounds(0.0, 2.0), "cost_us") == [0.5]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.2, 1.5], Verdict.PASS),
        ([1.6, 1.7], Verdict.MISS),
        ([1.4, 1.6], Verdict.UNDECIDED),
        ([], Verdict.NOT_MEASURED),
    ],
)
def test_a_bar_inside_the_spread_is_undecided(values: list[float], verdict: Verdict):
    assert Bar("http", "cost_us", "at most", versus="nginx", at_most=1.5).judge(values) is verdict


def test_a_lower_bar_is_judged_from_below():
    bar = Bar("http", "cost_us", "at least", "uvicorn", "penstock", at_least=2.5)
    results = {"http": {"uvicorn": rounds(25.0, 30.0), "penstock": rounds(10.0, 10.0)}}
    assert bar.values(results) == [2.5, 3.0]
    assert bar.judge(bar.values(results)) is Verdict.PASS


def test_a_bar_of_a_case_that_was_not_run_is_not_measured():
    assert all(bar.judge(bar.values({})) is Verdict.NOT_MEASURED for bar in BARS)


def test_every_bar_speaks_of_a_case_a_metric_and_servers_that_exist():
    works = {case.name: work for work in WORKS.values() for case in work.cases}
    for bar in BARS:
        assert bar.metric in METRICS
        assert bar.server in works[bar.case].servers
        assert bar.versus is None or bar.versus in works[bar.case].servers


def test_a_spread_is_the_median_with_its_range():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, least=1.0, most=3.0)
    assert report.spread_text(Spread.of([1.0, 2.0, 4.0]), 1, is_ratio=True) == "2.0x (1.0-4.0)"
    assert report.spread_text(Spread.of([1234.5]), 0, is_ratio=False) == "1,234"


def test_the_processor_is_named_as_the_kernel_names_it():
    assert provenance.cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n") == "Some CPU @ 3 GHz"
    assert provenance.cpu_model("processor\t: 0\n") == os.uname().machine


def test_the_command_can_be_given_anywhere():
    argv = ["/tmp/x/bench.py", "--json", f"{provenance.ROOT}/benchmarks/out/all.json", "--only", "penstock,nginx"]
    expected = ".venv/bin/python benchmarks/bench.py --json benchmarks/out/all.json --only penstock,nginx"
    assert provenance.command(argv) == expected


def test_provenance_lacks_nothing():
    found = provenance.Provenance.gather({"nginx": "1.0"})
    assert all(vars(found).values())


def test_whatever_is_not_idle_counts_as_busy():
    assert measure.busy_ticks("cpu  1 2 4 1000 2000 8 16 32 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\n") == 63
    # Long enough that a tick more or less (10 ms) does not matter.
    assert 0.0 <= measure.machine_busy_share(0.2) <= 1.2


def test_requirements_are_the_lines_that_name_something():
    assert peers.requirements("# a comment\n\na==1  # why\n b==2\n") == ["a==1", "b==2"]


def test_a_requirement_that_fails_leaves_the_others_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "requirements.txt").write_text("good==1\nbad==1\n")
    monkeypatch.setattr(peers, "REQUIREMENTS", tmp_path / "requirements.txt")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (tmp_path / "home").mkdir())
    tried: list[str] = []

    def install(_: peers.Peers, requirement: str, __: Callable[[str], None]) -> bool:
        tried.append(requirement)
        return requirement != "bad==1"

    monkeypatch.setattr(peers.Peers, "_install", install)
    for _ in range(2):
        peers.Peers(tmp_path / "home").ensure(lambda text: None)
    assert tried == ["good==1", "bad==1", "bad==1"]


def test_an_environment_without_peers_has_no_versions(tmp_path: Path):
    nobody = peers.Peers(tmp_path / "none")
    assert nobody.versions() == {}
    assert nobody.site_packages() is None


def findings() -> report.Findings:
    origin = provenance.Provenance("now", "cpu", "kernel", "python", "0", "commit", {"nginx": "1.0"}, "command")
    found = report.Findings(origin, EFFORT, rounds=2, placement="somewhere", works=["http", "post"])
    for number, (own, other) in enumerate([(6.0, 5.0), (8.0, 5.0)]):
        found.add("http", "penstock", number, {"cost_us": own, "rate": 1000.0})
        found.add("http", "nginx", number, {"cost_us": other, "rate": 1200.0})
    found.skipped["granian"] = "granian is not installed"
    found.failures["post: penstock"] = "no answer"
    return found


def test_the_report_shows_ratios_verdicts_and_what_is_missing():
    text = report.markdown(findings(), {"http": "plots/http.svg"})
    assert "| http | costs at most 1.5x nginx's `return 200` | <= 1.5 | 1.2 | 1.40x (1.20-1.60) | undecided |" in text
    assert "| **penstock** | 7.00 (6.00-8.00) | 1,000 | 1.00x |" in text
    assert text.index("| nginx | 5.00") < text.index("| **penstock** | 7.00"), "cheapest first"
    assert "![GET of 13 bytes, closed loop over 64 connections](plots/http.svg)" in text
    assert "granian was skipped: granian is not installed" in text
    assert "post: penstock failed: no answer" in text


def test_the_short_table_has_what_was_measured_and_takes_its_place_in_the_readme():
    found = findings()
    for number in range(2):
        found.add("framed", "penstock-stream", number, {"frame_us": 0.5})
        found.add("framed", "uvloop", number, {"frame_us": 0.75})
        found.add("log", "penstock", number, {"cost_us": 7.0})
    found.works += ["framed", "log"]
    figures = report.readme_figures(found)
    assert (
        "GET of 13 bytes, closed loop over 64 connections: server CPU per request, us | **7.00** | 0.73x |" in figures
    )
    assert "server CPU per frame, us | **0.500** |  |  |  |  | 1.50x |" in figures
    assert "access log" not in figures, "what has no peer is no comparison"
    assert "posted" not in figures, "a work that failed is no row"
    readme = f"before\n{report.README_BEGIN}\nold\n{report.README_END}\nafter\n"
    replaced = report.with_figures(readme, figures)
    assert replaced == f"before\n{report.README_BEGIN}\n\n{figures}\n{report.README_END}\nafter\n"
    assert report.with_figures(replaced, figures) == replaced
    with pytest.raises(ValueError, match=r"README\.md: expected .* around the figures"):
        report.with_figures("nothing there", figures)


def test_what_is_published_is_whole(capsys: pytest.CaptureFixture[str]):
    bench = pytest.importorskip("bench", reason="needs benchmarks/requirements.txt")
    with pytest.raises(SystemExit):
        bench.parse(["--publish", "--work", "http"])
    assert "--publish writes all works and servers: leave out" in capsys.readouterr().err


def test_every_measured_work_has_a_plot_and_the_same_figures_give_the_same_file(tmp_path: Path):
    plots = pytest.importorskip("plots", reason="needs benchmarks/requirements.txt")
    drawn = [plots.draw_all(findings(), tmp_path / name) for name in ("first", "second")]
    assert [list(paths) for paths in drawn] == [["http"], ["http"]]
    assert drawn[0]["http"].read_bytes() == drawn[1]["http"].read_bytes()


def test_the_idle_work_adapts_to_the_descriptor_limit_and_says_so():
    bench = pytest.importorskip("bench", reason="needs benchmarks/requirements.txt")
    notes: list[str] = []
    options = bench.parse(["--seconds", "2"])
    assert bench.plan_effort(options, 20_000, notes).idle_connections == 15_000
    assert notes == []
    assert bench.plan_effort(options, 4_096, notes).idle_connections == 3_596
    assert "4,096" in notes[0]


def test_an_unknown_name_is_refused_with_the_known_ones():
    bench = pytest.importorskip("bench", reason="needs benchmarks/requirements.txt")
    with pytest.raises(ArgumentTypeError, match="no nope; expected some of http, post"):
        bench.names_of({"http", "post"})("http,nope")


def test_a_server_is_measured_and_gone_afterwards(tmp_path: Path):
    with measure.running(python_server(TINY_SERVER), tmp_path, cpu=None) as server:
        hello = measure_get(server, WORKS["http"].cases[0], EFFORT)
        posted = measure_post(server, WORKS["post"].cases[0], EFFORT)
        idle = measure_idle(server, WORKS["idle"].cases[0], EFFORT)
        fair = measure_fairness(server, WORKS["fairness"].cases[0], EFFORT)
    for figures in (hello, posted):
        assert figures["cost_us"] > 0
        assert figures["rate"] > 0
        assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["max_us"]
    assert idle["connections"] == EFFORT.idle_connections
    assert fair["slow_rate"] > 0
    assert all(name in METRICS for figures in (hello, posted, idle, fair) for name in figures)
    assert not Path(f"/proc/{server.pid}").exists()


@pytest.mark.parametrize("name", ["wsgi", "log", "static", "large", "udp", "stream", "framed", "broadcast"])
def test_penstock_does_what_a_work_asks_of_it(tmp_path: Path, name: str):
    work, servers = WORKS[name], Servers(peers.Peers(tmp_path / "none"))
    for each in (each for each in work.servers if each.startswith("penstock")):
        with measure.running(servers.get(each, work.app), tmp_path / each, cpu=None) as server:
            for case in work.cases:
                figures = work.measure(server, case, EFFORT)
                assert next(iter(figures.values())) > 0, figures
                assert set(figures) <= set(METRICS)


def test_answers_that_fail_fail_the_measurement(tmp_path: Path):
    with (
        measure.running(python_server(TINY_SERVER), tmp_path, cpu=None) as server,
        pytest.raises(measure.BenchError, match="status 500, expected 200"),
    ):
        load.http_load(server.port, [load.Target("/broken")], seconds=0.1)


def test_a_server_that_does_not_start_is_told_by_its_last_words(tmp_path: Path):
    server = python_server("raise SystemExit('no licence today')")
    with (
        pytest.raises(measure.BenchError, match="did not start, status 1: no licence today"),
        measure.running(server, tmp_path, cpu=None),
    ):
        raise AssertionError("it cannot be running")


def test_a_server_that_dies_under_load_is_told_by_its_last_words(tmp_path: Path):
    dying = TINY_SERVER.replace('b"500 Oops" if', 'sys.exit("out of ideas") if')
    with (
        pytest.raises(measure.BenchError, match="ended with status 1: out of ideas"),
        measure.running(python_server(dying), tmp_path, cpu=None) as server,
    ):
        load.http_load(server.port, [load.Target("/broken")], seconds=0.3)


def test_the_cpu_time_of_ended_threads_and_of_children_counts(tmp_path: Path):
    burn = "def burn():\n  until = time.thread_time() + 0.1\n  while time.thread_time() < until: pass\n"
    busy = f"import threading, time\n{burn}thread = threading.Thread(target=burn); thread.start(); thread.join()\n"
    code = busy + TINY_SERVER
    parent = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}, sys.argv[1]]))"
    with measure.running(python_server(parent), tmp_path, cpu=None) as server:
        assert len(server.process_tree()) == 2
        assert server.cpu_seconds() >= 0.1
        assert server.own_bytes() > 1 << 20
