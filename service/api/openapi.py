"""The contract as a document: schemas and working examples of routes whose bodies are parsed by hand."""

from __future__ import annotations

import copy
import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel
from starlette.routing import Route

from service import wire
from service.api.access import access
from service.api.bodies import BINARY, EVENTS, NPY, NPZ
from service.api.note import note_of
from service.api.open_inference.metadata import DATATYPES
from service.repository import Input, Manifest
from service.repository.inputs import ENCODED

if TYPE_CHECKING:
    from service.api.app import Server


class _Inference(NamedTuple):
    """A route of inference: a plain one, whose body no framework reads. takes and gives: media types beside JSON.
    sampled: whether the example asks for the uncertainty."""

    tag: str
    summary: str
    request: type[BaseModel]
    answer: type[BaseModel]
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    sampled: bool
    description: str
    example: Callable[[Manifest], dict[str, Any]]


_IN_QUERY = "The options are fields of the JSON; with an npy or npz body they stand in the query string."
_INFERENCE = {
    ":predict": _Inference("inference", "Deterministic prediction", wire.PredictRequest, wire.PredictResponse,
                           (NPY, NPZ), (NPZ,), False, _IN_QUERY,
                           lambda manifest: example_request(manifest, uncertainty=False)),
    ":uncertainty": _Inference("inference", "Monte-Carlo dropout: mean, std and more", wire.UncertaintyRequest,
                               wire.UncertaintyResponse, (NPY, NPZ), (NPZ, EVENTS), True, _IN_QUERY,
                               lambda manifest: example_request(manifest, uncertainty=True)),
    "/infer": _Inference("open inference", "Both modes, as parameters say, with JSON or binary tensors",
                         wire.InferRequest, wire.InferResponse, (BINARY,), (BINARY,), True,
                         "Inference-Header-Content-Length says how long the JSON is that binary data follow.",
                         lambda manifest: example_infer(manifest)),
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_OTHER = {EVENTS: {"schema": {"type": "string"}}}
_ANSWERS: dict[str, type[BaseModel]] = {
    "/v1/models": wire.ModelList, "/v1/models/{name}": wire.ModelCard,
    "/v1/models/{name}/versions/{version}": wire.ModelCard, "/v2": wire.ServerMetadata,
    "/v2/models/{name}": wire.ModelMetadata, "/v2/models/{name}/versions/{version}": wire.ModelMetadata,
    "/v2/models/{name}/ready": wire.ModelReady, "/v2/models/{name}/versions/{version}/ready": wire.ModelReady,
    "/healthz": wire.Live, "/v2/health/live": wire.Live, "/readyz": wire.Ready, "/v2/health/ready": wire.Ready,
    "/v2/repository/index": wire.VersionIndex, "/v2/repository/models/{name}/load": wire.Versions,
    "/v2/repository/models/{name}/unload": wire.Versions,
}
_EXPOSITIONS = ("text/plain", "application/openmetrics-text")
_GREY_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
_REF = "#/components/schemas/{model}"


def describe(app: FastAPI, state: Server) -> None:
    """Puts `/openapi.json` and `/docs` in place. Examples use the models that are loaded."""

    kept: list[tuple[Any, dict[str, Any]]] = []  # the document, and what was served when it was made

    def openapi() -> dict[str, Any]:
        served = state.repository.entries
        if kept and kept[0][0] is served:
            return kept[0][1]
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        document["paths"] = _inference_paths(app) | document["paths"]
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for path, item in document["paths"].items():
            for operation in item.values():
                _describe_operation(path, operation, schemas, state)
        if state.keys is not None:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, item in document["paths"].items():
                for operation in item.values():
                    operation["security"] = [] if access(path) == "open" else [{"key": []}]
        if state.ready:
            kept[:] = [(served, document)]
        return document

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def as_json(request: Request) -> Response:
        return Response(orjson.dumps(_as_seen(openapi(), request)), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(_page(_as_seen(openapi(), request), str(request.base_url).rstrip("/")))


def _as_seen(document: dict[str, Any], request: Request) -> dict[str, Any]:
    """The document for whoever asks: a key that may ask some models only is not told of others."""
    note = note_of(request.scope)
    if note.key is None or note.key.models is None:
        return document
    seen = copy.deepcopy(document)
    for item in seen["paths"].values():
        for operation in item.values():
            parameters = operation.get("parameters", [])
            hidden = any(p["name"] == "name" and not note.may_ask(p.get("example", "")) for p in parameters)
            for parameter in parameters:
                if parameter["name"] == "name" and "enum" in parameter["schema"]:
                    names = parameter["schema"].pop("enum")
                    parameter["schema"] |= {"enum": kept} if (kept := [n for n in names if note.may_ask(n)]) else {}
                if parameter["name"] == "version":
                    parameter["schema"].pop("enum", None)
                if hidden:
                    parameter.pop("example", None)
            if hidden and "requestBody" in operation:
                operation["requestBody"]["content"]["application/json"].pop("example", None)
    return seen


def _inference_paths(app: FastAPI) -> dict[str, Any]:
    """Of the routes that FastAPI does not know: they are plain ones."""
    return {
        route.path_format: {"post": {
            "tags": [about.tag], "summary": about.summary, "responses": {"200": {"description": "The answer"}},
            "description": about.description,
            "operationId": route.path_format.translate(str.maketrans("/{}:", "____")).strip("_"),
        }}
        for route in app.routes if isinstance(route, Route) and (about := _inference(route.path_format)) is not None
    }


def _inference(path: str) -> _Inference | None:
    return next((about for suffix, about in _INFERENCE.items() if path.endswith(suffix)), None)


def _describe_operation(path: str, operation: dict[str, Any], schemas: dict[str, Any], state: Server) -> None:
    answered = operation["responses"]["200"]
    answer = _ANSWERS.get(path)
    about = _inference(path)
    model = _example_model(state, sampled=about is not None and about.sampled)
    if about is not None:
        answer = about.answer
        content: dict[str, Any] = {"schema": _reference(about.request, schemas)}
        if model is not None:
            content["example"] = about.example(model[0])
        operation["requestBody"] = {
            "required": True, "content": {"application/json": content} | dict.fromkeys(about.takes, _BYTES)}
    if answer is not None:
        answered["content"] = {"application/json": {"schema": _reference(answer, schemas)}}
    if about is not None:
        answered["content"] |= {kind: _OTHER.get(kind, _BYTES) for kind in about.gives}
    if path == "/metrics":
        answered["content"] = {kind: {"schema": {"type": "string"}} for kind in _EXPOSITIONS}
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "An error (RFC 9457)",
        "content": {"application/json" if path.startswith("/v2") else "application/problem+json": {
            "schema": _reference(wire.OpenInferenceProblem if path.startswith("/v2") else wire.Problem, schemas)}},
    }
    operation["parameters"] = _parameters(path, state, model)
    if not operation["parameters"]:
        del operation["parameters"]


def _parameters(path: str, state: Server, model: tuple[Manifest, str] | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    versions = state.repository.versions
    for i, name in enumerate(("name", "version")):
        if f"{{{name}}}" in path:
            values = sorted({v[i] for v in versions})
            schema: dict[str, Any] = {"type": "string"} | ({"enum": values} if values else {})
            example = {"example": (model[0].name, model[1])[i]} if model is not None else {}
            found.append({"name": name, "in": "path", "required": True, "schema": schema} | example)
    return found


def _example_model(state: Server, sampled: bool) -> tuple[Manifest, str] | None:
    """sampled: one that has an uncertainty to give."""
    if not state.ready:
        return None
    ready = (entry.model for entry in state.repository.entries.values())
    return next(((model.manifest, model.version) for model in ready
                 if model is not None and (model.sampler.samples_something or not sampled)), None)


def example_request(manifest: Manifest, uncertainty: bool) -> dict[str, Any]:
    """A request that works: one row in the middle of its training range."""
    row: Any = _example_row(manifest)
    if manifest.features is not None:
        row = {f.name: value for f, value in zip(manifest.features, row[manifest.inputs[0].name], strict=True)}
    elif len(row) == 1:
        row = next(iter(row.values()))
    return {"instances": [row]} | (_example_options(manifest) if uncertainty else {})


def example_infer(manifest: Manifest) -> dict[str, Any]:
    """The same of the Open Inference Protocol, in the mode of uncertainty."""
    inputs = []
    for spec, value in zip(manifest.inputs, _example_row(manifest).values(), strict=True):
        if isinstance(value, dict):
            inputs.append({"name": spec.name, "datatype": "BYTES", "shape": [1], "data": [value[ENCODED]]})
        else:
            inputs.append({"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": [1, *spec.shape],
                           "data": [value]})
    return {"inputs": inputs, "parameters": {"mode": "uncertainty", **_example_options(manifest)}}


def _example_options(manifest: Manifest) -> dict[str, int]:
    """The model's own, which one that is locked takes too."""
    return {"samples": manifest.sampling.samples, "seed": manifest.sampling.seed}


def _example_row(manifest: Manifest) -> dict[str, Any]:
    """By input; where there are features, in the middle of their ranges."""
    if manifest.features is not None:
        return {manifest.inputs[0].name: [float(f"{(f.min + f.max) / 2:.4g}") for f in manifest.features]}
    return {spec.name: _example(spec) for spec in manifest.inputs}


def _example(spec: Input) -> Any:
    """A value of that input; of an image a grey dot where any size will do."""
    if spec.image is not None and spec.image.resize != "none":
        return {ENCODED: _GREY_DOT}
    return _filled(spec.shape, (spec.range or (0.0, 0.0))[0], spec.dtype)


def _filled(shape: tuple[int, ...], value: float, dtype: str) -> Any:
    if not shape:
        return int(value) if dtype == "int64" else value
    return [_filled(shape[1:], value, dtype) for _ in range(shape[0])]


def _reference(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, str]:
    schema = model.model_json_schema(ref_template=_REF)
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
    return {"$ref": _REF.format(model=model.__name__)}


def _page(document: dict[str, Any], address: str) -> str:
    """The document as one plain page: no script, nothing from another address, readable offline."""
    parts = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            example = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            shown = path
            for p in operation.get("parameters", []):
                shown = shown.replace(f"{{{p['name']}}}", str(p.get("example", f"{{{p['name']}}}")))
            call = f"curl {address}{shown}" + (
                f" -d '{orjson.dumps(example).decode()}'" if example is not None else "")
            parts.append(
                f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>"
                f"<p>{html.escape(operation.get('summary', ''))}</p><pre>{html.escape(call)}</pre></section>")
    app_words = document["info"]["description"]
    schemas = html.escape(orjson.dumps(document["components"]["schemas"], option=orjson.OPT_INDENT_2).decode())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Errorbar: the contract</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>'
        ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem}h2{font-size:1.1rem;margin:2rem 0 .25rem}p{margin:.25rem 0}pre{overflow-x:auto;padding:.75rem;"
        "border:1px solid color-mix(in srgb,currentColor 25%,transparent);border-radius:6px}</style>"
        f"<h1>Errorbar {html.escape(document['info']['version'])}</h1><p>{html.escape(app_words)} "
        'The same as a document for programs: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{''.join(parts)}<h2>Schemas</h2><pre>{schemas}</pre></html>"
    )
