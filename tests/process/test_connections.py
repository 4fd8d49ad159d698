"""Clients that are slow, silent, greedy or broken end their own connections, and nothing else."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.process.conftest import Running, served
from tests.process.exchange import Answer, answers, connect, until_closed

ROW = b'{"instances": [[1.0, 12.0, 2.0]]}'
HEAD = b"POST /v1/models/flowers:predict HTTP/1.1\r\nHost: x\r\n"
PREDICT = HEAD + b"Content-Length: %d\r\n\r\n" % len(ROW) + ROW
LIVE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def impatient(small_models) -> Iterator[Running]:
    with served("--models", str(small_models), head_s="1", body_s="1", unread_s="1", keep_alive_s="1", connections="8",
                header_bytes="4096", headers="20") as server:
        yield server


@pytest.fixture(autouse=True)
def right_afterwards(impatient) -> Iterator[None]:
    yield
    answer = httpx.post(f"{impatient.url}/v1/models/flowers:predict", content=ROW, timeout=30)
    assert answer.status_code == 200
    assert sum(answer.json()["predictions"][0]["probabilities"]) == pytest.approx(1, abs=1e-6)


def said_to(server: Running, *parts: bytes) -> list[Answer]:
    """What a server answers to these bytes until it closes the connection, which it must."""
    with connect(server.url) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except ConnectionError:
                break
        return answers(until_closed(connection))


def check_problem(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json["request_id"]
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("start", [b"G", HEAD, HEAD + b"X-Long: ", b"\r\n"])
def test_a_head_that_does_not_come_whole_in_time_is_given_up(impatient, start) -> None:
    (answer,) = said_to(impatient, start)
    check_problem(answer, 408, "request_timeout")


@pytest.mark.parametrize("start", [
    HEAD + b"Content-Length: 1000\r\n\r\n", HEAD + b"Content-Length: 1000\r\n\r\n" + ROW,
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;",
])
def test_a_body_that_does_not_come_whole_in_time_is_given_up(impatient, start) -> None:
    (answer,) = said_to(impatient, start)
    check_problem(answer, 408, "request_timeout")


@pytest.mark.parametrize(("start", "drop"), [
    (HEAD + b"X-Long: ", b"a"), (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"), (b"", b"\r\n"),
])
def test_a_client_that_sends_drop_by_drop_gets_no_more_time(impatient, start, drop) -> None:
    with connect(impatient.url) as connection:
        connection.sendall(start)
        connection.settimeout(0.02)
        received = b""
        for _ in range(1000):
            try:
                connection.sendall(drop)
                received = connection.recv(10_000)
                break
            except TimeoutError:
                continue
    check_problem(answers(received)[0], 408, "request_timeout")


def test_a_connection_that_says_nothing_is_closed_without_a_word(impatient) -> None:
    assert said_to(impatient) == []


def test_a_connection_waits_for_its_next_request_only_so_long(impatient) -> None:
    assert [a.status for a in said_to(impatient, LIVE)] == [200]


@pytest.mark.parametrize("head", [
    HEAD + b"X-Long: " + b"a" * 5000 + b"\r\n\r\n",
    b"GET /healthz?" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 21 + b"\r\n",
    b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
    HEAD + b"X-Long: " + b"a" * 1_000_000,
    b"GET /" + b"a" * 1_000_000,
    b"\r\n" * 500_000,
], ids=["long header", "long address", "many headers", "endless headers", "endless header", "endless address", "blank"])
def test_a_head_over_the_limits_is_refused_before_it_is_whole(impatient, head) -> None:
    (answer,) = said_to(impatient, head)
    check_problem(answer, 431, "headers_too_large")


def test_a_head_within_the_limits_is_read(impatient) -> None:
    head = b"GET /healthz HTTP/1.1\r\nX-Long: " + b"a" * 3900 + b"\r\n" + b"A: b\r\n" * 19 + b"\r\n"
    assert [a.status for a in said_to(impatient, head)] == [200]


def test_what_trails_a_body_is_no_header_and_costs_nothing(impatient) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(ROW), ROW)
    trailers = b"X-Request-Id: mine\r\n" * 3 + b"A: b\r\n" * 5000 + b"\r\n"
    first, second = said_to(impatient, chunked + trailers + LIVE)
    assert (first.status, second.status) == (200, 200)
    assert "mine" not in (first.headers["x-request-id"], second.headers["x-request-id"])


def test_one_connection_too_many_is_told_so_and_another_finds_room_once_one_has_left(impatient) -> None:
    others = [connect(impatient.url) for _ in range(8)]
    for other in others:
        other.sendall(LIVE)
        assert other.recv(10_000).startswith(b"HTTP/1.1 200")
    (answer,) = said_to(impatient)
    check_problem(answer, 429, "overloaded")
    assert answer.headers["retry-after"] == "1"
    for other in others:
        other.close()
    for _ in range(100):  # until the server has heard of it
        if said_to(impatient, LIVE)[0].status == 200:
            break
    else:
        raise AssertionError("no room")


def open_files(server: Running) -> int:
    page = httpx.get(f"{server.url}/metrics", timeout=30).text
    found = re.search(r"^process_open_fds ([\d.e+]+)$", page, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def test_an_answer_that_nobody_reads_is_given_up(impatient) -> None:
    body = json.dumps({"instances": [[1.0, 12.0, 2.0]] * 400, "samples": 1000, "include_samples": True}).encode()
    ask = b"POST /v1/models/flowers:uncertainty HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    before = open_files(impatient)
    with connect(impatient.url, receive_bytes=4096) as connection:
        connection.sendall(ask)
        start = connection.recv(1000)
        wanted = int(re.search(rb"content-length: (\d+)", start)[1])  # type: ignore[index]
        assert wanted > 5_000_000
        for _ in range(10_000):
            if open_files(impatient) <= before:
                break
        else:
            raise AssertionError("the server holds on to it")
        assert len(start) + len(until_closed(connection)) < wanted


def test_an_answer_that_is_read_slowly_but_steadily_comes_whole(impatient) -> None:
    body = json.dumps({"instances": [[1.0, 12.0, 2.0]] * 100, "samples": 1000, "include_samples": True}).encode()
    head = b"POST /v1/models/flowers:uncertainty HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    with connect(impatient.url, receive_bytes=4096) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        received = bytearray()
        while some := connection.recv(65_536):
            received += some
            open_files(impatient)  # takes a few milliseconds
    (answer,) = answers(bytes(received))
    assert len(answer.json["predictions"]) == 100


def test_requests_in_one_packet_are_answered_one_by_one_in_order(impatient) -> None:
    many = said_to(impatient, LIVE + PREDICT + b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + PREDICT)
    assert [a.status for a in many] == [200, 200, 404, 200]
    assert many[1].json == many[3].json


@pytest.mark.parametrize("rubbish", [b"\x16\x03\x01\x02\x00\x01\x00", b"BAD\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                                     b"GET http://[ HTTP/1.1\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n",
                                     b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                                     b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                                     b"GET / HTTP/1.1\r\nA\r\n\r\n", b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n"])
def test_rubbish_is_answered_after_what_came_before_it(impatient, rubbish) -> None:
    (alone,) = said_to(impatient, rubbish)
    check_problem(alone, 400, "malformed_request")
    first, second, third = said_to(impatient, PREDICT + PREDICT + rubbish)
    assert (first.status, second.status) == (200, 200)
    check_problem(third, 400, "malformed_request")


def test_a_body_that_breaks_is_answered_once_and_after_what_came_before_it(impatient) -> None:
    broken = HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
    (alone,) = said_to(impatient, broken)
    check_problem(alone, 400, "malformed_request")
    first, second = said_to(impatient, PREDICT + broken)
    assert first.status == 200
    check_problem(second, 400, "malformed_request")


def test_a_refused_body_that_goes_on_is_not_answered_twice(impatient) -> None:
    (answer,) = said_to(impatient, HEAD + b"Content-Length: 99999999999\r\n\r\n" + b" " * 1000)
    assert (answer.status, answer.json["code"]) == (413, "too_large")


def test_a_connection_whose_request_was_answered_before_its_body_came_waits_no_longer_than_others(impatient) -> None:
    with connect(impatient.url) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 404")
        connection.sendall(b"67890")
        assert until_closed(connection) == b""


def test_a_pipeline_has_a_length(impatient) -> None:
    found = said_to(impatient, PREDICT * 2000)
    assert {a.status for a in found[:-1]} == {200}
    assert len(found) < 100
    check_problem(found[-1], 429, "overloaded")


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.3"])
def test_another_protocol_is_not_spoken_and_the_request_is_answered_all_the_same(impatient, protocol) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABk\r\n" % protocol
    head = HEAD + offer
    whole = head + b"Content-Length: %d\r\n\r\n" % len(ROW) + ROW
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(ROW), ROW)
    for parts in ([whole + PREDICT], [chunked + PREDICT], [whole[:30], whole[30:-5], whole[-5:] + chunked + PREDICT]):
        found = said_to(impatient, *parts)
        assert [a.status for a in found] == [200] * (len(parts) // 2 + 2)
        assert len({a.body for a in found}) == 1


def test_a_client_that_leaves_in_the_middle_costs_nothing(impatient) -> None:
    before = open_files(impatient)
    for start in (b"GET", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{", PREDICT, PREDICT * 10):
        connection = connect(impatient.url)
        connection.sendall(start)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()
    for _ in range(10_000):
        if open_files(impatient) <= before:
            break
    else:
        raise AssertionError("the server holds on to them")


def test_what_never_became_a_request_is_counted(impatient) -> None:
    said_to(impatient, b"BAD\r\n\r\n")
    page = httpx.get(f"{impatient.url}/metrics", timeout=30).text
    assert 'errorbar_requests_total{code="malformed_request",mode="",model="",version=""}' in page
