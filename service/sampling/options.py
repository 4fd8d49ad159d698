"""What a request asks for: checked, and with what it left open settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from service.errors import InvalidOption
from service.sampling.masks import Design
from service.sampling.stopping import DEFAULT_SAMPLES, StopRule
from service.statistics import BLOCK

MaskSharing = Literal["shared", "independent"]
MethodChoice = Literal["auto", "sampled"]
METHODS: tuple[MethodChoice, ...] = ("auto", "sampled")
Dtype = Literal["float32", "tf32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "tf32", "bfloat16")
MAX_SEED = 2**53 - 1


class Asked(NamedTuple):
    """samples: of each row, in whole blocks where they are balanced. independent: whether rows have masks of their own,
    keyed by their places; first_row: the place of the first one. keep: whether the samples are part of the answer.
    checkpoint: called after each chunk of samples and rows. rule: by which a row may stop early."""

    samples: int
    seed: int
    design: Design
    independent: bool = False
    first_row: int = 0
    keep: bool = False
    checkpoint: Callable[[], None] | None = None
    rule: StopRule | None = None


def asked(
    samples: int | None, seed: int, masks: MaskSharing, design: Design | None, first_row: int = 0, keep: bool = False,
    checkpoint: Callable[[], None] | None = None, rule: StopRule | None = None,
) -> Asked:
    """Of the options of `Sampler.uncertainty`; None where the request leaves one open. InvalidOption where one is out
    of its range."""
    if design is None:
        design = "balanced" if rule is None else "iid"
    if samples is None:
        samples = 50 if rule is None else DEFAULT_SAMPLES
    if design not in ("balanced", "iid"):
        raise InvalidOption(f"design: 'balanced' or 'iid' expected, got {design!r}")
    if masks not in ("shared", "independent"):
        raise InvalidOption(f"masks: 'shared' or 'independent' expected, got {masks!r}")
    for name, number in (("samples", samples), ("seed", seed)):
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidOption(f"{name}: a whole number expected, got {number!r}")
    if samples < 2:
        raise InvalidOption(f"samples: at least 2 expected, got {samples}")
    if not 0 <= seed <= MAX_SEED:
        raise InvalidOption(f"seed: 0 to {MAX_SEED} expected, got {seed}")
    if design == "balanced":
        samples = -(-samples // BLOCK) * BLOCK
    return Asked(samples, seed, design, masks == "independent", first_row, keep, checkpoint, rule)
