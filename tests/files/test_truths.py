"""The truth of labelled rows: read beside the rows, whatever the file, and refused by its place where it is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidInput
from service.files import answers as answers_module
from service.files.answers import answers_of
from service.files.parts import TruthAt
from service.files.truths import truths_of
from service.repository import ReadyModel
from service.sampling.untimed import chosen_by_rule
from tests.files.conftest import CHUNK, SHARED

ROWS = [[5.1, 3.5, 1.4], [6.2, 2.9, 4.3], [4.9, 3.0, 1.4], [6.7, 3.1, 4.4], [5.0, 3.6, 1.4]]


@pytest.fixture(autouse=True)
def _chunks(monkeypatch) -> None:
    monkeypatch.setattr(answers_module, "chunk_rows", lambda model, options: CHUNK)


def place(row: int) -> str:
    return f"row {row}"


def read(model: ReadyModel, *given: Any) -> list[Any]:
    found: list[Any] = truths_of(given, model, place).tolist()
    return found


def test_a_label_is_its_name_or_its_place(by_rule) -> None:
    model = by_rule["flowers"]
    first, second = model.manifest.labels
    assert read(model, first, second, 0, 1, 1.0, "1", "1.0") == [0, 1, 0, 1, 1, 1, 1]


def test_a_number_that_is_a_label_is_that_label_and_no_place(by_rule) -> None:
    model = by_rule["flowers"]
    digits = replace(model, manifest=replace(model.manifest, labels=("1", "0")))
    assert read(digits, 1, 0, "1", 0.0) == [0, 1, 0, 1]


@pytest.mark.parametrize("wrong", [
    "no flower", 2, -1, 0.5, None, True, float("nan"), [0], {"label": 0}, "", "0_1", "\u0660"])
def test_what_is_no_label_is_refused_by_its_place(by_rule, wrong) -> None:
    with pytest.raises(InvalidInput, match=r"^row 1: a label of this model expected, got "):
        read(by_rule["flowers"], 0, wrong)


def test_several_labels_are_a_list_of_them_or_a_yes_or_no_for_each(by_rule) -> None:
    model = by_rule["both"]
    first, second = model.manifest.labels
    assert read(model, [], [second], [first, second], [1, 0], [0.0, 1.0]) == [[0, 0], [0, 1], [1, 1], [1, 0], [0, 1]]
    for wrong in ("both", [first, "neither"], None, 1):
        with pytest.raises(InvalidInput, match="row 0: a "):
            read(model, wrong)


def test_a_value_is_one_finite_number_for_each_target(by_rule) -> None:
    assert read(by_rule["height"], 1.5, 2, "3e1", [4]) == [[1.5], [2], [30], [4]]
    assert read(by_rule["sizes"], [1, 2.5]) == [[1, 2.5]]
    for model, wrong in (("height", "tall"), ("height", float("inf")), ("height", True), ("height", [1, 2]),
                         ("height", None), ("height", "1_5"), ("height", 1e200), ("sizes", 1.0), ("sizes", [1, "x"])):
        with pytest.raises(InvalidInput, match=r"row 0: (a|2) finite number"):
            read(by_rule[model], wrong)


def labelled(folder: Path, kind: str, labels: list[str], names: list[str]) -> Path:
    """The rows with their labels, as a file of that kind."""
    file = folder / f"rows{kind}"
    if kind == ".csv":
        lines = [f"{a},{label},{b},{c}" for (a, b, c), label in zip(ROWS, labels, strict=True)]
        file.write_text("\n".join([f"{names[0]},label,{names[1]},{names[2]}", *lines]))
    elif kind == ".jsonl":
        file.write_text("\n".join(json.dumps({"x": row, "label": label})
                                  for row, label in zip(ROWS, labels, strict=True)))
    else:
        np.savez(file, x=np.array(ROWS), label=np.array([0, 1, 0, 1, 0]))
    return file


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".npz"])
def test_rows_and_truths_come_apart_alike_from_every_kind_of_file(by_rule, tmp_path, kind) -> None:
    model = by_rule["flowers"]
    first, second = model.manifest.labels
    with chosen_by_rule():
        names = [f.name for f in model.manifest.features]
        file = labelled(tmp_path, kind, [first, second, first, second, first], names)
        found = answers_of(str(file), model, SHARED, TruthAt("label", needed=True))
        np.save(tmp_path / "plain.npy", np.array(ROWS))
        plain = answers_of(str(tmp_path / "plain.npy"), model, SHARED, TruthAt("label", needed=False))
    assert found.truths is not None
    assert found.truths.tolist() == [0, 1, 0, 1, 0]
    assert plain.truths is None
    np.testing.assert_array_equal(found.predicted, plain.predicted)
    for name, values in plain.sampled.items():
        np.testing.assert_array_equal(found.sampled[name], values)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.jsonl", '{"x": [1, 2, 3], "label": 0}\n{"x": [1, 2, 3]}', "a.jsonl: line 2: a key 'label' with the truth"),
    ("a.jsonl", "[1, 2, 3]", "a.jsonl: line 1: a key 'label' with the truth"),
    ("a.jsonl", '{"x": [1, 2, 3], "label": 0}\n\n{"x": [1, 2, 3], "label": 7}', "a.jsonl: line 3: a label of this"),
    ("a.csv", "1,2,3\n", "a.csv: line 1: a column 'label' with the truth"),
])
def test_a_file_whose_truth_is_missing_or_wrong_is_refused_by_its_line(
    by_rule, tmp_path, monkeypatch, name, content, message
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    with pytest.raises(InvalidInput) as refused:
        answers_of(name, by_rule["flowers"], SHARED, TruthAt("label", needed=True))
    assert refused.value.detail.startswith(message)


def test_one_array_alone_has_no_room_for_the_truth(by_rule, tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.array(ROWS))
    with pytest.raises(InvalidInput, match=r"call it \.npz"):
        answers_of(str(tmp_path / "a.npy"), by_rule["flowers"], SHARED, TruthAt("label", needed=True))
