"""Writes the documentation that is made from the code: `docs/settings.md`, from the fields of `ServerConfig`, and
`docs/http-conformance.md`, from what the servers made of tests/python/conformance.

    python tools/generate_docs.py

`tests/python/test_docs_current.py` fails while a page differs from what this would write.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from penstock import errors
from penstock.config import SETTINGS, Setting, Switch

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tests" / "python"))

from conformance import page as conformance  # noqa: E402

_HEAD = """\
# Settings

<!-- Made by `make docs` from python/penstock/config.py: change it there. -->

Every setting can be given in four ways, of which the first that is there counts:

1. on the command line: `penstock serve main:app --timeout-keep-alive 10`
2. in the environment: `PENSTOCK_TIMEOUT_KEEP_ALIVE=10 penstock serve main:app`
3. in a file of Python that `-c` names, gunicorn's or one with these names: `timeout_keep_alive_s = 10`
4. its default.

`penstock serve --print-config` prints them all, each with where it came from. `penstock serve --check-config main:app`
says everything that a start would stumble over (every wrong setting, a file that is not there, an application that
cannot be imported, an address that cannot be had) and ends with that start's exit status, or with 0. It opens no
listener and runs no lifespan.

In a program each is a keyword argument, under its field's name:
`penstock.run("main:app", timeout_keep_alive_s=10)`. The environment is not read then. Names that end in `_s` are in
seconds. A variable for a switch takes `1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off`; an empty variable counts
as none. What can be given several times is separated there by semicolons (`--bind` by commas, `--header` by line ends).

`--host` and `--port`, `--uds`, `--fd`, and `--bind` are four answers to the same question: giving two of them is an
error.
"""


def settings_page() -> str:
    sections = [
        "\n".join([f"## {group}", "", *(line for known in members for line in _entry(known))]).rstrip()
        for group, members in groupby(SETTINGS.values(), key=lambda known: known.group)
    ]
    return "\n\n".join([_HEAD.rstrip(), *sections, _exit_statuses()]) + "\n"


def _entry(known: Setting) -> list[str]:
    flag = f"{known.flag}`, `{known.off_flag}" if known.off_flag else known.flag
    return [
        f"### `{flag}`",
        "",
        known.help,
        "",
        "| field | variable | takes | default |",
        "| --- | --- | --- | --- |",
        f"| `{known.name}` | {_variables(known)} | {known.kind.expectation} | {_default(known)} |",
        "",
    ]


def _variables(known: Setting) -> str:
    return f"`{known.variable}`" + (f", else `{known.other_variable}`" if known.other_variable else "")


def _default(known: Setting) -> str:
    if isinstance(known.kind, Switch) and known.default is not None:
        return "`true`" if known.default else "`false`"
    return "none" if known.default in (None, "", ()) else f"`{known.default}`"


def _exit_statuses() -> str:
    """The table that the module of the errors opens with."""
    table = [line for line in (errors.__doc__ or "").splitlines() if line.startswith("|")]
    return "\n".join(["## Exit statuses", "", *table])


PAGES = {DOCS / "settings.md": settings_page, DOCS / "http-conformance.md": conformance.page}


def main() -> int:
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
        print(f"wrote {path.relative_to(DOCS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
