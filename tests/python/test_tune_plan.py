"""What `penstock tune` advises: read from trees of files, decided without touching anything."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
from machines import machine_tree

from penstock.errors import ConfigError
from penstock.tune import GROUPS, PARAMETERS, PROFILES, Advice, Machine, Verdict, goal_for, plan_for, report, survey
from penstock.tune.changes import changes_for
from penstock.tune.machine import MEMORY
from penstock.tune.parameter import canonical


def advice(machine: Machine, name: str, profile: str = "gateway", **goal: int) -> Advice:
    plan = plan_for(machine, goal_for(machine, profile, **goal))
    return next(each for each in plan.advice if each.parameter.name == name)


def advised(machine: Machine, profile: str = "gateway", **goal: int) -> set[str]:
    return {each.parameter.name for each in plan_for(machine, goal_for(machine, profile, **goal)).advice}


def test_a_machine_is_read_from_its_files(tmp_path: Path):
    machine = survey(machine_tree(tmp_path))
    assert machine.kernel == "6.1.0"
    assert (machine.cpus, machine.memory, machine.nofile_hard) == (4, 8 << 30, 4096)
    assert machine.numbers("/proc/sys/net/ipv4/tcp_mem") == (90_000, 120_000, 180_000)
    assert machine.counters["TcpExt:ListenOverflows"] == 312
    assert machine.counters["softnet:dropped"] == 0x12
    assert machine.files_open == 1500


def test_an_empty_tree_is_a_machine_of_which_nothing_is_known(tmp_path: Path):
    machine = survey(tmp_path)
    plan = plan_for(machine, goal_for(machine, "gateway"))
    verdicts = {each.verdict for each in plan.advice if each.parameter.place.startswith("/proc/sys/")}
    assert verdicts == {Verdict.ABSENT}
    assert "not in this kernel" in report.table(plan)
    assert not changes_for(plan.advice)


@pytest.mark.parametrize("online", ["0", "0-3", "0,2", "0-1,8-9,15"])
def test_cpus_are_counted_from_the_kernel_s_list(tmp_path: Path, online: str):
    counts = {"0": 1, "0-3": 4, "0,2": 2, "0-1,8-9,15": 5}
    assert survey(machine_tree(tmp_path, cpus=online)).cpus_online == counts[online]


@pytest.mark.parametrize(
    ("files", "memory", "cpus"),
    [
        ({"sys/fs/cgroup/system.slice/app.service/memory.max": "1073741824"}, 1 << 30, 4),
        # A limit further up counts too, if it is lower.
        (
            {
                "sys/fs/cgroup/system.slice/app.service/memory.max": "max",
                "sys/fs/cgroup/system.slice/memory.max": "2147483648",
            },
            2 << 30,
            4,
        ),
        ({"sys/fs/cgroup/system.slice/app.service/cpu.max": "150000 100000"}, 8 << 30, 2),
        ({"sys/fs/cgroup/system.slice/app.service/cpu.max": "max 100000"}, 8 << 30, 4),
        # Version 1, as in an older container.
        (
            {
                "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu:/docker/abc",
                "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "536870912",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "100000",
            },
            512 << 20,
            1,
        ),
        ({"proc/self/cgroup": "4:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes": str(1 << 63)}, 8 << 30, 4),
    ],
)
def test_a_container_has_what_its_cgroup_leaves_it(tmp_path: Path, files: dict[str, str], memory: int, cpus: int):
    machine = survey(machine_tree(tmp_path, files))
    assert (machine.memory, machine.cpus) == (memory, cpus)


def test_too_little_memory_is_told_with_its_sum(tmp_path: Path):
    small = advice(survey(machine_tree(tmp_path)), "memory", connections=1_000_000)
    assert small.verdict is Verdict.NEEDED
    assert report.shown(small, small.now) == "8.0 GiB"
    assert "4.8 GiB + 3.8 GiB" in small.want.arithmetic
    assert small.place == MEMORY


def test_the_memory_told_is_the_sum_of_its_lines(tmp_path: Path):
    machine = survey(machine_tree(tmp_path))
    for name in PROFILES:
        *costs, total = plan_for(machine, goal_for(machine, name)).memory
        assert total.bytes == sum(cost.bytes for cost in costs)


def test_each_worker_has_descriptors_for_its_share(tmp_path: Path):
    machine = survey(machine_tree(tmp_path))
    assert advice(machine, "RLIMIT_NOFILE", connections=1_000_000, workers=4).wanted == "275712"
    assert advice(machine, "RLIMIT_NOFILE", connections=100, workers=4).verdict is Verdict.OK


def test_a_limit_that_cannot_be_raised_is_answered_by_more_workers(tmp_path: Path):
    nobody = {"proc/self/status": "CapEff:\t0000000000000000"}
    machine = survey(machine_tree(tmp_path, nobody, nofile=20_000))
    assert "--workers 57" in advice(machine, "RLIMIT_NOFILE", connections=1_000_000).want.arithmetic
    assert advice(machine, "RLIMIT_NOFILE", connections=1_000_000, workers=57).verdict is Verdict.OK


def test_tcp_memory_is_counted_in_pages_and_takes_half_of_memory_at_the_most(tmp_path: Path):
    machine = dataclasses.replace(survey(machine_tree(tmp_path)), page_size=4096)
    fits = advice(machine, "net.ipv4.tcp_mem", connections=400_000)
    assert fits.wanted == "300000 400000 600000"
    assert fits.verdict is Verdict.NEEDED
    bounded = advice(machine, "net.ipv4.tcp_mem", connections=4_000_000)
    assert bounded.wanted.split()[2] == str((8 << 30) // 2 // 4096)
    assert "half of memory" in bounded.want.arithmetic
    arm = dataclasses.replace(machine, page_size=65_536)
    assert advice(arm, "net.ipv4.tcp_mem", connections=1_600_000).want.value.split()[2] == str((8 << 30) // 2 // 65_536)


def test_a_gateway_bounds_each_connection_and_bulk_only_widens(tmp_path: Path):
    machine = survey(machine_tree(tmp_path))
    assert advice(machine, "net.ipv4.tcp_rmem", "gateway").wanted == "4096 131072 262144"
    assert advice(machine, "net.ipv4.tcp_rmem", "bulk").wanted == "4096 131072 67108864"
    assert advice(machine, "net.ipv4.tcp_rmem", "web").verdict is Verdict.OK


def test_ports_matter_only_to_who_calls(tmp_path: Path):
    machine = survey(machine_tree(tmp_path))
    assert "net.ipv4.ip_local_port_range" not in advised(machine)
    assert advice(machine, "net.ipv4.ip_local_port_range", outgoing=40_000).wanted == "10240 65535"
    assert "address pairs" not in advised(machine, outgoing=20_000)
    assert advice(machine, "address pairs", outgoing=1_000_000).want.value == "37 pairs of addresses"


def test_packets_are_passed_on_where_queues_are_fewer_than_cpus(tmp_path: Path):
    one_queue = survey(machine_tree(tmp_path / "one"))
    mask = advice(one_queue, "rps_cpus")
    assert (mask.name, mask.wanted) == ("eth0 rx-0 rps_cpus", "f")
    assert "rps_cpus" not in advised(survey(machine_tree(tmp_path / "single", cpus="0")))
    assert advice(dataclasses.replace(one_queue, cpus_online=40), "rps_cpus").wanted == "ff,ffffffff"


def test_loopback_has_no_queues_to_steer(tmp_path: Path):
    assert survey(machine_tree(tmp_path)).queues() == 1


def test_connection_tracking_is_advised_on_where_it_is(tmp_path: Path):
    name = "net.netfilter.nf_conntrack_max"
    assert name not in advised(survey(machine_tree(tmp_path / "without")))
    tree = {"proc/sys/net/netfilter/nf_conntrack_max": "65536", "proc/sys/net/netfilter/nf_conntrack_count": "0"}
    unused = advice(survey(machine_tree(tmp_path / "unused", tree)), name)
    assert unused.verdict is Verdict.BETTER
    tree["proc/sys/net/netfilter/nf_conntrack_count"] = "900"
    assert advice(survey(machine_tree(tmp_path / "used", tree)), name).verdict is Verdict.NEEDED


def test_what_is_set_higher_than_wanted_is_left(tmp_path: Path):
    rich = survey(machine_tree(tmp_path, {"proc/sys/net/core/somaxconn": "65535"}))
    assert advice(rich, "net.core.somaxconn").verdict is Verdict.OK


def test_what_the_kernel_has_counted_is_told_beside_the_setting(tmp_path: Path):
    machine = survey(machine_tree(tmp_path))
    assert "ListenOverflows counted 312" in report.why(advice(machine, "net.core.somaxconn"))


@pytest.mark.parametrize(
    ("place", "one", "other"),
    [
        ("/sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,0000000f", "f"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never", "madvise"),
        ("/proc/sys/net/ipv4/tcp_mem", "1\t2\t3\n", "1 2 3"),
    ],
)
def test_values_are_compared_however_the_kernel_prints_them(place: str, one: str, other: str):
    assert canonical(place, one) == canonical(place, other)


def test_following_the_advice_leaves_nothing_to_advise(tmp_path: Path):
    """For any goal: what was advised is enough for it."""
    seed = random.randrange(1 << 32)
    chosen = random.Random(seed)
    machine = survey(machine_tree(tmp_path))
    for _ in range(50):
        goal = goal_for(
            machine,
            chosen.choice(list(PROFILES)),
            connections=chosen.randrange(1, 5_000_000),
            outgoing=chosen.choice([0, chosen.randrange(200_000)]),
            workers=chosen.randrange(1, 64),
            opened_per_s=chosen.randrange(1, 200_000),
        )
        due = changes_for(plan_for(machine, goal).advice)
        followed = dataclasses.replace(
            machine, readings={**machine.readings, **{each.place: each.after for each in due}}
        )
        again = changes_for(plan_for(followed, goal).advice)
        assert not again, f"seed {seed}: {goal}: {again}"


def test_a_profile_that_there_is_none_of_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="expected one of gateway, web, bulk, got 'desktop'"):
        goal_for(survey(machine_tree(tmp_path)), "desktop")


def test_the_command_knows_the_profiles():
    from penstock.cli.tune import PROFILES as OFFERED

    assert list(PROFILES) == list(OFFERED)


def test_every_parameter_says_what_a_reader_needs():
    assert sum(len(group.parameters) for group in GROUPS) == len(PARAMETERS)
    for parameter in PARAMETERS.values():
        for told in (parameter.formula, parameter.reason, parameter.cost, parameter.symptom, parameter.look):
            assert told.strip(), parameter.name
        assert parameter.source.startswith("https://")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_table_fits_the_terminal_as_far_as_its_columns_do(tmp_path: Path, width: int):
    machine = survey(machine_tree(tmp_path))
    plan = plan_for(machine, goal_for(machine, "gateway"))
    lines = report.table(plan, width=width).splitlines()
    whys = [line for line in lines if line.startswith(" " * 10)]
    assert whys if width < 120 else True
    assert all(len(line) <= max(width, 50) for line in whys)
    assert any(line.strip().startswith("needed  RLIMIT_NOFILE") for line in lines)


def test_json_has_every_advice(tmp_path: Path):
    machine = survey(machine_tree(tmp_path))
    plan = plan_for(machine, goal_for(machine, "web"))
    told = json.loads(report.as_json(plan))
    assert [each["name"] for each in told["advice"]] == [each.name for each in plan.advice]
    assert told["goal"]["connections"] == 50_000
    assert told["met"] is False
