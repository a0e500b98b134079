"""The pages made from the code say what the code says now."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

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
