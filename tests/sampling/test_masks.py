"""The mask law: what every bit promises."""

import numpy as np
import pytest

from service.sampling import masks
from service.sampling.masks import dropped

BALANCED = "8060d4ed001822061903"
IID = "040076408c98ccc05481"


@pytest.mark.parametrize("p", [0.05, 0.1, 0.25, 0.3, 0.5, 0.9])
def test_a_unit_is_dropped_as_evenly_as_p_allows_within_a_block(p: float) -> None:
    bits = dropped("balanced", 3, "site", p, (4000,), 0, 10)
    drops = bits.sum(0)
    assert set(np.unique(drops)) <= {int(np.floor(10 * p + 1e-9)), int(np.ceil(10 * p - 1e-9))}


@pytest.mark.parametrize("design", ["balanced", "iid"])
@pytest.mark.parametrize("p", [0.005, 0.3, 0.5])
def test_the_rate_is_p(design: masks.Design, p: float) -> None:
    bits = dropped(design, 0, "site", p, (20_000,), 0, 100)
    standard_error = (p * (1 - p) / bits.size) ** 0.5
    assert abs(bits.mean() - p) < 5 * standard_error


@pytest.mark.parametrize("design", ["balanced", "iid"])
def test_units_are_independent_within_a_sample(design: masks.Design) -> None:
    bits = dropped(design, 0, "site", 0.3, (2,), 0, 40_000)
    correlation = np.corrcoef(bits[:, 0], bits[:, 1])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(4_000)


@pytest.mark.parametrize("design", ["balanced", "iid"])
def test_fifty_samples_are_the_start_of_a_hundred(design: masks.Design) -> None:
    hundred = dropped(design, 7, "site", 0.3, (33, 5), 0, 100)
    assert np.array_equal(dropped(design, 7, "site", 0.3, (33, 5), 0, 50), hundred[:50])
    assert np.array_equal(dropped(design, 7, "site", 0.3, (33, 5), 50, 50), hundred[50:])


def test_padding_the_outer_axes_moves_no_mask() -> None:
    short = dropped("balanced", 1, "site", 0.5, (3, 7, 16), 0, 10)
    long = dropped("balanced", 1, "site", 0.5, (3, 9, 21), 0, 10)
    assert np.array_equal(short, long[:, :, :7, :16])


def test_seeds_and_sites_and_rows_have_masks_of_their_own() -> None:
    base = dropped("balanced", 1, "a", 0.5, (64,), 0, 10)
    assert not np.array_equal(base, dropped("balanced", 2, "a", 0.5, (64,), 0, 10))
    assert not np.array_equal(base, dropped("balanced", 1, "b", 0.5, (64,), 0, 10))
    rows = dropped("balanced", 1, "a", 0.5, (64,), 0, 10, np.arange(2))
    assert not np.array_equal(rows[:, 0], rows[:, 1])
    assert not np.array_equal(rows[:, 0], base)


def test_a_row_in_company_has_the_independent_masks_it_has_alone() -> None:
    company = dropped("balanced", 1, "a", 0.5, (64,), 0, 10, np.arange(5))
    assert np.array_equal(dropped("balanced", 1, "a", 0.5, (64,), 0, 10, np.array([3]))[:, 0], company[:, 3])


def test_the_vectorised_generator_gives_the_words_of_numpys_philox() -> None:
    blocks = np.arange(3, dtype=np.uint64)
    outer = masks._outer_coordinates((2, 3), np.array([0, 5]))
    words = masks._words_vectorised((11, 2**63 + 5), blocks, outer, 37)
    for i, block in enumerate(blocks.tolist()):
        for j, (c2, c3) in enumerate(outer.tolist()):
            counter = ((block << 64) | (c2 << 128) | (c3 << 192)) - 1
            stream = np.random.Philox(key=11 | (2**63 + 5) << 64, counter=counter % (1 << 256))
            assert np.array_equal(words[i, j], stream.random_raw(37))


def test_the_law_has_not_changed_since_its_version_was_given() -> None:
    bits = dropped("balanced", 0, "fc1", 0.3, (8,), 0, 10)
    packed = "".join(f"{v:02x}" for v in np.packbits(bits).tolist())
    iid = "".join(f"{v:02x}" for v in np.packbits(dropped("iid", 0, "fc1", 0.3, (8,), 0, 10)).tolist())
    assert (masks.MASK_LAW, packed, iid) == (1, BALANCED, IID)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_is_no_site_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="0 < p < 1"):
        dropped("balanced", 0, "site", p, (4,), 0, 10)
