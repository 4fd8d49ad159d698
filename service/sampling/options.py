"""What a request asks for: checked, and with what it left open settled."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidOption
from service.sampling.kernels import Places
from service.sampling.masks import Design
from service.sampling.option_values import shown, whole
from service.sampling.steps import UNBOUNDED, Pace
from service.sampling.stopping import DEFAULT_SAMPLES, StopRule
from service.statistics import BLOCK

MaskSharing = Literal["shared", "independent"]
MethodChoice = Literal["auto", "sampled"]
METHODS: tuple[MethodChoice, ...] = ("auto", "sampled")
Dtype = Literal["float32", "tf32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "tf32", "bfloat16")
MAX_SEED = 2**53 - 1
MIXED_ROWS = 8  # of a request that may run with others of other seeds; a longer one is worth a pass of its own
MAX_ROWS = 2**32 - 1  # of a request: masks of their own are keyed by 1 + the place, in 32 bits


class Asked(NamedTuple):
    """samples: of each row, in whole blocks where they are balanced. places: of the rows in their requests, (rows,), by
    which their masks are keyed, where they have masks of their own; else None. keep: whether the samples are part of
    the answer. rule: by which a row may stop early. pace: how the work gives way. seeds: of the rows, (rows,), where
    they have not all the same; then those of one seed share masks.
    """

    samples: int
    seed: int
    design: Design
    places: Places = None
    keep: bool = False
    rule: StopRule | None = None
    pace: Pace = UNBOUNDED
    seeds: NDArray[np.int64] | None = None

    @property
    def per_row(self) -> bool:
        """Whether rows differ in their masks."""
        return self.places is not None or self.seeds is not None

    def of(self, part: range) -> Asked:
        """The same of some of the rows."""
        rows = slice(part.start, part.stop)
        return self._replace(places=None if self.places is None else self.places[rows],
                             seeds=None if self.seeds is None else self.seeds[rows])


def asked(
    samples: int | None, seed: int, masks: MaskSharing, design: Design | None, first_row: int | np.ndarray = 0,
    keep: bool = False, rule: StopRule | None = None, rows: int = 1, pace: Pace = UNBOUNDED,
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
    if type(keep) is not bool:
        raise InvalidOption.at("include_samples", f"True or False expected, got {shown(keep)}")
    if samples < 2:
        raise InvalidOption.at("samples", f"at least 2 expected, got {samples}")
    if not 0 <= seed <= MAX_SEED:
        raise InvalidOption.at("seed", f"0 to {MAX_SEED} expected, got {seed}")
    places = _checked_places(first_row, rows) if isinstance(first_row, np.ndarray) else _places_from(first_row, rows)
    if design == "balanced":
        samples = -(-samples // BLOCK) * BLOCK
    return Asked(samples, seed, design, places if masks == "independent" else None, keep, rule, pace)


def checked_seeds(seeds: np.ndarray, rows: int) -> np.ndarray:
    """Of so many rows. InvalidOption."""
    if seeds.shape != (rows,) or seeds.dtype != np.int64 or not ((seeds >= 0) & (seeds <= MAX_SEED)).all():
        raise InvalidOption.at("seed", f"a whole number, or {rows} of them from 0 to {MAX_SEED}, expected, got {seeds}")
    return seeds


def _checked_places(places: np.ndarray, rows: int) -> np.ndarray:
    if places.shape != (rows,) or places.dtype.kind not in "iu" or not ((places >= 0) & (places < MAX_ROWS)).all():
        raise InvalidOption.at(
            "first_row", f"a whole number, or {rows} of them from 0 to {MAX_ROWS - 1}, expected, got {places}")
    return places


def _places_from(first: int, rows: int) -> np.ndarray:
    """Of rows that follow each other in their request."""
    if type(first) is not int:
        first = whole("first_row", first)
    if not 0 <= first <= MAX_ROWS - rows:
        raise InvalidOption.at("first_row", f"0 to {MAX_ROWS - rows} expected for {rows} rows, got {first}")
    return np.arange(first, first + rows)
