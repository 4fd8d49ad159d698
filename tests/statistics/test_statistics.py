"""Laws of the streaming statistics."""

import math

import pytest
import torch

from service.statistics import Accumulator, Uncertainty
from service.statistics.blocks import BlockSums
from service.statistics.information import entropy


def uncertainty(
    values: torch.Tensor, balanced: bool, pieces: tuple[int, ...] = (), task="classification"
) -> Uncertainty:
    accumulator = Accumulator(task, balanced, keep=True)
    for piece in values.split(list(pieces) if pieces else len(values)):
        accumulator.add(piece)
    return Uncertainty([accumulator], values.shape[2:])


def simplex(samples: int, rows: int = 3, classes: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, rows, classes, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_independent_samples_have_the_textbook_mean_std_and_standard_error() -> None:
    values = simplex(47)
    answer = uncertainty(values, balanced=False)
    torch.testing.assert_close(answer.mean, values.double().mean(0))
    torch.testing.assert_close(answer.std, values.double().std(0))
    torch.testing.assert_close(answer.mean_se, values.double().std(0) / math.sqrt(47))
    assert answer.se_df == 46


def test_balanced_samples_take_their_standard_error_from_block_means() -> None:
    values = simplex(50).double()
    means = values.unflatten(0, (5, 10)).mean(1)
    answer = uncertainty(values, balanced=True)
    torch.testing.assert_close(answer.mean_se, means.std(0) / math.sqrt(5))
    expected = values.var(0, correction=0) + means.var(0) / 5
    torch.testing.assert_close(answer.std, expected.sqrt())
    assert answer.se_df == 4


def test_the_jackknife_leaves_out_each_block_and_recomputes_everything() -> None:
    values = simplex(50).double()
    answer = uncertainty(values, balanced=True)
    without = [torch.cat([values[: 10 * j], values[10 * j + 10 :]]) for j in range(5)]
    stds = torch.stack([uncertainty(v, balanced=True).std for v in without])
    torch.testing.assert_close(answer.std_se, ((stds - stds.mean(0)) ** 2).sum(0).mul(4 / 5).sqrt())
    plug_in = torch.stack([entropy(v.mean(0)) - entropy(v).mean(0) for v in without])
    whole = entropy(values.mean(0)) - entropy(values).mean(0)
    torch.testing.assert_close(answer.mutual_information, (5 * whole - 4 * plug_in.mean(0)).clamp_min(0))


@pytest.mark.parametrize("samples", [50, 640, 650, 660, 1290, 2570])
def test_the_answer_does_not_depend_on_how_the_samples_came_in(samples: int) -> None:
    values = simplex(samples)
    whole = uncertainty(values, balanced=True)
    pieces = uncertainty(values, balanced=True, pieces=(10, 30) + (10,) * ((samples - 40) // 10))
    for name in ("mean", "std", "mean_se", "std_se", "entropy", "entropy_se", "mutual_information", "variation_ratio"):
        torch.testing.assert_close(getattr(whole, name), getattr(pieces, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("balanced", [True, False])
def test_a_last_block_may_be_short(balanced) -> None:
    values = simplex(47).double()
    whole, pieces = uncertainty(values, balanced), uncertainty(values, balanced, pieces=(20, 27))
    for name in ("mean", "std", "mean_se", "std_se", "entropy_se"):
        torch.testing.assert_close(getattr(whole, name), getattr(pieces, name), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole.mean, values.mean(0))


@pytest.mark.parametrize("blocks", [1, 5, 64, 65, 66, 128, 129, 130, 1000])
def test_there_are_at_most_64_super_blocks_and_none_is_lost(blocks: int) -> None:
    sums = BlockSums()
    for i in range(blocks):
        sums.add([10], torch.full((1, 2), float(i)))
    counts, values = sums.stacked()
    assert len(counts) <= 64
    assert sum(counts) == 10 * blocks
    assert values.sum(0)[0] == blocks * (blocks - 1) / 2


def test_a_small_spread_around_a_large_value_keeps_its_digits() -> None:
    noise = torch.randn(1000, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-6
    answer = uncertainty(1e6 + noise, balanced=False, task="regression")
    torch.testing.assert_close(answer.std, (1e6 + noise).std(0), rtol=1e-3, atol=0)


def test_entropy_is_at_most_log_k_and_zero_for_a_certain_class() -> None:
    assert entropy(torch.full((5,), 0.2, dtype=torch.float64)).item() == pytest.approx(math.log(5))
    assert entropy(torch.tensor([0.0, 1.0, 0.0])).item() == 0.0


def test_entropy_of_nan_is_nan() -> None:
    assert entropy(torch.tensor([float("nan"), 0.5])).isnan()


def test_samples_that_agree_share_no_information() -> None:
    answer = uncertainty(simplex(1).expand(50, -1, -1), balanced=True)
    assert answer.mutual_information.max() < 1e-6
    assert answer.variation_ratio.max() == 0
    assert answer.std.max() == 0


def test_the_variation_ratio_is_the_share_of_dissenting_votes() -> None:
    votes = torch.eye(2)[torch.tensor([0] * 7 + [1] * 3)].unsqueeze(1)
    assert uncertainty(votes, balanced=True).variation_ratio.item() == pytest.approx(0.3)


def test_a_multilabel_answer_has_an_entropy_for_each_label() -> None:
    values = torch.rand(50, 3, 4, generator=torch.Generator().manual_seed(0))
    answer = uncertainty(values, balanced=True, task="multilabel")
    p = values.double().mean(0)
    torch.testing.assert_close(answer.entropy, -(p * p.log() + (1 - p) * (1 - p).log()))


def test_quantiles_lie_between_order_statistics() -> None:
    values = torch.arange(11.0).view(11, 1, 1)
    answer = uncertainty(values, balanced=False, task="regression")
    assert answer.quantiles([0.0, 0.5, 0.95]).flatten().tolist() == pytest.approx([0.0, 5.0, 9.5])


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("spread", [1e-25, 1e-6, 1e25])
def test_a_spread_of_any_size_that_float32_can_hold_is_told(spread, balanced) -> None:
    draws = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0)) * spread
    told = Accumulator("regression", balanced)
    told.add(draws)
    exact = draws.double()
    variance = exact.var(0)
    if balanced:
        means = exact.view(5, 10, 2, 3).mean(1)
        variance = exact.var(0, correction=0) + means.var(0) / 5
    torch.testing.assert_close(told.moments.std, variance.sqrt(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["entropy", "entropy_se", "expected_entropy", "mutual_information", "variation_ratio"])
def test_a_task_without_classes_has_no_entropies_and_says_so(name) -> None:
    answer = uncertainty(simplex(50), balanced=True, task="regression")
    with pytest.raises(ValueError, match=f"{name} is for classification"):
        getattr(answer, name)
