"""What the two digit models share: their scaling, the words on their data, and how they tell damage from digits."""

from __future__ import annotations

from collections.abc import Mapping

from models.recipes.card import table
from models.recipes.comparison import Pair
from models.recipes.data import Split
from models.recipes.evaluation import auroc, entropy_nats, predict, sample_classes, sampler_of
from models.recipes.images import MOVED_SHARE, NOISE_STD, half_erased, permuted_pixels

LABELS = tuple("0123456789")
PIXEL_RANGE = (0.0, 16.0)
DAMAGE_SEED = 0
"""Seed of the permutations and erased halves behind the cards' figures."""
DAMAGES = (("pixels permuted", permuted_pixels), ("half erased", half_erased))

ABOUT_DATA = (
    "`sklearn.datasets.load_digits`: 1,797 handwritten digits as 8x8 pixels with values 0 (paper) to 16 (ink), the "
    'test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998, UCI Machine Learning '
    "Repository), which UCI offers under CC BY 4.0; scikit-learn, which ships the copy, is under the BSD 3-clause "
    "licence. The same 13 people wrote the rows of all three parts, so strangers' hands may be read worse than the "
    "figures below say."
)
ABOUT_TRAINING = (
    f"In training {100 * MOVED_SHARE:g} % of the images are moved by up to one pixel each way, and all get Gaussian "
    f"pixel noise of standard deviation {NOISE_STD:g} (of 16), with and without dropout alike."
)


def pixel_scaling(split: Split) -> Mapping[str, float]:
    """One mean and one standard deviation for all pixels.

    One a pixel would blow up the pixels that are nearly always empty, and a stray dot there would rule the answer.
    """
    return {"shift": float(split.train.inputs.mean()), "scale": float(split.train.inputs.std())}


def damage_section(pair: Pair, split: Split) -> str:
    """The card's section on entropy as a sign of damage, over the test rows, and on the smallest spread."""
    inputs = split.test.inputs
    dropped = sampler_of(pair.dropped.module, split.test, "classification")
    plain = sampler_of(pair.plain.module, split.test, "classification")
    clean = sample_classes(dropped, inputs)
    rows = []
    for words, damage in DAMAGES:
        damaged = damage(inputs, DAMAGE_SEED)
        figures = [auroc(clean.entropy, sample_classes(dropped, damaged).entropy)]
        figures += [
            auroc(entropy_nats(predict(sampler, inputs)), entropy_nats(predict(sampler, damaged)))
            for sampler in (dropped, plain)
        ]
        rows.append([words, *(f"{figure:.4f}" for figure in figures)])
    least = float(clean.std.amax(dim=-1).min())
    return (
        "## Entropy as a sign of damage\n\n"
        "AUROC of the predictive entropy, test rows against the same rows damaged (1 tells every damaged image from "
        f"every clean one, 0.5 none). Damage seed {DAMAGE_SEED}: each image has its 64 pixels permuted in its own way, "
        "or one half (top, bottom, left or right, drawn at random) erased to paper.\n\n"
        + table(["", "Monte Carlo", "deterministic", "trained without dropout"], rows)
        + "\nOne seed, one cut; other kinds of damage may be missed. The largest standard deviation over classes is at "
        f"least {least:.1e} on every clean test row.\n"
    )
