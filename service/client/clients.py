"""The two clients: one that waits, and one for asyncio."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, TypeVar

import httpx

from service import wire
from service.client.answers import Decision, Predicted, Uncertain, json_of, parsed, predicted, refused, uncertain
from service.client.events import Reader
from service.client.requests import Call, Rows, address, count, infer
from service.errors import ConnectionFailed, InvalidInput

Verify = ssl.SSLContext | bool
C = TypeVar("C", httpx.Client, httpx.AsyncClient)

log = logging.getLogger("errorbar.client")
_RETRIED = {429, 503}  # nothing was computed
_LONGEST_WAIT_S = 10.0
_LIMITS = httpx.Limits(keepalive_expiry=3.0)  # seconds; servers close connections that are idle for five
_UNREACHED = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, RuntimeError)  # the last: it has been closed


def _retry_after_s(response: httpx.Response) -> float | None:
    """As the server says; None where it does not."""
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None


def _wait_s(response: httpx.Response, tries_left: int) -> float | None:
    """Seconds to wait before another try; None where there is to be none."""
    if tries_left <= 0 or response.status_code not in _RETRIED:
        return None
    wait_s = _retry_after_s(response)
    return wait_s if wait_s is not None and 0 <= wait_s <= _LONGEST_WAIT_S else None


def _check(response: httpx.Response) -> None:
    """Raises the error that the server means. Of a response that has been read."""
    if not response.is_success:
        raise refused(response.status_code, json_of(response.content), _retry_after_s(response))


def _unreached(error: Exception) -> ConnectionFailed:
    return ConnectionFailed(f"no answer from the server ({type(error).__name__}): {error}")


def _decided(answer: Uncertain, count: int) -> list[Decision]:
    """accept only where the server said so, for exactly the rows that were sent."""
    if len(answer.decisions) != count:
        return ["abstain"] * count
    return ["accept" if d == "accept" else "abstain" for d in answer.decisions]


def _made(make: Callable[..., C], url: str, timeout_s: float, transport: Any, key: str | None, verify: Verify) -> C:
    if key is not None and not key.isascii():
        raise InvalidInput("an API key of ASCII characters expected")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        return make(base_url=url, timeout=timeout_s, transport=transport, headers=headers, verify=verify,
                    limits=_LIMITS)
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
        self._retries = max(0, retries)

    def predict(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Predicted:
        """Deterministic prediction of rows (rows first)."""
        return predicted(self._call(infer(model, "predict", rows, version, options)))

    def uncertainty(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Uncertain:
        """Mean, standard deviation and what follows. options: samples, seed, masks, design, quantiles,
        tolerance=0.05, decide={"above": 0.9, "error": 0.01}, …"""
        return uncertain(self._call(infer(model, "uncertainty", rows, version, options)))

    def stream(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Iterator[Uncertain]:
        """As `uncertainty`, with the answers on the way: one after each block of samples, `final` only the last. Who
        has seen enough leaves the loop, and the server stops sampling. To stop by what the samples show makes their
        standard errors optimistic; `tolerance` and `decide` allow for that."""
        with self._response(infer(model, "uncertainty", rows, version, options, stream=True)) as response:
            if not response.is_success:
                response.read()
            _check(response)
            reader = Reader(response)
            for content in response.iter_bytes():
                yield from reader.take(content)
            reader.check_ended()

    def decide(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> list[Decision]:
        """For every row "accept" or "abstain". Abstains on every error, timeout and missing calibration; never raises,
        so that a control loop can call it.

        It may block: the client's `timeout_s` bounds each connect, each write and each read of a try, and up to
        `retries` more tries wait up to 10 s each. With the defaults that is minutes where a server hangs, so give a
        control loop a client of its own: `Client(url, timeout_s=0.1, retries=0)`.
        """
        try:
            return _decided(self.uncertainty(model, rows, version, **options), count(rows))
        except Exception as e:
            log.warning("abstaining: %s: %s", type(e).__name__, e)
            return ["abstain"] * count(rows)

    def models(self) -> list[wire.ModelEntry]:
        return parsed(wire.ModelList, self._call(Call("GET", "/v1/models"))).models

    def card(self, model: str, version: str | None = None) -> wire.ModelCard:
        return parsed(wire.ModelCard, self._call(Call("GET", address(model, version))))

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

    def _call(self, call: Call) -> httpx.Response:
        with self._response(call) as response:
            response.read()
            _check(response)
            return response

    @contextmanager
    def _response(self, call: Call) -> Iterator[httpx.Response]:
        """Of the last try; not yet read."""
        try:
            for tries_left in range(self._retries, -1, -1):
                with self._http.stream(call.method, call.path, content=call.body, headers=call.headers) as response:
                    wait_s = _wait_s(response, tries_left)
                    if wait_s is None:
                        yield response
                        return
                time.sleep(wait_s)
        except _UNREACHED as e:
            raise _unreached(e) from e


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited; use it in an `async with`."""

    def __init__(self, url: str = "http://127.0.0.1:8080", timeout_s: float = 60.0, retries: int = 3,
                 transport: httpx.AsyncBaseTransport | None = None, key: str | None = None, verify: Verify = True,
                 ) -> None:
        self._http = _made(httpx.AsyncClient, url, timeout_s, transport, key, verify)
        self._retries = max(0, retries)

    async def predict(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Predicted:
        return predicted(await self._call(infer(model, "predict", rows, version, options)))

    async def uncertainty(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> Uncertain:
        return uncertain(await self._call(infer(model, "uncertainty", rows, version, options)))

    async def stream(
        self, model: str, rows: Rows, version: str | None = None, **options: Any
    ) -> AsyncIterator[Uncertain]:
        """As `Client.stream`. Where the loop may be left early, `contextlib.aclosing` around it closes it at once."""
        async with self._response(infer(model, "uncertainty", rows, version, options, stream=True)) as response:
            if not response.is_success:
                await response.aread()
            _check(response)
            reader = Reader(response)
            async for content in response.aiter_bytes():
                for answer in reader.take(content):
                    yield answer
            reader.check_ended()

    async def decide(self, model: str, rows: Rows, version: str | None = None, **options: Any) -> list[Decision]:
        """As `Client.decide`; wrap it in `asyncio.timeout` for a bound of its own."""
        try:
            return _decided(await self.uncertainty(model, rows, version, **options), count(rows))
        except Exception as e:
            log.warning("abstaining: %s: %s", type(e).__name__, e)
            return ["abstain"] * count(rows)

    async def models(self) -> list[wire.ModelEntry]:
        return parsed(wire.ModelList, await self._call(Call("GET", "/v1/models"))).models

    async def card(self, model: str, version: str | None = None) -> wire.ModelCard:
        return parsed(wire.ModelCard, await self._call(Call("GET", address(model, version))))

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

    async def _call(self, call: Call) -> httpx.Response:
        async with self._response(call) as response:
            await response.aread()
            _check(response)
            return response

    @asynccontextmanager
    async def _response(self, call: Call) -> AsyncIterator[httpx.Response]:
        try:
            for tries_left in range(self._retries, -1, -1):
                async with self._http.stream(
                    call.method, call.path, content=call.body, headers=call.headers
                ) as response:
                    wait_s = _wait_s(response, tries_left)
                    if wait_s is None:
                        yield response
                        return
                await asyncio.sleep(wait_s)
        except _UNREACHED as e:
            raise _unreached(e) from e
