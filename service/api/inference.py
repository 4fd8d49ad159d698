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
from service.api.bodies import EVENTS, JSON, NPY, NPZ, Bodies, Held, answer_type, media_type
from service.api.context import Context, context_of
from service.api.desk import Desk
from service.api.event_stream import EventStream, Watched
from service.api.note import note_of
from service.api.refusals import refusal
from service.api.rows import decode_rows
from service.errors import Draining, ErrorbarError, InvalidOption, MalformedBody
from service.repository import ReadyModel, Repository
from service.scheduling import Answer, Engine, Job, Limits, Options
from service.scheduling.job import Mode
from service.scheduling.limits import check_size

INLINE_BYTES = 16 << 10  # bodies up to here, save of images and texts, are decoded on the event loop: faster
_INLINE_NUMBERS = 2000  # and answers of so many numbers encoded
_STATISTICS = 4  # numbers for each output of a row: mean, std and their standard errors
_MOST_QUERY_FIELDS = 50
TYPE_OF = {JSON: b"application/json", NPZ: NPZ.encode()}
Outside = list[list[str]]  # for each row, the features outside their range


class Call:
    """One request of a hot route, as far as its head says: the model that answers it, how, and in what form."""

    __slots__ = ("answered_as", "context", "given_as", "key", "mode", "model", "query")

    def __init__(self, scope: Scope, context: Context, model: ReadyModel, mode: Mode) -> None:
        """UnsupportedMediaType, InvalidOption, MalformedBody."""
        self.context, self.model, self.mode, self.key = context, model, mode, note_of(scope).key
        self.given_as = media_type(context.headers)
        self.answered_as = answer_type(context.headers, streams=mode == "uncertainty")
        if self.streams and scope["http_version"] == "1.0":  # uvicorn would send chunks
            raise InvalidOption.at("Accept", f"{EVENTS} comes by HTTP/1.1, the request is of HTTP/1.0")
        self.query = _query(scope["query_string"])

    def is_heavy(self, size: int) -> bool:
        """Whether a body of so many bytes takes long to decode."""
        return size > INLINE_BYTES or (self.given_as == JSON and bool(self.model.readers))

    @property
    def streams(self) -> bool:
        """Whether it is answered by more than one answer."""
        return self.answered_as == EVENTS


class Inference:
    """Answers `:predict` and `:uncertainty`."""

    def __init__(self, repository: Callable[[], Repository], engine: Engine, limits: Limits,
                 observer: events.Observer, answered: Callable[[Job, Answer], None] = lambda job, answer: None) -> None:
        """answered: told every answer, before it is encoded; returns at once."""
        self._repository, self.limits, self._observe, self._answered_to = repository, limits, observer, answered
        self.desk = Desk(engine)
        self.bodies = Bodies(limits.body_bytes, limits.waiting_bytes)

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, name: str, version: str | None, mode: Mode
    ) -> None:
        """Sends the answer of that model; raises what is wrong, where nothing was sent."""
        stream: EventStream | None = None
        try:
            with Counted(self, scope, mode):
                call = self.begun(scope, name, version, mode)
                if call.streams:
                    stream = EventStream(send)
                    await self._stream(call, receive, stream)
                    return
                content = await self._answered(call, receive)
        except ErrorbarError as e:
            if stream is None or not stream.begun:
                raise
            await stream.end("error", bytes(refusal(scope, e).body))
            return
        await send({"type": "http.response.start", "status": 200, "headers": [
            (b"content-type", TYPE_OF[call.answered_as]), (b"content-length", str(len(content)).encode())]})
        await send({"type": "http.response.body", "body": content})

    def begun(self, scope: Scope, name: str, version: str | None, mode: Mode) -> Call:
        """The call of a request. What `model_of` and `Call` raise."""
        return Call(scope, context_of(scope), self.model_of(scope, name, version), mode)

    def model_of(self, scope: Scope, name: str, version: str | None) -> ReadyModel:
        """The model that answers a request, noted. ModelNotFound, VersionNotFound, NotReady; Overloaded where no job
        would be admitted."""
        note_of(scope).model = model = self._repository().get(name, version, context_of(scope).request_id)
        self.desk.check_room()
        return model

    def count(self, scope: Scope, mode: Mode, code: str) -> None:
        """A request is over."""
        context, model = context_of(scope), note_of(scope).model
        name, version = (None, None) if model is None else (model.name, model.version)
        seconds = context.clock.now() - context.arrived
        self._observe(events.RequestAnswered(name, version, mode, code, seconds, context.timings_s))

    async def _answered(self, call: Call, receive: Receive) -> bytes:
        held = Held(self.bodies)
        try:
            job, outside = await self._read(call, receive, held)
            answer = await self.desk.answered(job, receive)
        finally:
            held.let_go()
        self.note(call.context, job, answer, outside)
        return await self._written(call, job, answer, outside)

    async def _stream(self, call: Call, receive: Receive, stream: EventStream) -> None:
        """Sends the answers so far as they come, and the answer."""
        held = Held(self.bodies)
        try:
            job, outside = await self._read(call, receive, held)
            watched = Watched(asyncio.get_running_loop())
            job = job.but(watcher=watched)
            asked = self.desk.ask(job, watched.told, receive)
            try:
                async for so_far in watched.answers():
                    await stream.send("progress", await self._written(call, job, so_far, outside))
            finally:
                self.desk.leave(asked)
        finally:
            held.let_go()
        answer = watched.answer
        self.note(call.context, job, answer, outside)
        await stream.end("result", await self._written(call, job, answer, outside))

    async def _read(self, call: Call, receive: Receive, held: Held) -> tuple[Job, Outside]:
        """As `decoded`, of the body that comes."""
        raw = await self.bodies.read(receive, call.context.headers, held)
        decoded = partial(self.decoded, call, raw)
        job, outside = await run_in_threadpool(decoded) if call.is_heavy(len(raw)) else decoded()
        if call.model.readers:  # a few bytes may have become many
            held.take(sum(tensor.nbytes for tensor in job.inputs.values()) - held.size)
        return job, outside

    async def _written(self, call: Call, job: Job, answer: Answer, outside: Outside) -> bytes:
        """As `encoded`, off the event loop where it takes long."""
        encoded = partial(self.encoded, call, job, answer, outside)
        return await run_in_threadpool(encoded) if answer_is_heavy(job) else encoded()

    def decoded(self, call: Call, raw: bytes) -> tuple[Job, Outside]:
        """What a body asks for, and for each row the features outside their range. Raises what is wrong with it."""
        began = call.context.clock.now()
        query, model, sampled = call.query, call.model, call.mode == "uncertainty"
        if call.given_as == JSON:
            decode.check_query([name for name, _ in query], sampled)
            payload = decode.parse_body(raw)
            decode.check_fields(payload, sampled)
            instances = payload["instances"]
            rows = len(instances) if isinstance(instances, list) else 0
        else:
            payload = decode.options_of_query(query, sampled)
            rows = (arrays.rows_of(raw) or 0) if call.given_as == NPY else 0
        options = decode.decode_options(payload, model, self.limits) if sampled else None
        timeout_ms, priority = decode.decode_timeout_ms(payload), decode.decode_priority(payload, call.key)
        self.check_job_size(rows, options, model)
        if call.given_as == JSON:
            plain = decode.is_plain(raw, decode.names_in(payload))
            inputs = decode_rows(instances, model, plain, most_bytes=self.limits.body_bytes)
        else:
            given = arrays.read_arrays(raw, call.given_as, model.manifest, self.limits.body_bytes)
            self.check_job_size(len(next(iter(given.values()))), options, model)
            inputs = decode.decode_arrays(given, model.manifest)
        context = call.context
        job = Job(model, call.mode, inputs, context.arrived + timeout_ms / 1e3, options, priority,
                  sampled and decode.decode_partial(payload))
        outside = decode.out_of_range(inputs, model.manifest)
        context.timings_s["decode"] = context.clock.now() - began
        return job, outside

    def note(self, context: Context, job: Job, answer: Answer, outside: Outside) -> None:
        """Tells of an answer whoever follows them."""
        context.timings_s |= answer.timings_s
        self._answered_to(job, answer)
        if out := sum(map(bool, outside)):
            self._observe(events.RowsOutOfRange(job.model.name, out))

    def encoded(self, call: Call, job: Job, answer: Answer, outside: Outside) -> bytes:
        """The body of an answer."""
        context = call.context
        began = context.clock.now()
        if call.answered_as == NPZ:
            content = arrays.write_arrays(encode.answer_arrays(job, answer, outside, context.request_id))
        else:
            content = encode.encode_json(encode.answer_body(job, answer, outside, context.request_id))
        context.timings_s["encode"] = context.clock.now() - began
        return content

    def check_job_size(self, rows: int, options: Options | None, model: ReadyModel) -> None:
        """TooLarge."""
        numbers = rows * prod(model.sampler.output_shape)
        if options is None:
            check_size(self.limits, rows, 1, 0, numbers)
        else:
            samples = options.effective_samples
            kept = numbers * samples if options.keeps_samples else 0
            check_size(self.limits, rows, samples, kept, numbers * _STATISTICS)


class Counted:
    """Around a request's answer: when it is over, it is counted. mode: as far as it is known."""

    __slots__ = ("_inference", "_scope", "mode")

    def __init__(self, inference: Inference, scope: Scope, mode: Mode = "predict") -> None:
        self._inference, self._scope, self.mode = inference, scope, mode

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if error is None:
            code = "ok"
        elif isinstance(error, asyncio.CancelledError):
            code = Draining.code
        else:
            code = error.code if isinstance(error, ErrorbarError) else "internal_error"
        self._inference.count(self._scope, self.mode, code)


def answer_is_heavy(job: Job) -> bool:
    """Whether its answer takes long to encode."""
    numbers = job.rows * prod(job.model.sampler.output_shape)
    options = job.options
    if options is not None:
        numbers *= _STATISTICS + (options.effective_samples if options.keeps_samples else 0)
    return numbers > _INLINE_NUMBERS


def _query(given: bytes) -> list[tuple[str, str]]:
    if not given:
        return []
    try:
        return parse_qsl(given.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_QUERY_FIELDS,
                         errors="strict")
    except ValueError as e:
        raise MalformedBody(f"the query string cannot be read: {e}") from e
