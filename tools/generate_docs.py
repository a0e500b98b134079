"""Writes the documentation that is made from the code: `docs/settings.md`, from the fields of `ServerConfig`,
`docs/socket-options.md`, from those of `SocketOptions`, `docs/kernel-parameters.md`, from the parameters that
`penstock tune` knows, `docs/metrics.md`, from the data plane's table of metrics, `docs/from-uvicorn.md` and
`docs/from-gunicorn.md`, from the table of their options, and `docs/http-conformance.md`, from what the servers made of
tests/python/conformance.

    python tools/generate_docs.py

`tests/python/test_docs_current.py` fails while a page differs from what this would write.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from penstock import _core, errors
from penstock.config import SETTINGS, Setting, Switch
from penstock.socket_options import KNOWN, KnownOption, Number, SocketKind

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tests" / "python"))
sys.path.insert(0, str(ROOT / "tools"))

import foreign_pages  # noqa: E402
import kernel_parameters  # noqa: E402
import metrics_reference  # noqa: E402
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


_SOCKET_OPTIONS_HEAD = """\
# Socket options

<!-- Made by `make docs` from python/penstock/socket_options.py and src/net/options.rs: change it there. -->

`penstock.SocketOptions` names every socket option worth setting, with its type and unit. `None` leaves an option as it
is without it.

```python
options = penstock.SocketOptions(keep_alive=True, keep_alive_idle_s=60, user_timeout_ms=20_000)
penstock.UDPServer(on_datagram, options=penstock.SocketOptions(receive_buffer_bytes=8 << 20))
```

For `penstock serve` and its siblings: `--socket-option receive-buffer-bytes=1048576`, as often as there are options;
the manual's names do, too (`--socket-option SO_RCVBUF=1048576`).

An option is set as soon as its socket is made, before it is bound or connected. Connections inherit it from their
listener, except for TCP_QUICKACK, which is set on each. A value out of bounds is a `ConfigError`. What the kernel lacks
or refuses, what has no meaning for that kind of socket, and what the kernel takes without doing it (a buffer beyond
net.core.rmem_max, fast open where the system has it off) is a `SocketOptionRefused` at start, which names the option,
what was asked, why not, and what to do. Nothing is left out silently.
"""


def socket_options_page() -> str:
    effects = {name: (level, effect) for level, name, _, effect in _core.socket_option_table()}
    rows = [_socket_option_row(known) for known in KNOWN.values()]
    entries = [_socket_option_entry(known, *effects[known.name]) for known in KNOWN.values()]
    columns = [kind.value for kind in SocketKind]
    table = [
        f"| field | manual | {' | '.join(columns)} |",
        f"| --- | --- |{' --- |' * len(columns)}",
        *rows,
    ]
    return "\n\n".join([_SOCKET_OPTIONS_HEAD.rstrip(), "## Where each applies", "\n".join(table), *entries]) + "\n"


def _socket_option_row(known: KnownOption) -> str:
    places = " | ".join("yes" if kind in known.where else "" for kind in SocketKind)
    return f"| [`{known.field}`](#{known.field}) | {known.name} | {places} |"


def _socket_option_entry(known: KnownOption, level: str, effect: str) -> str:
    bounds = f"{known.kind.minimum} to {known.kind.maximum}" if isinstance(known.kind, Number) else "-"
    return "\n".join(
        [
            f"## `{known.field}`",
            "",
            effect,
            "",
            f"**Use it when:** {known.when}",
            "",
            "| kernel's name | unit | bounds | without it | manual |",
            "| --- | --- | --- | --- | --- |",
            f"| {level} {known.name} | {known.kind.unit} | {bounds} | {known.default} | {known.manual} |",
        ]
    )


PAGES = {
    DOCS / "settings.md": settings_page,
    DOCS / "socket-options.md": socket_options_page,
    DOCS / "kernel-parameters.md": kernel_parameters.page,
    DOCS / "metrics.md": metrics_reference.page,
    DOCS / "from-uvicorn.md": foreign_pages.from_uvicorn,
    DOCS / "from-gunicorn.md": foreign_pages.from_gunicorn,
    DOCS / "http-conformance.md": conformance.page,
}


def main() -> int:
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
        print(f"wrote {path.relative_to(DOCS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
