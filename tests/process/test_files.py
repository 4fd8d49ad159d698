"""A file of answers, from the real command, killed at any moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.process.conftest import environment

pytestmark = pytest.mark.slow

ROWS = 50_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    rows = np.random.default_rng(0).uniform(0, 4, (ROWS, 3))
    np.savetxt(made / "rows.csv", rows, "%.3f", ",", header="petal,stem,leaf", comments="")
    return made


def begun(folder: Path, models: Path, out: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "service", "uncertainty", "flowers", "rows.csv", "--out", out, "--models", str(models),
         "--device", "cpu", "--masks", "independent"],
        cwd=folder, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )


def kept(journal: Path) -> int:
    """Marks in it; the first two lines are what it was begun with and where the head ends."""
    return journal.read_bytes().count(b"\n") - 2 if journal.exists() else 0


def test_a_run_that_is_killed_again_and_again_gives_the_file_of_one_that_was_not(folder, small_models) -> None:
    whole = begun(folder, small_models, "whole.csv")
    assert whole.communicate()[0] == ""
    assert whole.returncode == 0
    chance, journal, after = random.Random(0), folder / "out.csv.journal", 0
    for how, said in ((signal.SIGKILL, ""), (signal.SIGTERM, "told to end"), (signal.SIGINT, "interrupted")):
        process = begun(folder, small_models, "out.csv")
        after = max(after, kept(journal)) + chance.randrange(1, 8)
        while kept(journal) < after:
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended too soon, with {process.wait(0.005)}: {process.communicate()[1]}")
        process.send_signal(how)
        assert said in " ".join(process.communicate()[1].split())
        assert process.returncode == (-how if how == signal.SIGKILL else 128 + how)
        assert not (folder / "out.csv").exists()
    last = begun(folder, small_models, "out.csv")
    said = " ".join(last.communicate()[1].split())
    assert last.returncode == 0, said
    assert "50,000 rows in out.csv" in said
    assert "by an earlier run" in said
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"rows.csv", "whole.csv", "out.csv"}
