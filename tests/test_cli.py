"""The command line, in this process."""

from __future__ import annotations

import functools
import io
import json
import re
import shutil
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from service.cli import main
from service.client import Client
from service.keys import read_keys
from service.scheduling import Limits
from tests.array_files import npy, npz
from tests.conftest import CLASSIFIER

ROWS = np.array([[1.0, 12.0, 2.0], [3.0, 12.0, 2.0]])


def test_models_lists_what_the_folder_holds(run) -> None:
    status, out, _ = run("models", "--json")
    assert status == 0
    assert [m["name"] for m in json.loads(out)["models"]] == ["flowers", "height", "plain"]
    assert "Two kinds of flower" in run("models")[1]


def test_inspect_shows_the_plan_what_runs_once_and_what_for_every_sample(run) -> None:
    shown = run("inspect", "flowers", "--plan")[1]
    assert shown.index("prefix, once a row") < shown.index("suffix, for every sample") < shown.index("kernel folded")
    plan = json.loads(run("inspect", "flowers", "--plan", "--json")[1])
    assert sum(step.split(" = ")[1].startswith("linear(") for step in plan["suffix"]) == 2
    assert 0 < plan["deterministic_flop_share"] < 1
    assert plan["notes"] == []  # of devices
    assert plan["timings"]
    assert all(timing["serves"] in timing["microseconds_a_sample"] for timing in plan["timings"])


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
    ("rows.jsonl", b"[1, 2, 3]\n[\xff]\n", "UTF-8"),
    ("rows.csv", b"1,2,\xff\n", "UTF-8"),
    ("rows.csv", f"1,2,{'9' * 200_000}\n", "field larger than field limit"),
    ("rows.csv", "petal,stem,petal\n1,2,3\n", "line 1: two columns are called 'petal'"),
    ("rows.csv", "petal,stem,leaf\n\n1,2,5_9\n", "line 3, column 'leaf': a number expected, got '5_9'"),
    ("rows.csv", "1,2,3\n1,nan,3\n", "line 2, column 2: a finite number expected, got 'nan'"),
    ("rows.csv", "1,-inf,3\n", "line 1, column 2: a finite number expected, got '-inf'"),
    ("rows.csv", f"1,2,3\n1,2,{'x' * 100_000}\n", "xxx..."),
    ("rows.npy", b"", "not a whole .npy file"),
    ("rows.npz", b"", "not a whole .npz file"),
    ("rows.npy", b"PK\x03\x04 not an archive", "not a whole .npy file"),
    ("rows.npy", npz(x=np.ones((2, 3)))[:-40], "not a whole .npy file"),
    ("rows.npz", npz(x=np.ones((2, 3)))[:-40], "not a whole .npz file"),
    ("rows.npy", npz(x=np.ones((2, 3))), "call it .npz"),
    ("rows.npz", npy(np.ones((2, 3))), "call it .npy"),
    ("rows.npy", npy(np.float32(1)), "rows first expected, got a single number"),
    ("rows.npz", npz(x=np.ones((2, 3)), y=np.float32(1)), "array 'y': rows first"),
    ("rows.npy", npy(np.array(["a", "b"])), "numbers expected, got <U1"),
    ("rows.npz", npz(), "no rows"),
])
def test_a_bad_file_is_said_in_a_sentence(run, tmp_path, name, content, words) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = run("predict", "flowers", name)
    assert (status, out) == (2, "")
    assert words in err.replace("\n", " ")
    assert "Traceback" not in err
    assert len(err) < 500


@pytest.mark.parametrize(("content", "words"), [
    (b"", "standard input: no rows"), (b"\n \n", "standard input: no rows"), (b"[1, 2, 3]\n\xff\n", "UTF-8"),
    (b"[1,\n", "line 1 is not JSON"),
])
def test_bad_standard_input_is_said_in_a_sentence(run, monkeypatch, content, words) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, out, err = run("predict", "flowers", "-")
    assert (status, out) == (2, "")
    assert words in err.replace("\n", " ")


@pytest.mark.parametrize("content", ["port = [", b"port = \xff", None])
def test_a_settings_file_that_is_none_is_said_in_a_sentence(run, tmp_path, content) -> None:
    path = tmp_path / "errorbar.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, _, err = run("models")
    assert status == 2
    assert "errorbar: errorbar.toml: " in err
    assert "Traceback" not in err


def test_a_spreadsheets_csv_is_read_with_its_mark_and_its_spaces(run, tmp_path) -> None:
    (tmp_path / "rows.csv").write_bytes("\ufeffpetal, stem ,leaf\n1, 12,2\n".encode())
    np.save(tmp_path / "rows.npy", ROWS[:1])
    assert run("predict", "flowers", "rows.csv", "--json")[1] == run("predict", "flowers", "rows.npy", "--json")[1]


def test_a_wrong_row_of_a_long_file_is_named_by_its_place_in_the_file(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Limits, "__init__", functools.partialmethod(Limits.__init__, rows=4))
    for good, wrong, path in (
        ("[1, 2, 3]", '[1, "x", 3]', "instances[6][1]"),
        ('{"petal": 1, "stem": 2, "leaf": 3}', '{"petal": 1, "leaf": 2}', "instances[6].stem"),
    ):
        (tmp_path / "rows.jsonl").write_text("\n".join([good] * 6 + [wrong, good]))
        status, _, err = run("predict", "flowers", "rows.jsonl")
        assert status == 2
        assert path in err.replace("\n", "")


@pytest.fixture
def odd_models(small_models, tmp_path):
    root = tmp_path / "odd"
    name = "[bold]name"
    folder = root / name / "1"
    shutil.copytree(small_models / "flowers" / "1", folder)
    text = CLASSIFIER.replace('"flowers"', f'"{name}"').replace('"daisy", "rose"', '"[red]daisy", ":smile: [/]rose"')
    (folder / "model.toml").write_text(text.replace("Two kinds", f"[i]Two[/i] {'very ' * 50}kinds"))
    return root


def test_names_and_labels_are_printed_as_they_are_and_a_pipe_gets_whole_lines(run, odd_models, tmp_path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    chosen = ("--models", str(odd_models))
    listed = run("models", *chosen, models=False)[1]
    assert "[bold]name" in listed
    assert f"[i]Two[/i] {'very ' * 50}kinds" in listed
    assert "[i]Two[/i]" in run("inspect", "[bold]name", *chosen, models=False)[1]
    assert "[bold]name/1" in run("verify", *chosen, models=False)[1]
    table = run("uncertainty", "[bold]name", "rows.npy", *chosen, models=False)[1]
    assert "[red]daisy" in table or ":smile: [/]rose" in table
    assert len(table.splitlines()) == 3


def test_verify_names_what_nobody_foresaw(run, monkeypatch) -> None:
    def load(folder: Any, content: Any, device: str) -> Any:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("service.repository.repository.model_of", load)
    status, out, _ = run("verify", "flowers", "--json")
    assert status == 1
    assert json.loads(out)["results"][0]["reason"] == "ZeroDivisionError: by zero"


@pytest.fixture
def checked(small_models, tmp_path):
    root = tmp_path / "checked"
    shutil.copytree(small_models / "flowers", root / "flowers")
    return root


def check(run, root, *more):
    return run("models", "--check", str(root), *more, models=False)


def test_a_folder_that_a_server_would_serve_is_ok_with_its_digest(run, checked) -> None:
    status, out, _ = check(run, checked)
    assert status == 0
    assert out.startswith("flowers/1  ok  sha256:")
    assert len(out.splitlines()) == 1
    found = json.loads(check(run, checked, "--json")[1])
    digest = json.loads(run("inspect", "flowers", "--json")[1])["digest"]
    assert found == {"ok": True, "versions": [
        {"model": "flowers/1", "ok": True, "digest": digest, "warnings": [], "reason": None}]}


def test_each_thing_that_a_server_would_refuse_or_pass_over_has_a_line(run, checked) -> None:
    model = checked / "flowers"
    for version in ("2", "3", "v4"):
        shutil.copytree(model / "1", model / version)
    (model / "2" / "weights.safetensors").write_bytes(b"nothing")
    (model / "3" / "model.toml").write_text(CLASSIFIER.replace("labels =", "lables ="))
    (model / "5").mkdir()
    (model / "serving.toml").write_text('version = "9"\n')
    status, out, _ = check(run, checked)
    assert status == 1
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert lines["flowers/1"].startswith("ok")
    for path, words in (
        ("flowers/serving.toml", "it names version 9, which is not there"), ("flowers/2", "cannot be read"),
        ("flowers/3", "lables: not a key of the manifest"), ("flowers/5", "there is no such file"),
        ("flowers/v4", "a version is a whole number"),
    ):
        assert lines[path].startswith("refused")
        assert words in lines[path]
    assert len(lines) == 6
    found = json.loads(check(run, checked, "--json")[1])
    assert [v["ok"] for v in found["versions"]] == [False, True, False, False, False, False]
    assert not found["ok"]


def test_a_folder_whose_bytes_are_not_the_pinned_ones_is_refused(run, checked) -> None:
    digest = json.loads(check(run, checked, "--json")[1])["versions"][0]["digest"]
    (checked / "flowers" / "serving.toml").write_text(f'[digests]\n1 = "{digest}"\n')
    assert check(run, checked)[0] == 0
    (checked / "flowers" / "1" / "CARD.md").write_text("A card.")
    status, out, _ = check(run, checked)
    assert status == 1
    assert "serving.toml pins" in out


def test_rows_that_a_model_cannot_be_warmed_with_are_found(run, checked) -> None:
    path = checked / "flowers" / "1" / "model.toml"
    path.write_text(path.read_text() + "[warm_up]\nrows = [[1, 2, 3], [1, 2]]\n")
    status, out, _ = check(run, checked)
    assert (status, "warm_up.rows[1]: a list of 3" in out) == (1, True)
    path.write_text(path.read_text().replace(", [1, 2]]", ", [3e38, -3e38, 3e38]]"))
    weights = path.parent / "weights.safetensors"
    save_file({name: 30 * value for name, value in load_file(weights).items()}, weights)
    status, out, _ = check(run, checked)
    assert (status, "not finite" in out) == (1, True)


def test_rules_that_leave_nobody_to_answer_are_found(run, checked) -> None:
    (checked / "flowers" / "serving.toml").write_text('[shadow]\nversion = "1"\n')
    status, out, _ = check(run, checked)
    assert (status, "no version is left" in out) == (1, True)


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_models_cannot_be_checked(run, tmp_path, folder) -> None:
    status, _, err = check(run, tmp_path / folder)
    assert status == 2
    assert "errorbar: " in err


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
    assert command != "serve" or "0 to 65535" in out


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


def test_a_key_is_printed_once_and_the_file_has_its_hash_alone(run, tmp_path) -> None:
    path = tmp_path / "keys.toml"
    status, secret, said = run("keys", "add", "ward-3", "--file", str(path), "--models", "digits,height", "--rate",
                               "100/s", "--priority", "7", models=False)
    assert status == 0
    assert "nothing can show it again" in said
    assert secret.strip() not in path.read_text() + said
    assert path.stat().st_mode & 0o077 == 0
    found = read_keys(path).find(secret.strip().encode())
    assert found is not None
    assert (found.name, found.models, found.rate, found.priority) == ("ward-3", {"digits", "height"}, 100.0, 7)


def test_keys_are_listed_without_hashes_and_taken_away_by_name(run, tmp_path, monkeypatch) -> None:
    path = tmp_path / "keys.toml"
    monkeypatch.setenv("ERRORBAR_KEYS", str(path))
    for arguments in (["ward-3", "--rate", "5/min"], ["boss", "--admin"]):
        assert run("keys", "add", *arguments, models=False)[0] == 0
    path.chmod(0o640)
    listed = run("keys", "list", "--json", models=False)[1]
    assert [key["name"] for key in json.loads(listed)["keys"]] == ["ward-3", "boss"]
    assert "sha256" not in listed
    assert "boss: all models; admin" in run("keys", "list", models=False)[1]
    assert run("keys", "remove", "ward-3", models=False)[0] == 0
    assert [key.name for key in read_keys(path)] == ["boss"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.glob(".keys*")) == []


@pytest.mark.parametrize(("arguments", "words"), [
    (["add", "ward-3"], "another key has the same"), (["add", "a b"], r"keys\[1\].name"),
    (["add", "new", "--rate", "often"], "a number above 0 by time"), (["add", "new", "--priority", "10"], "priority"),
    (["remove", "ward-4"], "did you mean 'ward-3'"),
    (["add", "new", "--admin", "--models", "digits"], "leave models out"),
])
def test_a_change_that_cannot_be_made_says_why_and_leaves_the_file(run, tmp_path, arguments, words) -> None:
    path = tmp_path / "keys.toml"
    run("keys", "add", "ward-3", "--file", str(path), models=False)
    before = path.read_text()
    status, out, said = run("keys", *arguments, "--file", str(path), models=False)
    assert (status, out) == (2, "")
    assert re.search(words, " ".join(said.split()))
    assert path.read_text() == before


def test_keys_need_a_file(run) -> None:
    status, _, said = run("keys", "list", models=False)
    assert status == 2
    assert "ERRORBAR_KEYS" in said
