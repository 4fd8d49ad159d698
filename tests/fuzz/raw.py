"""Bytes to a server's socket, many connections at a time, and a verdict on what comes back."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz.mutations import fuzzed
from tests.process.exchange import Answer, answers

HANGS_S = 60.0  # no answer and no end within this: the deadlines of the server are a hundredth of it
_AT_ONCE = 32
_UNFORESEEN = re.compile(rb"^HTTP/1\.1 5(?!03|04)\d\d ", re.MULTILINE)
_MAY_FAIL = {503, 504}


@dataclass
class Findings:
    """What a run saw. statuses: how often each came; failed: what should not have been, with what was sent."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[tuple[str, bytes]] = field(default_factory=list)


def verdict(sent: bytes, received: bytes) -> tuple[list[int], str | None]:
    """The statuses of the answers, and what is wrong with them."""
    if b"HEAD " in sent:  # whose answers have no body, so that they cannot be told apart
        statuses = [int(s) for s in re.findall(rb"^HTTP/1\.1 (\d{3}) ", received, re.MULTILINE)]
        return statuses, "a server error" if _UNFORESEEN.search(received) else None
    try:
        found = answers(received)
    except ValueError as e:
        return [], str(e)
    return [a.status for a in found], next((why for a in found if (why := _wrong(a)) is not None), None)


def _wrong(answer: Answer) -> str | None:
    if answer.status >= 500 and answer.status not in _MAY_FAIL:
        return f"a server error: {answer.body[:300]!r}"
    kind = answer.headers.get("content-type", "")
    if "x-request-id" not in answer.headers:
        return "an answer without X-Request-Id"
    if "json" not in kind:
        return None if answer.status == 200 else f"an error as {kind!r}"
    try:
        body = json.loads(answer.body, parse_constant=_not_finite)
    except ValueError as e:
        return f"not JSON: {e}"
    if answer.status >= 400 and not (kind == _kind_of_a_problem(body) and body["status"] == answer.status
                                     and body["request_id"] == answer.headers["x-request-id"]):
        return f"not a problem of the contract: {answer.body[:300]!r}"
    return None


def _kind_of_a_problem(body: dict[str, Any]) -> str:
    """Only the errors of the Open Inference Protocol, which have an "error", are plain JSON."""
    return "application/json" if "error" in body else "application/problem+json"


def _not_finite(word: str) -> float:
    raise ValueError(f"{word} in an answer")


async def _exchange(host: str, port: int, sent: bytes, split: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 24)
    try:
        received = asyncio.ensure_future(reader.read())
        try:
            for part in (sent[:split], sent[split:]):
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass  # a server may end what it will not read
        return await received
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def _worker(host: str, port: int, first: int, count: int, seed: int, findings: Findings) -> None:
    for number in range(first, count, _AT_ONCE):
        rng = Random(f"{seed}:{number}")
        sent = fuzzed(rng)
        try:
            received = await asyncio.wait_for(_exchange(host, port, sent, rng.randint(0, len(sent))), HANGS_S)
        except TimeoutError:
            findings.failed.append(("a hang", sent))
            continue
        statuses, wrong = verdict(sent, received)
        findings.sent += 1
        findings.statuses.update(statuses or [0])  # 0: closed without a word
        if wrong is not None:
            findings.failed.append((f"number {number}: {wrong}", sent))


def fuzz(host: str, port: int, count: int, seed: int) -> Findings:
    """Sends so many connections' worth of fuzzed bytes."""
    findings = Findings()

    async def all_of_them() -> None:
        await asyncio.gather(*(_worker(host, port, i, count, seed, findings) for i in range(min(_AT_ONCE, count))))

    asyncio.run(all_of_them())
    return findings
