"""The mask law: what every bit promises."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.sampling import masks, philox
from service.sampling.masks import dropped, multipliers

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


def law(design: masks.Design, seed: int, site: str, p: float, shape: tuple[int, ...], sample: int, row: int | None,
        at: tuple[int, ...]) -> bool:
    """Whether one unit is dropped in one sample: the law, word for word, in Python's own integers."""
    digest = hashlib.sha256(f"errorbar/masks/1\0{design}\0{seed}\0{site}".encode()).digest()
    k0, k1 = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    innermost, *outside = (*reversed(at), 0, 0, 0, 0)[:4]
    block = sample // (10 if design == "balanced" else 2)
    c0, c1, c2 = innermost // 4, block, outside[0] | outside[1] << 32
    c3 = outside[2] | (0 if row is None else row + 1) << 32
    for _ in range(10):
        one, two = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = two >> 64 ^ c1 ^ k0, two % 2**64, one >> 64 ^ c3 ^ k1, one % 2**64
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % 2**64, (k1 + 0xBB67AE8584CAA73B) % 2**64
    high, low = divmod((c0, c1, c2, c3)[innermost % 4], 2**32)
    if design == "iid":
        return (high if sample % 2 else low) < round(p * 2**32)
    drops, rest = divmod(10 * round(p * 2**32), 2**32)
    table = [word for word in range(1024) if word.bit_count() == drops + (high < rest)]
    return bool(table[low * len(table) >> 32] >> sample % 10 & 1)


places = st.none() | st.lists(st.integers(0, 2**31), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["balanced", "iid"]), st.integers(0, 2**53 - 1), st.floats(0.001, 0.999),
    st.lists(st.integers(1, 7), max_size=3), st.sampled_from([None, 1, 3, 130, 300]), st.integers(0, 5),
    st.integers(1, 35), places, st.data(),
)
def test_every_bit_is_the_laws_whatever_is_drawn_with_it(design, seed, p, shape, inner, block, samples, rows, data):
    shape = (*shape, *([] if inner is None else [inner]))
    made = multipliers(design, seed, "a.b", p, shape, 10 * block, samples, None if rows is None else np.array(rows))
    assert made.shape == (samples, *([] if rows is None else [len(rows)]), *shape)
    for _ in range(20):
        at = tuple(data.draw(st.integers(0, n - 1)) for n in made.shape)
        row, unit = (None, at[1:]) if rows is None else (rows[at[1]], at[2:])
        drops = law(design, seed, "a.b", p, shape, 10 * block + at[0], row, unit)
        assert float(made[at]) == (0.0 if drops else np.float32(1 / (1 - p)))


@pytest.mark.parametrize("design", ["balanced", "iid"])
@pytest.mark.parametrize("shape", [(40_000,), (70, 130), (3, 5, 3000), (60_000, 1), (2, 3, 40, 9)])
def test_pieces_of_any_size_make_the_same_mask(design, shape, monkeypatch) -> None:
    rows = np.array([0, 7])
    whole = dropped(design, 5, "site", 0.3, shape, 10, 30, rows)
    monkeypatch.setattr(masks, "_CACHED_WORDS", 1024)
    assert np.array_equal(dropped(design, 5, "site", 0.3, shape, 10, 30, rows), whole)


@pytest.mark.parametrize("design", ["balanced", "iid"])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.37, 0.999])
def test_torch_makes_the_masks_that_numpy_makes(design, p) -> None:
    outer = masks._outer_coordinates((2, 3), np.array([0, 5]))
    key, blocks = (11, 2**63 + 5), range(3, 6)
    in_torch = philox.words(key, 8, 37, blocks, outer, torch.device("cpu"))
    in_numpy = philox.words(key, 8, 37, blocks, outer)
    assert np.array_equal(in_torch.numpy(), in_numpy)
    fill = masks._fill_balanced if design == "balanced" else masks._fill_iid
    bits = np.zeros((3, 10 if design == "balanced" else 2, len(outer), 37), np.int32)
    others = torch.ones(bits.shape, dtype=torch.int32)
    fill(in_numpy, bits, p, 12345)
    fill(in_torch, others, p, 12345)
    assert np.array_equal(others.numpy(), bits)
    assert set(np.unique(bits)) <= {0, 12345}


@pytest.mark.parametrize("start", [0, 4, 2**20])
@pytest.mark.parametrize("blocks", [range(2), range(2**33, 2**33 + 2)])
def test_the_integer_function_gives_the_words_of_numpys_own_philox(start, blocks) -> None:
    outer = np.array([[0, 0], [0, 1], [2**40 + 3, 2**62]])
    key = 11, 2**63 + 5
    quads = np.arange(start // 4, start // 4 + 9)[None, None]
    ours = philox.philox(key, quads, np.array(blocks)[:, None, None], outer[None, :, :1], outer[None, :, 1:])
    assert np.array_equal(ours, philox._numpy_streams(key, start, 36, blocks, outer))


def test_the_law_has_not_changed_since_its_version_was_given() -> None:
    bits = dropped("balanced", 0, "fc1", 0.3, (8,), 0, 10)
    packed = "".join(f"{v:02x}" for v in np.packbits(bits).tolist())
    iid = "".join(f"{v:02x}" for v in np.packbits(dropped("iid", 0, "fc1", 0.3, (8,), 0, 10)).tolist())
    assert (masks.MASK_LAW, packed, iid) == (1, BALANCED, IID)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_is_no_site_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="0 < p < 1"):
        dropped("balanced", 0, "site", p, (4,), 0, 10)
