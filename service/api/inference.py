"""The two hot routes: body in, engine, body out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from math import prod
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from service import events
from service.api import arrays, decode, encode
from service.api.bodies import JSON, NPY, NPZ, Bodies, Held, answer_type, media_type
from service.api.context import Context, context_of
from service.api.desk import Desk
from service.api.note import note_of
from service.api.rows import decode_rows
from service.errors import Draining, ErrorbarError, MalformedBody
from service.keys import Key
from service.repository import ReadyModel, Repository
from service.scheduling import Answer, Engine, Job, Limits, Options
from service.scheduling.job import Mode
from service.scheduling.limits import check_size

_INLINE_BYTES = 16 << 10  # bodies up to here, save of images and texts, are decoded on the event loop: faster
_INLINE_NUMBERS = 2000  # and answers of so many numbers encoded
_STATISTICS = 4  # numbers for each output of a row: mean, std and their standard errors
_MOST_QUERY_FIELDS = 50
_TYPE_OF = {JSON: b"application/json", NPZ: NPZ.encode()}
Outside = list[list[str]]  # for each row, the features outside their range


class Inference:
    """Answers `:predict` and `:uncertainty`."""

    def __init__(self, repository: Callable[[], Repository], engine: Engine, limits: Limits,
                 observer: events.Observer, answered: Callable[[Job, Answer], None] = lambda job, answer: None) -> None:
        """answered: told every answer, before it is encoded; returns at once."""
        self._repository, self._limits, self._observe, self._answered_to = repository, limits, observer, answered
        self._desk = Desk(engine)
        self._bodies = Bodies(limits.body_bytes, limits.waiting_bytes)

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, name: str, version: str | None, mode: Mode
    ) -> None:
        """Sends the answer of that model; raises what is wrong."""
        context = context_of(scope)
        model: ReadyModel | None = None
        code = "internal_error"
        try:
            model = self._repository().get(name, version, context.request_id)
            note_of(scope).model = model
            kind, content = await self._answered(scope, receive, context, model, mode)
            code = "ok"
        except ErrorbarError as e:
            code = e.code
            raise
        except asyncio.CancelledError:
            code = Draining.code
            raise
        finally:
            seconds = context.clock.now() - context.arrived
            served = (None, None) if model is None else (model.name, model.version)
            self._observe(events.RequestAnswered(served[0], served[1], mode, code, seconds, context.timings_s))
        await send({"type": "http.response.start", "status": 200, "headers": [
            (b"content-type", _TYPE_OF[kind]), (b"content-length", str(len(content)).encode())]})
        await send({"type": "http.response.body", "body": content})

    async def _answered(
        self, scope: Scope, receive: Receive, context: Context, model: ReadyModel, mode: Mode
    ) -> tuple[str, bytes]:
        headers = context.headers
        given_as, answered_as = media_type(headers), answer_type(headers)
        query = _query(scope["query_string"])
        self._desk.check_room()
        held = Held(self._bodies)
        try:
            raw = await self._bodies.read(receive, headers, held)
            began = context.clock.now()
            decoded = partial(self._decoded, raw, given_as, query, context, model, mode, note_of(scope).key)
            heavy = len(raw) > _INLINE_BYTES or (given_as == JSON and bool(model.readers))
            job, outside = await run_in_threadpool(decoded) if heavy else decoded()
            context.timings_s["decode"] = context.clock.now() - began
            if model.readers:  # a few bytes may have become many
                held.take(sum(tensor.nbytes for tensor in job.inputs.values()) - held.size)
            del raw, decoded
            answer = await self._desk.answered(job, receive)
            self._answered_to(job, answer)
        finally:
            held.let_go()
        context.timings_s |= answer.timings_s
        if out := sum(map(bool, outside)):
            self._observe(events.RowsOutOfRange(model.name, out))
        began = context.clock.now()
        encoded = partial(_encoded, answered_as, job, answer, outside, context.request_id)
        heavy = sum([array.size for array in answer.arrays.values() if array is not None]) > _INLINE_NUMBERS
        content = await run_in_threadpool(encoded) if heavy else encoded()
        context.timings_s["encode"] = context.clock.now() - began
        return answered_as, content

    def _decoded(
        self, raw: bytes, kind: str, query: list[tuple[str, str]], context: Context, model: ReadyModel, mode: Mode,
        key: Key | None,
    ) -> tuple[Job, Outside]:
        sampled = mode == "uncertainty"
        if kind == JSON:
            decode.check_query([name for name, _ in query], sampled)
            payload = decode.parse_body(raw)
            decode.check_fields(payload, sampled)
            instances = payload["instances"]
            rows = len(instances) if isinstance(instances, list) else 0
        else:
            payload = decode.options_of_query(query, sampled)
            rows = (arrays.rows_of(raw) or 0) if kind == NPY else 0
        options = decode.decode_options(payload, model, self._limits) if sampled else None
        timeout_ms, priority = decode.decode_timeout_ms(payload), decode.decode_priority(payload, key)
        self._check_size(rows, options, model)
        if kind == JSON:
            plain = decode.is_plain(raw, decode.names_in(payload))
            inputs = decode_rows(instances, model, plain, most_bytes=self._limits.body_bytes)
        else:
            given = arrays.read_arrays(raw, kind, model.manifest, self._limits.body_bytes)
            self._check_size(len(next(iter(given.values()))), options, model)
            inputs = decode.decode_arrays(given, model.manifest)
        job = Job(model, mode, inputs, context.arrived + timeout_ms / 1e3, options, priority,
                  sampled and decode.decode_partial(payload))
        return job, decode.out_of_range(inputs, model.manifest)

    def _check_size(self, rows: int, options: Options | None, model: ReadyModel) -> None:
        numbers = rows * prod(model.sampler.output_shape)
        if options is None:
            check_size(self._limits, rows, 1, 0, numbers)
        else:
            samples = options.effective_samples
            kept = numbers * samples if options.keeps_samples else 0
            check_size(self._limits, rows, samples, kept, numbers * _STATISTICS)


def _encoded(kind: str, job: Job, answer: Answer, outside: Outside, request_id: str) -> bytes:
    if kind == NPZ:
        return arrays.write_arrays(encode.answer_arrays(job, answer, outside, request_id))
    return encode.encode_json(encode.answer_body(job, answer, outside, request_id))


def _query(given: bytes) -> list[tuple[str, str]]:
    if not given:
        return []
    try:
        return parse_qsl(given.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_QUERY_FIELDS,
                         errors="strict")
    except ValueError as e:
        raise MalformedBody(f"the query string cannot be read: {e}") from e
