"""One request as the engine sees it, and its answer: plain values, no tensors of the device, no web."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

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
MODES: tuple[Mode, ...] = get_args(Mode)
DEFAULT_PRIORITY = 5
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
    first_row: int = field(default=0, compare=False)  # its place, where a long file is asked about in parts
    method: MethodChoice = "auto"

    @property
    def stops_early(self) -> bool:
        """Whether a row may end before it has all its samples."""
        return self.tolerance is not None or self.decide is not None

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
    """deadline: on the engine's clock, in seconds. priority: 0 to 9, higher first. partial: whether the answer is to
    come by the deadline with the samples there are."""

    model: ReadyModel
    mode: Mode
    inputs: Mapping[str, Tensor]
    deadline: float
    options: Options | None = None
    priority: int = DEFAULT_PRIORITY
    partial: bool = False

    @cached_property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The inputs in the manifest's order, as the sampler takes them."""
        return tuple(self.inputs.values())

    @cached_property
    def method(self) -> Method | None:
        """How it is answered; None for a prediction."""
        if self.options is None:
            return None
        return self.model.sampler.method_for(self.options.method, self.options.keeps_samples)

    @cached_property
    def passes(self) -> int:
        """Rows × samples: what the work is proportional to, if no row stops early. A closed form costs each row
        once."""
        return self.rows * self.samples

    @property
    def samples(self) -> int:
        """That each row needs, if it does not stop early; 1 where nothing is sampled."""
        if self.options is None or self.method == "closed_form":
            return 1
        return self.options.effective_samples

    @cached_property
    def kind(self) -> Hashable:
        """Jobs of one kind cost alike for each pass."""
        stops = self.options is not None and self.options.stops_early
        return self.model.name, self.model.version, self.mode, self.method, stops

    @cached_property
    def key(self) -> Hashable:
        """Jobs of one key may be answered together: a row's answer is the same in any company."""
        return id(self.model.sampler), self.mode, self.options

    @property
    def runs_alone(self) -> bool:
        """Whether its samples depend on its deadline, which is nobody else's."""
        return self.partial


@dataclass(frozen=True)
class Stops:
    """Where each row's sampling ended and why; lists over rows. See `Uncertainty`."""

    samples: list[int]
    se_df: list[int | None]
    stopped: list[StopReason]
    settled: list[Side | None]
    after_stopping: list[bool]

    def of(self, part: slice) -> Stops:
        return Stops(
            self.samples[part], self.se_df[part], self.stopped[part], self.settled[part], self.after_stopping[part])


@dataclass(frozen=True)
class Answer:
    """arrays: rows first; a prediction has `values`, an uncertainty the names of the contract. None: does not exist.
    samples: that were drawn, 0 for a prediction and a closed form. method: None for a prediction. stops: where rows
    could stop early, or were cut short by their deadline; then NaN stands in a row that has no such number."""

    arrays: Mapping[str, Array | None]
    se_df: int | None = None
    samples: int = 0
    method: Method | None = None
    stops: Stops | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
