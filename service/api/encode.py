"""From arrays to the JSON of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.repository import ReadyModel
from service.scheduling import Answer, Job, Options
from service.scheduling.job import Array, Stops

NOT_CALIBRATED = "the model has no calibration"
STILL_SAMPLED = "the row is still sampled"


def encode_json(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _named(model: ReadyModel) -> dict[str, Any]:
    return {"model": model.name, "version": model.version, "digest": model.digest}


def answer_body(job: Job, answer: Answer, outside: Sequence[list[str]], request_id: str) -> dict[str, Any]:
    """outside: for each row, the features outside their training range."""
    if job.options is None:
        return prediction_body(job.model, answer, outside)
    return uncertainty_body(job.model, job.options, answer, outside, request_id)


def answer_arrays(
    job: Job, answer: Answer, outside: Sequence[list[str]], request_id: str
) -> dict[str, NDArray[Any]]:
    """The numbers of an answer as arrays, rows first, under their names in JSON; what no row has is left out, and NaN
    stands in a row that has no such number, and beyond the samples of a row that has fewer. `settled` is "" for null.
    `answer` is the rest of it, as JSON: what stands above the rows, the labels, and for each row its `out_of_range`."""
    task, labels = job.model.manifest.task, job.model.manifest.labels
    arrays: dict[str, NDArray[Any]] = {name: a for name, a in answer.arrays.items() if a is not None}
    if job.options is None:
        name = {"regression": "value", "generic": "output"}.get(task, "probabilities")
        arrays = {name: arrays["values"]}
    if labels is not None and task in ("classification", "multilabel"):
        arrays["index"] = arrays["probabilities" if job.options is None else "mean"].argmax(1)
    if job.options is not None:
        arrays |= _per_row(job, answer)
    if task == "regression":
        arrays = {name: _one_target(name, a) for name, a in arrays.items()}
    rest = {**head_of(job, answer, request_id), "labels": labels, "out_of_range": outside}
    return arrays | {"answer": np.array(encode_json(rest).decode())}


def head_of(job: Job, answer: Answer, request_id: str) -> dict[str, Any]:
    """What an answer says above its rows."""
    return _named(job.model) if job.options is None else _head(job.model, job.options, answer, request_id)


def _per_row(job: Job, answer: Answer) -> dict[str, NDArray[Any]]:
    """What an uncertainty request has of each row beside statistics."""
    rows, found = job.rows, dict[str, NDArray[Any]]()
    stops = answer.stops
    found["samples"] = np.full(rows, answer.samples) if stops is None else np.array(stops.samples)
    degrees = [answer.se_df] * rows if stops is None else stops.se_df
    if all(n is not None for n in degrees):
        found["se_df"] = np.array(degrees)
    found["stopped"] = np.array(["samples"] * rows if stops is None else stops.stopped)
    if stops is not None:
        found["settled"] = np.array([side or "" for side in stops.settled])
        found["after_stopping"] = np.array(stops.after_stopping)
    noise = _noise(job.model, answer.arrays)
    if noise is not None:
        std = answer.arrays["std"]
        assert std is not None
        found |= {"noise_std": np.broadcast_to(noise, std.shape), "total_std": np.sqrt(std**2 + noise**2)}
    return found


def _noise(model: ReadyModel, arrays: Mapping[str, Any]) -> Any:
    """Standard deviation of the observations' noise: of the network's own head, or the manifest's; None if neither."""
    tau = model.manifest.tau
    return arrays.get("noise_std", None if tau is None else np.float64(tau**-0.5))


def prediction_body(model: ReadyModel, answer: Answer, outside: Sequence[list[str]]) -> dict[str, Any]:
    values = answer.arrays["values"]
    assert values is not None
    task, labels = model.manifest.task, model.manifest.labels
    rows: list[dict[str, Any]] = []
    for row, names in zip(np.ascontiguousarray(values), outside, strict=True):
        if labels is not None and task in ("classification", "multilabel"):
            index = int(row.argmax())
            found = {"label": labels[index], "index": index, "probabilities": row}
        else:
            found = {"value" if task == "regression" else "output": _scalar_if_single(row, task)}
        rows.append({**found, "out_of_range": names})
    return {**_named(model), "predictions": rows}


def uncertainty_body(
    model: ReadyModel, options: Options, answer: Answer, outside: Sequence[list[str]], request_id: str
) -> dict[str, Any]:
    task, labels = model.manifest.task, model.manifest.labels
    names, columns = zip(*_columns(model, answer).items(), strict=True)
    alike: dict[str, Any] = {}
    if answer.stops is None:
        alike = {"se_df": answer.se_df, "samples": answer.samples, "stopped": "samples", "settled": None}
    if task == "regression":
        alike["interval"] = None
    if task in ("classification", "multilabel"):
        alike |= {"prediction_set": None, "calibrated_probabilities": None}
    alike |= {"decision": None, "ood_score": None, "calibration_reason": NOT_CALIBRATED}
    rows = []
    for place, values in enumerate(zip(*columns, strict=True)):
        row = dict(zip(names, values, strict=True))
        if labels is not None and task in ("classification", "multilabel"):
            index = int(row["mean"].argmax())
            row = {"label": labels[index], "index": index, **row}
        row |= alike
        if answer.stops is not None:
            row = {**_own_values(row, answer.stops.samples[place]), **_stopped_row(answer.stops, place)}
            if answer.stops.stopped[place] is None:
                row["calibration_reason"] = STILL_SAMPLED
        rows.append({**row, "out_of_range": outside[place]})
    return {**_head(model, options, answer, request_id), "predictions": rows}


def _columns(model: ReadyModel, answer: Answer) -> dict[str, Any]:
    """An answer's arrays under their names, to take a row's value from each: lists of numbers where a row has one, as
    of a regression with one target; else arrays. A name that no row has holds None for each."""
    arrays = dict(answer.arrays)
    if model.manifest.task == "regression":
        noise, std = _noise(model, arrays), arrays["std"]
        assert std is not None
        arrays["noise_std"] = np.full(len(std), noise) if isinstance(noise, float) else noise
        arrays["total_std"] = None if noise is None else np.sqrt(std**2 + noise**2)
        arrays = {name: array if array is None else _one_target(name, array) for name, array in arrays.items()}
    rows = len(next(array for array in arrays.values() if array is not None))
    return {
        name: [None] * rows if array is None else array.tolist() if array.ndim == 1 else np.ascontiguousarray(array)
        for name, array in arrays.items()
    }


def _one_target(name: str, array: Array) -> Array:
    """Of a regression: one number a row to (rows,), and the samples or quantiles of one target to (rows, n)."""
    if name in ("quantiles", "sample_values"):
        return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    return array.reshape(-1) if array[0].size == 1 else array


def _head(model: ReadyModel, options: Options, answer: Answer, request_id: str) -> dict[str, Any]:
    sites = model.sampler.sites
    return {
        **_named(model), "request_id": request_id,
        "sampling": {
            "method": answer.method, "samples": answer.samples, "seed": options.seed, "masks": options.masks,
            "design": options.design, "dtype": model.sampler.dtype,
            "sites_active": sum([s.active for s in sites]), "sites_total": len(sites), **_asked_to_stop(options),
        },
    }


def _asked_to_stop(options: Options) -> dict[str, Any]:
    if options.decide is not None:
        return {"decide": {"above": options.decide.above, "error": options.decide.error}}
    return {} if options.tolerance is None else {"tolerance": options.tolerance}


def _stopped_row(stops: Stops, place: int) -> dict[str, Any]:
    return {
        "samples": stops.samples[place], "se_df": stops.se_df[place], "stopped": stops.stopped[place],
        "settled": stops.settled[place], "after_stopping": stops.after_stopping[place],
    }


def _own_values(values: dict[str, Any], samples: int) -> dict[str, Any]:
    """What a row has of its own: the samples it rests on, and no number where NaN says that there is none."""
    if "sample_values" in values:
        values["sample_values"] = values["sample_values"][:samples]
    absent = {name for name, value in values.items() if isinstance(value, float | np.ndarray) and np.isnan(value).any()}
    return {name: None if name in absent else value for name, value in values.items()}


def _scalar_if_single(value: NDArray[Any], task: str) -> Any:
    """A number for a regression with one target; arrays as they are."""
    return value.item() if task == "regression" and value.size == 1 else value


def card_body(model: ReadyModel) -> dict[str, Any]:
    m, s, error = model.manifest, model.manifest.sampling, model.sampler.dtype_error
    return {
        "name": m.name, "version": model.version, "ready": True, "task": m.task, "description": m.description,
        "digest": model.digest,
        "inputs": [asdict(i) for i in m.inputs],
        "features": None if m.features is None else [
            {"name": f.name, "unit": f.unit, "min": f.min, "max": f.max} for f in m.features
        ],
        "labels": m.labels,
        "sites": [
            {"name": x.name, "kind": x.kind, "p": x.p, "active": x.active, "mask_shape": x.mask_shape, "note": x.note}
            for x in model.sampler.sites
        ],
        "sampling": {
            "samples": s.samples, "seed": s.seed, "masks": s.masks, "design": s.design, "dtype": model.sampler.dtype,
            "dtype_error": None if error is None else asdict(error), "locked": s.locked, "engine": model.engine,
            "device": model.device, "deterministic_flop_share": model.sampler.deterministic_flop_share,
            "closed_form": model.sampler.closed_form,
        },
        "noise": {"head": m.noise_head} if m.noise_head is not None else None if m.tau is None else {"tau": m.tau},
        "calibration": None,
        "warnings": model.warnings,
    }
