"""The model repository extension of the Open Inference Protocol: what there is, load, unload.

Whoever reaches these routes decides what is served: where others than the operator reach the port, keep them from
`/v2/repository`. Names are looked up in what was seen on disk, never made a path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response

from service.api.bodies import JSON, Bodies, Held, media_type
from service.errors import InvalidOption, MalformedBody, UnsupportedMediaType, cut, nearest
from service.repository import Repository
from service.repository.routing import Entry

if TYPE_CHECKING:
    from service.api.app import Server

_BODY_BYTES, _BODIES_BYTES = 64 << 10, 4 << 20
_STATES = {"loading": "LOADING", "ready": "READY", "failed": "UNAVAILABLE", "idle": "UNAVAILABLE",
           "unloaded": "UNAVAILABLE"}
_REASONS = {"idle": "not in memory; loads when it is asked for", "unloaded": "unloaded by the operator"}
_PROTOCOL_BODY: dict[str, Any] = {"requestBody": {"content": {"application/json": {"example": {}}}}}
_MODEL = "/v2/repository/models/{name:verbless}"


def add_repository_routes(app: FastAPI, state: Server) -> None:
    bodies = Bodies(_BODY_BYTES, _BODIES_BYTES)

    @app.post("/v2/repository/index", tags=["repository"], summary="All models and versions, with their state",
              openapi_extra=_PROTOCOL_BODY)
    async def index(request: Request) -> Response:
        body = await _body(bodies, request, ("ready",))
        only_ready = body.get("ready", False)
        if not isinstance(only_ready, bool):
            raise InvalidOption.at("ready", "true or false expected")
        return _json(index_of(state.repository, only_ready))

    @app.post(f"{_MODEL}/load", tags=["repository"], summary="Load what lies in a model's folder now",
              openapi_extra=_PROTOCOL_BODY)
    async def load(request: Request) -> Response:
        _check_parameters(await _body(bodies, request, ("parameters",)), ())
        name = request.path_params["name"]
        state.ready_to_change()
        await asyncio.wrap_future(state.keeper_thread.ask(partial(state.keeper.load, name)))
        return _json({"name": name, "versions": _of(state.repository, name)})

    @app.post(f"{_MODEL}/unload", tags=["repository"], summary="Let no version of a model answer",
              openapi_extra=_PROTOCOL_BODY)
    async def unload(request: Request) -> Response:
        _check_parameters(await _body(bodies, request, ("parameters",)), ("unload_dependents",))
        name = request.path_params["name"]
        state.ready_to_change()
        await asyncio.wrap_future(state.keeper_thread.ask(partial(state.keeper.unload, name)))
        return _json({"name": name, "versions": _of(state.repository, name)})


def index_of(repository: Repository, only_ready: bool = False) -> list[dict[str, Any]]:
    """An entry a version: name, version, state and reason of the protocol; `digest` of what answers, and `role`: what
    requests it gets."""
    return [
        _entry(repository, name, version, entry) for (name, version), entry in repository.entries.items()
        if entry.model is not None or not only_ready
    ]


def _of(repository: Repository, name: str) -> list[dict[str, Any]]:
    return [entry for entry in index_of(repository) if entry["name"] == name]


def _entry(repository: Repository, name: str, version: str, entry: Entry) -> dict[str, Any]:
    reason = entry.reason or _REASONS.get(entry.status, "")
    if entry.model is not None and entry.reason:
        reason = f"what lies in its folder now cannot be served, the version before goes on: {entry.reason}"
    return {
        "name": name, "version": version, "state": _STATES[entry.status], "reason": reason,
        "digest": None if entry.model is None else entry.model.digest, "role": repository.route(name).role(version),
    }


async def _body(bodies: Bodies, request: Request, known: tuple[str, ...]) -> Mapping[str, Any]:
    """The JSON object of the body, or an empty one. MalformedBody; InvalidOption for a field that is not known."""
    headers = dict(request.scope["headers"])
    if media_type(headers) != JSON:
        raise UnsupportedMediaType(f"Content-Type {JSON} expected")
    held = Held(bodies)
    try:
        raw = await bodies.read(request.receive, headers, held)
    finally:
        held.let_go()
    if not raw.strip():
        return {}
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise MalformedBody(f"the body is not JSON: {e}") from e
    if not isinstance(body, dict):
        raise MalformedBody("a JSON object expected")
    _check_known(body, known, "")
    return body


def _check_parameters(body: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Models load as they lie in the folder: nothing of them can be given with the request."""
    parameters = body.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidOption.at("parameters", "an object expected")
    _check_known(parameters, known, "parameters.")


def _check_known(given: Mapping[str, Any], known: tuple[str, ...], path: str) -> None:
    for key in given:
        if key not in known:
            raise InvalidOption.at(f"{path}{cut(key)}", f"not a field of this request{nearest(key, known)}")


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
