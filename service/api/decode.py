"""From a body to tensors and options, checked against the model: what one request can do wrong fails here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.errors import Fault, InvalidInput, InvalidOption, MalformedBody, UncertaintyUnavailable, cut, nearest
from service.keys import Key
from service.repository import Input, Manifest, ReadyModel, SamplingDefaults
from service.sampling.options import MAX_SEED, METHODS
from service.sampling.stopping import DEFAULT_SAMPLES, Decide, stop_rule
from service.scheduling import Limits, Options
from service.scheduling.job import DEFAULT_PRIORITY
from service.statistics import Task

DEFAULT_TIMEOUT_MS = 60_000
_MAX_TIMEOUT_MS = 86_400_000
_COMMON = ("instances", "timeout_ms", "priority")
_ON_DEADLINE = "on_deadline"
_OPTIONS = ("samples", "seed", "masks", "design", "method", "quantiles", "include_samples", "tolerance", "decide",
            _ON_DEADLINE)
_KNOWN = {False: _COMMON, True: _COMMON + _OPTIONS}  # by whether it is an uncertainty request
_HIGHEST_PRIORITY = 9
_SCALARS = frozenset({int, float, str, bool, type(None)})
_LONGEST_QUERY_VALUE = 2000
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def parse_body(body: bytes, field: str = "instances") -> dict[str, Any]:
    """The request as it was sent. field: that it is to have. Of a key that stands twice in an object, the last counts.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise MalformedBody(f"the body is not JSON: {e}") from e
    if not isinstance(parsed, dict):
        raise MalformedBody(f'an object {{"{field}": [...]}} expected, got {_kind(parsed)}')
    return parsed


def is_plain(text: bytes, names: int) -> bool:
    """Whether JSON has numbers and lists in it, and nothing else but so many strings, which are its names."""
    return not (b"true" in text or b"false" in text or b"null" in text) and text.count(b'"') == 2 * names


def names_in(payload: Mapping[str, Any]) -> int:
    """Strings of a request, beside those that are values of its rows."""
    rows = payload["instances"]
    by_name = isinstance(rows, list) and rows and isinstance(rows[0], dict)
    names = sum([len(row) for row in rows if isinstance(row, dict)]) if by_name else 0
    for field, value in payload.items():
        names += 1
        if field != "instances":
            names += len(value) if isinstance(value, dict) else isinstance(value, str)
    return names


def decode_timeout_ms(payload: Mapping[str, Any]) -> int:
    value = payload.get("timeout_ms", DEFAULT_TIMEOUT_MS)
    return _integer("timeout_ms", value, 1, _MAX_TIMEOUT_MS)


def check_fields(payload: Mapping[str, Any], uncertainty: bool) -> None:
    """Refuses fields that are not known, with the nearest known one."""
    known = _KNOWN[uncertainty]
    for field in payload:
        if field in known:
            continue
        if not uncertainty and field in _OPTIONS:
            _wrong_option(field, "an option of :uncertainty, not of :predict")
        _wrong_option(cut(field), f"not a field of this request{nearest(field, known)}")
    if "instances" not in payload:
        raise InvalidInput("instances: missing; a list of rows expected", faults=[Fault("instances", "missing")])


def check_options(options: Iterable[str], uncertainty: bool) -> None:
    """Refuses options that only uncertainty has."""
    for name in options:
        if not uncertainty and name in _OPTIONS:
            _wrong_option(name, 'an option of the mode "uncertainty"')


def options_of_query(query: Iterable[tuple[str, str]], uncertainty: bool) -> dict[str, Any]:
    """The options of a request whose body is an array: values as in JSON, words without quotes."""
    known = [name for name in _KNOWN[uncertainty] if name != "instances"]
    found: dict[str, Any] = {}
    for name, text in query:
        if name not in known:
            _wrong_option(cut(name), f"not a parameter of this route{nearest(name, known)}")
        if name in found:
            _wrong_option(name, "given twice")
        if len(text) > _LONGEST_QUERY_VALUE:
            _wrong_option(name, f"at most {_LONGEST_QUERY_VALUE} characters expected, got {len(text)}")
        try:
            found[name] = orjson.loads(text)
        except orjson.JSONDecodeError:
            found[name] = text
    return found


def check_query(query: Iterable[str], uncertainty: bool) -> None:
    """Refuses parameters beside a JSON body: nothing reads them, and an option that changes nothing misleads."""
    known = _KNOWN[uncertainty]
    for name in query:
        where = "to be a field of the JSON body, not of the query string" if name in known else (
            f"not a parameter of this route{nearest(name, known)}; options are fields of the JSON body")
        _wrong_option(cut(name), where)


def decode_options(payload: Mapping[str, Any], model: ReadyModel, limits: Limits) -> Options:
    """The options of an uncertainty request, the manifest's where it does not say."""
    if not model.sampler.samples_something:
        raise UncertaintyUnavailable(f"model {model.name!r} has no dropout to sample; use :predict")
    given = {name: value for name, value in payload.items() if name in _OPTIONS and name != _ON_DEADLINE}
    settled = _seen_before if _SCALARS.issuperset(map(type, given.values())) else _options
    return settled(model.manifest.sampling, model.manifest.task, limits.samples, **given)


def _options(default: SamplingDefaults, task: Task, most_samples: int, **given: Any) -> Options:
    """given: what a request says. most_samples: that it may ask for."""
    tolerance, decide = _tolerance(given.get("tolerance")), _decide(given.get("decide"))
    if tolerance is not None or decide is not None:
        if default.locked:
            _wrong_option("decide" if tolerance is None else "tolerance",
                          "this model is locked to the samples of its manifest, no row stops early")
        default = replace(default, design="iid", samples=min(DEFAULT_SAMPLES, most_samples))
    options = Options(
        samples=_integer("samples", given.get("samples", default.samples), 2, most_samples),
        seed=_integer("seed", given.get("seed", default.seed), 0, MAX_SEED),
        masks=_choice("masks", given.get("masks", default.masks), ("shared", "independent")),
        design=_choice("design", given.get("design", default.design), ("balanced", "iid")),
        quantiles=_levels(given.get("quantiles")),
        include_samples=_boolean("include_samples", given.get("include_samples", False)),
        method=_choice("method", given.get("method", "auto"), METHODS),
        tolerance=tolerance, decide=decide,
    )
    stop_rule(task, tolerance, decide, given.get("design"), options.samples)
    for name in ("samples", "seed", "masks", "design"):
        if default.locked and getattr(options, name) != getattr(default, name):
            _wrong_option(name, f"this model is locked to {getattr(default, name)!r}")
    return options


_seen_before = lru_cache(maxsize=1024, typed=True)(_options)  # most requests ask for what others asked for


def decode_priority(payload: Mapping[str, Any], key: Key | None = None) -> int:
    """key: may have a highest priority. Forbidden above it."""
    asked = _integer("priority", payload["priority"], 0, _HIGHEST_PRIORITY) if "priority" in payload else None
    if key is not None:
        return key.settled_priority(asked, DEFAULT_PRIORITY)
    return DEFAULT_PRIORITY if asked is None else asked


def decode_partial(payload: Mapping[str, Any]) -> bool:
    """Whether the answer is to come by the deadline with the samples there are."""
    return bool(_choice(_ON_DEADLINE, payload.get(_ON_DEADLINE, "fail"), ("fail", "partial")) == "partial")


def _wrong_option(field: str, message: str) -> NoReturn:
    raise InvalidOption(f"{field}: {message}", faults=[Fault(field, message)])


def _integer(field: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _wrong_option(field, f"an integer from {low} to {high} expected, got {_shown(value)}")
    return value


def _tolerance(value: Any) -> float | None:
    return None if value is None else _number("tolerance", value)


def _decide(value: Any) -> Decide | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        _wrong_option("decide", f'{{"above": 0.9, "error": 0.01}} expected, got {_kind(value)}')
    known = ("above", "error")
    for key in value:
        if key not in known:
            _wrong_option(f"decide.{cut(key)}", f"not a field of decide{nearest(key, known)}")
    for key in known:
        if key not in value:
            _wrong_option(f"decide.{key}", "missing")
    return Decide(*(_number(f"decide.{key}", value[key]) for key in known))


def _number(field: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        _wrong_option(field, f"a number expected, got {_shown(value)}")
    return float(value)


def _boolean(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        _wrong_option(field, f"true or false expected, got {_shown(value)}")
    return value


def _choice(field: str, value: Any, choices: tuple[str, ...]) -> Any:
    if not isinstance(value, str) or value not in choices:
        expected = " or ".join(f'"{c}"' for c in choices)
        _wrong_option(field, f"{expected} expected, got {_shown(value)}")
    return value


def _levels(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not 1 <= len(value) <= 100:
        _wrong_option("quantiles", f"a list of 1 to 100 levels expected, got {_shown(value)}")
    for i, level in enumerate(value):
        if not isinstance(level, float) or not 0 < level < 1:
            _wrong_option(f"quantiles[{i}]", f"a level between 0 and 1 expected, got {_shown(level)}")
    return tuple(value)


def decode_instances(instances: Any, manifest: Manifest, plain: bool, first_row: int = 0) -> dict[str, Tensor]:
    """Rows to one tensor an input, (rows, *shape); encoded values among them are unpacked by now. plain: their
    values are numbers and lists, and nothing else; if that is not known they are looked at one by one. first_row: place
    of the first of these rows, where they are a part of a longer file. InvalidInput with the path of the first wrong
    value."""
    if not isinstance(instances, list):
        _wrong("instances", f"a list of rows expected, got {_kind(instances)}")
    if not instances:
        _wrong("instances", "at least one row expected, got none")
    if plain and (numbers := _lists_of_numbers(instances, manifest)) is not None:
        return numbers
    columns = _columns(instances, manifest, first_row)
    by_name = isinstance(instances[0], dict)
    return {
        spec.name: torch.from_numpy(_array(columns[spec.name], spec, plain, paths)) for spec in manifest.inputs
        for paths in [_Paths(spec.name, by_name, manifest, first_row)]
    }


def _lists_of_numbers(rows: list[Any], manifest: Manifest) -> dict[str, Tensor] | None:
    """Rows that are what most requests have: for the one input, a list of as many numbers as it takes. None where they
    may be something else, which takes numpy three times as long to see."""
    spec, *others = manifest.inputs
    if others or spec.dtype != "float32" or len(spec.shape) != 1:
        return None
    pack = _packing(*spec.shape)
    try:
        if set(map(len, rows)) != {spec.shape[0]}:  # room is made for what came, not for what was announced
            return None
        numbers = np.empty((len(rows), *spec.shape), np.float32)
        for place, row in zip(numbers, rows, strict=True):
            pack(place, 0, *row)
    except (struct.error, TypeError, OverflowError):
        return None
    if not np.isfinite(numbers).all():
        return None
    return {spec.name: torch.from_numpy(numbers)}


@lru_cache(maxsize=256)
def _packing(numbers: int) -> Callable[..., None]:
    return struct.Struct(f"{numbers}f").pack_into


class _Paths:
    """Where a value stands in the request, as the caller wrote it."""

    def __init__(self, name: str, by_name: bool, manifest: Manifest, first_row: int) -> None:
        self._first_row = first_row
        self._features = [f.name for f in manifest.features] if by_name and manifest.features else None
        self._name = f".{name}" if by_name and self._features is None else ""

    def at(self, row: int, place: Sequence[int] = ()) -> str:
        row += self._first_row
        if self._features is not None and place:
            return f"instances[{row}].{self._features[place[0]]}"
        return f"instances[{row}]{self._name}" + "".join(f"[{i}]" for i in place)


class _TensorPaths(_Paths):
    """The same, where the caller wrote a tensor for each input."""

    def __init__(self, name: str) -> None:
        self._tensor = name

    def at(self, row: int, place: Sequence[int] = ()) -> str:
        return f"{self._tensor}[{row}]" + "".join(f"[{i}]" for i in place)


def _columns(instances: list[Any], manifest: Manifest, first_row: int) -> dict[str, list[Any]]:
    """One list of row values for each input."""
    if not any(isinstance(row, dict) for row in instances):
        if len(manifest.inputs) > 1:
            names = ", ".join(i.name for i in manifest.inputs)
            _wrong(f"instances[{first_row}]", f"an object with the inputs {names} expected, got {_kind(instances[0])}")
        return {manifest.inputs[0].name: instances}
    features = [f.name for f in manifest.features] if manifest.features else None
    inputs = [i.name for i in manifest.inputs]
    by_feature = features is not None and not all(isinstance(r, dict) and set(r) == set(inputs) for r in instances)
    keys = features if by_feature and features is not None else inputs
    for i, row in enumerate(instances, start=first_row):
        if not isinstance(row, dict):
            _wrong(f"instances[{i}]", f"an object as in the other rows expected, got {_kind(row)}")
        for key in row:
            if key not in keys:
                what = "a feature" if by_feature else "an input"
                _wrong(f"instances[{i}].{cut(key)}", f"not {what} of this model{nearest(key, keys)}")
        for key in keys:
            if key not in row:
                _wrong(f"instances[{i}].{key}", "missing")
    if by_feature:
        return {inputs[0]: [[row[key] for key in keys] for row in instances]}
    return {name: [row[name] for row in instances] for name in inputs}


def _array(rows: list[Any], spec: Input, plain: bool, paths: _Paths) -> NDArray[Any]:
    found = np.empty(0, object)
    if plain:  # numpy would take true and null for numbers, and give every string the room of the longest
        with suppress(ValueError, OverflowError):
            found = np.array(rows)
    wanted = "fi" if spec.dtype == "float32" else "i"
    if found.dtype.kind not in wanted or found.shape[1:] != spec.shape:
        for i, row in enumerate(rows):
            _check_value(row, spec, i, (), paths)
        found = np.array(rows, dtype=np.float64 if spec.dtype == "float32" else np.int64)
    return _in_range(found, spec, paths)


def decode_arrays(
    arrays: Mapping[str, NDArray[Any]], manifest: Manifest, first_row: int = 0, by_tensor: bool = False
) -> dict[str, Tensor]:
    """Arrays of the right shapes to one tensor an input, as `decode_instances`. by_tensor: paths begin with the input's
    name. InvalidInput with the path of the first wrong value."""
    named = len(manifest.inputs) > 1
    return {
        spec.name: torch.from_numpy(_in_range(arrays[spec.name], spec, paths)) for spec in manifest.inputs
        for paths in [_TensorPaths(spec.name) if by_tensor else _Paths(spec.name, named, manifest, first_row)]
    }


def _in_range(values: NDArray[Any], spec: Input, paths: _Paths) -> NDArray[Any]:
    if spec.dtype == "float32":
        if float(np.maximum.reduce(np.abs(values), None)) <= _FLOAT32_MAX:  # not so where any is NaN
            return values.astype(np.float32, order="C")
        # torch says nothing of numbers that are too large, numpy warns
        cast = torch.from_numpy(values.astype(np.float64, order="C")).float().numpy()
        bad, reason = ~np.isfinite(cast), "a finite number that float32 can hold expected"
    else:
        cast = values.astype(np.int64, order="C")
        assert spec.range is not None  # the manifest of an integer input names it
        low, high = map(int, spec.range)
        bad, reason = (values < low) | (values > high), f"an integer from {low} to {high} expected"
    if bad.any():
        row, *place = (int(i) for i in np.argwhere(bad)[0])
        _wrong(paths.at(row, place), f"{reason}, got {_shown(values[(row, *place)].item())}")
    return cast


def _check_value(value: Any, spec: Input, row: int, place: tuple[int, ...], paths: _Paths) -> None:
    """Walks one row and names the first value that is wrong."""
    if isinstance(value, np.ndarray):
        return  # unpacked in the input's shape and type
    depth = len(place)
    if depth < len(spec.shape):
        size = spec.shape[depth]
        if not isinstance(value, list):
            whole = list(spec.shape[depth:])
            _wrong(paths.at(row, place), f"a list of shape {whole} expected, got {_kind(value)}")
        if len(value) != size:
            _wrong(paths.at(row, place), f"{size} values expected, got {len(value)}")
        for i, inner in enumerate(value):
            _check_value(inner, spec, row, (*place, i), paths)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(paths.at(row, place), f"a number expected, got {_kind(value)}")
    elif spec.dtype == "int64" and not (isinstance(value, int) and -(2**63) <= value < 2**63):
        _wrong(paths.at(row, place), f"a 64-bit integer expected, got {_shown(value)}")


def _wrong(path: str, message: str) -> NoReturn:
    raise InvalidInput(f"{path}: {message}", faults=[Fault(path, message)])


def _kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: "a string", bool: f"{value!r}".lower(), type(None): "null"}
    return kinds.get(type(value), f"the number {value!r}")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{cut(value)}"'
    return cut(repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else _kind(value))


def out_of_range(inputs: Mapping[str, Tensor], manifest: Manifest) -> list[list[str]]:
    """For each row, the features outside their training range; empty lists where the manifest names none."""
    rows = next(iter(inputs.values()))
    if manifest.features is None:
        return [[] for _ in range(rows.shape[0])]
    names = [f.name for f in manifest.features]
    # bounds as the model sees values: a training value read back must not fall outside by rounding
    low = np.array([f.min for f in manifest.features], np.float32)
    high = np.array([f.max for f in manifest.features], np.float32)
    values = rows.numpy()
    outside = (values < low) | (values > high)
    return [[names[j] for j in np.flatnonzero(row)] for row in outside]
