"""What happened, as frozen records. The core hands them to an observer; metrics and logs listen at the edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RequestAnswered:
    """code: "ok" or the error's code. model and version: None where the request named none that exists."""

    model: str | None
    version: str | None
    mode: str
    code: str
    seconds: float


@dataclass(frozen=True)
class StageTimed:
    """stage: decode, queue, device, summary or encode."""

    model: str
    stage: str
    seconds: float


@dataclass(frozen=True)
class QueueChanged:
    """rows: how many wait, after the change."""

    model: str
    rows: int


@dataclass(frozen=True)
class BatchRan:
    model: str
    mode: str
    rows: int


@dataclass(frozen=True)
class RowsSampled:
    """One uncertainty answer; the sequences have an entry a row. Entropies are empty where the task has none.

    samples: the most that any row rests on; drawn: of all rows together; stopped: rows by why their sampling ended.
    relative_std: std over |mean| of the predicted class, or of the first output; standard_error: the largest
    Monte-Carlo standard error of a row's means, empty where there is none; zero_variance: rows whose std is 0 all over.
    """

    model: str
    samples: int
    drawn: int
    stopped: Mapping[str, int]
    entropy: Sequence[float]
    mutual_information: Sequence[float]
    relative_std: Sequence[float]
    standard_error: Sequence[float]
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


Event = (
    RequestAnswered | StageTimed | QueueChanged | BatchRan | RowsSampled | RowsOutOfRange | OutOfMemoryRetried
    | ModelLoaded
)
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer of those who do not listen."""
