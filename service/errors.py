"""Everything Errorbar raises on purpose.

    ErrorbarError
    ├── RequestError                 the caller can mend it
    │   ├── MalformedBody            not JSON, or not the shape of a request
    │   ├── InvalidInput             a value of the input is wrong; names its path
    │   ├── InvalidOption            an option is unknown, out of range or not available here
    │   ├── UncertaintyUnavailable   the model has no dropout that could be sampled
    │   ├── TooLarge                 over a limit of this server
    │   ├── UnsupportedMediaType
    │   ├── MalformedRequest         what came is not HTTP
    │   ├── HeadersTooLarge          the request's head is over a limit of this server
    │   ├── RequestTimeout           the request did not come whole in time
    │   ├── Unauthenticated          a key is needed, and none or no known one came
    │   ├── Forbidden                the key may not do that
    │   ├── Disconnected             the caller left before its request was whole
    │   ├── ModelNotFound
    │   └── VersionNotFound
    ├── ServingError                 the server cannot answer now; a retry may help
    │   ├── Overloaded, NotReady, Draining, DeadlineExceeded
    ├── ModelFailed                  the model raised, or gave a number that is not finite
    ├── UnservableModel              `prepare` or a repository refuses a model, with site and reason
    │   ├── Uncapturable             its graph cannot be had; it may still run eagerly
    │   └── FolderChanged            somebody wrote to its folder while it was read
    ├── CalibrationRefused           the labelled rows cannot bear what is asked of them
    ├── InvalidManifest              a model folder is wrong; names the key
    ├── InvalidSettings              a setting is unknown or out of range
    └── ConnectionFailed             the client could not reach a server

`code` is stable and is what programs should look at; the message is for people and says what was expected,
what came and what to do. Nothing here knows HTTP: one table at the edge gives the statuses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Self

_LONGEST_NAME = 100
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Fault:
    """One wrong value: where it is (`instances[3][17]`) and what is wrong with it."""

    path: str
    message: str


class ErrorbarError(Exception):
    """Base of all errors raised on purpose. `detail` is the sentence for people."""

    code = "error"

    def __init__(self, detail: str, *, faults: Iterable[Fault] = (), retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults)
        self.retry_after_s = retry_after_s


class RequestError(ErrorbarError):
    code = "request_error"

    @classmethod
    def at(cls, path: str, message: str) -> Self:
        """Of the value or option that stands there."""
        return cls(f"{path}: {message}", faults=[Fault(path, message)])


class MalformedBody(RequestError):
    code = "malformed_body"


class InvalidInput(RequestError):
    code = "invalid_input"


class InvalidOption(RequestError):
    code = "invalid_option"


class UncertaintyUnavailable(RequestError):
    code = "uncertainty_unavailable"


class TooLarge(RequestError):
    code = "too_large"


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"


class MalformedRequest(RequestError):
    code = "malformed_request"


class HeadersTooLarge(RequestError):
    code = "headers_too_large"


class RequestTimeout(RequestError):
    code = "request_timeout"


class Unauthenticated(RequestError):
    code = "unauthenticated"


class Forbidden(RequestError):
    code = "forbidden"


class Disconnected(RequestError):
    code = "client_disconnected"


class ModelNotFound(RequestError):
    code = "model_not_found"


class VersionNotFound(RequestError):
    code = "version_not_found"


class ServingError(ErrorbarError):
    code = "serving_error"


class Overloaded(ServingError):
    """The queue is full. Nothing was computed, so a retry is safe after `retry_after_s`."""

    code = "overloaded"


class NotReady(ServingError):
    code = "not_ready"


class Draining(ServingError):
    code = "draining"


class DeadlineExceeded(ServingError):
    code = "deadline_exceeded"


class ModelFailed(ErrorbarError):
    code = "model_failed"


class UnservableModel(ErrorbarError):
    code = "unservable_model"


class Uncapturable(UnservableModel):
    """The network cannot be made a graph, which says nothing against it: it may run as it is."""


class FolderChanged(UnservableModel):
    """A version's folder is being written to. What was read is thrown away; once the folder is still it can be read."""


class CalibrationRefused(ErrorbarError):
    """The labelled rows cannot bear the promise that was asked for. needed: how many it takes at least, of the kind
    that the message says."""

    code = "calibration_refused"

    def __init__(self, detail: str, needed: int) -> None:
        super().__init__(detail)
        self.needed = needed


class InvalidManifest(ErrorbarError):
    code = "invalid_manifest"


class InvalidSettings(ErrorbarError):
    code = "invalid_settings"


class OutputRefused(ErrorbarError):
    """Raised by the command line only. What stood in the file before still does, or can be gone on with."""

    code = "output_refused"


class ConnectionFailed(ErrorbarError):
    """Raised by the client only: no answer came from the server (refused, cut or timed out)."""

    code = "connection_failed"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: " (did you mean 'x'?)", or nothing if none is near. Nobody means a name of
    more than 100 characters, and looking for its neighbours would take long."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.6) if len(name) <= _LONGEST_NAME else []
    return f" (did you mean {found[0]!r}?)" if found else ""


def cut(text: str) -> str:
    """What a caller sent, short enough to be said back to them: at most 60 characters."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def reason(error: BaseException) -> str:
    """The type and the first line of an error that was not made on purpose, for people."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
