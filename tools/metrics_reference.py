"""docs/metrics.md, from the data plane's table of metrics (src/metrics/table.rs)."""

from __future__ import annotations

from itertools import groupby

from penstock import _core

_HEAD = """\
# Metrics

<!-- Made by `make docs` from src/metrics/table.rs and tools/metrics_reference.py: change it there. -->

```console
$ penstock serve main:app --workers 4 --metrics-bind 9090
INFO:     Metrics at http://127.0.0.1:9090/metrics, pages at http://127.0.0.1:9090/-/
```

`--metrics-bind` takes what `--bind` takes; a port alone is one of 127.0.0.1. There is no password: whoever can connect
may read, and nobody can do more than that. To let another machine read, name an address that it alone can reach
(`--metrics-bind 10.0.0.5:9090`), a socket (`unix:/run/app/metrics`), or put a proxy in front. Without the setting
nothing listens, and nothing is measured that would need the clock.

`penstock tcp` and `penstock udp` have the setting, too, and `TCPServer.run(..., metrics_bind="9090")`.

| what | for whom |
| --- | --- |
| `/metrics` | Prometheus: its text format 0.0.4, or OpenMetrics 1.0 for who asks for it by `Accept` |
| `/-/`, `/-/connections`, `/-/reactors`, `/-/config` | people: live, with charts |
| `/-/status.json`, `/-/connections.json`, `/-/reactors.json`, `/-/config.json` | programs: the same as JSON |
| `/-/connections/open.json` | single connections: see below |
| `penstock top 9090` | people in a terminal |

Each event loop counts in memory of its own that it shares with the supervisor, so that a scrape takes nothing from who
serves, an application that keeps the interpreter delays none, and what a worker has counted stays when it is replaced
or killed. Levels (`connections_open` and the like) are as of each loop's last turn. In the `worker` label is the
worker's place, which its successors take over; `--reactors` has one for each event loop, and `main` for the one that
accepts. To add up: `sum without (worker) (rate(penstock_http_responses_total[1m]))`.

Histograms are kept at two decimal digits and shown with a few round buckets, whose counts are exact. The JSON has p50,
p90, p99 and p99.9 of all two digits. A request's duration begins when its head is there and ends when its response has
been given to the kernel: the time that it waits in the kernel before, while the loop is busy, is what
`penstock_loop_turn_duration_seconds` tells.

## Single connections

The page `/-/connections` shows single connections as well: peer, state, what is asked (method and path), for how long
it is open and silent, bytes received and acknowledged, bytes that wait to be sent or to be taken, round trip.
`/-/connections/open.json` tells the same, and so does `penstock ctl connections` of a server with workers and
`--control`, with or without metrics.

| field of the query | |
| --- | --- |
| `sort` | `oldest` (the default), `newest`, `queued`, `bytes`, `silent` |
| `state` | only those in the middle of this |
| `peer` | addresses and networks, such as `10.0.0.0/8,::1`; `unix` for Unix-domain peers |
| `rows` | at most so many: 100, or up to 200 |

`queued` has those first with most to be sent, `bytes` those with most that has come and left, `silent` those that have
been so for longest. A state is `new` (nothing asked yet), `idle`, `reading` (part of a request or frame is there),
`handling` (the application has it), `answering` (the response has begun), `sending` (the peer takes it too slowly),
`closing` or `upgraded`.

Every event loop is asked when somebody looks, and looks between its turns, 200 us at a time; who has not answered after
a second is named in `unanswered`, and not waited for. `open` and `matched` say how many there are, and how many the
query is about. With `bytes`, `silent` and `peer` the kernel is asked of every connection, 1 to 2 us each; otherwise of
those that are shown.

## The application's own metrics

What the application counts with `prometheus_client` is shown with the server's, in the same answer. In a process that
serves alone it is read from the client's default registry, in a thread. Over workers the supervisor sets
`PROMETHEUS_MULTIPROC_DIR` to a directory of its own, before there are workers, unless it is set already: so the rules
of the client's multi-process mode hold (a gauge says by `multiprocess_mode` how it adds up; `Info`, and collectors of
one's own, are not shown). What a worker that is gone had counted is kept in one file, so the directory does not grow;
except with `--user`, where each worker leaves its own file, as the client does. Names that begin with `penstock_` are
left out. An application that has not answered after two seconds is left out of that scrape.

## Prometheus and Grafana

```yaml
scrape_configs:
  - job_name: penstock
    static_configs:
      - targets: [127.0.0.1:9090]
rule_files: [penstock-recording.yml, penstock-alerts.yml]
```

Rules and a dashboard are in `deploy/prometheus` and `deploy/grafana`:
[docs/deploy/prometheus.md](deploy/prometheus.md).

## In a terminal

```console
$ penstock top 9090          # q quits, s sorts the workers, p pauses; --once prints one look
penstock 0.1.0  pid 4100  http://127.0.0.1:8000  up 3 min 12 s

responses    12.3k/s  2xx 12.3k  4xx 21             ▃▄▄▅▅▆▇█
time         p50 210 us  p90 540 us  p99 1.2 ms  p99.9 4.1 ms
connections  1024 open  31/s accepted  30/s closed  12 requests in progress
traffic      1.2 MiB/s in  3.4 MiB/s out
p99 of       turn 1.1 ms  timers late 1.2 ms  GIL waited 11 us  GIL held 640 us

worker   pid  gen  state  connections  in progress  responses/s   loop  processor    memory
     0  4102    1  ready          512            7         6151  61.2%      60.1%  31.2 MiB
     1  4103    1  ready          512            5         6149  61.0%      60.0%  31.1 MiB
```

It takes what `--metrics-bind` has, a `unix:` path as well.

## Slow callbacks

`--slow-callback 0.1` logs, with the stack that is running, what keeps an event loop for longer than 0.1 s, and how
long it kept it in the end; each is counted. The stack is the one at that moment, not where it all began: a thread of
its own watches the clock without the interpreter, and has it only to look.

```
WARNING:  Python has kept the event loop for 0.1 s (--slow-callback 0.1). It runs:
  File "/srv/app/main.py", line 41, in report
    rows = compute(everything)
WARNING:  The event loop goes on: Python had kept it for 0.73 s
```

What keeps the interpreter without letting go (a long call into C) cannot be looked at while it lasts: only that it was
there, and for how long, is told then. For WSGI the loop is not where the application runs: its threads may take their
time.
"""


def page() -> str:
    table = _core.metrics_table()
    sections = [
        "\n".join([f"## {group}", "", "| metric | kind | labels | |", "| --- | --- | --- | --- |", *map(_row, rows)])
        for group, rows in groupby(table, key=lambda row: row[4])
    ]
    return "\n\n".join([_HEAD.rstrip(), *sections]) + "\n"


def _row(row: tuple[str, str, str, list[str], str, str]) -> str:
    name, kind, _, labels, _, meaning = row
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"
