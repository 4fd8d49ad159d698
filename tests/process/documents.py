"""The code blocks of README and pages, run as a reader would run them, against a server that is up."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.process.conftest import ROOT

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
_FENCE = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str
    """sh: make targets; bash and python: run; py: run where the clients live; json and text: the output of the block
    before, or a file; toml: a file, or a part of one"""
    text: str
    file: str | None
    follows: bool  # stands right below the block before, nothing said in between
    start: int
    end: int


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    end = 0
    for m in _FENCE.finditer(page):
        follows = bool(found) and not page[end : m.start()].strip()
        found.append(Block(m["kind"], m["text"], m["file"], follows, m.start("text"), m.end("text")))
        end = m.end()
    return found


def run(block: Block, url: str, folder: Path) -> str:
    """What a block prints, in `folder`, with the server's real address."""
    text = block.text.replace("http://127.0.0.1:8080", url).replace("127.0.0.1:8080", url.removeprefix("http://"))
    in_python = block.kind in ("python", "py")
    command = [sys.executable, "-W", "ignore", "-c", text] if in_python else ["bash", "-ec", text]
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder),
             "COLUMNS": "120"},
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def same(printed: str, expected: str) -> bool:
    """Equal but for the digest (it covers the cards), white space, and a thousandth of each number."""
    printed, expected = (_DIGEST.sub("sha256:", text) for text in (printed, expected))
    numbers, wanted = ([float(n) for n in _NUMBER.findall(t)] for t in (printed, expected))
    words, wanted_words = (_NUMBER.sub("#", t).split() for t in (printed, expected))
    return words == wanted_words and numbers == pytest.approx(wanted, rel=1e-3)


def check_blocks(page: str, url: str, folder: Path, kinds: tuple[str, ...] = ("bash", "python")) -> int:
    """Runs the blocks of those kinds, in the folder, and holds what they print against what stands right below. Returns
    how many were held against something."""
    printed, compared, ran = "", 0, False
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.text)
        elif block.kind in kinds:
            printed, ran = run(block, url, folder), True
        elif block.kind in ("json", "text") and block.follows and ran:
            assert same(printed, block.text), f"printed:\n{printed}\nthe page says:\n{block.text}"
            compared += 1
        else:
            ran = False
    return compared
