"""Chains in bfloat16 by the processor's matrix tiles: the products that are told, whatever shapes they have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from service import native
from service.sampling import Sampler, prepare
from service.sampling.bank import Draw
from service.sampling.dense import DenseChain
from service.sampling.kernels import Kernel
from service.sampling.tiled import Tiled

LIBRARY = native.library()
needs_tiles = pytest.mark.skipif(
    LIBRARY is None or not LIBRARY.errorbar_has_tiles(), reason="the processor has no matrix tiles for bfloat16")
ROWS = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))


@cache
def lowered(*widths: int, rates: tuple[float, ...] = (0.5, 0.1, 0.3), relu: bool = True) -> Sampler:
    """A chain behind a layer of 12 inputs, in bfloat16 without the bound."""
    torch.manual_seed(6)
    layers: list[nn.Module] = [nn.Linear(12, widths[0]), nn.ReLU()]
    for (before, after), p in zip(pairwise(widths), rates, strict=False):
        layers += [nn.Dropout(p), nn.Linear(before, after), *([nn.ReLU()] if relu and after != widths[-1] else [])]
    return prepare(nn.Sequential(*layers).eval(), ROWS, task="regression").lowered(ROWS)


def kernel_of(sampler: Sampler) -> Kernel:
    return next(kernel for kernel in sampler.kernels if kernel.name == "tiled")


def chain_of(sampler: Sampler) -> DenseChain:
    chain = sampler._plan.chain
    assert chain is not None
    return chain


def by_hand(chain: DenseChain, value: Tensor, keeps: Sequence[Tensor]) -> Tensor:
    """In float64, of numbers rounded where they are told to be: (samples, rows, outputs)."""
    hidden = value.bfloat16().double()
    for stage, keep in zip(chain.stages, keeps, strict=True):
        weight = stage.weight / stage.keeps
        if stage is not chain.stages[-1]:
            weight, hidden = weight.bfloat16(), hidden.bfloat16()
        hidden = (hidden.double() * keep) @ weight.double().T + stage.bias[:, 0].double()
        hidden = hidden.relu() if stage.relu else hidden
        hidden = hidden.float()
    return hidden


@needs_tiles
@pytest.mark.parametrize("widths", [
    (64, 1, 1), (15, 16, 1), (31, 33, 3), (32, 32, 2), (64, 96, 4), (130, 300, 12), (257, 129, 13), (300, 40, 17),
])
@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_two_layers_of_any_width_give_the_sums_of_rounded_numbers(widths, masks) -> None:
    sampler = lowered(*widths)
    kernel, draw = kernel_of(sampler), Draw("iid", 3, 0, 23, 23)
    for rows in (1, 2, 5, 15, 16, 17, 32, 50):
        places = torch.arange(rows).numpy() if masks == "independent" else None
        keeps = [mask != 0 for mask in sampler.kernels[0].drawn(draw, places)]
        (value,) = kernel.split.prefix(ROWS[:rows])
        found = kernel.run([value], rows, 23, kernel.drawn(draw, places))
        torch.testing.assert_close(found, by_hand(chain_of(sampler), value, keeps), rtol=1e-5, atol=1e-6)


@needs_tiles
@pytest.mark.parametrize("relu", [True, False])
def test_more_layers_round_what_is_between_them_to_bfloat16(relu) -> None:
    sampler = lowered(64, 48, 80, 2, relu=relu)
    kernel, draw = kernel_of(sampler), Draw("balanced", 3, 0, 50, 50)
    keeps = [mask != 0 for mask in sampler.kernels[0].drawn(draw, None)]
    (value,) = kernel.split.prefix(ROWS)
    found, expected = kernel.run([value], 50, 50, kernel.drawn(draw, None)), by_hand(chain_of(sampler), value, keeps)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))  # a sum at the edge
    assert float((found - expected).abs().mean()) < 2e-5 * float(expected.abs().max())


@needs_tiles
@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_a_row_has_the_same_bits_in_any_company(masks) -> None:
    sampler = lowered(64, 96, 4)
    kernel = kernel_of(sampler)
    many = torch.randn(300, 12, generator=torch.Generator().manual_seed(1))
    (values,) = kernel.split.prefix(many)
    draw = Draw("balanced", 8, 0, 50, 50)

    def run(first: int, rows: int) -> Tensor:
        places = torch.arange(first, first + rows).numpy() if masks == "independent" else None
        return kernel.run([values[first : first + rows]], rows, 50, kernel.drawn(draw, places))

    company = run(0, 300)
    for first, rows in ((0, 1), (7, 1), (299, 1), (20, 5), (32, 17), (250, 50)):
        assert torch.equal(run(first, rows), company[:, first : first + rows])


@needs_tiles
def test_probabilities_are_those_of_the_logits() -> None:
    torch.manual_seed(6)
    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.2),
                        nn.Linear(96, 5))
    logits, classes = (prepare(net, ROWS, task=task).lowered(ROWS) for task in ("regression", "classification"))
    draw = Draw("balanced", 8, 0, 20, 20)
    outputs = []
    for sampler in (logits, classes):
        kernel = kernel_of(sampler)
        outputs.append(kernel.run(kernel.split.prefix(ROWS), 50, 20, kernel.drawn(draw, None)))
    torch.testing.assert_close(outputs[1], outputs[0].softmax(-1), rtol=1e-5, atol=1e-7)


@needs_tiles
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_a_row_that_cannot_be_computed_fails_alone(bad) -> None:
    sampler = lowered(64, 96, 4)
    kernel = kernel_of(sampler)
    value = torch.rand(20, 64)
    value[6, 63] = bad
    found = kernel.run([value], 20, 10, kernel.drawn(Draw("balanced", 8, 0, 10, 10), None))
    assert bool(found[:, 6].isnan().all())
    assert bool(found[:, torch.arange(20) != 6].isfinite().all())


@needs_tiles
def test_a_sample_that_drops_every_unit_gives_the_bias() -> None:
    sampler = lowered(64, 96, 4, rates=(0.5, 0.999))
    kernel, draw = kernel_of(sampler), Draw("iid", 0, 0, 400, 400)
    gone = (sampler.kernels[0].drawn(draw, None)[1] != 0).flatten(1).sum(1) == 0
    assert bool(gone.any())
    found = kernel.run(kernel.split.prefix(ROWS), 50, 400, kernel.drawn(draw, None))
    bias = chain_of(sampler).stages[-1].bias[:, 0]
    assert torch.equal(found[gone], bias.expand(int(gone.sum()), 50, 4))


@needs_tiles
def test_several_threads_give_the_same_bits(monkeypatch) -> None:
    sampler = lowered(64, 96, 4)
    kernel, draw = kernel_of(sampler), Draw("balanced", 8, 0, 50, 50)
    made = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(native, "threads", lambda _, count=threads: count)
        made.append(kernel.run(kernel.split.prefix(ROWS), 50, 50, kernel.drawn(draw, None)))
    assert all(torch.equal(one, made[0]) for one in made[1:])


def test_where_there_are_no_tiles_the_other_kernels_serve(monkeypatch) -> None:
    monkeypatch.setattr(Tiled, "_has_tiles", staticmethod(lambda: False))
    assert "tiled" not in [kernel.name for kernel in lowered.__wrapped__(64, 96, 4).kernels]


@needs_tiles
@pytest.mark.parametrize("net", [
    nn.Sequential(nn.Linear(12, 96), nn.ReLU(), nn.Dropout(0.5), nn.Linear(96, 4)),  # nothing but the last layer
    nn.Sequential(nn.Linear(12, 64), nn.Dropout(0.5), nn.Linear(64, 96), nn.GELU(), nn.Dropout(0.5), nn.Linear(96, 4)),
])
def test_what_tiles_cannot_run_is_left_to_the_others(net) -> None:
    assert "tiled" not in [kernel.name for kernel in prepare(net, ROWS, task="regression").lowered(ROWS).kernels]
