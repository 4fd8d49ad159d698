"""A file of answers, as somebody at a terminal sees it."""

from __future__ import annotations

import json
import signal
from typing import Any

import numpy as np
import pytest

from service.files import run as run_module
from service.scheduling.at_once import answered

ROWS = np.random.default_rng(0).uniform(0, 4, (10, 3))


@pytest.fixture
def rows(tmp_path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)


def words(text: str) -> str:
    return " ".join(text.split())


def test_answers_go_to_the_file_and_a_line_says_what_they_are(run, rows, tmp_path) -> None:
    status, out, err = run("uncertainty", "flowers", "rows.npy", "--seed", "4", "--out", "answers.jsonl")
    assert (status, out) == (0, "")
    assert "10 rows in answers.jsonl: flowers/1, 50 samples, seed 4, shared masks" in words(err)
    printed = json.loads(run("uncertainty", "flowers", "rows.npy", "--seed", "4", "--json")[1])["predictions"]
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [set(row) for row in written] == [set(row) for row in printed]
    assert np.allclose([row["mean"] for row in written], [row["mean"] for row in printed], atol=1e-6, rtol=0)


def test_predictions_have_a_file_too(run, rows, tmp_path) -> None:
    status, _, err = run("predict", "flowers", "rows.npy", "--out", "answers.npy")
    assert status == 0
    assert "10 rows in answers.npy: flowers/1, " in words(err)
    assert np.load(tmp_path / "answers.npy")["probabilities"].shape == (10, 2)


@pytest.mark.parametrize(("ends", "status", "said"), [
    (lambda: signal.raise_signal(signal.SIGINT), 130, "interrupted"),
    (lambda: signal.raise_signal(signal.SIGTERM), 143, "told to end"),
])
def test_an_interruption_says_how_to_go_on_and_the_same_command_does(
    run, rows, tmp_path, monkeypatch, ends, status, said
) -> None:
    command = ("uncertainty", "flowers", "rows.npy", "--out")
    monkeypatch.setattr(run_module, "chunk_rows", lambda model, options: 4)
    run(*command, "whole.csv")
    handler = signal.getsignal(signal.SIGTERM)

    def ends_at_row_8(job: Any) -> Any:
        if job.options.first_row == 8:
            ends()
        return answered(job)

    with monkeypatch.context() as until_then:
        until_then.setattr(run_module, "answered", ends_at_row_8)
        found, out, err = run(*command, "out.csv")
    assert (found, out) == (status, "")
    assert f"errorbar: {said}; 8 rows are kept in out.csv.part, and the same command goes on behind them" in words(err)
    assert signal.getsignal(signal.SIGTERM) == handler
    found, _, err = run(*command, "out.csv")
    assert found == 0
    assert "10 rows in out.csv, 8 of them by an earlier run: flowers/1" in words(err)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_bad_row_says_where_it_is_what_is_kept_and_how_to_go_on(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "chunk_rows", lambda model, options: 4)
    (tmp_path / "rows.csv").write_text("1,2,3\n" * 6 + "1,,3\n")
    status, out, err = run("predict", "flowers", "rows.csv", "--out", "out.csv")
    assert (status, out) == (2, "")
    assert ("errorbar: rows.csv: line 7, column 2: a number expected, got ''; 4 rows are kept in out.csv.part, and the "
            "same command goes on behind them") in words(err)


@pytest.mark.parametrize(("arguments", "said"), [
    (("--out", "rows.npy", "--overwrite"), "rows.npy: this is the file of the rows"),
    (("--out", "rows.npy"), "rows.npy: this is the file of the rows"),
    (("--out", "answers.npz"), ".npy holds the same arrays"), (("--out", "answers.txt"), "expected, got '.txt'"),
    (("--out", "nowhere/answers.csv"), "nowhere/answers.csv: cannot be written: No such file"),
    (("--out", "answers.csv", "--json"), "--json: of no use with --out"),
    (("--restart",), "--restart: of use with --out only"), (("--overwrite",), "--overwrite: of use with --out only"),
    (("--out", "answers.csv", "--samples", "1"), "samples: an integer from 2"),
])
def test_what_cannot_be_written_is_said_in_a_sentence_and_leaves_nothing(
    run, rows, tmp_path, arguments, said
) -> None:
    status, out, err = run("uncertainty", "flowers", "rows.npy", *arguments)
    assert (status, out) == (2, "")
    assert said in words(err)
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == {"rows.npy"}


def test_a_model_that_is_not_there_leaves_what_was_begun(run, rows, tmp_path, monkeypatch) -> None:
    test_a_bad_row_says_where_it_is_what_is_kept_and_how_to_go_on(run, tmp_path, monkeypatch)
    before = (tmp_path / "out.csv.part").read_bytes()
    assert run("predict", "flower", "rows.csv", "--out", "out.csv", "--restart")[0] == 2
    assert (tmp_path / "out.csv.part").read_bytes() == before
