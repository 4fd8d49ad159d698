"""What a request asks for: checked, and with what it left open settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from service.errors import InvalidOption
from service.sampling.masks import Design
from service.sampling.option_values import shown, whole
from service.sampling.stopping import DEFAULT_SAMPLES, StopRule
from service.statistics import BLOCK

MaskSharing = Literal["shared", "independent"]
MethodChoice = Literal["auto", "sampled"]
METHODS: tuple[MethodChoice, ...] = ("auto", "sampled")
Dtype = Literal["float32", "tf32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "tf32", "bfloat16")
MAX_SEED = 2**53 - 1
MAX_ROWS = 2**32 - 1  # of a request: masks of their own are keyed by 1 + the place, in 32 bits


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
    checkpoint: Callable[[], None] | None = None, rule: StopRule | None = None, rows: int = 1,
) -> Asked:
    """Of the options of `Sampler.uncertainty`; None where the request leaves one open. rows: of the request, or of
    this part of it. InvalidOption, with the option's path, where one is out of its range."""
    if design is None:
        design = "balanced" if rule is None else "iid"
    if samples is None:
        samples = 50 if rule is None else DEFAULT_SAMPLES
    if design not in ("balanced", "iid"):
        raise InvalidOption.at("design", f"'balanced' or 'iid' expected, got {design!r}")
    if masks not in ("shared", "independent"):
        raise InvalidOption.at("masks", f"'shared' or 'independent' expected, got {masks!r}")
    if type(samples) is not int:
        samples = whole("samples", samples)
    if type(seed) is not int:
        seed = whole("seed", seed)
    if type(first_row) is not int:
        first_row = whole("first_row", first_row)
    if type(keep) is not bool:
        raise InvalidOption.at("include_samples", f"True or False expected, got {shown(keep)}")
    if samples < 2:
        raise InvalidOption.at("samples", f"at least 2 expected, got {samples}")
    if not 0 <= seed <= MAX_SEED:
        raise InvalidOption.at("seed", f"0 to {MAX_SEED} expected, got {seed}")
    if not 0 <= first_row <= MAX_ROWS - rows:
        raise InvalidOption.at("first_row", f"0 to {MAX_ROWS - rows} expected for {rows} rows, got {first_row}")
    if design == "balanced":
        samples = -(-samples // BLOCK) * BLOCK
    return Asked(samples, seed, design, masks == "independent", first_row, keep, checkpoint, rule)
