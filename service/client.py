"""Talking to an Errorbar server: typed answers, numpy in and out, retries only where they are safe.

    from service.client import Client

    with Client("http://127.0.0.1:8080") as client:
        answer = client.uncertainty("digits", rows, samples=50)
        answer.mean, answer.std                      # numpy, rows first
        client.decide("digits", rows)                # ["accept", "abstain", …], never raises

Importing this needs neither torch nor FastAPI.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from service import errors, wire
from service.errors import ConnectionFailed, ErrorbarError, Fault, InvalidInput

Rows = NDArray[Any] | Sequence[Any]
Decision = Literal["accept", "abstain"]
Settled = Literal["above", "below"]
Floats = NDArray[np.float64]
Verify = ssl.SSLContext | bool
T = TypeVar("T", bound=BaseModel)
C = TypeVar("C", httpx.Client, httpx.AsyncClient)

log = logging.getLogger("errorbar.client")
_RETRIED = {429, 503}  # nothing was computed
_LONGEST_WAIT_S = 10.0
_UNREACHED = (httpx.HTTPError, httpx.InvalidURL, RuntimeError)  # RuntimeError: the client has been closed


@dataclass(frozen=True)
class Predicted:
    """values: probabilities (rows, classes), or regression values or outputs, rows first. labels: None where the task
    has none. out_of_range: for each row the features outside their training range."""

    values: Floats
    labels: list[str] | None
    out_of_range: list[list[str]]
    response: wire.PredictResponse


@dataclass(frozen=True)
class Uncertain:
    """Arrays rows first, in the shapes of the contract. None: the server has no such number (too few blocks for a
    standard error, a task without entropies, no noise); NaN where only some rows have it, because they stopped early.
    samples: that each row rests on; stopped: why it has no more; settled: whether its class' probability is "above" or
    "below" the limit of `decide`. `response` is everything the server said."""

    mean: Floats
    std: Floats
    mean_se: Floats | None
    std_se: Floats | None
    entropy: Floats | None
    expected_entropy: Floats | None
    mutual_information: Floats | None
    variation_ratio: Floats | None
    total_std: Floats | None
    labels: list[str] | None
    samples: NDArray[np.int64]
    stopped: list[str]
    settled: list[Settled | None]
    decisions: list[Decision | None]
    out_of_range: list[list[str]]
    response: wire.UncertaintyResponse


@dataclass(frozen=True)
class _Call:
    """One exchange, decided without input or output; the two clients only carry it out."""

    method: str
    path: str
    body: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.body is None else {"Content-Type": "application/json"}


def _infer(model: str, mode: str, rows: Rows, version: str | None, options: Mapping[str, Any]) -> _Call:
    body = {**{name: _as_json(value) for name, value in options.items()}, "instances": _as_json(rows)}
    return _Call("POST", f"{_address(model, version)}:{mode}", _encoded(body))


def _address(model: str, version: str | None) -> str:
    versions = "" if version is None else f"/versions/{quote(str(version), safe='')}"
    return f"/v1/models/{quote(model, safe='')}{versions}"


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as e:
        path = _first_not_finite(body)
        if path is None:
            raise InvalidInput(f"rows and options cannot be sent: {e}") from e
        message = "a finite number expected, got NaN or infinity"
        raise InvalidInput(f"{path}: {message}", faults=[Fault(path, message)]) from e
    except TypeError as e:
        raise InvalidInput(f"rows and options of numbers, strings, lists and dicts expected: {e}") from e


def _first_not_finite(value: Any, path: str = "") -> str | None:
    """Where NaN or an infinity stands, as the server would write it."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        inner = ((f"{path}.{key}".lstrip("."), item) for key, item in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{i}]", item) for i, item in enumerate(value))
    return next((found for at, item in inner if (found := _first_not_finite(item, at)) is not None), None)


def _as_json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    return value


def _retry_after_s(response: httpx.Response, tries_left: int) -> float | None:
    """Seconds to wait before another try; None where there is to be none."""
    if tries_left <= 0 or response.status_code not in _RETRIED:
        return None
    try:
        wait_s = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
    return wait_s if 0 <= wait_s <= _LONGEST_WAIT_S else None


def _checked(response: httpx.Response) -> Any:
    """The body of a good answer; else the error that the server means."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.is_success and body is not None:
        return body
    if not isinstance(body, dict) or "code" not in body:
        raise ErrorbarError(f"the server answered {response.status_code}, and not as an Errorbar server does")
    faults = [Fault(f["path"], f["message"]) for f in body.get("errors") or []]
    raise _error_class(body["code"])(body.get("detail", ""), faults=faults)


def _error_class(code: str) -> type[ErrorbarError]:
    known = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, ErrorbarError)]
    return next((e for e in known if e.code == code), ErrorbarError)


def _predicted(body: Any) -> Predicted:
    response = _parsed(wire.PredictResponse, body)
    rows = response.predictions
    first = next(n for n in ("probabilities", "value", "output") if getattr(rows[0], n) is not None)
    return Predicted(
        np.array([getattr(r, first) for r in rows], np.float64), _labels(rows), [r.out_of_range for r in rows], response
    )


def _uncertain(body: Any) -> Uncertain:
    response = _parsed(wire.UncertaintyResponse, body)
    rows = response.predictions

    def column(name: str) -> Floats | None:
        values = [getattr(r, name) for r in rows]
        present = next((v for v in values if v is not None), None)
        if present is None:
            return None
        missing = np.full(np.shape(present), np.nan)
        return np.array([missing if v is None else v for v in values], np.float64)

    mean, std = column("mean"), column("std")
    assert mean is not None
    assert std is not None
    return Uncertain(
        mean, std, column("mean_se"), column("std_se"), column("entropy"), column("expected_entropy"),
        column("mutual_information"), column("variation_ratio"), column("total_std"), _labels(rows),
        np.array([r.samples for r in rows], np.int64), [r.stopped for r in rows], [r.settled for r in rows],
        [r.decision for r in rows], [r.out_of_range for r in rows], response,
    )


def _parsed(kind: type[T], body: Any) -> T:
    try:
        return kind.model_validate(body)
    except ValidationError as e:
        raise ErrorbarError(f"the server's answer is not of the contract: {e.errors()[0]['loc']}") from e


def _labels(rows: Sequence[wire.Prediction] | Sequence[wire.UncertainPrediction]) -> list[str] | None:
    labels = [r.label for r in rows if r.label is not None]
    return labels if len(labels) == len(rows) else None


def _unreached(error: Exception) -> ConnectionFailed:
    return ConnectionFailed(f"no answer from the server ({type(error).__name__}): {error}")


def _decided(answer: Uncertain, count: int) -> list[Decision]:
    """accept only where the server said so, for exactly the rows that were sent."""
    if len(answer.decisions) != count:
        return ["abstain"] * count
    return ["accept" if d == "accept" else "abstain" for d in answer.decisions]


def _count(rows: Any) -> int:
    try:
        return len(rows)
    except Exception:  # whatever rows are, a decision about them must not raise
        return 1


def _made(make: Callable[..., C], url: str, timeout_s: float, transport: Any, key: str | None, verify: Verify) -> C:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        return make(base_url=url, timeout=timeout_s, transport=transport, headers=headers, verify=verify)
    except (httpx.InvalidURL, TypeError, ValueError) as e:
        raise ConnectionFailed(f"{url!r} is not the address of a server: {e}") from e


class Client:
    """A connection to one server; use it in a `with`, or `close` it. Safe to share between threads.

    timeout_s: of each connect, write and read of a try. retries: how often a 429 or 503 that names its `Retry-After`
    (up to 10 s) is tried again; nothing else is. key: an API key, where the server asks for one. verify: the TLS
    context that trusts a private authority's certificates; True trusts the usual ones. Errors: those of
    `service.errors` by the server's code; `InvalidInput` for rows that cannot be sent; `ConnectionFailed` where no
    answer came, the address is none or the client is closed.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", timeout_s: float = 60.0, retries: int = 3,
                 transport: httpx.BaseTransport | None = None, key: str | None = None, verify: Verify = True) -> None:
        self._http = _made(httpx.Client, url, timeout_s, transport, key, verify)
        self._retries = retries

    def predict(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Predicted:
        """Deterministic prediction of rows (rows first)."""
        return _predicted(self._call(_infer(model, "predict", rows, version, options)))

    def uncertainty(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Uncertain:
        """Mean, standard deviation and what follows. options: samples, seed, masks, design, quantiles,
        tolerance=0.05, decide={"above": 0.9, "error": 0.01}, …"""
        return _uncertain(self._call(_infer(model, "uncertainty", rows, version, options)))

    def decide(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> list[Decision]:
        """For every row "accept" or "abstain". Abstains on every error, timeout and missing calibration; never raises,
        so that a control loop can call it.

        It may block: the client's `timeout_s` bounds each connect, each write and each read of a try, and up to
        `retries` more tries wait up to 10 s each. With the defaults that is minutes where a server hangs, so give a
        control loop a client of its own: `Client(url, timeout_s=0.1, retries=0)`.
        """
        try:
            return _decided(self.uncertainty(model, rows, version, **options), _count(rows))
        except Exception as e:
            log.warning("abstaining: %s: %s", type(e).__name__, e)
            return ["abstain"] * _count(rows)

    def models(self) -> list[wire.ModelEntry]:
        return _parsed(wire.ModelList, self._call(_Call("GET", "/v1/models"))).models

    def card(self, model: str, version: str | None = None) -> wire.ModelCard:
        return _parsed(wire.ModelCard, self._call(_Call("GET", _address(model, version))))

    def ready(self) -> bool:
        """Whether the server answers and all its models are ready."""
        try:
            return self._http.get("/readyz").is_success
        except _UNREACHED:
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, call: _Call) -> Any:
        for tries_left in range(self._retries, -1, -1):
            try:
                response = self._http.request(call.method, call.path, content=call.body, headers=call.headers)
            except _UNREACHED as e:
                raise _unreached(e) from e
            wait_s = _retry_after_s(response, tries_left)
            if wait_s is None:
                break
            time.sleep(wait_s)
        return _checked(response)


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited; use it in an `async with`."""

    def __init__(self, url: str = "http://127.0.0.1:8080", timeout_s: float = 60.0, retries: int = 3,
                 transport: httpx.AsyncBaseTransport | None = None, key: str | None = None, verify: Verify = True,
                 ) -> None:
        self._http = _made(httpx.AsyncClient, url, timeout_s, transport, key, verify)
        self._retries = retries

    async def predict(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Predicted:
        return _predicted(await self._call(_infer(model, "predict", rows, version, options)))

    async def uncertainty(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Uncertain:
        return _uncertain(await self._call(_infer(model, "uncertainty", rows, version, options)))

    async def decide(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> list[Decision]:
        """As `Client.decide`; wrap it in `asyncio.timeout` for a bound of its own."""
        try:
            return _decided(await self.uncertainty(model, rows, version, **options), _count(rows))
        except Exception as e:
            log.warning("abstaining: %s: %s", type(e).__name__, e)
            return ["abstain"] * _count(rows)

    async def models(self) -> list[wire.ModelEntry]:
        return _parsed(wire.ModelList, await self._call(_Call("GET", "/v1/models"))).models

    async def card(self, model: str, version: str | None = None) -> wire.ModelCard:
        return _parsed(wire.ModelCard, await self._call(_Call("GET", _address(model, version))))

    async def ready(self) -> bool:
        try:
            return (await self._http.get("/readyz")).is_success
        except _UNREACHED:
            return False

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: _Call) -> Any:
        for tries_left in range(self._retries, -1, -1):
            try:
                response = await self._http.request(call.method, call.path, content=call.body, headers=call.headers)
            except _UNREACHED as e:
                raise _unreached(e) from e
            wait_s = _retry_after_s(response, tries_left)
            if wait_s is None:
                break
            await asyncio.sleep(wait_s)
        return _checked(response)
