"""Masks made and multiplied in one pass are the masks of the law, bit by bit. Runs in Triton's interpreter, on the CPU,
where Triton is installed; on a device `tests/gpu` runs the like."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.networks import SMALL_NETWORKS, Network
from service.sampling import prepare
from service.sampling.bank import Draw, SeedBank
from service.sampling.dithering import bfloat16_multipliers
from service.sampling.fused import Fused, offered
from service.sampling.kernels import Folded
from service.sampling.masks import Design, multipliers
from service.sampling.sites import Site
from service.sampling.split import Split
from tests.process.conftest import ROOT

CPU = torch.device("cpu")
pytest.importorskip("triton", reason="Triton is not installed: it comes with torch's builds for CUDA")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's interpreter is off: set TRITON_INTERPRET=1", allow_module_level=True)


def fused(sites: list[Site], dtype: torch.dtype = torch.float32) -> Fused:
    split = Split(nn.Identity(), [], 1, nn.Identity(), 1, [site.name for site in sites])
    return Fused(split, sites, SeedBank(), CPU, dtype)


def site(p: float, shape: tuple[int, ...]) -> Site:
    return Site("a.b", "dropout", p, True, shape, scale=1 / (1 - p))


def masks(own: Site, draw: Draw, rows: list[int] | None, dtype: torch.dtype) -> tuple[Any, Tensor]:
    """The recipe of a draw's masks, and the masks, (samples, rows or 1, *shape)."""
    places = None if rows is None else np.array(rows)
    make = bfloat16_multipliers if dtype is torch.bfloat16 else multipliers
    true = make(draw.design, draw.seed, own.name, own.p, own.mask_shape, draw.first, draw.samples, places)
    (recipe,) = fused([own], dtype).drawn(draw, places)
    return recipe, true.unsqueeze(1) if rows is None else true


@pytest.mark.parametrize("design", ["balanced", "iid"])
@pytest.mark.parametrize(("p", "shape", "rows", "dtype"), [
    (0.3, (257,), None, torch.float32),
    (0.001, (1100,), None, torch.float32),  # longer than a program
    (0.5, (), None, torch.float32),
    (0.1, (5, 6), [3, 11, 2**31], torch.float32),
    (0.999, (2, 1, 3, 5), None, torch.float32),
    (0.1, (7,), [0], torch.bfloat16),
    (0.3, (2, 9), None, torch.bfloat16),
    (0.95, (3, 1), None, torch.bfloat16),
])
def test_the_multipliers_are_those_of_the_law(design: Design, p, shape, rows, dtype) -> None:
    recipe, true = masks(site(p, shape), Draw(design, 2**53 - 1, 20, 25, 50), rows, dtype)
    made = recipe.multiplied(torch.ones(1, 3 if rows is None else len(rows), *shape, dtype=dtype), 0)
    assert made.dtype is dtype
    assert torch.equal(made, true.expand_as(made))


@pytest.mark.parametrize(("value", "lead", "shape"), [
    (torch.randn(10, 3, 4, 5, 6), 0, (4, 1, 1)),  # channels
    (torch.randn(10, 3, 5, 6, 4).permute(0, 1, 4, 2, 3), 0, (4, 1, 1)),  # channels last in memory
    (torch.randn(1, 3, 8), 0, (8,)),  # the same for every sample
    (torch.randn(7, 10, 3, 8), 1, (7, 8)),  # rows not first
    (torch.randn(10, 21, 8)[:, ::7], 0, (8,)),  # not contiguous
    (torch.randn(10, 3, 8).bfloat16(), 0, (8,)),
])
def test_the_product_is_that_of_the_mask_made_before(value, lead, shape) -> None:
    recipe, true = masks(site(0.3, shape), Draw("balanced", 4, 0, 10, 10), None, torch.float32)
    made, expected = recipe.multiplied(value, lead), value * true.movedim((0, 1), (lead, lead + 1))
    assert made.dtype is expected.dtype
    assert torch.equal(made, expected)


def test_a_mask_in_bfloat16_that_is_widened_multiplies_in_float32() -> None:
    recipe, true = masks(site(0.1, (8,)), Draw("balanced", 4, 0, 10, 10), None, torch.bfloat16)
    value = torch.randn(10, 2, 8)
    assert torch.equal(recipe.to(torch.float32).multiplied(value, 0), value * true.float())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_one_place_of_an_axis_is_that_place_of_the_mask(axis, place) -> None:
    shape = tuple(5 if i == axis else n for i, n in enumerate((2, 3, 7)))
    for rows, dtype in ((None, torch.float32), ([4], torch.bfloat16)):
        recipe, true = masks(site(0.1, shape), Draw("balanced", 4, 10, 10, 20), rows, dtype)
        wanted = true.narrow(2 + axis, place, 1)
        made = recipe.at(2 + axis, place).multiplied(torch.ones_like(wanted), 0)
        assert torch.equal(made, wanted)


@pytest.mark.parametrize("network", SMALL_NETWORKS, ids=lambda network: network.name)
@pytest.mark.parametrize("lowered", [False, True], ids=["float32", "bfloat16"])
def test_networks_give_what_they_give_with_masks_made_before(network: Network, lowered) -> None:
    x = network.rows(3)
    sampler = prepare(network.module(), x, task="classification")
    sampler = sampler.lowered(x) if lowered else sampler
    plan, by_name = sampler._plan, {s.name: s for s in sampler.sites}
    sites = [by_name[name] for name in plan.split.masks]
    plain, one_pass = (kind(plan.split, sites, SeedBank(), CPU, plan.dtype) for kind in (Folded, Fused))
    with torch.no_grad():
        values = plan.split.prefix(x)
        for places in (None, np.arange(3)):
            draw = Draw("balanced", 4, 10, 10, 20)
            expected, found = (k.run(values, 3, 10, k.drawn(draw, places)) for k in (plain, one_pass))
            torch.testing.assert_close(found, expected, atol=0.02 if lowered else 1e-6, rtol=0)


def test_it_is_offered_where_every_mask_is_right_and_not_where_one_is_not(monkeypatch) -> None:
    kernel = fused([site(0.3, (6,)), site(0.1, (2, 3))])
    assert offered(kernel) == ""
    monkeypatch.setattr(Fused, "_words", lambda self, draw: [torch.zeros(1, 3, dtype=torch.int64)])
    assert offered(fused([site(0.3, (6,))])) == "its masks of site 'a.b' are not those of the CPU"


def test_it_is_not_offered_where_it_does_not_run(monkeypatch) -> None:
    def broken(self: Fused, draw: Draw) -> list[Tensor]:
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(Fused, "_words", broken)
    assert offered(fused([site(0.3, (6,))])) == "it does not run here: RuntimeError: no kernel image"


def test_the_kernel_compiles_for_a_device_which_asks_more_than_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-m", "tests.sampling.compiled_masks"], capture_output=True, text=True,
                          check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert min(map(int, done.stdout.split()), default=0) > 1000
