"""A labelled file through a model, both ways: what the server would answer of each row, and what is true of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.files.parts import TruthAt
from service.files.run import chunk_rows
from service.files.source import Source
from service.files.truths import Truths, truths_of
from service.repository import ReadyModel
from service.scheduling import Job, Options
from service.scheduling.at_once import answered

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Of all rows. predicted: (rows, outputs), every dropout off. sampled: by the contract's names, (rows, outputs) or
    (rows,). samples: (rows, samples, outputs) where they were wanted. truths: see `truths_of`; None where the file has
    none. digest: sha256 of the file."""

    predicted: Array
    sampled: Mapping[str, Array]
    samples: Array | None
    truths: Truths | None
    digest: str

    @property
    def rows(self) -> int:
        return len(self.predicted)


def answers_of(
    file: str, model: ReadyModel, options: Options, truth: TruthAt, keep: bool = False,
    watch: Callable[[int], object] = lambda rows: None,
) -> Answers:
    """Runs all rows of a file. truth: where it stands in the file. keep: the samples too, drawn a second time. watch:
    told how many rows are done. InvalidInput, ModelFailed."""
    predicted: list[Array] = []
    columns: dict[str, list[Array]] = {}
    truths: list[Truths] = []
    kept: list[Array] = []
    step = chunk_rows(model, options)
    with closing(Source(file, model, truth)) as source:
        while inputs := source.read(step):
            first = source.at - len(next(iter(inputs.values())))
            here = replace(options, first_row=first)
            predicted.append(_flat(answered(Job(model, "predict", inputs, float("inf"))).arrays["values"]))
            answer = answered(Job(model, "uncertainty", inputs, float("inf"), here))
            for name, values in answer.arrays.items():
                if values is not None:
                    columns.setdefault(name, []).append(np.asarray(values, np.float64))
            if keep:
                draws = answered(Job(model, "uncertainty", inputs, float("inf"), replace(here, include_samples=True)))
                kept.append(_flat(draws.arrays["sample_values"], 2))
            if truth.needed:
                truths.append(truths_of(source.truths, model, source.named, first))
            watch(source.at)
        digest = source.digest() if file == "-" else _digest(file)
    return Answers(
        np.concatenate(predicted), {name: _joined(parts) for name, parts in columns.items()},
        np.concatenate(kept) if kept else None, np.concatenate(truths) if truths else None, digest)


def _digest(file: str) -> str:
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _flat(values: NDArray[np.floating] | NDArray[np.integer] | None, axes: int = 1) -> Array:
    """With one axis behind the first `axes`."""
    assert values is not None
    return np.asarray(values, np.float64).reshape(*values.shape[:axes], prod(values.shape[axes:]))


def _joined(parts: list[Array]) -> Array:
    whole = np.concatenate(parts)
    return whole if whole.ndim == 1 else whole.reshape(len(whole), -1)
