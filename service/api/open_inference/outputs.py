"""From an answer to the outputs of the protocol, and to the body that carries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.api import encode
from service.api.open_inference.metadata import outputs_in
from service.api.open_inference.request import InferRequest, Wanted
from service.api.open_inference.tensors import BINARY_SIZE, bytes_of, datatype_of, json_of
from service.errors import InvalidOption, cut, nearest
from service.repository import ReadyModel
from service.scheduling import Answer, Job
from service.scheduling.job import MODES

_ANSWER = "answer"  # in the arrays of the native route: everything that is no array
_OF_CLASSES = ("probabilities", "mean")  # outputs that have a number for each class
_EARLY = ("decide", "tolerance", "on_deadline")
_NEEDS = {
    "quantiles": ("quantiles",), "sample_values": ("include_samples",), "settled": _EARLY, "after_stopping": _EARLY}
_WITH_CLASSES = ("classification", "multilabel")


def outputs_of(job: Job, answer: Answer, request_id: str) -> dict[str, NDArray[Any]]:
    """All there are, rows first: numbers are FP32, INT64 or BOOL, texts BYTES."""
    arrays = encode.answer_arrays(job, answer, [], request_id)
    del arrays[_ANSWER]
    labels = job.model.manifest.labels
    if labels is not None and "index" in arrays:
        arrays["label"] = np.array(labels)[arrays["index"]]
    return {name: _in_protocols_type(array) for name, array in arrays.items()}


def _in_protocols_type(array: NDArray[Any]) -> NDArray[Any]:
    kind = array.dtype.kind
    return array.astype({"f": np.float32, "i": np.int64, "u": np.int64}[kind], copy=False) if kind in "fiu" else array


def response(
    request: InferRequest, job: Job, answer: Answer, outside: Sequence[list[str]], request_id: str
) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON where binary data follow. What does not exist, as standard errors of
    too few samples, is left out, or NaN where it was asked for by name."""
    found = outputs_of(job, answer, request_id)
    wanted = request.wanted or [Wanted(name, request.binary, None) for name in found]
    entries: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in wanted:
        values = _asked_for(output, found, job)
        entry: dict[str, Any] = {
            "name": output.name, "datatype": datatype_of(values), "shape": list(values.shape)}
        if output.binary:
            binary.append(bytes_of(values))
            entry["parameters"] = {BINARY_SIZE: len(binary[-1])}
        else:
            entry["data"] = json_of(values)
        entries.append(entry)
    body = {
        "model_name": job.model.name, "model_version": job.model.version, **_id(request),
        "parameters": _parameters(job, answer, outside, request_id), "outputs": entries,
    }
    text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([text, *binary]), len(text) if binary else None


def _id(request: InferRequest) -> dict[str, str]:
    return {} if request.id is None else {"id": request.id}


def _asked_for(output: Wanted, found: Mapping[str, NDArray[Any]], job: Job) -> NDArray[Any]:
    values = found.get(output.name)
    if values is None:
        return _absent(output.name, found, job.rows)
    return values if output.classes is None else _classes(values, output.classes, job.model.manifest.labels)


def _absent(name: str, found: Mapping[str, NDArray[Any]], rows: int) -> NDArray[Any]:
    """In place of an output that does not exist, as standard errors of too few samples."""
    if name == "se_df":
        return np.zeros(rows, np.int64)
    if name == "settled":
        return np.full(rows, "")
    if name == "after_stopping":
        return np.zeros(rows, bool)
    return np.full_like(found[name.removesuffix("_se") if name.endswith("_se") else "std"], np.nan)


def check_wanted(request: InferRequest, model: ReadyModel) -> None:
    """InvalidOption: an output that the model does not have in that mode, or classes of one that has none."""
    if request.wanted is None:
        return
    names = {mode: [output["name"] for output in outputs_in(model, mode)] for mode in MODES}
    here = names[request.mode]
    for output in request.wanted:
        path = f"outputs.{cut(output.name)}"
        if output.name not in here and any(output.name in others for others in names.values()):
            raise InvalidOption.at(path, "an output of the other mode; parameters.mode chooses")
        if output.name not in here:
            hint = f"{nearest(output.name, here)}; there are {', '.join(here)}"
            raise InvalidOption.at(path, f"not an output of this model{hint}")
        option = _NEEDS.get(output.name)
        if option is not None and not any(request.options.get(name) for name in option):
            raise InvalidOption.at(path, f"an output only where the parameters have {' or '.join(option)}")
        if output.classes and (output.name not in _OF_CLASSES or model.manifest.task not in _WITH_CLASSES):
            raise InvalidOption.at(path, "it has no number for each class to choose the largest of")


def _classes(values: NDArray[Any], most: int, labels: Sequence[str] | None) -> NDArray[Any]:
    """Of each row the largest, as value:index:label."""
    order = np.argsort(-values, axis=-1, kind="stable")[..., :most]
    named = [f":{label}" for label in labels] if labels is not None else [""] * values.shape[-1]
    return np.array([
        [f"{value:.6f}:{index}{named[index]}" for value, index in zip(row[place], place, strict=True)]
        for row, place in zip(values, order, strict=True)
    ])


def _parameters(job: Job, answer: Answer, outside: Sequence[list[str]], request_id: str) -> dict[str, str]:
    """What the native answer says beside its arrays; what is no text is the text of its JSON."""
    said = encode.head_of(job, answer, request_id)
    found: dict[str, str] = {name: said[name] for name in ("digest", "request_id") if name in said}
    if "sampling" in said:
        found["sampling"] = orjson.dumps(said["sampling"]).decode()
        found["calibration_reason"] = encode.NOT_CALIBRATED
    if any(outside):
        found["out_of_range"] = orjson.dumps(outside).decode()
    return found
