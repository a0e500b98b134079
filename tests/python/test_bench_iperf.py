"""`penstock bench tcp|udp --beside iperf3`: what the real one carries, and what it cannot do."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from programs import need
from test_bench_echo import tcp_server, udp_server

from penstock.bench import Figures, Found, TcpLoad, UdpLoad, iperf, tool
from penstock.bench.echo import Endpoint
from penstock.bench.outcome import BenchError

Run = Callable[..., subprocess.CompletedProcess[str]]

HERE = Endpoint(text="127.0.0.1:9", address="127.0.0.1", port=9, host="127.0.0.1")


def tcp(**how: Any) -> TcpLoad:
    return TcpLoad(endpoint=HERE, **{"duration_s": 1.0, "connections": 2, **how})


def udp(**how: Any) -> UdpLoad:
    return UdpLoad(endpoint=HERE, **{"duration_s": 1.0, "connections": 2, **how})


@pytest.mark.timeout(400)  # iperf3 may have to be installed first.
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_iperf3_s_bytes_and_cost_stand_beside_ours(penstock: Run, protocol: str):
    need("iperf3")
    short = [
        "--json",
        "-d",
        "0.3",
        "--warm-up",
        "0",
        "-c",
        "2",
        "--size",
        "1000",
        "--rate",
        "500",
        "--beside",
        "iperf3",
    ]
    echoing = tcp_server(lambda received: received) if protocol == "tcp" else udp_server(lambda received: [received])
    with echoing as address:
        done = penstock("bench", protocol, address, *short)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["left_out"] == []
    [other] = found["beside"]
    assert (other["tool"], other["how"]) == ("iperf3", "2 streams, 1,000 bytes at a time")
    assert other["each_way"] > 10_000
    assert other["cpu_us_per_mib"] > 0


@pytest.mark.timeout(400)
def test_a_rate_is_iperf3_s_too(penstock: Run):
    """100 datagrams of 1,000 bytes a second; it may send somewhat more in its first moment."""
    need("iperf3")
    carried = iperf.run_iperf3(udp(size=1000, rate=100.0))
    assert 30_000 < carried.each_way < 300_000


@pytest.mark.timeout(400)
def test_the_report_for_people_has_both_in_bytes(penstock: Run):
    need("iperf3")
    with tcp_server(lambda received: received) as address:
        done = penstock(
            "bench", "tcp", address, "-d", "0.2", "--warm-up", "0", "-c", "1", "--rate", "500", "--beside", "iperf3"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    head, own, other = done.stdout.splitlines()[-3:]
    assert head.split() == ["each", "way/s", "of", "ours", "CPU", "a", "MiB"]
    assert own.startswith("penstock ")
    assert "100%" in own
    assert other.startswith("iperf3 ")
    assert other.endswith("1 streams, 64 bytes at a time")


@pytest.mark.timeout(400)
def test_elsewhere_its_server_has_to_be_there_already(monkeypatch: pytest.MonkeyPatch):
    need("iperf3")
    monkeypatch.setattr(iperf, "_is_here", lambda _: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr(iperf, "PORT", taken.getsockname()[1])
        with pytest.raises(
            tool.LeftOut, match=r"iperf3: nobody listens at 127.0.0.1 port \d+: start `iperf3 --server`"
        ):
            iperf.run_iperf3(tcp())


def test_one_that_is_not_here_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tool.shutil, "which", lambda *_, **__: None)
    with pytest.raises(tool.LeftOut, match=r"iperf3 is not installed \(Debian: apt-get install iperf3\)"):
        iperf.run_iperf3(tcp())


def test_an_address_is_this_machine_s_if_it_can_be_bound():
    # The second is of a network that is for documents alone.
    assert [iperf._is_here(address) for address in ("127.0.0.1", "192.0.2.1")] == [True, False]


@pytest.mark.parametrize(
    ("load", "wanted", "how"),
    [
        (tcp(), "--parallel 2 --length 64 --time 1 --bidir", "2 streams, 64 bytes at a time"),
        (tcp(frame="length4", size=100), "--length 104", "2 streams, 104 bytes at a time"),
        (tcp(connections=500), "--parallel 128", "128 streams, which is its most, 64 bytes at a time"),
        (tcp(size=5 << 20), "--length 1048576", "2 streams, blocks of 1,048,576 bytes, which is its most"),
        (tcp(rate=1000.0), "--bitrate 256000", "2 streams, 64 bytes at a time"),
        (tcp(duration_s=0.2), "--time 1", "2 streams, 64 bytes at a time"),
        (udp(), "--udp --bitrate 0", "2 streams, 64 bytes at a time"),
        (udp(rate=1000.0, size=1000), "--udp --bitrate 4000000", "2 streams, 1,000 bytes at a time"),
    ],
)
def test_iperf3_is_asked_for_the_same_load_as_far_as_it_goes(load: TcpLoad | UdpLoad, wanted: str, how: str):
    plan = iperf.plan_for(load)
    assert wanted in " ".join(plan.arguments)
    assert plan.how == how


@pytest.mark.parametrize(
    ("load", "complaint"),
    [(tcp(tls=True), "iperf3 speaks no TLS"), (udp(size=8), "iperf3 sends datagrams of 16 bytes at least")],
)
def test_what_iperf3_cannot_do_is_left_out(load: TcpLoad | UdpLoad, complaint: str):
    with pytest.raises(tool.LeftOut, match=complaint):
        iperf.plan_for(load)


@pytest.mark.parametrize("output", ["segmentation fault\n", "{}", '{"end": {"sum_received": {}}}'])
def test_output_that_is_none_is_an_error_and_no_zero(output: str):
    ran = tool.Ran(output=output, cpu_s=1.0, status=0)
    with pytest.raises(BenchError, match="iperf3's output"):
        iperf._carried(iperf.plan_for(tcp()), ran, "127.0.0.1")


def test_ours_counts_each_byte_once_though_it_goes_both_ways():
    """10,000 echoes a second of 1 KiB, at 20 us each: 1,024 of them are a MiB."""
    figures = Figures(tool="penstock", answers=20_000, rate=10_000.0, cpu_us=20.0)
    own = iperf.ours(Found(figures=figures, body_mean=1024.0, reconnects=0))
    assert (own.each_way, own.cpu_us_per_mib) == (10_240_000.0, 20_480.0)


def test_the_command_offers_it_alone(penstock: Run):
    done = penstock("bench", "udp", "127.0.0.1:9", "--beside", "wrk")
    assert done.returncode == 2
    assert "--beside: expected some of iperf3, got 'wrk'" in done.stderr
