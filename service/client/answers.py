"""From what a server sends to typed answers and errors."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from service import errors, wire
from service.client.requests import NPZ
from service.errors import ErrorbarError, Fault

Decision = Literal["accept", "abstain"]
Settled = Literal["above", "below"]
Floats = NDArray[np.float64]
T = TypeVar("T", bound=BaseModel)

_VALUES = ("probabilities", "value", "output")  # of a prediction, by task


@dataclass(frozen=True)
class Predicted:
    """values: probabilities (rows, classes), or regression values or outputs, rows first. labels: None where the task
    has none. out_of_range: for each row the features outside their training range. model, version, digest: what
    answered."""

    values: Floats
    labels: list[str] | None
    out_of_range: list[list[str]]
    model: str
    version: str
    digest: str


@dataclass(frozen=True)
class Uncertain:
    """Arrays rows first, in the shapes of the contract. None: the server has no such number (too few blocks for a
    standard error, a task without entropies, no noise, no quantiles asked for); NaN where only some rows have it,
    because they stopped early. samples: that each row rests on; stopped: why it has no more, None while it is still
    sampled; settled: whether its class' probability is "above" or "below" the limit of `decide`. after_stopping: rows
    that stopped on what their samples showed, whose standard errors are optimistic. final: False for an answer on the
    way, which a stream shows and which may have the first rows only. sampling: how it was sampled."""

    mean: Floats
    std: Floats
    mean_se: Floats | None
    std_se: Floats | None
    entropy: Floats | None
    entropy_se: Floats | None
    expected_entropy: Floats | None
    mutual_information: Floats | None
    mutual_information_se: Floats | None
    variation_ratio: Floats | None
    noise_std: Floats | None
    total_std: Floats | None
    quantiles: Floats | None
    sample_values: Floats | None
    labels: list[str] | None
    samples: NDArray[np.int64]
    stopped: list[str | None]
    settled: list[Settled | None]
    after_stopping: list[bool]
    decisions: list[Decision | None]
    out_of_range: list[list[str]]
    model: str
    version: str
    digest: str
    request_id: str
    sampling: wire.Sampling
    final: bool = True


_FIGURES = ("mean", "std", "mean_se", "std_se", "entropy", "entropy_se", "expected_entropy", "mutual_information",
            "mutual_information_se", "variation_ratio", "noise_std", "total_std", "quantiles", "sample_values")


def predicted(response: httpx.Response) -> Predicted:
    """ErrorbarError where it is not of the contract."""
    if _is_archive(response):
        arrays, head = _opened(response.content)
        values = next((arrays[name] for name in _VALUES if name in arrays), None)
        if values is None:
            raise _not_of_the_contract("its archive has no values")
        rest = _parsed(wire.PredictResponse, {**head, "predictions": []})
        return Predicted(np.asarray(values, np.float64), _labels_at(arrays, head), head["out_of_range"], rest.model,
                         rest.version, rest.digest)
    body = _parsed(wire.PredictResponse, _json(response))
    rows = body.predictions
    if not rows:
        raise _not_of_the_contract("predictions")
    first = next((n for n in _VALUES if getattr(rows[0], n) is not None), None)
    if first is None:
        raise _not_of_the_contract("predictions")
    return Predicted(_as_sent(np.array([getattr(r, first) for r in rows], np.float64)), _labels(rows),
                     [r.out_of_range for r in rows], body.model, body.version, body.digest)


def uncertain(response: httpx.Response) -> Uncertain:
    """ErrorbarError where it is not of the contract."""
    if not _is_archive(response):
        return uncertain_of(_json(response))
    arrays, head = _opened(response.content)
    rest = _parsed(wire.UncertaintyResponse, {**head, "predictions": []})
    rows, samples = len(arrays["mean"]), np.asarray(arrays["samples"], np.int64)

    def listed(name: str, absent: Any) -> list[Any]:
        return [value or None for value in arrays[name].tolist()] if name in arrays else [absent] * rows

    figures: dict[str, Any] = {
        name: np.asarray(arrays[name], np.float64) if name in arrays else None for name in _FIGURES}
    if (drawn := figures["sample_values"]) is not None:
        figures["sample_values"] = drawn[:, : samples.max()]
    return Uncertain(
        **figures, labels=_labels_at(arrays, head), samples=samples,
        stopped=listed("stopped", None), settled=listed("settled", None),
        after_stopping=[bool(early) for early in listed("after_stopping", False)],
        decisions=listed("decision", None), out_of_range=head["out_of_range"], **_head(rest), final=True)


def uncertain_of(body: Any, final: bool = True) -> Uncertain:
    """Of an answer in JSON. ErrorbarError where it is not of the contract."""
    answer = _parsed(wire.UncertaintyResponse, body)
    rows = answer.predictions
    if not rows:
        raise _not_of_the_contract("predictions")
    figures: dict[str, Any] = {name: _column(rows, name) for name in _FIGURES}
    if (drawn := figures["sample_values"]) is not None:
        figures["sample_values"] = _as_sent(drawn)
    return Uncertain(
        **figures, labels=_labels(rows), samples=np.array([r.samples for r in rows], np.int64),
        stopped=[r.stopped for r in rows], settled=[r.settled for r in rows],
        after_stopping=[r.after_stopping for r in rows], decisions=[r.decision for r in rows],
        out_of_range=[r.out_of_range for r in rows], **_head(answer), final=final)


def parsed(kind: type[T], response: httpx.Response) -> T:
    """A JSON answer of that kind. ErrorbarError where it is not of the contract."""
    return _parsed(kind, _json(response))


def refused(status: int, body: Any, retry_after_s: float | None = None) -> ErrorbarError:
    """The error that a server means, with its code where it has no class. body: its JSON, None where it has none."""
    if not isinstance(body, dict) or "code" not in body:
        return ErrorbarError(f"the server answered {status}, and not as an Errorbar server does")
    try:
        faults = [Fault(f["path"], f["message"]) for f in body.get("errors") or []]
    except (KeyError, TypeError):
        faults = []
    error = _error_class(body["code"])(body.get("detail", ""), faults=faults, retry_after_s=retry_after_s)
    error.code = body["code"]
    return error


def json_of(content: bytes | str) -> Any:
    """None where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _json(response: httpx.Response) -> Any:
    body = json_of(response.content)
    if body is None:
        raise refused(response.status_code, None)
    return body


def _error_class(code: str) -> type[ErrorbarError]:
    known = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, ErrorbarError)]
    return next((e for e in known if e.code == code), ErrorbarError)


def _head(answer: wire.UncertaintyResponse) -> dict[str, Any]:
    return {"model": answer.model, "version": answer.version, "digest": answer.digest,
            "request_id": answer.request_id, "sampling": answer.sampling}


def _column(rows: Sequence[wire.UncertainPrediction], name: str) -> Floats | None:
    values = [getattr(row, name) for row in rows]
    present = next((v for v in values if v is not None), None)
    if present is None:
        return None
    filled = [np.nan if v is None else v for v in values]
    shapes: list[tuple[int, ...]] = [np.shape(v) for v in filled]
    longest = max(shapes, key=lambda shape: (len(shape), shape))
    found = np.full((len(rows), *longest), np.nan)
    for place, (value, shape) in enumerate(zip(filled, shapes, strict=True)):
        own: tuple[int | slice, ...] = (place, *map(slice, shape))  # a row that stopped early has fewer samples
        found[own] = value
    return found


def _as_sent(values: Floats) -> Floats:
    """Outputs of the network are float32, which JSON writes with as few digits as tell them apart."""
    return values.astype(np.float32).astype(np.float64)


def _is_archive(response: httpx.Response) -> bool:
    kind: str = response.headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower() == NPZ


def _opened(content: bytes) -> tuple[Mapping[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of an .npz, and what it says beside them."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        return arrays, json.loads(str(arrays["answer"]))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as e:
        raise _not_of_the_contract(f"its archive ({e})") from e


def _parsed(kind: type[T], body: Any) -> T:
    try:
        return kind.model_validate(body)
    except ValidationError as e:
        raise _not_of_the_contract(e.errors()[0]["loc"]) from e


def _not_of_the_contract(what: object) -> ErrorbarError:
    return ErrorbarError(f"the server's answer is not of the contract: {what}")


def _labels(rows: Sequence[wire.Prediction] | Sequence[wire.UncertainPrediction]) -> list[str] | None:
    labels = [r.label for r in rows if r.label is not None]
    return labels if len(labels) == len(rows) else None


def _labels_at(arrays: Mapping[str, NDArray[Any]], head: Mapping[str, Any]) -> list[str] | None:
    return [head["labels"][place] for place in arrays["index"].tolist()] if "index" in arrays else None
