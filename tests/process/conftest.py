"""The real server in a process of its own, on a free port of loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Running:
    process: subprocess.Popen[str]
    url: str
    log: list[str]

    def read_until(self, words: str) -> str:
        """Reads the server's log up to the first line with these words; fails where the log ends before."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if words in line:
                return line
        raise AssertionError(f"the server ended before it said {words!r}:\n{''.join(self.log)}")


def environment(**settings: str) -> dict[str, str]:
    """This process's own, with no other settings of Errorbar than these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ERRORBAR_")}
    return kept | {"PYTHONPATH": str(ROOT)} | {f"ERRORBAR_{name.upper()}": value for name, value in settings.items()}


def ended(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`errorbar` with these arguments and settings, once it has ended by itself."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments], cwd=ROOT, env=environment(**settings), capture_output=True,
        text=True, check=False, timeout=120)


@contextmanager
def served(
    *arguments: str, ready: bool = True, program: Sequence[str] = ("-m", "service"), python: str = sys.executable,
    **settings: str
) -> Iterator[Running]:
    """`errorbar serve` with these arguments and settings; ended by its own process id whatever happens."""
    process = subprocess.Popen(
        [python, *program, "serve", "--port", "0", "--device", "cpu", *arguments],
        cwd=ROOT, env=environment(**settings), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )
    running = Running(process, "", [])
    try:
        line = running.read_until("listening on")
        found = re.search(r"https?://127\.0\.0\.1:\d+", line)
        assert found is not None
        running.url = found.group()
        if ready:
            running.read_until("ready: ")
        yield running
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def bundled() -> Iterator[Running]:
    """The server with the bundled models."""
    with served() as running:
        yield running
