"""One request as the engine sees it, and its answer: plain values, no tensors of the device, no web."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.repository import ReadyModel
from service.sampling.masks import Design
from service.sampling.options import MIXED_ROWS, MaskSharing, MethodChoice
from service.sampling.stopping import Decide
from service.statistics import BLOCK, Method
from service.statistics.summary import Side, StopReason

Mode = Literal["predict", "uncertainty"]
MODES: tuple[Mode, ...] = get_args(Mode)
DEFAULT_PRIORITY = 5
NO_TIMINGS: Mapping[str, float] = {}
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

    def __post_init__(self) -> None:
        # it is part of every job's key, and asked for several times a request
        rest = (self.samples, self.masks, self.design, self.quantiles, self.include_samples, self.tolerance,
                self.decide, self.method)
        object.__setattr__(self, "_rest", rest)
        object.__setattr__(self, "_hash", hash((self.seed, rest)))

    def __hash__(self) -> int:
        found: int = self.__dict__["_hash"]
        return found

    @property
    def but_seed(self) -> Hashable:
        """All but the seed."""
        found: Hashable = self.__dict__["_rest"]
        return found

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


class Watcher(Protocol):
    """Who follows a job while its samples are drawn, on the thread that draws them; returns at once."""

    def wants(self) -> bool:
        """Whether to be shown the next answer: it costs time to make."""

    def see(self, so_far: Answer) -> None:
        """What the samples so far say of the job's rows, or of the first of them, where the others have no samples
        yet. Without quantiles and samples."""


class Job:
    """deadline: on the engine's clock, in seconds. priority: 0 to 9, higher first. partial: whether the answer is to
    come by the deadline with the samples there are. Not to be changed; all else follows from what it was made of:

    rows. samples: that each row needs, if it does not stop early; 1 where nothing is sampled. passes: rows × samples,
    what the work is proportional to. size: of the work, as a power of two. method: how it is answered; None for a
    prediction. kind: jobs of one kind cost alike for each pass. key: jobs of one key may be answered together, since a
    row's answer is the same in any company.
    """

    __slots__ = ("deadline", "inputs", "key", "kind", "method", "mode", "model", "options", "partial", "passes",
                 "priority", "rows", "samples", "size", "watcher")

    def __init__(
        self, model: ReadyModel, mode: Mode, inputs: Mapping[str, Tensor], deadline: float,
        options: Options | None = None, priority: int = DEFAULT_PRIORITY, partial: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self.model, self.mode, self.inputs, self.deadline = model, mode, inputs, deadline
        self.options, self.priority, self.partial, self.watcher = options, priority, partial, watcher
        self.rows = next(iter(inputs.values())).shape[0]
        self.method: Method | None = None
        self.samples, stops, mixes = 1, False, False
        if options is not None:
            self.method = model.sampler.method_for(options.method, options.keeps_samples)
            stops, mixes = options.stops_early, self._mixes_seeds(options)
            if self.method != "closed_form":
                self.samples = options.effective_samples
        self.passes = self.rows * self.samples
        self.size = self.passes.bit_length()
        self.kind: Hashable = (model.name, model.version, mode, self.method, stops)
        alike = options.but_seed if options is not None and mixes else options
        self.key: Hashable = (model.name, id(model.sampler), alike)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The inputs in the manifest's order, as the sampler takes them."""
        return tuple(self.inputs.values())

    @property
    def seed(self) -> int | None:
        return None if self.options is None else self.options.seed

    @property
    def runs_alone(self) -> bool:
        """Whether its samples depend on its deadline, or are watched, which is nobody else's affair."""
        return self.partial or self.watcher is not None

    def _mixes_seeds(self, options: Options) -> bool:
        """Whether it may run with others that differ from it in nothing but their seed."""
        return (self.rows <= MIXED_ROWS and options.masks == "shared" and not options.stops_early
                and self.method == "sampled" and self.model.sampler.mixes_seeds)

    def but(self, **changed: Any) -> Job:
        """The same with something else in place of what it was made of."""
        made_of = {name: getattr(self, name) for name in _MADE_OF}
        return Job(**{**made_of, **changed})


_MADE_OF = ("model", "mode", "inputs", "deadline", "options", "priority", "partial", "watcher")


@dataclass(frozen=True)
class Stops:
    """Where each row's sampling ended and why; lists over rows. See `Uncertainty`. stopped: None while it goes on."""

    samples: list[int]
    se_df: list[int | None]
    stopped: Sequence[StopReason | None]
    settled: list[Side | None]
    after_stopping: list[bool]

    def of(self, part: slice) -> Stops:
        return Stops(
            self.samples[part], self.se_df[part], self.stopped[part], self.settled[part], self.after_stopping[part])


class Answer(NamedTuple):
    """arrays: rows first; a prediction has `values`, an uncertainty the names of the contract. None: does not exist.
    samples: that were drawn, 0 for a prediction and a closed form. method: None for a prediction. stops: where rows
    could stop early, or were cut short by their deadline; then NaN stands in a row that has no such number."""

    arrays: Mapping[str, Array | None]
    se_df: int | None = None
    samples: int = 0
    method: Method | None = None
    stops: Stops | None = None
    timings_s: Mapping[str, float] = NO_TIMINGS
