"""From an error's code to its HTTP answer: the only place that knows both."""

from __future__ import annotations

from math import ceil

import orjson
from starlette.responses import Response

from service.errors import ErrorbarError

STATUS: dict[str, tuple[int, str]] = {
    "malformed_request": (400, "Not a request of HTTP"),
    "malformed_body": (400, "The body is not a request"),
    "invalid_input": (400, "A value of the input is wrong"),
    "unauthenticated": (401, "A key is needed"),
    "forbidden": (403, "The key may not do that"),
    "model_not_found": (404, "No such model"),
    "version_not_found": (404, "No such version"),
    "not_found": (404, "No such page"),
    "method_not_allowed": (405, "Not a method of this route"),
    "request_timeout": (408, "The request did not come in time"),
    "client_disconnected": (400, "The client left"),
    "too_large": (413, "Over a limit of this server"),
    "unsupported_media_type": (415, "Not a media type of this route"),
    "invalid_option": (422, "An option is wrong or not available"),
    "uncertainty_unavailable": (422, "This model has no uncertainty to give"),
    "headers_too_large": (431, "The head of the request is too large"),
    "overloaded": (429, "Too much work is waiting"),
    "unservable_model": (422, "This model cannot be served"),
    "invalid_manifest": (422, "A file of the model is wrong"),
    "model_failed": (500, "The model failed"),
    "internal_error": (500, "Errorbar failed"),
    "not_ready": (503, "Not ready yet"),
    "draining": (503, "Going down"),
    "deadline_exceeded": (504, "The deadline passed or cannot be met"),
}
MEDIA_TYPE = "application/problem+json"


def problem(error: ErrorbarError, request_id: str, code: str | None = None, open_inference: bool = False) -> Response:
    """An RFC 9457 answer. open_inference: under /v2, where clients look for "error", and some only in plain JSON."""
    code = code or error.code
    status, title = STATUS.get(code, STATUS["internal_error"])
    body: dict[str, object] = {
        "type": f"urn:errorbar:problem:{code}", "title": title, "status": status, "detail": error.detail,
        "code": code, "request_id": request_id,
    }
    if error.faults:
        body["errors"] = [{"path": f.path, "message": f.message} for f in error.faults]
    if open_inference:
        body["error"] = error.detail
    headers = {} if error.retry_after_s is None else {"Retry-After": str(ceil(error.retry_after_s))}
    return Response(orjson.dumps(body), status, headers, "application/json" if open_inference else MEDIA_TYPE)
