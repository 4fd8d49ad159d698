"""`python -m tests.fuzz`: so many fuzzed requests to a server of its own, and a report."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.fuzz.contract import fuzz_contract
from tests.fuzz.raw import Findings, fuzz
from tests.fuzz.target import Target, target

GROWTH_BYTES = 64 << 20  # what may stay in caches and in the allocator's hands
_SHOWN = 10


def fuzz_of(server: Target, kind: str, count: int, seed: int) -> Findings:
    """kind: "bytes" or "contract"."""
    if kind == "contract":
        return fuzz_contract(server.url, count, seed)
    address = httpx.URL(server.url)
    assert address.port is not None
    return fuzz(address.host, address.port, count, seed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="the same seed sends the same bytes")
    parser.add_argument("--only", choices=("bytes", "contract"))
    given = parser.parse_args()
    kinds = [given.only] if given.only else ["bytes", "contract"]
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder, target(Path(folder)) as server:
        before = server.readme_answers()
        for kind in kinds:
            started = time.monotonic()
            found = fuzz_of(server, kind, max(1, given.requests // 10), given.seed - 1)  # caches fill
            resident = server.resident_bytes
            rest = fuzz_of(server, kind, given.requests, given.seed)
            growth = server.resident_bytes - resident
            print(json.dumps({
                "kind": kind, "seed": given.seed, "sent": found.sent + rest.sent, "failed": len(rest.failed),
                "statuses": dict(sorted((found.statuses + rest.statuses).items())), "growth_bytes": growth,
                "resident_bytes": resident, "seconds": round(time.monotonic() - started, 1),
            }), flush=True)
            wrong += [f"{why}: {sent[:1000]!r}" for why, sent in found.failed + rest.failed]
            if growth > GROWTH_BYTES:
                wrong.append(f"{kind}: the server grew by {growth} bytes")
            if server.process.poll() is not None:
                wrong.append(f"{kind}: the server ended with status {server.process.returncode}")
                break
        else:
            if server.readme_answers() != before:
                wrong.append("the server does not answer as before")
            server.process.terminate()
            if server.process.wait(timeout=60) != 0:
                wrong.append(f"the server ended with status {server.process.returncode}")
        wrong += [f"in the log: {line}" for line in server.bad_lines()[:_SHOWN]]
    for line in wrong[:_SHOWN]:
        print(line, file=sys.stderr)
    print(f"{len(wrong)} things wrong", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
