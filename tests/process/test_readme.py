"""Every code block of the README does what the README says."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.process.conftest import ROOT
from tests.process.readme import README, blocks, run

_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def same(printed: str, expected: str) -> bool:
    """Equal but for the digest (it covers the cards), white space, and a thousandth of each number."""
    if expected.startswith("{"):
        one, other = json.loads(printed), json.loads(expected)
        one.pop("digest"), other.pop("digest")
        printed, expected = json.dumps(one), json.dumps(other)
    numbers, wanted = ([float(n) for n in _NUMBER.findall(t)] for t in (printed, expected))
    words, wanted_words = (_NUMBER.sub("#", t).split() for t in (printed, expected))
    return words == wanted_words and numbers == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(("printed", "expected", "equal"), [
    ("std 0.001", "std  0.001\n", True), ("entropy 1.167", "entropy 1.168", True), ("std 0.0", "std 0.001", False),
    ("std 0.002", "std 0.001", False), ("mean 0.71", "mean 0.72", False), ("std 0.001", "mean 0.001", False),
])
def test_what_is_compared_may_differ_by_rounding_only(printed, expected, equal) -> None:
    assert same(printed, expected) is equal


def test_every_block_runs_and_prints_what_stands_below_it(bundled, tmp_path) -> None:
    printed = ""
    compared = 0
    for block in blocks(README.read_text()):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
        elif block.kind in ("bash", "python"):
            printed = run(block, bundled.url, tmp_path)
        elif block.kind in ("json", "text") and block.follows:
            assert same(printed, block.text), f"printed:\n{printed}\nthe README says:\n{block.text}"
            compared += 1
    assert compared == 7


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = [block.text.strip() for block in blocks(README.read_text()) if block.kind == "sh"]
    assert targets == ["make serve", "make test"]
    for target in targets:
        assert subprocess.run([*target.split(), "-n"], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_every_link_to_a_file_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
