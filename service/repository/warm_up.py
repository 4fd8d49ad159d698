"""Rows that run before a model answers: those of its manifest, or ones that are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from service.repository.inputs import Input
from service.repository.tables import Table, is_integer, is_number

if TYPE_CHECKING:
    from service.repository.manifest import Manifest

MOST_ROWS = 64
_LARGEST = torch.finfo(torch.float32).max
WarmRow = Mapping[str, Any]  # nested lists by input name


def warm_up_rows(table: Table, inputs: Sequence[Input]) -> tuple[WarmRow, ...]:
    """`[warm_up] rows`: each a nested list in the shape of the one input, or a table of them by input name.
    InvalidManifest, with the path of the first wrong value (`warm_up.rows[0][3]`)."""
    rows = table.values("rows")
    if not 1 <= len(rows) <= MOST_ROWS:
        table.refuse("rows", f"1 to {MOST_ROWS} rows expected, got {len(rows)}")
    found = []
    for i, row in enumerate(rows):
        by_name = row if isinstance(row, dict) else {inputs[0].name: row} if len(inputs) == 1 else None
        if by_name is None or by_name.keys() != {spec.name for spec in inputs}:
            names = ", ".join(repr(spec.name) for spec in inputs)
            table.refuse(f"rows[{i}]", f"a table with {names} expected, as the manifest's inputs are called")
        for spec in inputs:
            place = f"rows[{i}].{spec.name}" if isinstance(row, dict) else f"rows[{i}]"
            _check(table, place, by_name[spec.name], spec, spec.shape)
        found.append(by_name)
    table.finish()
    return tuple(found)


def _check(table: Table, place: str, value: Any, spec: Input, shape: Sequence[int]) -> None:
    if shape:
        if not isinstance(value, list) or len(value) != shape[0]:
            table.refuse(place, f"a list of {shape[0]} expected, since the input has the shape {list(spec.shape)}")
        for i, part in enumerate(value):
            _check(table, f"{place}[{i}]", part, spec, shape[1:])
    elif spec.dtype == "int64":
        low, high = spec.range or (0, 0)
        if not is_integer(value) or not low <= value <= high:
            table.refuse(place, f"an integer from {low} to {high} expected, got {value!r}")
    elif not is_number(value) or not isfinite(value) or abs(value) > _LARGEST:
        table.refuse(place, f"a finite number of float32 expected, got {value!r}")


def warm_up_inputs(manifest: Manifest, rows: int) -> dict[str, Tensor]:
    """So many rows by input name, (rows, *shape): the manifest's over and over, or the lowest value that each input
    takes, 0 where it has no range."""
    if not manifest.warm_up:
        return {
            i.name: torch.full((rows, *i.shape), i.range[0] if i.range else 0, dtype=getattr(torch, i.dtype))
            for i in manifest.inputs
        }
    chosen = [manifest.warm_up[i % len(manifest.warm_up)] for i in range(rows)]
    return {
        i.name: torch.tensor([row[i.name] for row in chosen], dtype=getattr(torch, i.dtype)).reshape(rows, *i.shape)
        for i in manifest.inputs
    }
