"""The server that is fuzzed: a process of its own, with little patience and small limits, its log in a file."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.process.conftest import ROOT, environment

README = (ROOT / "README.md").read_text()
DIGITS = json.loads(re.search(r"<!-- file: digits\.json -->\n```json\n(.*?)```", README, re.DOTALL)[1])  # type: ignore[index]
SETTINGS = {
    "log_format": "json", "log_requests": "true", "head_s": "0.4", "body_s": "0.4", "unread_s": "5",
    "keep_alive_s": "0.4", "body_bytes": "1000000", "rows": "64", "samples": "200", "rows_by_samples": "5000",
    "returned_numbers": "50000", "grace_s": "20",
}
_PATIENCE_S = 120.0


@dataclass
class Target:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def resident_bytes(self) -> int:
        """Memory that the server holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) << 10

    def readme_answers(self) -> list[Any]:
        """The answers to the README's first requests, without their ids."""
        found = []
        for mode in ("predict", "uncertainty"):
            answer = httpx.post(f"{self.url}/v1/models/digits:{mode}", json=DIGITS, timeout=60)
            assert answer.status_code == 200, answer.text
            found.append(answer.json()["predictions"])
        return found

    def bad_lines(self) -> list[str]:
        """Lines of the log that are no line of it, or tell of an error that nobody foresaw."""
        found = []
        for line in self.log.read_text("utf-8", "surrogateescape").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                found.append(line)
                continue
            if not isinstance(entry, dict) or entry.get("level") in ("error", "critical"):
                found.append(line)
        return found


@contextmanager
def target(folder: Path) -> Iterator[Target]:
    """The server with the bundled models, ready; ended by its process id whatever happens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "service", "serve", "--port", str(port), "--device", "cpu"],
            cwd=ROOT, env=environment(**SETTINGS), stdout=subprocess.DEVNULL, stderr=file)
    try:
        found = Target(process, f"http://127.0.0.1:{port}", log)
        _wait_until_ready(found)
        yield found
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(found: Target) -> None:
    transport = httpx.HTTPTransport(retries=8)  # while it does not listen yet, with growing pauses
    with httpx.Client(transport=transport, timeout=_PATIENCE_S) as client:
        while client.get(f"{found.url}/readyz").status_code != 200:
            assert found.process.poll() is None, found.log.read_text()
