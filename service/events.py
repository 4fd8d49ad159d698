"""What happened, as frozen records. The core hands them to an observer; metrics and logs listen at the edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = Sequence[float] | NDArray[np.floating]


class RequestAnswered(NamedTuple):
    """code: "ok" or the error's code. model and version: None where the request named none that exists. stages:
    seconds, by decode, queue, device, summary and encode."""

    model: str | None
    version: str | None
    mode: str
    code: str
    seconds: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class BatchRan:
    """requests: whose rows ran together."""

    model: str
    mode: str
    requests: int
    rows: int


@dataclass(frozen=True)
class RowsSampled:
    """A batch of uncertainty answers; the sequences have an entry a row. Entropies are empty where the task has none.

    samples: for each request, the most that any row rests on; drawn: of all rows together; stopped: rows by why their
    sampling ended.
    relative_std: std over |mean| of the predicted class, or of the first output; standard_error: the largest
    Monte-Carlo standard error of a row's means, empty where there is none; zero_variance: rows whose std is 0 all over.
    """

    model: str
    samples: Sequence[float]
    drawn: int
    stopped: Mapping[str, int]
    entropy: Numbers
    mutual_information: Numbers
    relative_std: Numbers
    standard_error: Numbers
    zero_variance: int


@dataclass(frozen=True)
class OutOfMemoryRetried:
    """Memory ran out while a job ran, so often, and less was run at once each time."""

    model: str
    times: int


@dataclass(frozen=True)
class RowsOutOfRange:
    """Rows with a feature outside its training range."""

    model: str
    rows: int


@dataclass(frozen=True)
class ModelLoaded:
    model: str
    version: str
    digest: str
    device: str
    engine: str
    memory_bytes: int


@dataclass(frozen=True)
class WorkerDied:
    """The engine's thread ended of an error, and another took its place."""


@dataclass(frozen=True)
class WorkerHung:
    """A part of a batch did not return in time; the process is to be replaced."""

    model: str


@dataclass(frozen=True)
class ModelUnloaded:
    """The like of `ModelLoaded`, of what answers no more."""

    model: str
    version: str
    digest: str
    device: str
    engine: str
    memory_bytes: int


@dataclass(frozen=True)
class ModelLoadFailed:
    """version: empty where the rules of a name (`serving.toml`) cannot be read."""

    model: str
    version: str


@dataclass(frozen=True)
class ShadowCompared:
    """Rows of one answer beside a shadow's. outcome: "agrees", "differs", "failed" (the shadow gave no answer) or
    "skipped" (it had no time for it). differences: of each row that was compared; see `scheduling.shadow`."""

    model: str
    version: str
    outcomes: Mapping[str, int]
    differences: Sequence[float]


Event = (
    RequestAnswered | BatchRan | RowsSampled | RowsOutOfRange | OutOfMemoryRetried | ModelLoaded | ModelUnloaded
    | ModelLoadFailed | ShadowCompared | WorkerDied | WorkerHung
)
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer of those who do not listen."""
