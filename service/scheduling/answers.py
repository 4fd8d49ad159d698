"""From what the sampler gives for the rows of a batch to the answer of each of its jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service import events
from service.sampling.copies import to_host
from service.scheduling.job import Answer, Array, Job, Options, Stops
from service.statistics import Task, Uncertainty

_OF_CLASSES = ("entropy", "entropy_se", "expected_entropy", "mutual_information", "mutual_information_se",
               "variation_ratio")
_NOTHING: NDArray[np.floating] = np.empty(0)


def prediction(values: Tensor) -> Answer:
    return Answer({"values": values.cpu().numpy()})


def so_far(task: Task, options: Options, result: Uncertainty) -> Answer:
    """Of rows that are still sampled, without their samples and quantiles."""
    answer = uncertainty(task, replace(options, quantiles=(), include_samples=False), result)
    early = result.after_stopping
    reasons = [reason if stopped else None for reason, stopped in zip(result.stopped, early, strict=True)]
    return answer._replace(stops=Stops(
        result.samples_per_row.tolist(), result.se_df_per_row, reasons, result.settled, early))


def uncertainty(task: Task, options: Options, result: Uncertainty) -> Answer:
    """Of all rows of a batch."""
    names = ["mean", "std", "mean_se", "std_se"]
    if task in ("classification", "multilabel"):
        names += _OF_CLASSES
    found = {name: getattr(result, name) for name in names}
    if result.noise_std is not None:
        found["noise_std"] = result.noise_std
    if options.quantiles:
        found["quantiles"] = result.quantiles(options.quantiles)
    if options.include_samples:
        found["sample_values"] = result.draws
    here = to_host({name: value for name, value in found.items() if value is not None})
    arrays = {name: here[name].numpy() if name in here else None for name in found}
    return Answer(arrays, result.se_df, result.samples, result.method, _stops(options, result))


def _stops(options: Options, result: Uncertainty) -> Stops | None:
    stopped = result.stopped
    if not options.stops_early and "deadline" not in stopped:
        return None
    return Stops(result.samples_per_row.tolist(), result.se_df_per_row, stopped, result.settled, result.after_stopping)


def shared_out(answer: Answer, jobs: Sequence[Job], timings_s: Sequence[Mapping[str, float]]) -> list[Answer]:
    """To each job its own rows of the answer, and its timings; jobs in the order of the rows."""
    ends = list(accumulate(job.rows for job in jobs))
    parts = [slice(end - job.rows, end) for end, job in zip(ends, jobs, strict=True)]
    return [
        Answer(
            {name: None if array is None else array[part] for name, array in answer.arrays.items()},
            answer.se_df, answer.samples, answer.method, None if answer.stops is None else answer.stops.of(part), times,
        ) for part, times in zip(parts, timings_s, strict=True)
    ]


def sampled(jobs: Sequence[Job], answer: Answer) -> events.RowsSampled:
    """What there is to count of an uncertainty answer of a batch."""
    rows = sum([job.rows for job in jobs])
    mean, std, errors = (_flat(answer.arrays[name], rows) for name in ("mean", "std", "mean_se"))
    entropy = answer.arrays.get("entropy")
    at = (np.arange(rows), mean.argmax(1) if entropy is not None else np.zeros(rows, int))
    relative = std[at] / np.maximum(np.abs(mean[at]), np.finfo(np.float64).tiny)
    counts = [answer.samples] * rows if answer.stops is None else answer.stops.samples
    stops = answer.stops
    reasons: Mapping[str, int] = {"samples": rows} if stops is None else Counter(filter(None, stops.stopped))
    return events.RowsSampled(
        jobs[0].model.name, _most_of_each(jobs, counts), sum(counts), reasons,
        _total(entropy, rows), _total(answer.arrays.get("mutual_information"), rows), relative,
        errors.max(1) if errors.size else _NOTHING, int((std.max(1) == 0).sum()),
    )


def _flat(array: Array | None, rows: int) -> NDArray[np.floating]:
    """(rows, numbers of each); empty where there is none."""
    return _NOTHING if array is None else np.asarray(array, np.float64).reshape(rows, -1)


def _most_of_each(jobs: Sequence[Job], counts: Sequence[int]) -> list[int]:
    """Samples of the row of each job that has most."""
    ends = accumulate(job.rows for job in jobs)
    return [max(counts[end - job.rows : end]) for end, job in zip(ends, jobs, strict=True)]


def _total(by_label: Array | None, rows: int) -> NDArray[np.floating]:
    return _NOTHING if by_label is None else _flat(by_label, rows).sum(1)
