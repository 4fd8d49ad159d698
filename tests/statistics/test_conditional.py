"""Laws of the moments whose last average is exact."""

import math

import pytest
import torch
from torch import Tensor

from service.statistics import ClosedForm, ConditionalAccumulator, Uncertainty


def given(samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = 100 + torch.randn(samples, 3, 2, generator=generator)
    return means, torch.rand(samples, 3, 2, generator=generator)


def told(means: Tensor, spreads: Tensor, balanced: bool, pieces: tuple[int, ...] = ()) -> Uncertainty:
    accumulator = ConditionalAccumulator(balanced)
    for piece in torch.cat([means, spreads], -1).split(list(pieces) or len(means)):
        accumulator.add(piece)
    return Uncertainty([accumulator], means.shape[2:], "rao_blackwell")


def test_the_variance_is_that_of_the_means_and_the_mean_of_the_variances() -> None:
    means, spreads = (part.double() for part in given(50))
    block_means = means.unflatten(0, (5, 10)).mean(1)
    answer = told(*given(50), balanced=True)
    se2 = block_means.var(0) / 5
    torch.testing.assert_close(answer.mean, means.mean(0))
    torch.testing.assert_close(answer.mean_se, se2.sqrt())
    torch.testing.assert_close(answer.std, (means.var(0, correction=0) + se2 + spreads.square().mean(0)).sqrt())
    assert (answer.method, answer.samples, answer.se_df) == ("rao_blackwell", 50, 4)


def test_independent_samples_take_the_unbiased_variance_of_the_means() -> None:
    means, spreads = (part.double() for part in given(47))
    answer = told(*given(47), balanced=False)
    torch.testing.assert_close(answer.std, (means.var(0) + spreads.square().mean(0)).sqrt())
    torch.testing.assert_close(answer.mean_se, means.std(0) / math.sqrt(47))
    assert answer.se_df == 46


@pytest.mark.parametrize("balanced", [True, False])
def test_the_jackknife_leaves_out_each_block_of_means_and_variances(balanced) -> None:
    means, spreads = given(50)
    answer = told(means, spreads, balanced)
    keep = [[i for i in range(50) if i // 10 != block] for block in range(5)]
    without = torch.stack([told(means[k], spreads[k], balanced).std for k in keep])
    pseudo = 5 * answer.std - 4 * without
    torch.testing.assert_close(answer.std_se, pseudo.std(0) / math.sqrt(5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("balanced", [True, False])
def test_how_samples_come_in_changes_nothing_even_past_64_blocks(balanced) -> None:
    whole = told(*given(1500), balanced)
    pieces = told(*given(1500), balanced, pieces=(10, 700, 40, 750))
    for name in ("mean", "std", "mean_se", "std_se"):
        torch.testing.assert_close(getattr(whole, name), getattr(pieces, name), rtol=1e-9, atol=1e-12)


def test_too_few_blocks_have_no_standard_errors() -> None:
    one, two = told(*given(10), balanced=True), told(*given(20), balanced=True)
    assert (one.mean_se, one.se_df, one.std_se) == (None, None, None)
    assert (two.se_df, two.std_se) == (1, None)


def test_means_that_agree_leave_the_exact_spread_and_no_error() -> None:
    answer = told(torch.full((50, 1, 1), 7.0), torch.full((50, 1, 1), 3.0), balanced=True)
    assert answer.std.item() == pytest.approx(3)
    assert answer.mean_se.item() == 0
    assert answer.std_se.item() < 1e-12


def test_a_closed_form_has_no_samples_and_no_error() -> None:
    part = ClosedForm()
    part.add(torch.tensor([[[1.0, 2.0, 0.5, 0.25], [3.0, 4.0, 0.0, 1e-30]]]))
    answer = Uncertainty([part], (2,), "closed_form")
    assert answer.mean.tolist() == [[1, 2], [3, 4]]
    assert answer.std.tolist() == [[0.5, 0.25], [0, pytest.approx(1e-30)]]
    assert answer.mean_se.tolist() == answer.std_se.tolist() == [[0, 0], [0, 0]]
    assert (answer.samples, answer.se_df, answer.draws) == (0, None, None)
    with pytest.raises(ValueError, match="quantiles need the samples"):
        answer.quantiles([0.5])


@pytest.mark.parametrize("spread", [1e-25, 1e-6, 1e25])
def test_a_spread_of_any_size_that_float32_can_hold_is_told(spread) -> None:
    means, spreads = (part.float() * spread for part in given(50))
    means = means - 100 * spread
    exact = means.double().var(0) + spreads.double().square().mean(0)
    torch.testing.assert_close(told(means, spreads, balanced=False).std, exact.sqrt(), rtol=1e-6, atol=0)
