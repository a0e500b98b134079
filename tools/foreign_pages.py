"""The pages for those who come from another server, with what becomes of its options."""

from __future__ import annotations

import textwrap

from penstock.cli import foreign
from penstock.config import SETTINGS

_FROM_UVICORN = """\
# From uvicorn

<!-- Made by `make docs` from tools/foreign_pages.py and python/penstock/cli/foreign.py: change it there. -->

```diff
- uvicorn main:app --host 0.0.0.0 --port 80 --proxy-headers
+ penstock serve main:app --host 0.0.0.0 --port 80 --proxy-headers
```

Options are called what they are called there and mean the same; variables begin with `PENSTOCK_` instead of `UVICORN_`,
and `WEB_CONCURRENCY` and `FORWARDED_ALLOW_IPS` are read by these names. `uvicorn.run(...)` is `penstock.run(...)`, with
the options as keyword arguments; those that are a time say that it is in seconds (`timeout_keep_alive_s`). A file for
`--log-config` is taken as it is. `penstock serve --check-config main:app` tells whether all is understood.

What differs:

| | uvicorn | Penstock |
| --- | --- | --- |
| a stop | waits for requests under way, however long | ends them after `--timeout-graceful-shutdown`, 30 s |
| `--limit-concurrency` | counts idle connections, too | counts requests under way |
| slow or large requests | as the HTTP parser has it | deadlines and limits by default: [limits](limits.md) |
| who may name the client | `127.0.0.1` | `127.0.0.1` and `::1` |
| a client that goes away | `http.disconnect` | the same, and `OSError` from `send` (ASGI 2.4) |
| TLS, WebSockets | spoken | TLS ends in a proxy: [nginx](deploy/nginx.md), [HAProxy](deploy/haproxy.md) |

## Options with the same name and meaning

{same}

## Other options

{table}
"""

_FROM_GUNICORN = """\
# From gunicorn

<!-- Made by `make docs` from tools/foreign_pages.py and python/penstock/cli/foreign.py: change it there. -->

```diff
- gunicorn -c gunicorn.conf.py -b 0.0.0.0:80 shop:app
+ penstock serve -c gunicorn.conf.py -b 0.0.0.0:80 shop:app
```

Options are taken by gunicorn's names, and so are the variables of a `gunicorn.conf.py`, which `-c` names (it is not
looked for); what has no meaning here is told when the server starts, or refused with what to use instead. Names of
Penstock's own [settings](settings.md) can stand in that file, too. `wsgi_app` is the application if the command line
names none. `GUNICORN_CMD_ARGS` and `PORT` are not read: say `--port $PORT`.

`penstock serve --print-config -c gunicorn.conf.py` shows what has become of each setting, and `--check-config` whether
all is understood.

What differs:

| | gunicorn | Penstock |
| --- | --- | --- |
| the access log | off, unless `--access-logfile` | on, in uvicorn's look; in a file as gunicorn's |
| `--keep-alive` | 2 s | 5 s |
| hooks (`post_fork` and so on) | functions in the file | not called; use the application's lifespan |
| the kind of worker | `-k` | seen from the application |

## Options with the same name and meaning

{same}

## Other options

{table}
"""


def from_uvicorn() -> str:
    return _page(_FROM_UVICORN, foreign.UVICORN)


def from_gunicorn() -> str:
    return _page(_FROM_GUNICORN, foreign.GUNICORN)


def _page(template: str, server: str) -> str:
    same = ", ".join(f"`{flag}`" for flag in foreign.SAME[server])
    rows = [_row(each, server) for each in foreign.TABLE if server in each.servers]
    table = "\n".join([f"| {server} | here |", "| --- | --- |", *rows])
    lines = textwrap.fill(same, 120, break_on_hyphens=False, break_long_words=False)
    return template.replace("{same}", lines).replace("{table}", table)


def _row(known: foreign.Foreign, server: str) -> str:
    names = [f"`{flag}`" for flag in known.flags]
    spelt = {flag.strip("-").replace("-", "_") for flag in known.flags}
    if server == foreign.GUNICORN and known.variable and known.variable not in spelt:
        names.append(f"`{known.variable}` in the file")
    return f"| {', '.join(names)} | {_told(known)} |"


def _told(known: foreign.Foreign) -> str:
    if known.setting is not None:
        return f"`{SETTINGS[known.setting].flag}`" + (f": {known.word}" if known.word else "")
    return ("refused: " if known.is_refused else "no effect: ") + known.word
