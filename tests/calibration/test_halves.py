"""The two halves share no row, and are the same again for whoever knows rows and seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.calibration import split_in_halves
from service.errors import CalibrationRefused, InvalidOption

SEEDS = st.integers(0, 2**64 - 1)


@given(rows=st.integers(2, 500), seed=SEEDS)
def test_every_row_is_in_exactly_one_half(rows, seed) -> None:
    halves = split_in_halves(rows, seed)
    assert sorted([*halves.fit, *halves.guarantee]) == list(range(rows))
    assert len(halves.guarantee) - len(halves.fit) == rows % 2
    assert (np.diff(halves.fit) > 0).all()
    assert (np.diff(halves.guarantee) > 0).all()


def test_the_split_of_a_seed_never_changes() -> None:
    assert split_in_halves(10, 0).fit.tolist() == [0, 1, 2, 8, 9]
    assert split_in_halves(11, 2**64 - 1).fit.tolist() == [0, 7, 8, 9, 10]


def test_another_seed_splits_otherwise_and_every_row_goes_either_way() -> None:
    in_fit = np.zeros(40)
    for seed in range(2000):
        in_fit[split_in_halves(40, seed).fit] += 1
    assert abs(in_fit / 2000 - 0.5).max() < 4.5 * 0.5 / np.sqrt(2000)
    assert abs(in_fit / 2000 - 0.5).max() > 0


def test_two_rows_go_together_no_more_often_than_by_chance() -> None:
    together = sum(int(np.isin([0, 1], split_in_halves(40, seed).fit).sum() != 1) for seed in range(2000))
    assert together / 2000 == pytest.approx(19 / 39, abs=4 * 0.5 / np.sqrt(2000))


@pytest.mark.parametrize("rows", [0, 1])
def test_one_row_has_no_halves(rows) -> None:
    with pytest.raises(CalibrationRefused, match="at least 2 rows") as caught:
        split_in_halves(rows, 0)
    assert caught.value.needed == 2


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_no_word_holds_is_refused(seed) -> None:
    with pytest.raises(InvalidOption, match="seed"):
        split_in_halves(4, seed)
