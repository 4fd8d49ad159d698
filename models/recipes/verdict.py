"""Whether dropout helped and what it cost, in sentences made from the numbers, whichever way they fall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from models.recipes.comparison import Difference, Pair, difference, epochs_to_same_loss


@dataclass(frozen=True)
class Finding:
    """One figure with dropout less the same figure without, and which way is better (+1 up, -1 down)."""

    words: str
    gap: Difference
    better_sign: int

    @property
    def verdict(self) -> str:
        if self.gap.standard_error is None:
            return "one seed, no standard error"
        if not self.gap.is_clear:
            return "no clear difference"
        return "clearly better" if self.gap.mean * self.better_sign > 0 else "clearly worse"

    def __str__(self) -> str:
        error = "" if self.gap.standard_error is None else f" ± {self.gap.standard_error:.4f}"
        return f"{self.words} {self.gap.mean:+.4f}{error}, {self.verdict}"


@dataclass(frozen=True)
class Cost:
    """Epochs to the lowest loss that both trainings reach, means over seeds."""

    words: str
    dropped: float
    plain: float


def findings(pairs: Sequence[Pair], figure_name: str, figure_sign: int) -> tuple[list[Finding], list[Finding]]:
    """The task's figure and the log-likelihood, first deterministic, then Monte Carlo, each less without dropout."""
    plain = [pair.scores.plain for pair in pairs]
    modes = ([pair.scores.deterministic for pair in pairs], [pair.scores.sampled for pair in pairs])
    deterministic, sampled = (
        [
            Finding(figure_name, difference([s.figure for s in ours], [s.figure for s in plain]), figure_sign),
            Finding(
                "log-likelihood",
                difference([s.log_likelihood for s in ours], [s.log_likelihood for s in plain]),
                1,
            ),
        ]
        for ours in modes
    )
    return deterministic, sampled


def costs(pairs: Sequence[Pair]) -> tuple[Cost, Cost]:
    """On training and on validation rows."""
    on_training = [epochs_to_same_loss(pair, lambda losses: losses.train) for pair in pairs]
    on_validation = [epochs_to_same_loss(pair, lambda losses: losses.validation) for pair in pairs]
    training, validation = (
        Cost(words, mean(dropped for dropped, _ in counts), mean(plain for _, plain in counts))
        for words, counts in (("training rows", on_training), ("validation rows", on_validation))
    )
    return training, validation


def in_short(found: Sequence[Finding], spent: tuple[Cost, Cost]) -> str:
    """The answer in two sentences: help or harm among all findings, then the cost in epochs."""
    verdicts = {finding.verdict for finding in found}
    if {"clearly better", "clearly worse"} <= verdicts:
        answer = "In some figures dropout clearly helps here, in others it clearly harms."
    elif "clearly better" in verdicts:
        answer = "Dropout helps here."
    elif "clearly worse" in verdicts:
        answer = (
            "Dropout clearly helps none of these figures and clearly harms some; what it buys is a spread to look at."
        )
    else:
        answer = (
            "No help and no harm that stands clear of the training seed's luck; what it buys is a spread to look at."
        )
    training, validation = (cost.dropped / cost.plain for cost in spent)
    return (
        f"{answer} To the same training loss it takes {training:.1f} times the epochs, to the same validation loss "
        f"{validation:.1f} times."
    )
