"""How good the bundled models are on rows that trained and chose nothing, through the service's own engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from models.recipes.data import Rows, Split
from models.recipes.digit_training import DAMAGE_SEED, DAMAGES
from models.recipes.evaluation import (
    Score,
    auroc,
    gaussian_mixture_log_likelihood,
    predict,
    sample_classes,
    sample_values,
    score_classes,
    score_values,
)
from models.recipes.noise import fit_tau
from service.sampling import Sampler
from tests.models.bundled import RECIPES, card_row, ready

CARD_PLACES = 2e-3
"""How far a figure may be from the card's: another machine may sum in another order and turn a borderline row."""

digit_models = pytest.mark.parametrize("name", ["digits", "digits_cnn"])
classifiers = pytest.mark.parametrize("name", ["digits", "digits_cnn", "breast_cancer"])


@dataclass(frozen=True)
class Served:
    sampler: Sampler
    split: Split
    tau: float | None


@cache
def served(name: str) -> Served:
    model = ready(name)
    return Served(model.sampler, RECIPES[name].split(), model.manifest.tau)


def both_modes(name: str) -> tuple[Score, Score]:
    one = served(name)
    test = one.split.test
    if one.tau is None:
        sampled = sample_classes(one.sampler, test.inputs).mean
        return score_classes(predict(one.sampler, test.inputs), test), score_classes(sampled, test)
    deterministic = predict(one.sampler, test.inputs)[:, None]
    return score_values(deterministic, test, one.tau), score_values(
        sample_values(one.sampler, test.inputs), test, one.tau
    )


def targets(rows: Rows) -> Tensor:
    return torch.from_numpy(rows.targets)


@digit_models
def test_at_least_97_of_100_held_out_digits_are_read_right_in_both_modes(name: str) -> None:
    deterministic, sampled = both_modes(name)
    assert deterministic.figure >= 0.97
    assert sampled.figure >= 0.97


@digit_models
def test_digits_with_permuted_pixels_have_higher_entropy_than_clean_ones(name: str) -> None:
    assert damage_figures(name)["pixels permuted"] >= 0.90


@digit_models
def test_half_erased_digits_have_higher_entropy_than_clean_ones_more_often_than_not(name: str) -> None:
    assert damage_figures(name)["half erased"] >= 0.80


@digit_models
def test_the_card_tells_the_entropys_auroc_for_each_damage(name: str) -> None:
    for words, figure in damage_figures(name).items():
        assert card_row(name, words)[0] == pytest.approx(figure, abs=CARD_PLACES)


@cache
def damage_figures(name: str) -> dict[str, float]:
    one = served(name)
    inputs = one.split.test.inputs
    clean = sample_classes(one.sampler, inputs).entropy
    return {
        words: auroc(clean, sample_classes(one.sampler, damage(inputs, DAMAGE_SEED)).entropy)
        for words, damage in DAMAGES
    }


@classifiers
def test_every_held_out_row_has_a_class_whose_probability_varies(name: str) -> None:
    one = served(name)
    spread = sample_classes(one.sampler, one.split.test.inputs).std
    assert float(spread.amax(dim=-1).min()) > 0


@digit_models
def test_no_prediction_on_a_held_out_digit_is_exactly_certain(name: str) -> None:
    one = served(name)
    assert float(predict(one.sampler, one.split.test.inputs).max()) < 1


@pytest.mark.parametrize("name", RECIPES)
def test_the_card_tells_the_held_out_figures_of_both_modes(name: str) -> None:
    words = ("with dropout, deterministic", "with dropout, Monte Carlo (T = 50)")
    for mode, score in zip(words, both_modes(name), strict=True):
        figure, log_likelihood = card_row(name, mode)
        assert figure == pytest.approx(score.figure, rel=CARD_PLACES, abs=CARD_PLACES)
        assert log_likelihood == pytest.approx(score.log_likelihood, abs=CARD_PLACES)


def test_the_tumour_model_errs_at_most_once_in_fifteen_held_out_rows_in_both_modes() -> None:
    for score in both_modes("breast_cancer"):
        assert score.figure >= 1 - 1 / 15


def test_the_diabetes_model_beats_the_training_mean_in_error_and_likelihood() -> None:
    split = served("diabetes").split
    mean = torch.full((len(split.test.targets), 1, 1), float(split.train.targets.mean()))
    constant = score_values(mean, split.test, 1 / float(targets(split.train).var()))
    for score in both_modes("diabetes"):
        assert score.figure < 0.85 * constant.figure
        assert score.log_likelihood > constant.log_likelihood


def test_the_manifests_tau_is_the_one_fitted_on_validation_rows() -> None:
    one = served("diabetes")
    validation = one.split.validation
    draws = sample_values(one.sampler, validation.inputs)
    assert one.tau == pytest.approx(fit_tau(draws, targets(validation)), rel=1e-3)


def test_noise_and_spread_together_are_as_large_as_the_held_out_errors() -> None:
    one = served("diabetes")
    assert one.tau is not None
    draws = sample_values(one.sampler, one.split.test.inputs).double()
    total = draws.var(dim=1, correction=0) + 1 / one.tau
    scaled = (draws.mean(dim=1) - targets(one.split.test)).square() / total
    # the mean of 88 squares of standard normals has standard error sqrt(2 / 88) = 0.15
    assert float(scaled.mean()) == pytest.approx(1.0, abs=3 * math.sqrt(2 / len(scaled)))


def test_no_other_tau_makes_the_validation_rows_more_likely() -> None:
    one = served("diabetes")
    validation = one.split.validation
    draws = sample_values(one.sampler, validation.inputs)
    best = fit_tau(draws, targets(validation))

    def at(tau: float) -> float:
        return gaussian_mixture_log_likelihood(draws, targets(validation), tau)

    assert all(at(best) > at(best * factor) for factor in (0.5, 0.95, 1.05, 2.0))
