"""An error as the answer to a request."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Scope

from service.api.context import context_of
from service.api.note import note_of
from service.api.problems import problem
from service.errors import ErrorbarError, ModelNotFound


def refusal(scope: Scope, error: ErrorbarError, code: str | None = None) -> Response:
    """The answer to the request with this ASGI scope. code: where it is not the error's own."""
    note = note_of(scope)
    note.code = code or error.code
    if isinstance(error, ModelNotFound) and note.key is not None and note.key.models is not None:
        error = ModelNotFound("no such model")  # which others there are is none of this key's business
    return problem(error, context_of(scope).request_id, code, scope["path"].startswith("/v2"))
