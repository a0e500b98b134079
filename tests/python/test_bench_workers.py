"""The trials of workers, a little of each: no request may fail here either. Of times a busy machine is no judge."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from measure import raise_descriptor_limit
from peers import Peers
from servers import Servers
from trials import QUICK, TRIALS, Finding, Trier
from workers import parse


@pytest.fixture
def trier() -> Iterator[Trier]:
    raise_descriptor_limit()
    # Short: a Unix socket's name has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        yield Trier(Servers(Peers(Path(scratch) / "no-peers")), QUICK, Path(scratch))


@pytest.mark.parametrize("name", TRIALS)
def test_what_may_never_fail_does_not(trier: Trier, name: str) -> None:
    findings = list(TRIALS[name](trier))
    assert findings
    assert [str(finding) for finding in findings if finding.at_most == 0 and finding.is_missed] == []


def test_a_finding_is_judged_by_what_was_promised() -> None:
    assert not Finding("told", 5.0).is_missed
    assert not Finding("kept", 1.0, at_most=1).is_missed
    missed = Finding("requests that failed", 2, "of 100", at_most=0)
    assert missed.is_missed
    assert str(missed) == "MISS requests that failed: 2 of 100 (at most 0)"


def test_an_unknown_trial_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["nope"])
    assert "no nope; expected some of reload, upgrade" in capsys.readouterr().err
