"""Asks every server that is here what it makes of each case, and writes it to tests/python/conformance/outcomes.json.

    python tools/record_conformance.py [SERVER ...]

Run it when a case was added or a peer has a new version; then say in `reasons.toml` why what differs differs, and run
`make docs`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "python"))

from conformance.cases import CASES
from conformance.exchange import outcomes
from conformance.record import PATH, Record
from conformance.servers import SERVERS, installed_version


def main() -> int:
    record = Record.load() if PATH.exists() else Record({}, {})
    for server in sys.argv[1:] or SERVERS:
        version = "" if server == "penstock" else installed_version(server)
        if version is None:
            print(f"{server} is not here: its outcomes stay as they are")
            continue
        with tempfile.TemporaryDirectory() as home, SERVERS[server](Path(home)) as port:
            record.outcomes[server] = asyncio.run(outcomes(port, CASES, quiet_s=3.0))
        if version:
            record.versions[server] = version
        print(f"{server} {version}: {len(CASES)} cases")
    PATH.write_text(json.dumps({"versions": record.versions, "outcomes": record.outcomes}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
