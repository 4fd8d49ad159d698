"""One request as the engine sees it, and its answer: plain values, no tensors of the device, no web."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.repository import ReadyModel
from service.sampling.masks import Design
from service.sampling.options import MaskSharing, MethodChoice
from service.sampling.stopping import Decide
from service.statistics import BLOCK, Method
from service.statistics.summary import Side, StopReason

Mode = Literal["predict", "uncertainty"]
Array = NDArray[np.floating] | NDArray[np.integer]


@dataclass(frozen=True)
class Options:
    """What an uncertainty request asks for, defaults filled in."""

    samples: int
    seed: int
    masks: MaskSharing
    design: Design
    quantiles: tuple[float, ...] = ()
    include_samples: bool = False
    tolerance: float | None = None
    decide: Decide | None = None
    first_row: int = 0  # place of the first row, where a long file is asked about in parts
    method: MethodChoice = "auto"

    @property
    def keeps_samples(self) -> bool:
        """Whether the samples themselves are needed, beyond their sums."""
        return self.include_samples or bool(self.quantiles)

    @property
    def effective_samples(self) -> int:
        """The most that a row may have; balanced samples come in whole blocks of 10."""
        return -(-self.samples // BLOCK) * BLOCK if self.design == "balanced" else self.samples


@dataclass(frozen=True)
class Job:
    """deadline: on the engine's clock, in seconds."""

    model: ReadyModel
    mode: Mode
    inputs: Mapping[str, Tensor]
    deadline: float
    options: Options | None = None

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The inputs in the manifest's order, as the sampler takes them."""
        return tuple(self.inputs.values())

    @property
    def method(self) -> Method | None:
        """How it is answered; None for a prediction."""
        if self.options is None:
            return None
        return self.model.sampler.method_for(self.options.method, self.options.keeps_samples)

    @property
    def passes(self) -> int:
        """Rows × samples: what the work is proportional to, if no row stops early. A closed form costs each row
        once."""
        if self.options is None or self.method == "closed_form":
            return self.rows
        return self.rows * self.options.effective_samples


@dataclass(frozen=True)
class Stops:
    """Where each row's sampling ended and why; lists over rows. See `Uncertainty`."""

    samples: list[int]
    stopped: list[StopReason]
    settled: list[Side | None]
    after_stopping: list[bool]


@dataclass(frozen=True)
class Answer:
    """arrays: rows first; a prediction has `values`, an uncertainty the names of the contract. None: does not exist.
    samples: that were drawn, 0 for a prediction and a closed form. method: None for a prediction. stops: where rows
    could stop early; then NaN stands in a row that has no such number, and `se_df` is each row's samples - 1."""

    arrays: Mapping[str, Array | None]
    se_df: int | None = None
    samples: int = 0
    method: Method | None = None
    stops: Stops | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
