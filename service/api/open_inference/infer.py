"""`POST /v2/models/{name}/infer`: a request of the protocol to the engine and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send
from torch import Tensor

from service.api import decode
from service.api.bodies import BINARY, JSON, Held
from service.api.context import Context, context_of
from service.api.inference import INLINE_BYTES, Counted, Inference, Outside, answer_is_heavy
from service.api.note import note_of
from service.api.open_inference.coding import MOST_SHRUNK, decompressed, response_coding
from service.api.open_inference.outputs import check_wanted, response
from service.api.open_inference.request import InferRequest, read_request
from service.api.open_inference.tensors import BYTES, Given
from service.api.refusals import refusal
from service.api.rows import decode_rows
from service.errors import ErrorbarError, InvalidInput, cut, nearest
from service.keys import Key
from service.preprocessing.tensors import read_base64
from service.repository import Input, ReadyModel
from service.scheduling import Job

_INFER = re.compile(r"/v2/models/([^/:]+)(?:/versions/([^/:]+))?/infer")


def infer_route(scope: Scope) -> re.Match[str] | None:
    """Model and version, where a request is one of inference by this protocol."""
    return _INFER.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None


class OpenInference:
    """An ASGI application for the paths of `infer`."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = infer_route(scope)
        assert found is not None  # whoever calls has looked
        try:
            await self._answer(scope, receive, send, found[1], found[2])
        except ErrorbarError as e:
            await refusal(scope, e)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, name: str, version: str | None) -> None:
        inference, context = self._inference, context_of(scope)
        with Counted(inference, scope) as counted:
            model = inference.model_of(scope, name, version)
            key = note_of(scope).key
            held = Held(inference.bodies)
            try:
                raw = await inference.bodies.read(receive, context.headers, held)
                if b"content-encoding" in context.headers:
                    most = inference.limits.body_bytes
                    held.take(min(most, MOST_SHRUNK * len(raw)) - held.size)
                    raw = await run_in_threadpool(decompressed, raw, context.headers, most)
                    held.keep(len(raw))
                decoded = partial(self._decoded, raw, context, model, key)
                heavy = len(raw) > INLINE_BYTES or bool(model.readers)
                request, job, outside = await run_in_threadpool(decoded) if heavy else decoded()
                counted.mode = job.mode
                held.take(sum(tensor.nbytes for tensor in job.inputs.values()) - held.size)
                del raw, decoded
                answer = await inference.desk.answered(job, receive)
            finally:
                held.let_go()
            inference.note(context, job, answer, outside)
            began = context.clock.now()
            encoded = partial(response, request, job, answer, outside, context.request_id)
            body, json_bytes = await run_in_threadpool(encoded) if answer_is_heavy(job) else encoded()
            coding, body = await response_coding(body, context.headers, json_bytes is None)
            context.timings_s["encode"] = context.clock.now() - began
        headers = [(b"content-length", str(len(body)).encode()), *coding]
        if json_bytes is None:
            headers.append((b"content-type", JSON.encode()))
        else:
            headers += [(b"content-type", BINARY.encode()),
                        (b"inference-header-content-length", str(json_bytes).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _decoded(
        self, raw: bytes, context: Context, model: ReadyModel, key: Key | None
    ) -> tuple[InferRequest, Job, Outside]:
        began, inference = context.clock.now(), self._inference
        request = read_request(raw, context.headers, inference.limits.rows)
        sampled = request.mode == "uncertainty"
        decode.check_options(request.options, sampled)
        check_wanted(request, model)
        options = decode.decode_options(request.options, model, inference.limits) if sampled else None
        timeout_ms = decode.decode_timeout_ms(request.options)
        priority = decode.decode_priority(request.options, key)
        _check_names(request.inputs, model)
        inference.check_job_size(_rows(request.inputs), options, model)
        inputs = _tensors(request.inputs, model, inference.limits.body_bytes)
        job = Job(model, request.mode, inputs, context.arrived + timeout_ms / 1e3, options, priority,
                  sampled and decode.decode_partial(request.options))
        outside = decode.out_of_range(inputs, model.manifest)
        context.timings_s["decode"] = context.clock.now() - began
        return request, job, outside


def _check_names(given: Mapping[str, Given], model: ReadyModel) -> None:
    specs = {spec.name: spec for spec in model.manifest.inputs}
    for name in given:
        if name not in specs:
            hint = f"{nearest(name, specs)}; there are {', '.join(specs)}"
            raise InvalidInput.at(cut(name), f"not an input of this model{hint}")
    from_texts = {spec.text.mask for spec in specs.values()
                  if spec.text is not None and spec.name in given and given[spec.name].datatype == BYTES}
    for name in specs:
        if name not in given and name not in from_texts:
            raise InvalidInput.at(name, "missing; a tensor of this name expected")


def _rows(given: Mapping[str, Given]) -> int:
    rows = {name: tensor.values.shape[0] if tensor.values.ndim else 0 for name, tensor in given.items()}
    if len(set(rows.values())) > 1:
        raise InvalidInput.at("inputs", f"as many rows of each expected, got {rows}")
    count = next(iter(rows.values()))
    if not count:
        raise InvalidInput.at("inputs", "at least one row expected, got none")
    return count


def _tensors(given: Mapping[str, Given], model: ReadyModel, most_bytes: int) -> dict[str, Tensor]:
    specs = {spec.name: spec for spec in model.manifest.inputs}
    for name, tensor in given.items():
        _check(tensor, specs[name])
    if all(tensor.datatype != BYTES for tensor in given.values()):
        return decode.decode_arrays({name: _numbers(tensor) for name, tensor in given.items()}, model.manifest,
                                    by_tensor=True)
    columns = {name: _values(tensor, specs[name]) for name, tensor in given.items()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return decode_rows(rows, model, plain=False, most_bytes=most_bytes)


def _check(tensor: Given, spec: Input) -> None:
    """Shape and datatype. Where an input takes texts or images, a row of BYTES is one of them."""
    values = tensor.values
    if tensor.datatype == BYTES:
        if spec.text is None and spec.image is None:
            raise InvalidInput.at(
                f"{tensor.name}.datatype", "numbers expected, got BYTES; this input takes no texts or images")
        if values.shape not in ((len(values),), (len(values), 1)):
            raise InvalidInput.at(f"{tensor.name}.shape", f"[rows] or [rows, 1] expected, got {list(values.shape)}")
        return
    if values.shape[1:] != spec.shape:
        raise InvalidInput.at(
            f"{tensor.name}.shape", f"{['rows', *spec.shape]} expected, got {list(values.shape)}".replace("'", ""))
    if spec.dtype == "int64" and values.dtype.kind == "f":
        raise InvalidInput.at(f"{tensor.name}.datatype", f"integers expected, got {tensor.datatype}")


def _numbers(tensor: Given) -> NDArray[Any]:
    return tensor.values.view(np.uint8) if tensor.datatype == "BOOL" else tensor.values


def _values(tensor: Given, spec: Input) -> list[Any]:
    """A value a row, as rows of the native route have them."""
    if tensor.datatype != BYTES:
        return list(_numbers(tensor)) if tensor.values.ndim > 1 else tensor.values.tolist()
    elements: list[bytes] = tensor.values.reshape(-1).tolist()
    if spec.image is not None:
        return [read_base64(element.decode("latin-1"), f"{spec.name}[{row}]") if tensor.in_json else element
                for row, element in enumerate(elements)]
    return [_text(element, f"{spec.name}[{row}]") for row, element in enumerate(elements)]


def _text(element: bytes, path: str) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as e:
        raise InvalidInput.at(path, f"text in UTF-8 expected, got {cut(repr(element))}") from e
