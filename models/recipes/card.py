"""Writes `CARD.md`: what a bundled model is, what it was made from and how good it is, from the recipe's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean, stdev

from models.recipes.comparison import Pair, Scores
from models.recipes.data import SPLIT_SEED, Split
from models.recipes.evaluation import SAMPLES, SAMPLING_SEED, Score
from models.recipes.recipe import Recipe, Task
from models.recipes.verdict import costs, findings, in_short

MODES: tuple[tuple[str, Callable[[Scores], Score]], ...] = (
    ("with dropout, deterministic", lambda scores: scores.deterministic),
    (f"with dropout, Monte Carlo (T = {SAMPLES})", lambda scores: scores.sampled),
    ("trained without dropout", lambda scores: scores.plain),
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def card_markdown(recipe: Recipe, split: Split, pairs: Sequence[Pair], extra: str) -> str:
    """The card of the model that `pairs[0]` trained. `extra` is a Markdown section or empty."""
    served = pairs[0]
    sections = [
        f"# {recipe.name}\n\n{recipe.description}\n",
        f"## Data\n\n{recipe.about_data}\n\n{_rows_sentence(split, recipe.task)}\n",
        f"## Recipe\n\n{_recipe_text(recipe, served)}\n",
        f"## On held-out rows\n\n{_held_out_text(recipe, split, pairs)}",
        extra,
        f"## Does dropout help here, and what does it cost?\n\n{_dropout_text(recipe, pairs)}",
    ]
    return "\n".join(section for section in sections if section)


def _rows_sentence(split: Split, task: Task) -> str:
    chose = "chose the epoch and, where several settings were tried, among these"
    if task == "regression":
        chose += ", and fitted the noise"
    return (
        f"Cut by split seed {SPLIT_SEED} (`models.recipes.data`): {len(split.train.targets)} training, "
        f"{len(split.validation.targets)} validation and {len(split.test.targets)} test rows. Training rows fitted the "
        f"weights and the scaling inside the network. Validation rows {chose}. Test rows chose nothing."
    )


def _recipe_text(recipe: Recipe, served: Pair) -> str:
    schedule = recipe.schedule
    return (
        f"`{recipe.command}` writes this folder again, bit for bit on one machine. Training seed {served.seed}; AdamW "
        f"for {schedule.epochs} epochs, {schedule.batch_rows} rows a batch, learning rate {schedule.learning_rate:g} "
        f"falling to zero along a half cosine, weight decay {schedule.weight_decay:g}. {recipe.about_training} The "
        "weights are those of the epoch with the lowest validation loss with dropout off: epoch "
        f"{served.dropped.best_epoch} (without dropout: epoch {served.plain.best_epoch})."
    )


def _held_out_text(recipe: Recipe, split: Split, pairs: Sequence[Pair]) -> str:
    name = _figure_name(recipe)
    header = ["", name, "log-likelihood, nats a row"]
    spread_header = [f"mean ± standard deviation over {len(pairs)} training seeds", name, "log-likelihood"]
    served = [
        [words, f"{of(pairs[0].scores).figure:.4f}", f"{of(pairs[0].scores).log_likelihood:.4f}"] for words, of in MODES
    ]
    spread = [
        [
            words,
            _spread([of(pair.scores).figure for pair in pairs]),
            _spread([of(pair.scores).log_likelihood for pair in pairs]),
        ]
        for words, of in MODES
    ]
    notes = (
        f"The {len(split.test.targets)} test rows. Monte Carlo is the service's own engine with samples = {SAMPLES}, "
        f"seed = {SAMPLING_SEED}, shared balanced masks. The model that is served:\n"
    )
    parts = [notes, table(header, served), _precision_note(recipe, split, pairs[0].scores)]
    if len(pairs) > 1:
        parts.append(table(spread_header, spread))
    return "\n".join(parts)


def _precision_note(recipe: Recipe, split: Split, scores: Scores) -> str:
    rows = len(split.test.targets)
    if scores.tau is None or scores.plain_tau is None:
        accuracy = scores.sampled.figure
        return (
            f"With {rows} rows an accuracy of {accuracy:.4f} has a standard error of "
            f"{math.sqrt(accuracy * (1 - accuracy) / rows):.4f} from the choice of rows alone.\n"
        )
    return (
        "Likelihoods are of the target in its own unit: a Gaussian of precision tau around the answer, and for Monte "
        f"Carlo the mean of such Gaussians over the samples. tau = {scores.tau:.4g} (noise standard deviation "
        f"{1 / math.sqrt(scores.tau):.2f}) was fitted with Monte Carlo on validation rows and serves both modes; the "
        f"network without dropout has its own, fitted the same way: {scores.plain_tau:.4g} "
        f"({1 / math.sqrt(scores.plain_tau):.2f}). With {rows} rows an RMSE is known to about "
        f"{100 / math.sqrt(2 * rows):.0f} %.\n"
    )


def _dropout_text(recipe: Recipe, pairs: Sequence[Pair]) -> str:
    deterministic, sampled = findings(pairs, _figure_name(recipe), 1 if recipe.task == "classification" else -1)
    spent = costs(pairs)
    bullets = "".join(
        f"- {words}, less trained without: " + "; ".join(map(str, found)) + ".\n"
        for (words, _), found in zip(MODES[:2], (deterministic, sampled), strict=True)
    )
    epochs = table(
        ["epochs to the same loss, mean over seeds", "with dropout", "without"],
        [[cost.words, f"{cost.dropped:.1f}", f"{cost.plain:.1f}"] for cost in spent],
    )
    return (
        f"{in_short([*deterministic, *sampled], spent)}\n\n"
        "Compared with the same network, loop, seeds, row order and settings at dropout rates of 0. No setting was "
        "tuned for the network without dropout; its epoch is chosen like the other's. Paired over "
        f'{len(pairs)} training seeds, mean ± standard error; "clear" means beyond three standard errors, which '
        f"covers the luck of the training seed and not the choice of the rows:\n\n{bullets}\n{epochs}\n"
        "The level is the lowest loss that both trainings reach, measured after each epoch with dropout off and "
        "nothing augmented.\n"
    )


def _figure_name(recipe: Recipe) -> str:
    return "accuracy" if recipe.task == "classification" else "RMSE, target's unit"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} ± {stdev(values):.4f}"
