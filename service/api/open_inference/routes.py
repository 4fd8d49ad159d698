"""The protocol's routes beside `infer`: what the server and its models are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from service.api.open_inference.metadata import model_metadata, server_metadata
from service.repository import ReadyModel

if TYPE_CHECKING:
    from service.api.app import Server

_MODEL = "/v2/models/{name:verbless}"
_VERSION = "/v2/models/{name:verbless}/versions/{version:verbless}"


def add_open_inference(app: FastAPI, state: Server, infer: ASGIApp) -> None:
    """infer: answers `POST …/infer`."""

    def model_of(request: Request) -> ReadyModel:
        return state.ready_repository().get(request.path_params["name"], request.path_params.get("version"))

    @app.get("/v2", tags=["open inference"], summary="Name, version and extensions of the server")
    async def server() -> Response:
        return _json(server_metadata())

    for path in (_MODEL, _VERSION):
        app.router.routes.append(Route(f"{path}/infer", infer, methods=["POST"]))

    @app.get(_MODEL, tags=["open inference"], summary="Inputs and outputs of the version that serves")
    @app.get(_VERSION, tags=["open inference"], summary="Inputs and outputs of a version")
    async def metadata(request: Request) -> Response:
        model = model_of(request)
        versions = [v for name, v in state.repository.versions if name == model.name]
        return _json(model_metadata(model, versions))

    @app.get(f"{_MODEL}/ready", tags=["open inference"], summary="Does a model answer?")
    @app.get(f"{_VERSION}/ready", tags=["open inference"], summary="Does a version answer?")
    async def ready(request: Request) -> Response:
        return _json({"name": model_of(request).name, "ready": True})


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
