"""Reads a regression set in the layout of Hernández-Lobato & Adams' splits, as Gal & Ghahramani's experiments use it.

The folder holds `data.txt` (a row a line, numbers between blanks), the columns that are inputs and target
(`index_features.txt`, `index_target.txt`), the rows of each split K (`index_train_K.txt`, `index_test_K.txt`; all
counted from 0), and the settings (`n_hidden.txt`, `n_epochs.txt`, `dropout_rates.txt`, `tau_values.txt`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EPOCHS_PER_UNIT = 100
"""`n_epochs.txt` counts hundreds of epochs: the experiments of the authors' table with ten times ten times as many."""
_SETTINGS = (
    "data.txt", "index_features.txt", "index_target.txt", "n_hidden.txt", "n_epochs.txt", "dropout_rates.txt",
    "tau_values.txt",
)  # fmt: skip

Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]


class BadSet(Exception):
    """The folder is not of the layout, or lacks what was asked for; says which file, and which line."""


@dataclass(frozen=True)
class Part:
    """Rows in their own units: inputs (rows, features), targets (rows,)."""

    inputs: Doubles
    targets: Doubles


@dataclass(frozen=True)
class Split:
    """The training and the test rows of one split, in the order of its files."""

    train: Part
    test: Part

    def for_choosing(self) -> tuple[Part, Part]:
        """The first 80 % of the training rows, and the rest: what settings are tried on, and what chooses them."""
        first = int(0.8 * len(self.train.targets))
        return (
            Part(self.train.inputs[:first], self.train.targets[:first]),
            Part(self.train.inputs[first:], self.train.targets[first:]),
        )


@dataclass(frozen=True)
class Candidate:
    """A setting that is tried: the chance that a unit is dropped; the noise's precision tau, 1 / (target unit)²."""

    rate: float
    tau: float


@dataclass(frozen=True)
class UciSet:
    """A set, the splits of it that were asked for, and what is tried on each. digest: sha256 of all files read."""

    name: str
    splits: dict[int, Split]
    hidden: int
    epochs: int
    candidates: tuple[Candidate, ...]
    digest: str


def read_set(folder: Path, splits: Sequence[int]) -> UciSet:
    """Reads the folder and these splits of it. BadSet with the file and the line where something is wrong."""
    if not folder.is_dir():
        raise BadSet(f"{folder} is not a folder")
    missing = [name for name in _SETTINGS if not (folder / name).is_file()]
    if missing:
        hint = f"; {folder / 'data'} has it" if (folder / "data" / missing[0]).is_file() else ""
        raise BadSet(f"{folder / missing[0]} is missing{hint}")
    _check_there(folder, splits)
    table = _table(folder / "data.txt")
    columns = range(table.shape[1])
    features = _indices(folder / "index_features.txt", len(columns), "columns of data.txt")
    target = int(_one(folder / "index_target.txt", _column_of(len(columns)), "a column of data.txt, counted from 0,"))
    if target in features:
        raise BadSet(f"{folder / 'index_features.txt'}: column {target} is the target (index_target.txt)")
    whole = Part(table[:, features], table[:, target])
    rates = _numbers(folder / "dropout_rates.txt", lambda rate: 0 < rate < 1, "a rate between 0 and 1")
    taus = _numbers(folder / "tau_values.txt", lambda tau: tau > 0, "a precision above 0")
    return UciSet(
        name=folder.resolve().parent.name if folder.resolve().name == "data" else folder.resolve().name,
        splits={split: _split(folder, split, whole) for split in splits},
        hidden=int(_one(folder / "n_hidden.txt", _is_count, "a number of units")),
        epochs=EPOCHS_PER_UNIT * int(_one(folder / "n_epochs.txt", _is_count, "a number of epochs")),
        candidates=tuple(Candidate(rate, tau) for rate in rates for tau in taus),
        digest=_digest(folder),
    )


def _check_there(folder: Path, splits: Sequence[int]) -> None:
    there = sorted(
        int(found[1]) for path in folder.iterdir() if (found := re.fullmatch(r"index_train_(\d+)\.txt", path.name))
    )
    for split in splits:
        for name in (f"index_train_{split}.txt", f"index_test_{split}.txt"):
            if not (folder / name).is_file():
                known = f"the folder has {len(there)} splits, {there[0]} to {there[-1]}" if there else "it has no split"
                raise BadSet(f"there is no split {split}: {folder / name} is missing; {known}")


def _split(folder: Path, split: int, whole: Part) -> Split:
    train_file, test_file = (folder / f"index_{part}_{split}.txt" for part in ("train", "test"))
    train, test = (_indices(file, len(whole.targets), "rows of data.txt") for file in (train_file, test_file))
    both = np.intersect1d(train, test)
    if len(both):
        raise BadSet(f"{test_file}: row {both[0]} is a training row too ({train_file.name})")
    found = Split(Part(whole.inputs[train], whole.targets[train]), Part(whole.inputs[test], whole.targets[test]))
    if len(train) < 2 or found.for_choosing()[0].targets.std() == 0:
        raise BadSet(f"{train_file}: two training rows with different targets at least are needed to train on")
    return found


def _table(file: Path) -> Doubles:
    """All lines, of equally many numbers each."""
    rows: list[list[float]] = []
    for line, words in _lines(file):
        rows.append([_number(file, line, word) for word in words])
        if len(rows[-1]) != len(rows[0]):
            raise BadSet(f"{file}, line {line}: {len(rows[0])} numbers expected as in the first, got {len(rows[-1])}")
    return np.array(rows, dtype=np.float64)


def _indices(file: Path, among: int, of_what: str) -> Indices:
    """Whole numbers from 0, each once."""
    numbers = _numbers(file, _column_of(among), f"a whole number from 0 to {among - 1} ({of_what})")
    indices = np.array(numbers, dtype=np.int64)
    values, counts = np.unique(indices, return_counts=True)
    if counts.max() > 1:
        raise BadSet(f"{file}: {values[counts.argmax()]} stands there {counts.max()} times")
    return indices


def _one(file: Path, is_right: Callable[[float], bool], expected: str) -> float:
    numbers = _numbers(file, is_right, expected)
    if len(numbers) != 1:
        raise BadSet(f"{file}: one number expected, got {len(numbers)}")
    return numbers[0]


def _numbers(file: Path, is_right: Callable[[float], bool], expected: str) -> list[float]:
    """One number a line."""
    numbers = []
    for line, words in _lines(file):
        number = _number(file, line, " ".join(words))
        if not is_right(number):
            raise BadSet(f"{file}, line {line}: {expected} expected, got {number:g}")
        numbers.append(number)
    return numbers


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not blank, with their numbers, counted from 1."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise BadSet(f"{file} cannot be read: {e}") from e
    found = [(line, words) for line, text in enumerate(text.splitlines(), start=1) if (words := text.split())]
    if not found:
        raise BadSet(f"{file} is empty")
    return found


def _number(file: Path, line: int, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        raise BadSet(f"{file}, line {line}: a number expected, got {word[:40]!r}") from None
    if not math.isfinite(number):
        raise BadSet(f"{file}, line {line}: a finite number expected, got {word}")
    return number


def _is_count(number: float) -> bool:
    return number >= 1 and number == int(number)


def _column_of(count: int) -> Callable[[float], bool]:
    return lambda number: 0 <= number < count and number == int(number)


def _digest(folder: Path) -> str:
    """Of the settings, the rows and all splits that the folder has."""
    digest = hashlib.sha256()
    for file in sorted({*(folder / name for name in _SETTINGS), *folder.glob("index_*.txt")}):
        content = file.read_bytes()
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
