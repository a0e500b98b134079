"""What is promised of worker processes, tried out and measured: `python benchmarks/workers.py`.

Reloads, upgrades and scaling under load lose no request; the dead are replaced; connections and work are shared evenly;
a server starts at once. A trial starts a server, loads it, does to it what the promise is about, and tells what it
found. The exit status is 1 if a promise was missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from measure import raise_descriptor_limit
from peers import Peers
from penstock._core import DEBUG_BUILD
from provenance import ROOT, Provenance
from servers import Servers
from trials import FULL, QUICK, TRIALS, Finding, Trier


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(TRIALS)}; default: all but soak")
    parser.add_argument("--quick", action="store_true", help="does it all run? Under a minute; judge no times by it")
    parser.add_argument("--minutes", type=float, help="of the soak; default: 30")
    parser.add_argument(
        "--accept", default="shared", choices=("shared", "reuseport"), help="how workers share listeners"
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help="an environment with the peers; default: .venv-peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.trials if name not in TRIALS]:
        parser.error(f"no {', '.join(unknown)}; expected some of {', '.join(TRIALS)}")
    return options


def main(argv: list[str]) -> int:
    options = parse(argv)
    if DEBUG_BUILD:
        print("workers: expected a release build of Penstock, found a debug build: run make build", file=sys.stderr)
        return 2
    raise_descriptor_limit()
    peers = Peers(options.peers or ROOT / ".venv-peers")
    scale = QUICK if options.quick else FULL
    if options.minutes is not None:
        scale = replace(scale, soak_s=options.minutes * 60)
    servers, findings = Servers(peers), list[Finding]()
    origin = Provenance.gather(servers.versions())
    print(f"{origin.date}; {origin.cpu}; {origin.kernel}; Penstock {origin.penstock}, {origin.commit}; {origin.python}")
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        trier = Trier(servers, scale, Path(scratch), options.accept)
        for name in options.trials or [name for name in TRIALS if name != "soak"]:
            print(f"\n{name}: {' '.join((TRIALS[name].__doc__ or '').split())}", flush=True)
            for finding in TRIALS[name](trier):
                findings.append(finding)
                print(f"  {finding}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(finding) for finding in findings], indent=1))
    return int(any(finding.is_missed for finding in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
