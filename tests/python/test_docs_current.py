"""The pages made from the code say what the code says now."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

import penstock
from penstock.config import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
PAGES: dict[Path, Callable[[], str]] = runpy.run_path(str(ROOT / "tools" / "generate_docs.py"))["PAGES"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_what_make_docs_would_write(path: Path):
    assert path.read_text(encoding="utf-8") == PAGES[path](), "run `make docs`"


def test_the_settings_page_has_every_flag_and_variable():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for known in SETTINGS.values():
        assert f"### `{known.flag}`" in page
        assert f"`{known.variable}`" in page


# How the server itself stops and is replaced.
NO_LIMITS_OF_A_PEER = {
    "--timeout-graceful-shutdown",
    "--timeout-worker",
    "--limit-max-requests",
    "--limit-max-requests-jitter",
}

# As the page has them: 32 KiB, 100 lines, 8 KiB; 10 s, 20 s, 20 s, 5 s; 128 bytes/s.
DEFAULTS = {
    "--limit-head-size": 32 * 1024,
    "--limit-headers": 100,
    "--limit-target-size": 8 * 1024,
    "--timeout-header": 10,
    "--timeout-body": 20,
    "--timeout-write": 20,
    "--timeout-keep-alive": 5,
    "--limit-rate-min": 128,
}


def test_the_page_of_limits_names_settings_and_counters_that_exist_with_their_defaults():
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and line.count(" | ") == 4]
    settings = {known.flag: known for known in SETTINGS.values()}
    loop = penstock.EventLoop()
    try:
        counters = loop.reactor.counters()
    finally:
        loop.close()
    told: set[str] = set()
    for _, _, _, counted, flags in rows[2:]:
        assert set(re.findall(r"`(\w+)`", counted)) <= counters.keys()
        named = re.findall(r"`(--[\w-]+)`", flags)
        told.update(named)
        for flag in named:
            assert flag in settings, f"{flag} is no setting"
    assert told == {flag for flag in settings if re.match("--(limit|timeout)-", flag)} - NO_LIMITS_OF_A_PEER
    for flag, bound in DEFAULTS.items():
        assert settings[flag].default == bound
