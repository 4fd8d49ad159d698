"""Rubbish in, a refusal out: a few hundred fuzzed requests of each kind, and what the fuzzers themselves can see."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from tests.fuzz.__main__ import fuzz_of
from tests.fuzz.mutations import fuzzed
from tests.fuzz.raw import verdict
from tests.fuzz.target import Target, target

pytestmark = pytest.mark.slow
LIVE = b"GET /healthz HTTP/1.1\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("fuzz")) as found:
        yield found


@pytest.mark.parametrize("kind", ["bytes", "contract"])
def test_no_request_makes_the_server_fail_hang_or_answer_wrongly_afterwards(server, kind) -> None:
    before = server.readme_answers()
    found = fuzz_of(server, kind, 400, seed=0)
    assert found.failed == []
    assert found.sent >= 300
    assert found.statuses[200] >= 20  # some came through to a model
    assert sum(count for status, count in found.statuses.items() if 400 <= status < 500) >= 100
    assert server.readme_answers() == before
    assert server.bad_lines() == []


def test_the_same_seed_sends_the_same_bytes() -> None:
    assert [fuzzed(Random(7)) for _ in range(2)] == [fuzzed(Random(7))] * 2
    assert len({fuzzed(Random(seed)) for seed in range(100)}) > 90


ID = b"X-Request-Id: a\r\n"


def response(status: bytes, body: bytes, kind: bytes = b"application/json", more: bytes = ID) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, kind, len(body), more, body)


PROBLEM = b'{"status": 400, "code": "invalid_input", "request_id": "a"}'


@pytest.mark.parametrize(("received", "why"), [
    (response(b"500 No", b"{}"), "a server error"), (response(b"502 No", b"{}"), "a server error"),
    (response(b"200 OK", b'{"mean": NaN}'), "NaN in an answer"), (response(b"200 OK", b"{")[:-1], "no whole answer"),
    (response(b"200 OK", b"{"), "not JSON"), (response(b"200 OK", b"{}") + b"rubbish", "no whole answer"),
    (response(b"200 OK", b"{}", more=b""), "without X-Request-Id"), (response(b"400 No", PROBLEM), "not a problem"),
    (response(b"422 No", PROBLEM, b"application/problem+json"), "not a problem"),
    (response(b"400 No", b"No", b"text/plain"), "an error as 'text/plain'"),
])
def test_the_fuzzer_sees_what_is_wrong_with_an_answer(received, why) -> None:
    wrong = verdict(LIVE, received)[1]
    assert wrong is not None
    assert why in wrong


def test_the_fuzzer_takes_what_is_right() -> None:
    good = response(b"200 OK", b'{"mean": 1.5}') + response(b"400 No", PROBLEM, b"application/problem+json")
    unavailable = response(b"503 No", PROBLEM.replace(b"400", b"503"), b"application/problem+json")
    assert verdict(LIVE, good + unavailable) == ([200, 400, 503], None)
    assert verdict(LIVE, b"") == ([], None)
