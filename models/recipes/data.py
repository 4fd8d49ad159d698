"""The data that scikit-learn ships, cut once and for all into training, validation and test rows.

Training rows fit weights and input scaling; validation rows choose the epoch and the observation noise; test rows
choose nothing, they only make the figures of the cards. The cut is a permutation of the rows by `SPLIT_SEED`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

SPLIT_SEED = 0
"""Seed of every split. With the row counts below it says which rows are held out."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Rows of one part of a split.

    `inputs`: float32, (rows, …), in the units of the source. `targets`: class indices (rows,) int64, or values
    (rows, 1) float32 in the target's unit.
    """

    inputs: Floats
    targets: NDArray[np.int64] | Floats


@dataclass(frozen=True)
class Split:
    """Three parts that share no row."""

    train: Rows
    validation: Rows
    test: Rows


def split_rows(rows: int, validation: int, test: int) -> tuple[NDArray[np.int64], ...]:
    """Row numbers of training, validation and test part: a permutation by `SPLIT_SEED`, test rows first."""
    order = np.random.default_rng(SPLIT_SEED).permutation(rows)
    return order[test + validation :], order[test : test + validation], order[:test]


def _cut(inputs: Floats, targets: NDArray[np.int64] | Floats, validation: int, test: int) -> Split:
    parts = split_rows(len(inputs), validation, test)
    return Split(*(Rows(inputs[part], targets[part]) for part in parts))


def digits_split() -> Split:
    """1,797 handwritten digits, 8x8 pixels of 0 (paper) to 16 (ink), flattened by rows to (64,); classes 0 to 9.

    1,097 training, 300 validation and 400 test rows. Source: Alpaydin and Kaynak 1998, UCI, by way of scikit-learn.
    """
    inputs, targets = load_digits(return_X_y=True)
    return _cut(inputs.astype(np.float32), targets.astype(np.int64), validation=300, test=400)


def digits_image_split() -> Split:
    """The rows of `digits_split` as images (1, 8, 8)."""
    flat = digits_split()
    parts = (flat.train, flat.validation, flat.test)
    return Split(*(Rows(part.inputs.reshape(-1, 1, 8, 8), part.targets) for part in parts))


def diabetes_split() -> Split:
    """442 patients, 10 features in their own units; target: disease progression after one year, a score without unit.

    266 training, 88 validation and 88 test rows. Source: Efron et al. 2004, Annals of Statistics 32, by way of
    scikit-learn.
    """
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    return _cut(inputs.astype(np.float32), targets.astype(np.float32)[:, None], validation=88, test=88)


def breast_cancer_split() -> Split:
    """569 fine-needle aspirates, 30 features of their cell nuclei; class 0 is malignant, 1 is benign.

    341 training, 114 validation and 114 test rows. Source: Wolberg, Mangasarian and Street 1995, UCI, by way of
    scikit-learn.
    """
    inputs, targets = load_breast_cancer(return_X_y=True)
    return _cut(inputs.astype(np.float32), targets.astype(np.int64), validation=114, test=114)
