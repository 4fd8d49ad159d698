"""The application: models load in a thread, health answers meanwhile, everything else waits for readiness."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import torch
from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp

import service
from service import wire
from service.api import encode
from service.api.access import Gate, Guard
from service.api.context import ContextMiddleware, context_of
from service.api.door import Door, Hot
from service.api.inference import Inference
from service.api.note import note_of
from service.api.open_inference import OpenInference
from service.api.open_inference.routes import add_open_inference
from service.api.openapi import describe
from service.api.quick import Quick
from service.api.refusals import refusal
from service.api.repository_routes import add_repository_routes
from service.api.request_log import Logged, RequestLog
from service.clock import Clock, MonotonicClock
from service.errors import Draining, ErrorbarError, InvalidSettings, NotReady, UnservableModel, cut, reason
from service.keys import read_keys
from service.logs import AboutModels, ModelName, of_request
from service.metrics import Metrics
from service.repository import Repository
from service.scheduling import Engine, Keeper, KeeperThread, Shadowing
from service.scheduling.job import MODES
from service.settings import Settings
from service.watched import Watched

log = logging.getLogger("errorbar")
_COUNT_S = 1.0  # within which what happened is in the metrics, asked for or not
_LOOK_S = 0.1  # within which a signal is seen that ends a server before it listens
_RETRY_REPAIR_S = 60.0  # a model that cannot be served waits for people


class _Verbless(Convertor[str]):
    """A name without a colon: what follows one is the verb, and a verb that there is not is no route."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("verbless", _Verbless())
_MODEL = "/v1/models/{name:verbless}"
_VERSION = "/v1/models/{name:verbless}/versions/{version:verbless}"


class Server:
    """What lives as long as the application: repository, engine, metrics, and whether requests are welcome."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings, self.clock = settings, clock
        self.metrics = Metrics()
        self.engine = Engine(settings.limits, clock, self.metrics)
        self.metrics.queued_rows = lambda: self.engine.rows
        self.repository = Repository(settings.models, resolved_device(settings.device))
        self.shadowing = Shadowing(self.engine, self.repository, self.metrics)
        self.keeper = Keeper(
            self.repository, lambda model: self.engine.warm(model), settings.keeping, clock, self.metrics,
            on_change=self._changed)
        self.keeper_thread = KeeperThread(self.keeper, settings.reload_s)
        self.repository.on_wish = self.keeper_thread.wish
        self.loaded = False
        self.failure: ErrorbarError | None = None
        self.draining = False
        self.cut_requests = 0
        path = settings.keys
        self.keys = None if path is None else Watched("keys", [path], lambda: read_keys(path))

    def count_cut(self) -> None:
        """A request was admitted, and the server's end cut it short."""
        self.cut_requests += 1

    def load(self) -> None:
        """Loads, probes and warms every model; each answers from then on. Raises what makes one unservable."""
        self.keeper.start_up()
        self.loaded = True

    def _changed(self) -> None:
        """After a change of the repository: what failed at the start may be right by now."""
        # what torch and the models hold stays: to look through it for garbage would stop all requests for half a second
        gc.collect()
        gc.freeze()
        if self.failure is not None and self.repository.all_ready:
            self.failure, self.loaded = None, True
            self.metrics.processes.set(1)
            log.info("ready: %s", ModelName(self.served))

    @property
    def served(self) -> str:
        """Names and versions, for people."""
        return ", ".join(f"{name}/{version}" for name, version in self.repository.versions)

    @property
    def ready(self) -> bool:
        return not self.draining and self.failure is None and self.engine.works and self.loaded

    def ready_to_change(self) -> None:
        """Draining where it is too late to load or unload anything."""
        if self.draining:
            raise Draining("the server is going down and takes no new work", retry_after_s=5.0)

    def ready_repository(self) -> Repository:
        self.ready_to_change()
        if self.failure is not None:
            raise NotReady(f"the models could not be loaded: {self.failure.detail}", retry_after_s=_RETRY_REPAIR_S)
        return self.repository


def resolved_device(device: str) -> str:
    """auto is cuda where there is one. InvalidSettings where cuda is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidSettings("device: cuda was asked for, but torch finds no CUDA device; use cpu or auto")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def create_app(
    settings: Settings, clock: Clock | None = None, state: Server | None = None, load_first: bool = False
) -> Door:
    """The application. Models load in a thread when it starts, unless `state` has loaded them already; load_first: it
    has not started before they are loaded, or it is known that they cannot be."""
    state = state or Server(settings, clock or MonotonicClock())
    loaded = state.ready

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def start() -> None:
            if not loaded:
                await _load(state)
            state.keeper_thread.start()

        starting = asyncio.create_task(start())
        loop = asyncio.get_running_loop()
        state.metrics.on_first = lambda: loop.call_soon_threadsafe(loop.call_later, _COUNT_S, state.metrics.count)
        while load_first and not (starting.done() or state.draining):
            await asyncio.wait({starting}, timeout=_LOOK_S)
        yield
        state.metrics.on_first = lambda: None
        if not starting.done():
            starting.cancel()
        state.draining = True
        # requests end before the application: what the engine still has, nobody waits for
        await asyncio.to_thread(state.engine.drain, abandon=True)
        await asyncio.to_thread(state.keeper_thread.stop)
        await asyncio.to_thread(state.shadowing.stop)
        state.metrics.count()

    app = FastAPI(
        title="Errorbar", version=service.__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        openapi_url=None, redirect_slashes=False,
        description="An honest error bar on every prediction of a network with dropout.",
    )
    app.state.server = state
    last_resort = _add_errors(app, state)
    inference = Inference(
        state.ready_repository, state.engine, state.settings.limits, state.metrics, state.shadowing.answered)
    hot = Hot(inference)
    infer = OpenInference(inference)
    _add_models(app, state, hot)
    add_open_inference(app, state, infer)
    _add_health(app, state)
    add_repository_routes(app, state)
    describe(app, state)
    gate, requests = _gate(state), _request_log(app, state)

    def guarded(inner: ASGIApp) -> ASGIApp:
        if gate is not None:
            inner = Guard(inner, gate, state.metrics)
        return inner if requests is None else Logged(inner, requests)

    app.add_middleware(guarded)
    app.add_middleware(ContextMiddleware, clock=state.clock, last_resort=last_resort)
    quick = Quick(inference, state.clock, state.metrics, gate, requests, last_resort, state.count_cut)
    def direct(inner: ASGIApp) -> ASGIApp:
        return ContextMiddleware(guarded(inner), state.clock, last_resort)

    return Door(app, direct(hot), direct(infer), quick)


def _gate(state: Server) -> Gate | None:
    settings, keys = state.settings, state.keys
    if keys is None and settings.admin_port is None:
        return None
    return Gate(None if keys is None else lambda: keys.value, settings.admin_port is not None, state.clock)


def _request_log(app: FastAPI, state: Server) -> RequestLog | None:
    wanted = state.settings.log_requests
    routes = [getattr(route, "path_format", "") for route in app.routes]
    return RequestLog(routes, state.clock, "errors" if wanted == "errors" else "all") if wanted else None


async def _load(state: Server) -> None:
    """A server whose models cannot be loaded stays up, not ready, so that /readyz and the log say why to whoever looks;
    it ends with status 1."""
    try:
        await asyncio.to_thread(state.load)
        state.metrics.processes.set(1)
        log.info("ready: %s", ModelName(state.served))
    except Draining:
        log.info("going down before the models were loaded")
    except ErrorbarError as e:
        state.failure = e
        log.error("not ready: %s", AboutModels(e.detail))
    except Exception as e:
        state.failure = UnservableModel(reason(e))
        log.exception("not ready")


def _add_errors(app: FastAPI, state: Server) -> Callable[[Request, BaseException], Response]:
    """Every error as a problem; returns what answers those that no handler catches."""

    def answered(request: Request, error: ErrorbarError, code: str | None = None) -> Response:
        return refusal(request.scope, error, code)

    @app.exception_handler(ErrorbarError)
    async def ours(request: Request, error: ErrorbarError) -> Response:
        return answered(request, error)

    @app.exception_handler(HTTPException)
    async def frameworks(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"]
        if error.status_code == 405:
            allowed = ", ".join(_methods_of(app, request))
            wrong = ErrorbarError(f"{cut(request.method)} is not a method of {cut(path)}, but {allowed}")
            response = answered(request, wrong, "method_not_allowed")
            response.headers["Allow"] = allowed
            return response
        return answered(request, ErrorbarError(f"no route {cut(path)}; /docs lists the routes"), "not_found")

    def last_resort(request: Request, error: BaseException) -> Response:
        if isinstance(error, asyncio.CancelledError):  # only the server's end cancels a request
            state.count_cut()
            gone = "the server went down before the answer was ready; a retry is safe"
            return answered(request, Draining(gone, retry_after_s=5.0))
        log.error("request %s failed", context_of(request.scope).request_id, exc_info=error, extra=of_request())
        return answered(request, ErrorbarError("an error that Errorbar did not foresee; see its log"), "internal_error")

    return last_resort


def _methods_of(app: FastAPI, request: Request) -> list[str]:
    """The methods of all routes of that path."""
    return sorted({
        method for route in app.routes if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    })


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def _add_health(app: FastAPI, state: Server) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["health"], summary="Is the process alive?")
    @app.get("/v2/health/live", tags=["health"], summary="Is the process alive?")
    async def live() -> Response:
        return _json({"live": True})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["health"], summary="Is every model loaded, probed and warmed?")
    @app.get("/v2/health/ready", tags=["health"], summary="Is every model loaded, probed and warmed?")
    async def ready() -> Response:
        if state.ready:
            return _json({"ready": True})
        if state.failure is not None and state.keys is not None:  # health has no key, and the reason names folders
            raise NotReady("the models could not be loaded; the log says why", retry_after_s=_RETRY_REPAIR_S)
        state.ready_repository()
        if not state.engine.works:
            raise NotReady("a model does not return; the server restarts", retry_after_s=5.0)
        raise NotReady("the models are loading", retry_after_s=1.0)

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics")
    async def metrics(request: Request) -> Response:
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(state.metrics.exposed()), media_type=content_type)


def _add_models(app: FastAPI, state: Server, hot: Hot) -> None:
    @app.get("/v1/models", tags=["models"], summary="What is served")
    async def models(request: Request) -> Response:
        repository, note = state.ready_repository(), note_of(request.scope)
        entries = [
            {"name": n, "version": v, "task": e.model.manifest.task if e.model else "", "ready": e.model is not None}
            for (n, v), e in repository.entries.items() if note.may_ask(n)
        ]
        return _json(wire.ModelList.model_validate({"models": entries}).model_dump())

    for path in (_MODEL, _VERSION):
        for mode in MODES:
            app.router.routes.append(Route(f"{path}:{mode}", hot, methods=["POST"]))

    @app.get(_MODEL, tags=["models"], summary="Model card of the version that serves")
    @app.get(_VERSION, tags=["models"], summary="Model card")
    async def card(request: Request) -> Response:
        model = state.ready_repository().get(request.path_params["name"], request.path_params.get("version"))
        return _json(encode.card_body(model))
