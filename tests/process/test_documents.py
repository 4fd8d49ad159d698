"""Every code block of the README and of the pages does what stands there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.process.conftest import ROOT
from tests.process.documents import PAGES, README, blocks, check_blocks, same

pytestmark = pytest.mark.slow

COMPARED = {"client": 5, "inputs": 1, "open-inference": 1, "operations": 1, "statistics": 1}


@pytest.mark.parametrize(("printed", "expected", "equal"), [
    ("std 0.001", "std  0.001\n", True), ("entropy 1.167", "entropy 1.168", True), ("std 0.0", "std 0.001", False),
    ("std 0.002", "std 0.001", False), ("mean 0.71", "mean 0.72", False), ("std 0.001", "mean 0.001", False),
])
def test_what_is_compared_may_differ_by_rounding_only(printed, expected, equal) -> None:
    assert same(printed, expected) is equal


@pytest.fixture(scope="module")
def after_readme(bundled, tmp_path_factory) -> Path:
    """The folder of somebody who did what the README says, and goes on to the pages."""
    folder = tmp_path_factory.mktemp("reader")
    assert check_blocks(README.read_text(), bundled.url, folder) == 7
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs_and_prints_what_stands_below_it(bundled, after_readme, page) -> None:
    text = page.read_text()
    assert check_blocks(text, bundled.url, after_readme) == COMPARED.get(page.stem, 0)
    for block in blocks(text):
        assert block.kind in ("sh", "bash", "python", "py", "json", "text", "toml")
        if block.kind == "toml":
            tomllib.loads(block.text)


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = [block.text.strip() for block in blocks(README.read_text()) if block.kind == "sh"]
    assert targets == ["make serve", "make test"]
    for target in targets:
        assert subprocess.run([*target.split(), "-n"], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_somewhere(page) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
