"""What the page about the protocol shows of Triton's client runs as it stands there, against the bundled models."""

from __future__ import annotations

import pytest

from tests.clients.conftest import SERVERS_PYTHON
from tests.process.conftest import ROOT, served
from tests.process.documents import README, blocks, check_blocks

pytest.importorskip("tritonclient.http")


def test_the_pages_example_of_tritonclient_prints_what_stands_below_it(tmp_path) -> None:
    (rows,) = (block for block in blocks(README.read_text()) if block.file == "digits.json")
    (tmp_path / "digits.json").write_text(rows.text)
    with served(python=str(SERVERS_PYTHON)) as server:
        page = (ROOT / "docs" / "open-inference.md").read_text()
        assert check_blocks(page, server.url, tmp_path, kinds=("py",)) == 1
