"""`penstock tune` as a command: on trees of files, and on the kernel itself in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PENSTOCK, clean_environment
from machines import machine_tree, sysctl

Run = Callable[..., subprocess.CompletedProcess[str]]

USAGE = 2


@pytest.fixture
def tune(tmp_path: Path) -> Run:
    """`penstock tune` on a machine of files below tmp_path/machine, remembering in tmp_path/state."""

    def run(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        root, state = str(tmp_path / "machine"), str(tmp_path / "state" / "tune.json")
        command = [*PENSTOCK, "tune", "--root", root, "--state", state, *arguments]
        return subprocess.run(
            command, input=typed, capture_output=True, text=True, env=clean_environment(), timeout=30, check=False
        )

    machine_tree(tmp_path / "machine")
    return run


def answered(done: subprocess.CompletedProcess[str], status: int = 0) -> str:
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_it_tells_each_setting_and_changes_nothing(tune: Run, tmp_path: Path):
    told = answered(tune("--connections", "1000000", "--profile", "gateway"))
    assert "gateway: 1,000,000 connections" in told
    assert "net.core.somaxconn" in told
    assert sysctl(tmp_path / "machine", "net.core.somaxconn") == "128"
    assert not (tmp_path / "state").exists()


def test_a_check_answers_by_its_status(tune: Run, tmp_path: Path):
    assert "short of the goal" in answered(tune("--connections", "1000000", "--check"), 1)
    enough = ["--connections", "100", "--workers", "1", "--check"]
    machine_tree(tmp_path / "machine", {"proc/sys/net/ipv4/tcp_mem": "1000000 2000000 3000000"})
    answered(tune(*enough))


def test_one_setting_is_explained_by_its_whole_name_or_its_last_word(tune: Run):
    long = answered(tune("--explain", "net.core.somaxconn"))
    assert long == answered(tune("--explain", "somaxconn"))
    assert "TcpExt:ListenOverflows 312 since the boot" in long
    assert "ss -lnt" in long
    done = tune("--explain", "somaxcon")
    assert done.returncode == USAGE
    assert "did you mean somaxconn?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--apply", "--undo"], "--apply and --undo are two different answers"),
        (["--json", "--print", "sysctl"], "--json and --print are two different answers"),
        (["--check", "--apply"], "--check only looks"),
        (["--profile", "desktop"], "desktop"),
        (["--connections", "0"], "0 is not in the range"),
    ],
)
def test_a_wrong_question_is_refused_in_one_line(tune: Run, arguments: list[str], complaint: str):
    done = tune(*arguments)
    assert done.returncode == USAGE
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_root_without_proc_is_refused(penstock: Run, tmp_path: Path):
    done = penstock("tune", "--root", str(tmp_path))
    assert done.returncode == USAGE
    assert "expected a directory with proc in it" in done.stderr


def test_applying_shows_the_difference_remembers_and_is_undone(tune: Run, tmp_path: Path):
    machine = tmp_path / "machine"
    told = answered(tune("--apply", "--yes"))
    assert "128 -> 8192" in told
    assert sysctl(machine, "net.core.somaxconn") == "8192"
    assert sysctl(machine, "net.ipv4.tcp_rmem") == "4096 131072 262144"
    assert (machine / "sys/kernel/mm/transparent_hugepage/enabled").read_text() == "madvise\n"
    assert "There is nothing to set" in answered(tune("--apply", "--yes"))
    answered(tune("--undo", "--yes"))
    assert sysctl(machine, "net.core.somaxconn") == "128"
    assert sysctl(machine, "net.ipv4.tcp_rmem") == "4096 131072 6291456"
    assert not (tmp_path / "state" / "tune.json").exists()
    assert "nothing to undo" in answered(tune("--undo", "--yes"))


def test_a_second_goal_is_undone_to_what_was_there_before_the_first(tune: Run, tmp_path: Path):
    answered(tune("--apply", "--yes", "--rate", "40000"))
    assert sysctl(tmp_path / "machine", "net.core.somaxconn") == "16384"
    answered(tune("--apply", "--yes", "--rate", "100000"))
    assert sysctl(tmp_path / "machine", "net.core.somaxconn") == "32768"
    answered(tune("--undo", "--yes"))
    assert sysctl(tmp_path / "machine", "net.core.somaxconn") == "128"


@pytest.mark.parametrize(("answer", "message"), [("n\n", "nothing was changed"), ("", "nobody answered")])
def test_without_a_yes_nothing_is_changed(tune: Run, tmp_path: Path, answer: str, message: str):
    done = tune("--apply", typed=answer)
    assert done.returncode == 1
    assert message in done.stderr
    assert sysctl(tmp_path / "machine", "net.core.somaxconn") == "128"
    assert not (tmp_path / "state").exists()


def test_a_typed_yes_is_enough(tune: Run, tmp_path: Path):
    answered(tune("--apply", typed="y\n"))
    assert sysctl(tmp_path / "machine", "net.core.somaxconn") == "8192"


def test_undoing_leaves_alone_what_somebody_has_set_since(tune: Run, tmp_path: Path):
    answered(tune("--apply", "--yes"))
    (tmp_path / "machine/proc/sys/net/core/somaxconn").write_text("9999\n")
    assert "somebody has set it to 9999 since" in answered(tune("--undo", "--yes"))
    assert sysctl(tmp_path / "machine", "net.core.somaxconn") == "9999"
    assert sysctl(tmp_path / "machine", "net.ipv4.tcp_keepalive_time") == "7200"


def test_what_was_changed_before_a_boot_is_forgotten(tune: Run, tmp_path: Path):
    answered(tune("--apply", "--yes"))
    (tmp_path / "machine/proc/sys/kernel/random/boot_id").write_text("another\n")
    assert "nothing to undo" in answered(tune("--undo", "--yes"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 9}', '{"version": 1, "boot": "x", "changes": [{}]}'])
def test_a_state_file_of_another_kind_is_refused_and_kept(tune: Run, tmp_path: Path, text: str):
    state = tmp_path / "state" / "tune.json"
    state.parent.mkdir()
    state.write_text(text)
    for flag in ("--apply", "--undo"):
        done = tune(flag, "--yes")
        assert done.returncode == 1
        assert "expected what penstock tune --apply had written" in done.stderr
    assert state.read_text() == text
    assert sysctl(tmp_path / "machine", "net.core.somaxconn") == "128"


def test_what_cannot_be_remembered_is_not_done(penstock: Run, tmp_path: Path):
    machine_tree(tmp_path)
    done = penstock("tune", "--root", str(tmp_path), "--state", "/proc/no/such/tune.json", "--apply", "--yes")
    assert done.returncode == 1
    assert "say where with --state" in done.stderr
    assert sysctl(tmp_path, "net.core.somaxconn") == "128"


def test_what_goes_wrong_is_told_by_line_and_the_rest_is_done(tune: Run, tmp_path: Path):
    from penstock.tune.changes import Change, Memory, apply, undo

    machine = tmp_path / "machine"
    gone = Change(name="gone", place="/proc/sys/net/ipv4/gone", before="1", after="2")
    there = Change(name="net.core.somaxconn", place="/proc/sys/net/core/somaxconn", before="128", after="512")
    memory = Memory(tmp_path / "kept.json")
    refused, done = apply([gone, there], root=machine, memory=memory, boot_id="b")
    assert "it is not there" in (refused.error or "")
    assert (done.error, done.now) == (None, "512")
    assert sysctl(machine, "net.core.somaxconn") == "512"
    # Only what was done is remembered, so only that is undone.
    assert [each.change.name for each in undo(root=machine, memory=memory, boot_id="b")] == ["net.core.somaxconn"]
    assert not (machine / "proc/sys/net/ipv4/gone").exists()


def test_the_sysctl_file_is_one_that_sysctl_reads(tune: Run, tmp_path: Path):
    text = answered(tune("--print", "sysctl"))
    settings = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert "net.core.somaxconn = 8192" in settings
    assert all(line.count(" = ") == 1 for line in settings)
    reader = shutil.which("sysctl", path=os.defpath + ":/usr/sbin:/sbin")
    if reader is None:
        pytest.skip("sysctl is not here to read it (Debian: apt-get install procps)")
    file = tmp_path / "60-penstock.conf"
    file.write_text(text)
    done = subprocess.run([reader, "--dry-run", "--load", str(file)], capture_output=True, text=True, check=False)
    assert "net.core.somaxconn = 8192" in done.stdout, done.stderr


def test_the_unit_s_drop_in_is_one_that_systemd_reads(tune: Run, tmp_path: Path):
    text = answered(tune("--print", "systemd", "--workers", "4"))
    assert "LimitNOFILE=275712" in text
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not here to verify it (Debian: apt-get install systemd)")
    unit = tmp_path / "app.service"
    unit.write_text(text.replace("[Service]", "[Service]\nExecStart=/bin/true", 1))
    done = subprocess.run([verify, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert "app.service" not in done.stderr, done.stderr


def test_what_is_below_sys_goes_into_tmpfiles(tune: Run):
    text = answered(tune("--print", "tmpfiles"))
    assert "w /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise" in text
    assert "w /sys/class/net/eth0/queues/rx-0/rps_cpus - - - - f" in text


def test_json_is_for_programs(tune: Run):
    told = json.loads(answered(tune("--json")))
    assert {"name", "now", "wanted", "verdict", "because", "cost"} <= set(told["advice"][0])


def test_it_reads_the_machine_that_it_runs_on(penstock: Run):
    told = json.loads(answered(penstock("tune", "--json", "--connections", "1000")))
    now = {each["name"]: each["now"] for each in told["advice"]}
    assert now["net.core.somaxconn"] == Path("/proc/sys/net/core/somaxconn").read_text().strip()
    assert told["machine"]["kernel"] == os.uname().release


def test_without_root_applying_is_refused_in_one_line(penstock: Run, tmp_path: Path):
    if os.geteuid() == 0:
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if shutil.which("setpriv") is None or not _nobody_can_run():
            pytest.skip("nobody cannot run this interpreter here")
    else:
        as_nobody = []
    state = tmp_path / "tune.json"
    command = [*as_nobody, *PENSTOCK, "tune", "--state", str(state), "--apply", "--yes", "--rate", "200000"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 1
    assert "takes root: run it with sudo; nothing was changed" in done.stderr


def _nobody_can_run() -> bool:
    probe = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *PENSTOCK, "--version"]
    done = subprocess.run(probe, capture_output=True, env=clean_environment(), check=False)
    return done.returncode == 0


NAMESPACE_SCRIPT = """
set -eu
one() { cat /proc/sys/net/core/somaxconn; }
before=$(one)
"$@" --apply --yes || true
after=$(one)
"$@" --undo --yes || true
echo "somaxconn: $before $after $(one)"
"""


def test_the_kernel_itself_is_set_and_put_back(tmp_path: Path):
    """In a network namespace of its own, so that this machine keeps its settings; what is the whole machine's is
    read-only there, as it is in a container, and is told by line."""
    unshare = shutil.which("unshare")
    isolated = [unshare or "unshare", "--net", "--mount", "sh", "-c"]
    shield = "mount -o remount,ro,bind /sys && for each in vm fs; do mount --bind /proc/sys/$each /proc/sys/$each && "
    shield += "mount -o remount,ro,bind /proc/sys/$each; done"
    may = unshare and subprocess.run([*isolated, shield], capture_output=True, check=False).returncode == 0
    if not may:
        pytest.skip("making a network namespace takes root and unshare (Debian: apt-get install util-linux)")
    state = str(tmp_path / "tune.json")
    command = [*PENSTOCK, "tune", "--state", state, "--connections", "3000000", "--rate", "200000"]
    done = subprocess.run(
        [*isolated, shield + NAMESPACE_SCRIPT, "sh", *command],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, summary = done.stdout.splitlines()
    before, after, last = summary.removeprefix("somaxconn: ").split()
    assert int(after) == 65_535
    assert last == before
    assert "set     net.core.somaxconn = 65535" in done.stdout
    assert "failed  fs.nr_open: it is read-only here, as in a container: set it on the host" in done.stdout
