"""What Penstock, nginx and uvicorn make of the same raw bytes, held to what docs/http-conformance.md says.

A peer whose version is not the recorded one is not asked: `python tools/record_conformance.py` records it anew.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import programs
import pytest
from conformance.cases import CASES, Case
from conformance.exchange import outcomes
from conformance.page import differing
from conformance.reasons import REASONS, reasons_for
from conformance.record import Record
from conformance.servers import SERVERS, installed_version

RECORD = Record.load()
PATIENT_QUIET_S = 6.0
"""For cases that came out otherwise at first: perhaps the machine was busy."""


# nginx lets go of a request whose client has ended, unless the server behind it has answered by then.
RACES = {
    ("nginx", "early end: a whole request"): {"closed", "200 GET /, closed"},
    ("nginx", "early end: a whole request and half of the next"): {"closed", "200 GET /, closed"},
}


def surprises(port: int, server: str) -> dict[str, tuple[str, str]]:
    """The cases that do not come out as recorded: what came, and what was recorded."""
    recorded = RECORD.outcomes[server]
    found = asyncio.run(outcomes(port, CASES))
    again = [case for case in CASES if found[case.key] != recorded[case.key]]
    found |= asyncio.run(outcomes(port, again, quiet_s=PATIENT_QUIET_S))
    return {
        case.key: (found[case.key], recorded[case.key])
        for case in again
        if found[case.key] not in RACES.get((server, case.key), {recorded[case.key]})
    }


@pytest.mark.timeout(400)  # nginx may have to be installed first.
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_does_with_each_case_what_the_page_says(server: str, tmp_path: Path):
    if server == "nginx":
        programs.need("nginx")
    if server != "penstock":
        version = installed_version(server)
        if version is None:
            pytest.skip(f"{server} is not installed: nothing to compare with")
        if version != RECORD.versions[server]:
            pytest.skip(f"recorded with {RECORD.versions[server]}, and here is {version}: tools/record_conformance.py")
    with SERVERS[server](tmp_path) as port:
        found = surprises(port, server)
    assert not found, "\n".join(f"{key}\n  came:     {came}\n  recorded: {was}" for key, (came, was) in found.items())


@pytest.mark.parametrize("server", SERVERS)
def test_every_case_is_recorded(server: str):
    assert set(RECORD.outcomes[server]) == {case.key for case in CASES}


@pytest.mark.parametrize("case", differing(RECORD), ids=lambda case: case.key)
def test_a_difference_has_one_reason(case: Case):
    assert len(reasons_for(case)) == 1, reasons_for(case)


def test_every_reason_has_a_difference():
    different = differing(RECORD)
    patterns = [(reason, pattern) for reason in REASONS for pattern in reason.patterns]
    idle = [pattern for reason, pattern in patterns if not any(reason.matches(pattern, case) for case in different)]
    assert not idle, "patterns that match no difference"


# Nothing is wrong with these: the length is a length, and the header is another one.
HARMLESS = {
    "a length with leading zeros",
    "a length whose name has an underscore",
    "coding: the name has an underscore",
}


def test_no_case_of_broken_framing_reaches_the_application():
    """Whatever the others do: two lengths, odd codings and odd chunk sizes are never shown to an application."""
    ours = RECORD.outcomes["penstock"]
    for case in CASES:
        if (case.group in {"length", "coding"} and case.name not in HARMLESS) or case.group in {"line ends", "headers"}:
            assert "200" not in ours[case.key], (case.key, ours[case.key])
        assert "/hidden" not in ours[case.key]
