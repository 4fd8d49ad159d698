"""The two hot routes: body in, engine, body out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import events
from service.api import decode, encode
from service.api.context import Context, context_of
from service.errors import (
    Disconnected,
    Draining,
    ErrorbarError,
    Fault,
    InvalidOption,
    TooLarge,
    UnsupportedMediaType,
    cut,
)
from service.repository import ReadyModel, Repository
from service.scheduling import Engine, Job, Limits, Options
from service.scheduling.job import Mode
from service.scheduling.limits import check_size

_INLINE_BYTES = 64 << 10  # bodies up to here are decoded on the event loop: a thread would cost more
_LENGTH_DIGITS = 18


class Inference:
    """Answers `:predict` and `:uncertainty`."""

    def __init__(self, repository: Callable[[], Repository], engine: Engine, limits: Limits,
                 observer: events.Observer) -> None:
        self._repository, self._engine, self._limits, self._observe = repository, engine, limits, observer

    async def answer(self, request: Request, mode: Mode) -> Response:
        context = context_of(request.scope)
        model: ReadyModel | None = None
        code = "internal_error"
        try:
            model = self._repository().get(request.path_params["name"], request.path_params.get("version"))
            body = await self._answered(request, context, model, mode)
            code = "ok"
            return Response(body, media_type="application/json")
        except ErrorbarError as e:
            code = e.code
            raise
        except asyncio.CancelledError:
            code = Draining.code
            raise
        finally:
            seconds = context.clock.now() - context.arrived
            name, version = (model.name, model.version) if model is not None else (None, None)
            self._observe(events.RequestAnswered(name, version, mode, code, seconds))

    async def _answered(self, request: Request, context: Context, model: ReadyModel, mode: Mode) -> bytes:
        decode.check_query(request.query_params, mode == "uncertainty")
        _check_accept(request.headers)
        raw = await read_body(request, self._limits.body_bytes)
        with context.timed("decode"):
            heavy = len(raw) > _INLINE_BYTES
            job, outside = (
                await run_in_threadpool(self._decoded, raw, context, model, mode) if heavy
                else self._decoded(raw, context, model, mode)
            )
        answer = await asyncio.wrap_future(self._engine.submit(job))
        context.timings_s |= answer.timings_s
        with context.timed("encode"):
            def encoded() -> bytes:
                if job.options is None:
                    return encode.encode_json(encode.prediction_body(model, answer, outside))
                body = encode.uncertainty_body(model, job.options, answer, outside, context.request_id)
                return encode.encode_json(body)
            content = await run_in_threadpool(encoded) if heavy or job.rows > 64 else encoded()
        for stage in ("decode", "encode"):
            self._observe(events.StageTimed(model.name, stage, context.timings_s[stage]))
        if out := sum(map(bool, outside)):
            self._observe(events.RowsOutOfRange(model.name, out))
        return content

    def _decoded(self, raw: bytes, context: Context, model: ReadyModel, mode: Mode) -> tuple[Job, list[list[str]]]:
        payload = decode.parse_body(raw)
        decode.check_fields(payload, mode == "uncertainty")
        options = decode.decode_options(payload, model, self._limits) if mode == "uncertainty" else None
        timeout_ms = decode.decode_timeout_ms(payload)
        instances = payload["instances"]
        self._check_size(instances, options, model)
        plain = not any(word in raw for word in (b"true", b"false", b"null"))
        inputs = decode.decode_instances(instances, model.manifest, plain)
        job = Job(model, mode, inputs, context.arrived + timeout_ms / 1e3, options)
        return job, decode.out_of_range(inputs, model.manifest)

    def _check_size(self, instances: Any, options: Options | None, model: ReadyModel) -> None:
        rows = len(instances) if isinstance(instances, list) else 0
        samples = options.effective_samples if options is not None else 1
        columns = 1
        for n in model.sampler.output_shape:
            columns *= n
        kept = rows * samples * columns if options is not None and options.keeps_samples else 0
        check_size(self._limits, rows, samples, kept)


async def read_body(request: Request, limit: int) -> bytes:
    """The raw JSON body. TooLarge before it is read, where the client said how long it is; UnsupportedMediaType;
    Disconnected."""
    _check_media_type(request.headers)
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > _LENGTH_DIGITS or int(declared) > limit):
        raise TooLarge(f"a body of at most {limit} bytes expected, got {cut(declared)}")
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"a body of at most {limit} bytes expected, got more")
            chunks.append(chunk)
    except ClientDisconnect as e:
        raise Disconnected("the client left before its request was whole") from e
    return b"".join(chunks)


def _check_accept(headers: Mapping[str, str]) -> None:
    """InvalidOption where only a stream of events is accepted: there is none, and JSON would break its reader."""
    accepted = {given.split(";")[0].strip().lower() for given in headers.get("accept", "*/*").split(",")}
    if "text/event-stream" in accepted and not accepted & {"application/json", "application/*", "*/*"}:
        message = "text/event-stream is not available in this version; application/json expected"
        raise InvalidOption(f"Accept: {message}", faults=[Fault("Accept", message)])


def _check_media_type(headers: Mapping[str, str]) -> None:
    given, _, parameters = headers.get("content-type", "application/json").partition(";")
    given = given.strip().lower()
    # curl -d says form-urlencoded unless told otherwise; the body is read as JSON all the same
    if given not in ("application/json", "application/x-www-form-urlencoded", "text/json", ""):
        raise UnsupportedMediaType(f"Content-Type application/json expected, got {cut(given)!r}")
    for parameter in parameters.lower().split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            raise UnsupportedMediaType(f"a body in UTF-8 expected, got charset {cut(value.strip())!r}")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise UnsupportedMediaType(f"a body without Content-Encoding expected, got {cut(encoding)!r}")
