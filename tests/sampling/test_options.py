"""Whatever an option may not be is an error that names it; whatever is a whole number is taken as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from service.errors import InvalidOption
from service.sampling import Sampler, prepare
from service.sampling.options import MAX_ROWS, asked

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def made(seed: int) -> Sampler:
    torch.manual_seed(seed)
    return prepare(nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3)), X,
                   task="classification")


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return made(1)


@pytest.mark.parametrize(("path", "options"), [
    ("tolerance", {"tolerance": "a"}),
    ("tolerance", {"tolerance": True}),
    ("tolerance", {"tolerance": [0.1]}),
    ("tolerance", {"tolerance": float("nan")}),
    ("tolerance", {"tolerance": 10**400}),
    ("decide", {"decide": 0.9}),
    ("decide", {"decide": "above"}),
    ("decide.error", {"decide": {"above": 0.9}}),
    ("decide.above", {"decide": {"error": 0.1}}),
    ("decide.x", {"decide": {"above": 0.9, "error": 0.1, "x": 1}}),
    ("decide.1", {"decide": {"above": 0.9, "error": 0.1, 1: 1}}),
    ("decide.above", {"decide": {"above": "a", "error": 0.1}}),
    ("decide.above", {"decide": {"above": float("nan"), "error": 0.1}}),
    ("decide.error", {"decide": {"above": 0.9, "error": None}}),
    ("decide.error", {"decide": {"above": 0.9, "error": float("nan")}}),
    ("samples", {"decide": {"above": 0.9, "error": 0.1}, "samples": "a"}),
    ("method", {"tolerance": 0.05, "method": "x"}),
    ("method", {"method": "x"}),
    ("first_row", {"first_row": -1, "masks": "independent"}),
    ("first_row", {"first_row": 0.5}),
    ("first_row", {"first_row": True}),
    ("first_row", {"first_row": 2**32 - 1}),
    ("first_row", {"first_row": 2**32 - 1 - len(X) + 1, "masks": "independent"}),
    ("samples", {"samples": 50.0}),
    ("samples", {"samples": True}),
    ("samples", {"samples": np.float64(50)}),
    ("samples", {"samples": np.int64(1)}),
    ("seed", {"seed": "1"}),
    ("seed", {"seed": False}),
    ("seed", {"seed": 2**53}),
    ("include_samples", {"include_samples": "no"}),
    ("include_samples", {"include_samples": 1}),
    ("masks", {"masks": "own"}),
    ("design", {"design": "odd"}),
])
def test_an_option_that_is_not_what_it_may_be_is_named(sampler, path, options) -> None:
    with pytest.raises(InvalidOption) as refused:
        sampler.uncertainty(X, **options)
    assert [fault.path for fault in refused.value.faults] == [path]
    assert refused.value.detail == f"{path}: {refused.value.faults[0].message}"


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_any_kind_are_whole_numbers(sampler, kind) -> None:
    found = sampler.uncertainty(X, kind(50), kind(1), first_row=kind(2), masks="independent")
    assert torch.equal(found.mean, sampler.uncertainty(X, 50, 1, first_row=2, masks="independent").mean)
    assert torch.equal(sampler.reference(X, kind(20), kind(1)).mean, sampler.reference(X, 20, 1).mean)


def test_numbers_of_numpy_make_rules_too(sampler) -> None:
    found = sampler.uncertainty(X, tolerance=np.float32(0.125))
    assert torch.equal(found.mean, sampler.uncertainty(X, tolerance=0.125).mean)


def test_the_last_place_of_a_row_is_the_last_one_that_its_key_can_hold() -> None:
    assert asked(50, 0, "independent", None, MAX_ROWS - 3, rows=3).places.tolist()[-1] == 2**32 - 2
    with pytest.raises(InvalidOption, match=f"first_row: 0 to {MAX_ROWS - 3} expected for 3 rows"):
        asked(50, 0, "independent", None, MAX_ROWS - 2, rows=3)


@pytest.mark.parametrize("options", [{}, {"masks": "independent"}, {"tolerance": 0.1}])
def test_a_kernel_of_another_sampler_is_refused(sampler, options) -> None:
    for kernel in made(2).kernels:
        with pytest.raises(InvalidOption, match="one of this sampler's own kernels expected") as refused:
            sampler.uncertainty(X, kernel=kernel, **options)
        assert refused.value.faults[0].path == "kernel"
    own = sampler.kernels[0]
    assert torch.equal(sampler.uncertainty(X, kernel=own, **options).samples_per_row,
                       sampler.uncertainty(X, **options).samples_per_row)


@pytest.mark.parametrize("levels", [0.5, [], [-0.1], [0.5, 1.5], [float("nan")], ["a"], "a", [[0.5]], None])
def test_levels_of_quantiles_that_are_none_are_refused_in_words(sampler, levels) -> None:
    for options in ({}, {"tolerance": 0.1}):
        answer = sampler.uncertainty(X, include_samples=True, **options)
        with pytest.raises(ValueError, match="levels: a sequence of numbers from 0 to 1 expected"):
            answer.quantiles(levels)


def test_levels_of_quantiles_may_be_any_sequence(sampler) -> None:
    answer = sampler.uncertainty(X, include_samples=True)
    wanted = answer.quantiles([0.0, 0.5, 1.0])
    for levels in ((0.0, 0.5, 1.0), np.array([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0])):
        assert torch.equal(answer.quantiles(levels), wanted)


def test_memory_counts_what_kernels_keep_in_layouts_of_their_own(sampler) -> None:
    weights = sum(value.numel() * 4 for value in sampler._module.state_dict().values())
    own = [tensor for kernel in sampler.kernels if kernel.name == "sparse" for tensor in kernel._kept]
    assert sampler.memory_bytes >= weights + sum(tensor.numel() * 4 for tensor in own)
