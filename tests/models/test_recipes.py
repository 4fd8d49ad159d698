"""The machinery of the recipes: splits, damage, training, scoring, and what is written."""

from __future__ import annotations

import hashlib
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models.recipes.comparison import Pair, Scores, difference, epochs_to_same_loss
from models.recipes.data import Rows, Split, digits_image_split, digits_split, split_rows
from models.recipes.digit_training import damage_section
from models.recipes.evaluation import Score, auroc, entropy_nats, gaussian_mixture_log_likelihood, score_classes
from models.recipes.images import half_erased, jitter, permuted_pixels
from models.recipes.manifest import manifest_toml, training_features
from models.recipes.noise import fit_tau
from models.recipes.publish import publish
from models.recipes.recipe import Recipe
from models.recipes.training import EpochLosses, Fit, Schedule, fit
from models.recipes.verdict import Cost, Finding, in_short
from service.repository import Feature
from service.repository.manifest import parse_manifest
from tests.models.bundled import RECIPES, untrained

SPLIT_DIGESTS = {
    "digits": "fa768975ff1c0c2d5b8fd51ac900e5d037e966995b7d8121fe2a4adad0d2d2f9",
    "digits_cnn": "fa768975ff1c0c2d5b8fd51ac900e5d037e966995b7d8121fe2a4adad0d2d2f9",
    "diabetes": "d704122158af350afb88023a83b2590a2ca398df00a95bf6ca8df6f3bd7e336f",
    "breast_cancer": "229b5d3a3e8a7ff15ff761c7aea036dd1e0c4bfeae951af254ee83f1eac6b3d3",
}
"""sha256 of the test rows' numbers, as little-endian int64."""


@pytest.mark.parametrize("name", RECIPES)
def test_training_validation_and_test_rows_share_none_and_leave_none_out(name: str) -> None:
    split = RECIPES[name].split()
    sizes = [len(part.targets) for part in (split.train, split.validation, split.test)]
    parts = split_rows(sum(sizes), sizes[1], sizes[2])
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts)) == list(range(sum(sizes)))


@pytest.mark.parametrize("name", RECIPES)
def test_the_test_rows_are_the_ones_that_the_bundled_weights_never_saw(name: str) -> None:
    split = RECIPES[name].split()
    sizes = [len(part.targets) for part in (split.train, split.validation, split.test)]
    held_out = split_rows(sum(sizes), sizes[1], sizes[2])[2]
    assert hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest() == SPLIT_DIGESTS[name]


def test_digits_keep_scikit_learns_pixel_values_flat_and_as_images() -> None:
    flat, images = digits_split().test, digits_image_split().test
    assert flat.inputs.dtype == np.float32
    assert set(np.unique(flat.inputs)) == set(range(17))
    assert np.array_equal(images.inputs.reshape(-1, 64), flat.inputs)
    assert images.inputs.shape[1:] == (1, 8, 8)


def test_permuting_keeps_each_images_ink_and_gives_every_row_an_order_of_its_own() -> None:
    images = np.tile(np.arange(64, dtype=np.float32), (3, 1))
    permuted = permuted_pixels(images, seed=0)
    assert np.array_equal(np.sort(permuted), images)
    assert not np.array_equal(permuted[0], permuted[1])
    assert np.array_equal(permuted, permuted_pixels(images, seed=0))
    assert not np.array_equal(permuted, permuted_pixels(images, seed=1))


def test_erasing_takes_exactly_one_half_of_each_image_and_leaves_the_rest() -> None:
    images = np.ones((200, 1, 8, 8), dtype=np.float32)
    erased = half_erased(images, seed=0)
    assert np.all(erased.sum(axis=(1, 2, 3)) == 32)
    assert {tuple(image[0, [0, 7, 0, 7], [0, 0, 7, 7]]) for image in erased} == {
        (0, 1, 0, 1), (1, 0, 1, 0), (0, 0, 1, 1), (1, 1, 0, 0),
    }  # fmt: skip
    assert np.all(images == 1)


def test_jitter_moves_images_by_at_most_a_pixel_and_keeps_their_shape() -> None:
    images = torch.zeros(500, 1, 8, 8)
    images[:, :, 4, 4] = 1000.0
    moved = jitter(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    places = moved.reshape(500, 64).argmax(dim=1)
    assert set(places.tolist()) == {8 * row + column for row in (3, 4, 5) for column in (3, 4, 5)}
    assert torch.equal(jitter(images.reshape(500, 64), torch.Generator().manual_seed(0)), moved.reshape(500, 64))


def small(recipe: Recipe) -> Recipe:
    return replace(recipe, schedule=replace(recipe.schedule, epochs=2), seeds=(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_cnn", "diabetes"])
def test_a_rerun_of_a_recipe_writes_the_same_bytes(name: str, tmp_path: Path) -> None:
    section = damage_section if name == "digits_cnn" else None
    torch.manual_seed(1)
    first = publish(small(RECIPES[name]), tmp_path / "first", section)
    torch.manual_seed(2)
    second = publish(small(RECIPES[name]), tmp_path / "second", section)
    for file in ("weights.safetensors", "model.toml", "CARD.md"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert sorted(path.name for path in first.iterdir()) == ["CARD.md", "model.toml", "weights.safetensors"]


def two_blobs(rows: int = 40) -> Split:
    generator = np.random.default_rng(0)
    classes = np.arange(rows) % 2
    inputs = (generator.normal(size=(rows, 3)) + 2 * classes[:, None]).astype(np.float32)
    part = Rows(inputs, classes.astype(np.int64))
    return Split(part, part, part)


BRIEF = Schedule(epochs=5, batch_rows=8, learning_rate=0.1, weight_decay=0.0)


def test_training_leaves_torchs_random_state_and_threads_as_they_were() -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    fit(lambda: untrained(3, 2), two_blobs(), functional.cross_entropy, BRIEF, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_networks_that_differ_in_their_rates_alone_see_the_same_rows_in_the_same_order() -> None:
    def seen(rate: float) -> list[torch.Tensor]:
        batches: list[torch.Tensor] = []

        class Watched(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.dropout, self.output = nn.Dropout(rate), nn.Linear(3, 2)

            def forward(self, rows: torch.Tensor) -> torch.Tensor:
                if self.training:
                    batches.append(rows.clone())
                logits: torch.Tensor = self.output(self.dropout(rows))
                return logits

        def noisy(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return rows + torch.randn(rows.shape, generator=generator)

        fit(Watched, two_blobs(), functional.cross_entropy, BRIEF, seed=3, augment=noisy)
        return batches

    without, half = seen(0.0), seen(0.5)
    assert len(without) >= BRIEF.epochs
    assert all(torch.equal(one, other) for one, other in zip(without, half, strict=True))


def test_the_kept_weights_are_those_of_the_epoch_with_the_lowest_validation_loss() -> None:
    split = two_blobs()
    against = Rows(split.train.inputs, 1 - split.train.targets)  # the more is learnt, the worse it is here
    found = fit(lambda: untrained(3, 2), replace(split, validation=against), functional.cross_entropy, BRIEF, seed=0)
    lowest = min(losses.validation for losses in found.epochs)
    assert found.best_epoch < BRIEF.epochs
    assert found.epochs[found.best_epoch - 1].validation == lowest
    with torch.no_grad():
        kept = functional.cross_entropy(
            found.module(torch.from_numpy(against.inputs)), torch.from_numpy(against.targets)
        )
    assert float(kept) == lowest
    assert not found.module.training


def history(*losses: float) -> Fit:
    return Fit(nn.Identity(), tuple(EpochLosses(loss, loss) for loss in losses))


def pair(dropped: Fit, plain: Fit) -> Pair:
    none = Score(0.0, 0.0)
    return Pair(0, dropped, plain, Scores(none, none, none, None, None))


def test_the_cost_in_epochs_is_counted_to_the_lowest_loss_that_both_reach() -> None:
    slow, fast = history(9, 7, 5, 3), history(6, 2, 1, 4)
    assert epochs_to_same_loss(pair(slow, fast), lambda losses: losses.train) == (4, 2)


def test_a_difference_is_clear_beyond_three_standard_errors_only() -> None:
    gap = difference([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert gap.mean == 2.0
    assert gap.standard_error == pytest.approx(1 / math.sqrt(3))
    assert gap.is_clear
    assert not difference([0.0, 2.0, 3.0], [0.0, 0.0, 0.0]).is_clear
    assert not difference([5.0], [0.0]).is_clear


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ([1.0, 0.0], "Dropout helps here"),
        ([-1.0, 0.0], "clearly helps none"),
        ([1.0, -1.0], "in others it clearly harms"),
        ([0.0, 0.0], "No help and no harm"),
    ],
)
def test_the_verdict_on_dropout_follows_the_numbers(gaps: list[float], words: str) -> None:
    found = [Finding("accuracy", difference([g + 0.1, g, g - 0.1], [0.0, 0.0, 0.0]), 1) for g in gaps]
    text = in_short(found, (Cost("training rows", 30.0, 10.0), Cost("validation rows", 5.0, 10.0)))
    assert words in text
    assert "3.0 times the epochs" in text
    assert "0.5 times" in text


def test_a_larger_error_is_worse_and_a_larger_accuracy_better() -> None:
    gap = difference([1.0, 1.1, 0.9], [0.0, 0.0, 0.0])
    assert Finding("RMSE", gap, -1).verdict == "clearly worse"
    assert Finding("accuracy", gap, 1).verdict == "clearly better"


def test_the_mixture_likelihood_of_one_sample_is_the_gaussians() -> None:
    draws, targets = torch.tensor([[[1.0]], [[4.0]]]), torch.tensor([[2.0], [2.0]])
    expected = torch.distributions.Normal(draws[:, 0], 0.5).log_prob(targets).mean()
    assert gaussian_mixture_log_likelihood(draws, targets, tau=4.0) == pytest.approx(float(expected))


def test_the_mixture_likelihood_averages_densities_and_not_their_logarithms() -> None:
    draws, targets = torch.tensor([[[0.0], [3.0]]]), torch.tensor([[0.0]])
    densities = torch.distributions.Normal(draws[0, :, 0], 1.0).log_prob(targets[0]).exp()
    assert gaussian_mixture_log_likelihood(draws, targets, 1.0) == pytest.approx(math.log(float(densities.mean())))


def test_tau_of_a_single_sample_is_one_over_the_mean_squared_error() -> None:
    draws, targets = torch.tensor([[[1.0]], [[4.0]]]), torch.tensor([[2.0], [2.0]])
    assert fit_tau(draws, targets) == pytest.approx(1 / 2.5)


def fitted_noise(spread: float, noise: float, samples: int) -> float:
    """The noise found where spread and noise are Gaussian with these standard deviations, on 10,000 rows."""
    generator = torch.Generator().manual_seed(0)
    draws = spread * torch.randn(10_000, samples, 1, generator=generator)
    truth = spread * torch.randn(10_000, 1, generator=generator) + noise * torch.randn(10_000, 1, generator=generator)
    return 1 / math.sqrt(fit_tau(draws, truth))


def test_the_spread_of_the_samples_is_taken_out_of_the_noise() -> None:
    assert math.hypot(1.0, 2.0) > 2.2  # what the errors alone would say
    assert fitted_noise(spread=1.0, noise=2.0, samples=50) == pytest.approx(2.0, rel=0.03)


def test_where_the_spread_exceeds_the_noise_few_samples_make_the_noise_too_wide_and_more_mend_it() -> None:
    few, many = (fitted_noise(spread=3.0, noise=2.0, samples=samples) for samples in (20, 200))
    assert 2.0 < many < few < math.hypot(3.0, 2.0)


def test_a_classifier_scores_by_its_hits_and_the_log_of_the_true_classes_probability() -> None:
    rows = Rows(np.zeros((2, 1), dtype=np.float32), np.array([0, 1]))
    score = score_classes(torch.tensor([[0.5, 0.5], [0.75, 0.25]]), rows)
    assert score.figure == 0.5
    assert score.log_likelihood == pytest.approx((math.log(0.5) + math.log(0.25)) / 2)


def test_auroc_is_the_chance_of_the_right_order_with_ties_counted_half() -> None:
    usual = torch.tensor([0.0, 1.0])
    assert auroc(usual, torch.tensor([2.0, 3.0])) == 1.0
    assert auroc(usual, torch.tensor([1.0])) == 0.75


def test_entropy_is_zero_for_certainty_and_the_log_of_the_classes_for_none() -> None:
    found = entropy_nats(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert found.tolist() == [0.0, pytest.approx(math.log(2))]


def test_a_written_manifest_is_read_back_with_every_digit_and_letter() -> None:
    tau, description = 1 / 3, 'quotes "and" back\\slash, Ω and\na new line'
    text = manifest_toml(
        name="m", task="regression", description=description, labels=(), input_shape=(1,), input_range=(0.0, 1e-7),
        features=[Feature("f", "px^2", 0.1, 1e30)], factory="package:callable",
        arguments={"rates": (0.1, 0.0), "size": 3, "flag": True}, samples=50, seed=0, tau=tau,
    )  # fmt: skip
    manifest = parse_manifest(tomllib.loads(text))
    assert (manifest.tau, manifest.description) == (tau, description)
    assert manifest.inputs[0].range == (0.0, 1e-7)
    assert manifest.architecture.arguments == {"rates": [0.1, 0.0], "size": 3, "flag": True}
    assert manifest.features is not None
    assert vars(manifest.features[0]) == {"name": "f", "unit": "px^2", "min": 0.1, "max": 1e30}


def test_a_features_range_is_readable_and_exact_as_float32() -> None:
    (feature,) = training_features(["f"], ["1"], np.array([[0.1], [28.11]], dtype=np.float32))
    assert (feature.min, feature.max) == (0.1, 28.11)
    assert np.float32(feature.max) == np.float32(28.11)
