"""What the samples of a classifier disagree about, in nats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service import native
from service.statistics.at_once import entropies_and_votes
from service.statistics.blocks import MIN_JACKKNIFE_BLOCKS, BlockSums, jackknife, left_out, sizes
from service.statistics.moments import FinishedMoments, block_sums


def entropy(probabilities: Tensor) -> Tensor:
    """Uncertainty of a categorical distribution, nats: (…, classes) to (…,), in [0, log(classes)].

    0·log 0 is 0. NaN where any probability is NaN. Source: Shannon 1948.
    """
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


def bernoulli_entropy(probabilities: Tensor) -> Tensor:
    """Uncertainty of each yes-or-no label by itself, nats: any shape to the same, in [0, log 2]."""
    other = 1 - probabilities
    return -torch.special.xlogy(probabilities, probabilities) - torch.special.xlogy(other, other)


@dataclass(frozen=True)
class Information:
    """Entropies of the mean and of the samples, nats; (rows,), or (rows, labels) for multilabel.

    entropy:             H of the mean probabilities: all that is uncertain about the label. Biased low for few samples.
    expected_entropy:    mean over samples of their entropies: what even one thinned network is unsure of.
    mutual_information:  what the samples disagree about, I[y; mask | x] (Houlsby et al. 2011, arXiv 1112.5745). From
                         three blocks on corrected for its bias by jackknife and never below 0, so it need not equal
                         entropy - expected_entropy.
    variation_ratio:     share of samples that vote for another class than most do (Freeman 1965).
    *_se:                Monte-Carlo standard errors by delete-one-block jackknife; None with fewer than three blocks.
    """

    entropy: Tensor
    entropy_se: Tensor | None
    expected_entropy: Tensor
    mutual_information: Tensor
    mutual_information_se: Tensor | None
    variation_ratio: Tensor


    @staticmethod
    def of(at_once: Tensor, blocks: int) -> Information:
        """at_once: (6, rows), in this order."""
        figures: list[Tensor | None] = list(at_once.unbind(0))
        if blocks < MIN_JACKKNIFE_BLOCKS:
            figures[1] = figures[4] = None
        return Information(*figures)  # type: ignore[arg-type]


class InformationSums:
    """Running sums that `Information` needs. `multilabel`: each column is a Bernoulli of its own."""

    def __init__(self, multilabel: bool) -> None:
        self._multilabel = multilabel
        self._entropy = bernoulli_entropy if multilabel else entropy
        self._blocks = BlockSums()
        self._votes: Tensor | None = None  # (rows, columns)
        self._samples = 0

    def add(self, probabilities: Tensor, counts: list[int]) -> None:
        """probabilities: (samples, rows, columns)."""
        if not self._multilabel and native.reads(probabilities) and probabilities.shape[2] <= native.MOST_CLASSES:
            entropies, votes = entropies_and_votes(probabilities, counts)
        else:  # float64 after the sum of a row: a sample's entropy carries no cancellation
            entropies = block_sums(self._entropy(probabilities).double(), counts)
            votes = self._count_votes(probabilities)
        self._blocks.add(counts, entropies)
        self._votes = votes if self._votes is None else self._votes + votes
        self._samples += probabilities.shape[0]

    def _count_votes(self, probabilities: Tensor) -> Tensor:
        """Votes of the samples: (rows, columns)."""
        if self._multilabel:
            return (probabilities > 0.5).sum(0)
        _, rows, classes = probabilities.shape
        cell = probabilities.argmax(-1) + torch.arange(rows, device=probabilities.device) * classes
        return torch.bincount(cell.flatten(), minlength=rows * classes).view(rows, classes)

    def finish(self, moments: FinishedMoments) -> Information:
        counts, sums = self._blocks.stacked()
        expected = sums.sum(0) / self._samples
        # rounding may leave a mean a hair outside [0, 1], where an entropy is NaN
        total = self._entropy(moments.mean.clamp(0, 1))
        information = total - expected
        total_se = information_se = None
        if len(counts) >= MIN_JACKKNIFE_BLOCKS:
            total_without = self._entropy(moments.means_left_out().clamp(0, 1))
            expected_without = left_out(sums) / left_out(sizes(counts, sums))
            total_se = jackknife(total, total_without, counts)[1]
            information, information_se = jackknife(information, total_without - expected_without, counts)
        assert self._votes is not None
        share = self._votes.double() / self._samples
        modal = torch.maximum(share, 1 - share) if self._multilabel else share.amax(-1)
        return Information(
            entropy=total,
            entropy_se=total_se,
            expected_entropy=expected,
            mutual_information=information.clamp_min(0),
            mutual_information_se=information_se,
            variation_ratio=1 - modal,
        )
