"""The loops in C do what numpy and torch do, bit for bit where integers are made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service import native
from service.native.sources import digest
from service.sampling.masks import multipliers
from service.sampling.outputs import Outputs
from service.statistics import Accumulator
from service.statistics.at_once import entropies_and_votes
from service.statistics.information import Information, InformationSums
from service.statistics.moments import Moments

needs_library = pytest.mark.skipif(native.library() is None, reason="the native library was not built here")


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_where_a_compiler_is_at_hand_the_library_was_built() -> None:
    assert native.library() is not None


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    design=st.sampled_from(["balanced", "iid"]), p=st.floats(0.001, 0.999), seed=st.integers(0, 2**53 - 1),
    shape=st.lists(st.integers(1, 7), max_size=3), inner=st.sampled_from([1, 3, 255, 256, 1025, 2500]),
    first=st.integers(0, 4), samples=st.integers(1, 25), rows=st.none() | st.lists(st.integers(0, 10**6), min_size=1),
)
def test_masks_are_those_of_numpy_bit_for_bit(design, p, seed, shape, inner, first, samples, rows) -> None:
    shape = (*(shape if inner < 100 else shape[:1]), inner)
    places = None if rows is None else np.array(rows[:3], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        fast = multipliers(design, seed, "site", p, shape, 10 * first, samples, places)
        without_library(patch)
        slow = multipliers(design, seed, "site", p, shape, 10 * first, samples, places)
    assert torch.equal(fast.view(torch.int32), slow.view(torch.int32))


@needs_library
def test_many_masks_made_by_several_threads_are_the_same(monkeypatch) -> None:
    fast = multipliers("balanced", 3, "site", 0.3, (40_000,), 0, 50)
    without_library(monkeypatch)
    assert torch.equal(fast, multipliers("balanced", 3, "site", 0.3, (40_000,), 0, 50))


@needs_library
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("shape", [(50, 1, 10), (20, 3, 7), (50, 300, 1), (10, 600, 10)])
@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_moments_are_those_of_torch(monkeypatch, balanced, shape, scale) -> None:
    values = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + (100 if scale == 1 else 0)
    fast, slow = Moments(balanced), Moments(balanced)
    fast.add(values, [10] * (shape[0] // 10))
    slow.add(values, [10] * (shape[0] // 10))
    found = fast.finish()
    without_library(monkeypatch)
    expected = slow.finish()
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-14 * scale)
    torch.testing.assert_close(found.std, expected.std, rtol=1e-9, atol=0)
    assert bool((found.std > 0).all())


@needs_library
@pytest.mark.parametrize("balanced", [True, False])
def test_what_is_not_a_number_stays_so(balanced) -> None:
    values = torch.zeros(20, 2, 2)
    values[7, 1, 0] = float("nan")
    moments = Moments(balanced)
    moments.add(values, [10, 10])
    assert moments.finish().std.isnan().tolist() == [[False, False], [True, False]]


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Iterator[Path]:
    """A copy of the library with its sources, from which it is loaded."""
    for file in Path(native.__file__).parent.iterdir():
        if file.is_file():
            shutil.copy2(file, tmp_path)
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


@needs_library
def test_a_library_that_was_built_of_other_sources_is_not_used(folder, caplog) -> None:
    with (folder / "masks.c").open("a") as source:
        source.write("/* changed */")
    assert native.library() is None
    assert "was built of other sources" in caplog.text


@needs_library
def test_a_library_is_used_beside_its_own_sources_and_beside_none(folder) -> None:
    assert native.library() is not None
    for source in [*folder.glob("*.c"), *folder.glob("*.h")]:
        source.unlink()
    native.library.cache_clear()
    assert native.library() is not None


def test_the_digest_tells_every_name_and_byte_of_the_sources(tmp_path) -> None:
    assert digest(tmp_path) is None
    (tmp_path / "a.c").write_text("x")
    found = {digest(tmp_path)}
    (tmp_path / "a.c").write_text("y")
    found.add(digest(tmp_path))
    (tmp_path / "a.c").rename(tmp_path / "b.c")
    found.add(digest(tmp_path))
    (tmp_path / "a.h").touch()
    found.add(digest(tmp_path))
    assert len(found) == 4


def test_numbers_of_another_type_are_refused_before_memory_is_read() -> None:
    native.check_float32(torch.ones(2), torch.ones(3, 1))
    for dtype in (torch.float64, torch.float16, torch.int32):
        with pytest.raises(TypeError, match="float32 expected"):
            native.check_float32(torch.ones(2), torch.ones(2, dtype=dtype))


@needs_library
@pytest.mark.parametrize("shape", [(50, 1, 10), (20, 33, 3), (13, 5, 1024), (7, 4, 1)])
def test_probabilities_and_what_they_disagree_about_are_those_of_torch(monkeypatch, shape) -> None:
    logits = 8 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    logits[0, 0, 0] = -300.0
    outputs = Outputs("classification", shape[2:])
    counts = [10] * (shape[0] // 10) + [shape[0] % 10] * (shape[0] % 10 > 0)
    fast_p, fast, slow = outputs.read(logits), InformationSums(False), InformationSums(False)
    moments = Moments(False)
    moments.add(fast_p, counts)
    fast.add(fast_p, counts)
    found = fast.finish(moments.finish())
    without_library(monkeypatch)
    torch.testing.assert_close(fast_p, outputs.read(logits), rtol=2e-6, atol=1e-38)
    slow.add(fast_p, counts)
    expected = slow.finish(moments.finish())
    torch.testing.assert_close(found.expected_entropy, expected.expected_entropy, rtol=1e-6, atol=1e-7)
    assert torch.equal(found.variation_ratio, expected.variation_ratio)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-9, atol=1e-12)


@needs_library
@pytest.mark.parametrize("samples", [20, 37])
def test_what_a_rows_samples_disagree_about_is_the_same_alone_as_among_many(samples) -> None:
    values = (8 * torch.randn(samples, 40, 5, generator=torch.Generator().manual_seed(0))).softmax(-1)
    counts = [10] * (samples // 10) + [samples % 10] * (samples % 10 > 0)
    entropies, votes = entropies_and_votes(values, counts)
    for rows in (slice(3, 4), slice(7, 14), slice(0, 15)):
        fewer, theirs = entropies_and_votes(values[:, rows].contiguous(), counts)
        assert torch.equal(fewer, entropies[:, rows])
        assert torch.equal(theirs, votes[rows])


@needs_library
def test_certain_and_impossible_classes_have_no_entropy() -> None:
    probabilities = torch.tensor([1.0, 0.0, 0.0]).expand(20, 2, 3).contiguous()
    sums, moments = InformationSums(False), Moments(False)
    sums.add(probabilities, [10, 10])
    moments.add(probabilities, [10, 10])
    assert sums.finish(moments.finish()).expected_entropy.tolist() == [0.0, 0.0]


@needs_library
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_give_no_probabilities(bad) -> None:
    logits = torch.zeros(2, 3, 4)
    logits[1, 2, 3] = bad
    found = Outputs("classification", (4,)).read(logits)
    assert found[1, 2].isnan().any()
    assert torch.equal(found[:, :2], torch.full((2, 2, 4), 0.25))


@needs_library
@settings(max_examples=80, deadline=None)
@given(
    samples=st.integers(2, 95), rows=st.integers(1, 20), columns=st.integers(1, 12), balanced=st.booleans(),
    classes=st.booleans(), sharp=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_statistics_made_at_once_are_those_of_the_sums(samples, rows, columns, balanced, classes, sharp) -> None:
    samples = 10 * -(-samples // 10) if balanced else samples
    logits = sharp * torch.randn(samples, rows, columns, generator=torch.Generator().manual_seed(samples * rows))
    values = logits.softmax(2) if classes else logits
    fast, slow = (Accumulator("classification" if classes else "regression", balanced) for _ in range(2))
    fast.add(values)
    with pytest.MonkeyPatch.context() as patch:
        without_library(patch)
        slow.add(values)
        assert slow.moments.at_once is None
        expected = [slow.moments.mean_se(), slow.moments.std_se()]
        if slow.information is not None:
            expected += [getattr(slow.information, f.name) for f in fields(Information)]
    assert fast.moments.at_once is not None
    found = [fast.moments.mean_se(), fast.moments.std_se()]
    if fast.information is not None:
        found += [getattr(fast.information, f.name) for f in fields(Information)]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=3e-7, rtol=1e-5)


@needs_library
def test_statistics_made_at_once_keep_what_is_not_a_number() -> None:
    values = torch.full((50, 2, 3), 1 / 3)
    values[7, 1, 0] = torch.nan
    accumulator = Accumulator("classification", balanced=True)
    accumulator.add(values)
    assert accumulator.information.entropy.isnan().tolist() == [False, True]
    assert accumulator.moments.std_se().isnan().tolist() == [[False] * 3, [True, False, False]]


@needs_library
def test_statistics_of_many_rows_made_by_several_threads_are_the_same(monkeypatch) -> None:
    values = torch.randn(50, 300, 10, generator=torch.Generator().manual_seed(1)).softmax(2)
    several, one = Accumulator("classification", True), Accumulator("classification", True)
    several.add(values)
    assert several.information is not None
    monkeypatch.setattr(native, "threads", lambda numbers: 1)
    one.add(values)
    assert torch.equal(several.information.mutual_information, one.information.mutual_information)
