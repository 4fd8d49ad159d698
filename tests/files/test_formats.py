"""Each kind of file of answers holds what the contract's JSON holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import OutputRefused
from service.files.columns import OF_A_CALIBRATION, columns_of
from service.files.formats import Csv, JsonLines, Records, format_of
from service.scheduling import Options
from tests.files.conftest import SHARED, answer_file

TASKS = ("flowers", "height", "sizes", "both", "anything")
CLASSES = ("flowers", "both")
ASKED = {"predict": None, "uncertainty": SHARED, "few": Options(2, 0, "shared", "iid"),
         "stopping": Options(200, 0, "shared", "iid", tolerance=0.3)}
CASES = [(task, way) for task in TASKS for way in ASKED if way != "stopping" or task in CLASSES]


@pytest.fixture(params=CASES, ids="-".join)
def answers(request, by_rule, tmp_path) -> tuple[list[dict[str, Any]], Path, Any, Options | None]:
    """Of seven rows, as JSON; beside them the same as .csv and .npy."""
    model, options = by_rule[request.param[0]], ASKED[request.param[1]]
    rows = tmp_path / "rows.npy"
    np.save(rows, np.random.default_rng(0).normal(2, 1, (7, *model.manifest.inputs[0].shape)))
    for suffix in (".jsonl", ".csv", ".npy"):
        answer_file(model, rows, tmp_path / f"out{suffix}", options)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], tmp_path, model, options


def test_every_field_of_a_row_is_a_column_or_null_for_want_of_a_calibration(answers) -> None:
    rows, _, model, options = answers
    columns = {column.name for column in columns_of(model, options)}
    assert len(rows) == 7
    for row in rows:
        left_out = set(row) - columns
        assert left_out <= {*OF_A_CALIBRATION, "out_of_range"}
        assert all(not row[name] or name == "calibration_reason" for name in left_out)
        assert columns <= set(row)


def test_a_csv_has_the_numbers_of_the_json_in_a_cell_each(answers) -> None:
    rows, folder, model, options = answers
    with (folder / "out.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert len(set(header)) == len(header)
    assert len(lines) == len(rows)
    columns = columns_of(model, options)
    for row, line in zip(rows, lines, strict=True):
        expected: list[str] = []
        for column in columns:
            value = row[column.name]
            if column.kind == "names":
                expected.append(", ".join(value))
            elif value is None:
                expected += [""] * int(np.prod(column.shape))
            else:
                flat = np.array(value, object).ravel().tolist() if column.shape else [value]
                expected += [v if isinstance(v, str) else json.dumps(v) for v in flat]
        assert [_same_number(cell) for cell in line] == [_same_number(cell) for cell in expected]


def _same_number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def test_records_have_the_fields_of_the_json(answers) -> None:
    rows, folder, model, options = answers
    records = np.load(folder / "out.npy")
    assert records.shape == (len(rows),)
    for column in columns_of(model, options):
        values = [row[column.name] for row in rows]
        if column.kind == "names":
            found = [[n for n, out in zip(column.of, row, strict=True) if out] for row in records[column.name]]
            assert found == values
        elif column.kind == "text":
            assert records[column.name].tolist() == [value or "" for value in values]
        elif column.kind in ("integer", "truth"):
            assert records[column.name].tolist() == values
        else:
            assert records[column.name].shape == (len(rows), *column.shape)
            for record, value in zip(records[column.name], values, strict=True):
                assert np.isnan(record).all() if value is None else np.allclose(record, value, rtol=1e-6, atol=0)


def test_columns_are_called_by_labels_or_places(by_rule) -> None:
    def header(name: str) -> list[str]:
        return Csv(columns_of(by_rule[name], SHARED)).head(0).decode().strip().split(",")

    assert header("flowers")[:5] == ["label", "index", "mean[daisy]", "mean[rose]", "std[daisy]"]
    assert header("sizes")[:3] == ["mean[0]", "mean[1]", "std[0]"]
    assert header("height")[:2] == ["mean", "std"]
    assert "entropy[rose]" in header("both")


def test_a_head_has_one_length_whatever_the_rows(by_rule) -> None:
    for kind in (JsonLines, Csv, Records):
        made = kind(columns_of(by_rule["flowers"], SHARED))
        assert len({len(made.head(rows)) for rows in (0, 7, 10**12)}) == 1


def test_what_cannot_be_written_row_by_row_is_refused(tmp_path) -> None:
    with pytest.raises(OutputRefused, match=r"\.npy holds the same arrays"):
        format_of(tmp_path / "out.npz")
    for name in ("out.parquet", "out", "-"):
        with pytest.raises(OutputRefused, match=r"\.jsonl, \.csv, \.npy expected"):
            format_of(Path(name))
