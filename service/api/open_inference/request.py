"""What an inference request of the protocol asks for. Unknown fields are ignored here, as clients add some of their
own; unknown parameters are refused, since they would change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from service.api.decode import parse_body
from service.api.open_inference.tensors import Binary, Given, read_tensor
from service.errors import InvalidInput, InvalidOption, MalformedBody, cut, nearest
from service.scheduling.job import MODES, Mode

HEADER_LENGTH = b"inference-header-content-length"
BINARY_OUTPUT, BINARY_DATA, CLASSIFICATION = "binary_data_output", "binary_data", "classification"
_OPTIONS = ("samples", "seed", "masks", "design", "method", "quantiles", "include_samples", "tolerance", "decide",
            "timeout_ms", "on_deadline", "priority")
_WORDS = ("masks", "design", "method", "on_deadline")
_TIMEOUT_US, _SEQUENCE = "timeout", "sequence_"
_KNOWN = ("mode", *_OPTIONS, BINARY_OUTPUT, _TIMEOUT_US)
_OF_OUTPUT = (BINARY_DATA, CLASSIFICATION)
_MOST_TENSORS = 1000


class Wanted(NamedTuple):
    """An output. classes: of the most probable ones so many, as text; None: the numbers."""

    name: str
    binary: bool
    classes: int | None


class InferRequest(NamedTuple):
    """options: as in the body of the native route. wanted: None for all outputs. binary: outputs that do not say come
    as binary data."""

    id: str | None
    mode: Mode
    options: Mapping[str, Any]
    inputs: Mapping[str, Given]
    wanted: list[Wanted] | None
    binary: bool


def read_request(body: bytes, headers: Mapping[bytes, bytes], most_rows: int) -> InferRequest:
    """A body, whose JSON may be followed by binary data. MalformedBody, TooLarge, InvalidInput, InvalidOption."""
    length = _header_length(headers, len(body))
    payload = parse_body(body[:length] if length < len(body) else body, "inputs")
    binary = Binary(memoryview(body)[length:])
    inputs = dict(_inputs(payload.get("inputs"), binary, most_rows))
    binary.check_empty()
    mode, options, binary_output = _parameters(payload.get("parameters"))
    request_id = payload.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidInput.at("id", "a string expected")
    wanted = payload.get("outputs")
    return InferRequest(
        request_id, mode, options, inputs, list(_outputs(wanted, binary_output)) if wanted else None, binary_output)


def _header_length(headers: Mapping[bytes, bytes], size: int) -> int:
    given = headers.get(HEADER_LENGTH)
    if given is None:
        return size
    if not given.isdigit() or len(given) > 18 or int(given) > size:
        raise MalformedBody(
            f"Inference-Header-Content-Length: a number of at most the {size} bytes of the body expected, "
            f"got {cut(given.decode('latin-1'))}")
    return int(given)


def _inputs(given: Any, binary: Binary, most_rows: int) -> Iterator[tuple[str, Given]]:
    if not isinstance(given, list) or not 1 <= len(given) <= _MOST_TENSORS:
        raise InvalidInput.at("inputs", "a list of tensors expected")
    seen = set[str]()
    for place, entry in enumerate(given):
        tensor = read_tensor(entry, place, binary, most_rows)
        if tensor.name in seen:
            raise InvalidInput.at(cut(tensor.name), "given twice")
        seen.add(tensor.name)
        yield tensor.name, tensor


def _parameters(given: Any) -> tuple[Mode, dict[str, Any], bool]:
    """Mode, options of the native route, and whether outputs are binary."""
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise InvalidOption.at("parameters", "an object expected")
    mode = given.get("mode", "predict")
    if mode not in MODES:
        raise InvalidOption.at("parameters.mode", '"predict" or "uncertainty" expected')
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _KNOWN and not name.startswith(_SEQUENCE):  # nothing is kept of a sequence: it changes nothing
            raise InvalidOption.at(f"parameters.{cut(name)}", f"not a parameter of this route{nearest(name, _KNOWN)}")
        if name in _OPTIONS:
            options[name] = _value(name, value)
    if given.get(_TIMEOUT_US):  # 0 is none
        options.setdefault("timeout_ms", _milliseconds(given[_TIMEOUT_US]))
    binary = given.get(BINARY_OUTPUT, False)
    if not isinstance(binary, bool):
        raise InvalidOption.at(f"parameters.{BINARY_OUTPUT}", "true or false expected")
    return mode, options, binary


def _value(name: str, value: Any) -> Any:
    """Clients whose parameters are text, whole numbers or booleans send all else as the text of its JSON."""
    if not isinstance(value, str) or name in _WORDS:
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _milliseconds(timeout_us: Any) -> int:
    if not isinstance(timeout_us, int) or isinstance(timeout_us, bool) or timeout_us < 1:
        raise InvalidOption.at("parameters.timeout", "a whole number of microseconds expected")
    return -(-timeout_us // 1000)


def _outputs(given: Any, binary: bool) -> Iterator[Wanted]:
    if not isinstance(given, list) or len(given) > _MOST_TENSORS:
        raise InvalidInput.at("outputs", "a list of outputs expected")
    for place, entry in enumerate(given):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise InvalidInput.at(f"outputs[{place}].name", "a string expected")
        parameters = entry.get("parameters") or {}
        path = f"outputs[{place}].parameters"
        if not isinstance(parameters, dict):
            raise InvalidOption.at(path, "an object expected")
        for key in parameters:
            if key not in _OF_OUTPUT:
                raise InvalidOption.at(f"{path}.{cut(key)}", f"not a parameter of an output{nearest(key, _OF_OUTPUT)}")
        binary_data, classes = parameters.get(BINARY_DATA, binary), parameters.get(CLASSIFICATION)
        if not isinstance(binary_data, bool):
            raise InvalidOption.at(f"{path}.{BINARY_DATA}", "true or false expected")
        if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 0):
            raise InvalidOption.at(f"{path}.{CLASSIFICATION}", "a number of classes expected")
        yield Wanted(name, binary_data, classes or None)
