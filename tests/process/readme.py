"""The README's code blocks, run as a reader would run them, against a server that is up."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.process.conftest import ROOT

README = ROOT / "README.md"
_FENCE = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str  # sh: make targets; bash and python: run; json and text: the output of the block before, or a file
    text: str
    file: str | None
    follows: bool  # stands right below the block before, nothing said in between
    start: int
    end: int


def blocks(readme: str) -> list[Block]:
    found: list[Block] = []
    end = 0
    for m in _FENCE.finditer(readme):
        follows = bool(found) and not readme[end : m.start()].strip()
        found.append(Block(m["kind"], m["text"], m["file"], follows, m.start("text"), m.end("text")))
        end = m.end()
    return found


def run(block: Block, url: str, folder: Path) -> str:
    """What a block prints, in `folder`, with the server's real address."""
    text = block.text.replace("http://127.0.0.1:8080", url)
    command = [sys.executable, "-W", "ignore", "-c", text] if block.kind == "python" else ["bash", "-ec", text]
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder),
             "COLUMNS": "120"},
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout
