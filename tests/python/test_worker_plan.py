"""What a supervisor decides, without a process: replaced before retired, and a reload all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.supervisor import cpus
from penstock.supervisor.plan import Member, Stage, most_requests, plan


def ready(generation: int = 1, due: str | None = None) -> Member:
    return Member(generation, Stage.READY, due)


def starting(generation: int = 1) -> Member:
    return Member(generation, Stage.STARTING)


def test_missing_workers_are_started_and_those_that_leave_count_no_more() -> None:
    members = [ready(), starting(), Member(1, Stage.LEAVING)]
    assert plan(members, 4, 1).start == 2
    assert list(plan(members, 4, 1).retire) == []


def test_a_reload_retires_nobody_until_the_whole_new_generation_is_ready() -> None:
    former = [ready(1), ready(1)]
    assert plan(former, 2, 2).start == 2
    assert list(plan([*former, ready(2), starting(2)], 2, 2).retire) == []
    assert list(plan([*former, ready(2), ready(2)], 2, 2).retire) == former


def test_who_is_due_leaves_once_another_is_ready() -> None:
    due = [ready(due="old"), ready(due="old")]
    assert plan([*due, ready()], 3, 1).start == 2
    assert list(plan([*due, ready(), starting(), starting()], 3, 1).retire) == []
    assert list(plan([*due, ready(), ready(), starting()], 3, 1).retire) == due[:1]


def test_too_many_workers_leave_youngest_first_and_those_not_ready_before_all() -> None:
    members = [starting(), ready(), ready()]
    assert list(plan(members, 2, 1).retire) == [members[0]]
    assert list(plan(members, 1, 1).retire) == [members[2], members[0]]


def test_auto_is_no_more_than_the_control_group_has_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("150000 100000\n")
    assert cpus._quota(group) == 2
    monkeypatch.setattr(cpus, "_own_group", lambda: group)
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda _: set(range(64)))
    assert cpus.usable_cpus() == 2
    (group.parent / "cpu.max").write_text("max 100000\n")
    assert cpus.usable_cpus() == 64


def test_workers_of_one_age_are_replaced_at_different_counts_between_the_limit_and_its_jitter() -> None:
    assert [most_requests(1000, 200, luck) for luck in (0.0, 0.25, 1.0)] == [1000, 1050, 1200]
    assert most_requests(1000, 0, 1.0) == 1000
