"""The command line, in this process."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from service.cli import main
from service.client import Client
from service.scheduling import Limits


@pytest.fixture
def run(small_models, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--models", str(small_models)])
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    return call


ROWS = np.array([[1.0, 12.0, 2.0], [3.0, 12.0, 2.0]])


def test_models_lists_what_the_folder_holds(run) -> None:
    status, out, _ = run("models", "--json")
    assert status == 0
    assert [m["name"] for m in json.loads(out)["models"]] == ["flowers", "height", "plain"]
    assert "Two kinds of flower" in run("models")[1]


def test_inspect_shows_the_sites(run) -> None:
    assert "body.dropout1" in run("inspect", "flowers")[1]
    assert json.loads(run("inspect", "flowers/1", "--json")[1])["labels"] == ["daisy", "rose"]


def test_verify_says_ok_and_why_not(run, small_models) -> None:
    status, out, _ = run("verify", "--json")
    assert (status, [r["ok"] for r in json.loads(out)["results"]]) == (0, [True, True, True])


def test_a_file_gives_the_answer_that_the_server_gives(run, application, tmp_path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    _, out, _ = run("uncertainty", "flowers", "rows.npy", "--seed", "4", "--json")
    served = Client(transport=application._transport).uncertainty("flowers", ROWS, seed=4)
    printed = json.loads(out)["predictions"]
    assert np.allclose([r["mean"] for r in printed], served.mean, atol=1e-7)
    assert printed[1]["out_of_range"] == ["petal"]


def test_the_method_is_an_option(run, tmp_path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((2, 4), np.float32))
    for given, method in (("auto", "closed_form"), ("sampled", "sampled")):
        _, out, _ = run("uncertainty", "height", "rows.npy", "--method", given, "--json")
        assert json.loads(out)["sampling"]["method"] == method


@pytest.mark.parametrize(("name", "content"), [
    ("rows.csv", "stem,leaf,petal\n12,2,1\n12,2,3\n"),
    ("rows.jsonl", '[1, 12, 2]\n{"petal": 3, "stem": 12, "leaf": 2}\n'),
])
def test_other_files_give_the_same(run, tmp_path, name, content) -> None:
    (tmp_path / name).write_text(content if name.endswith("csv") else content.replace("{", "[").replace("}", "]")
                                 .replace('"petal": ', "").replace('"stem": ', "").replace('"leaf": ', ""))
    np.save(tmp_path / "rows.npy", ROWS)
    assert run("predict", "flowers", name, "--json")[1] == run("predict", "flowers", "rows.npy", "--json")[1]


@pytest.mark.parametrize(("name", "content", "words"), [
    ("rows.csv", "1,2,3\n1,2,x\n", "line 2"),
    ("rows.csv", "petal,stem,leaf\n1,2\n", "line 2: 3 values expected"),
    ("rows.csv", "", "no rows"),
    ("rows.jsonl", "[1,2,3]\n[1,\n", "line 2"),
    ("rows.txt", "1 2 3", "expected, got '.txt'"),
    ("rows.jsonl", "[1, 2]\n", "3 values expected, got 2"),
])
def test_a_bad_file_is_said_in_a_sentence(run, tmp_path, name, content, words) -> None:
    (tmp_path / name).write_text(content)
    status, out, err = run("predict", "flowers", name)
    assert (status, out) == (2, "")
    assert words in err.replace("\n", " ")
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [
    ("inspect", "flower"), ("predict", "flowers", "nowhere.csv"), ("uncertainty", "plain", "rows.npy"),
    ("uncertainty", "flowers", "rows.npy", "--samples", "1"), ("uncertainty", "flowers", "rows.npy", "--masks", "odd"),
    ("uncertainty", "flowers", "rows.npy", "--method", "closed_form"),
])
def test_what_cannot_be_done_ends_with_status_2(run, tmp_path, arguments) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    status, _, err = run(*arguments)
    assert status == 2
    assert err.startswith("errorbar: ") or "errorbar: " in err


@pytest.mark.parametrize("command", ["serve", "models", "inspect", "predict", "uncertainty", "verify"])
def test_every_command_explains_itself(capsys, command) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert "Usage" in out
    assert "--models" in out


def test_the_version_is_printed(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("errorbar 0.")


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_a_file_longer_than_a_request_is_answered_as_one(run, tmp_path, masks, monkeypatch) -> None:
    np.save(tmp_path / "rows.npy", np.tile(ROWS, (3, 1)))
    arguments = ("uncertainty", "flowers", "rows.npy", "--masks", masks, "--samples", "20", "--json")
    whole = json.loads(run(*arguments)[1])["predictions"]
    monkeypatch.setattr(Limits, "__init__", functools.partialmethod(Limits.__init__, rows=4))
    parts = json.loads(run(*arguments)[1])["predictions"]
    assert np.allclose([r["mean"] for r in parts], [r["mean"] for r in whole], atol=1e-6)
    same = np.allclose(whole[0]["mean"], whole[4]["mean"], atol=1e-6, rtol=0)  # the same row at two places
    assert same == (masks == "shared")
