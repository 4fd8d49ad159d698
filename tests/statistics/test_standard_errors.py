"""Standard errors are held against how much the estimates vary over seeds; the long run is `make bench-statistics`."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from benchmarks.estimates import Calibration, calibration
from models.architectures.mlp import MLP
from service.sampling import prepare

SEEDS = 600
DESIGNS = ["balanced", "iid"]


@lru_cache
def measured(design, samples: int) -> Calibration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP(6, (24, 12), 3)
        with torch.no_grad():
            net.body.output.weight.mul_(6)
        rows = torch.randn(8, 6)
    return calibration(prepare(net, rows, "classification"), rows, samples, design, range(SEEDS))


@pytest.mark.parametrize("design", DESIGNS)
def test_the_standard_error_of_the_mean_tells_how_far_means_scatter(design) -> None:
    assert measured(design, 50).se_ratio["mean"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("estimate", ["std", "entropy", "mutual_information"])
def test_jackknifed_standard_errors_tell_how_far_the_estimates_scatter(design, estimate) -> None:
    assert measured(design, 50).se_ratio[estimate] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("samples", [20, 50])
def test_the_variance_is_unbiased(design, samples) -> None:
    assert measured(design, samples).bias == pytest.approx(0, abs=0.01)


def test_plain_ddof_1_would_be_biased_under_balanced_masks_so_the_check_above_can_fail() -> None:
    assert measured("balanced", 20).plain_bias > 0.02


def test_balanced_masks_at_least_halve_the_error_variance_of_the_mean() -> None:
    balanced, iid = measured("balanced", 50), measured("iid", 50)
    assert iid.variance["mean"] > 2 * balanced.variance["mean"]
    assert balanced.variance["std"] < 1.1 * iid.variance["std"]
