"""Streams of answers from the real server."""

from __future__ import annotations

import json
import socket

import httpx
import numpy as np
import pytest

from service.client import Client
from tests.process.conftest import Running, served

LONG = {"samples": 10_000, "design": "iid", "masks": "independent"}


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (100, 64)).astype(np.float32)


def metric(running: Running, start: str) -> float:
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))


@pytest.mark.parametrize(("count", "options"), [(1, {}), (8, {"samples": 1000}), (64, {"samples": 2000, "seed": 5})])
def test_the_last_event_is_the_plain_answer_bit_for_bit(bundled, rows, count, options) -> None:
    body = {"instances": rows[:count].tolist(), **options}
    path = f"{bundled.url}/v1/models/digits:uncertainty"
    for _ in range(3):  # until the server knows what this costs, and cuts it alike each time
        plain = httpx.post(path, json=body, timeout=60).json()
    streamed = httpx.post(path, json=body, headers={"Accept": "text/event-stream"}, timeout=60).text
    name, data = streamed.strip().split("\n\n")[-1].split("\n")
    assert name == "event: result"
    assert json.loads(data.removeprefix("data: "))["predictions"] == plain["predictions"]


def test_a_client_that_has_seen_enough_leaves_and_sampling_stops(bundled, rows) -> None:
    before = metric(bundled, 'errorbar_samples_total{model="digits"')
    with Client(bundled.url) as client:
        answers = client.stream("digits", rows, **LONG)
        first = next(answers)
        assert not first.final
        answers.close()
        while metric(bundled, 'errorbar_queue_rows{model="digits"'):
            pass
        assert metric(bundled, 'errorbar_samples_total{model="digits"') == before
        assert client.uncertainty("digits", rows[:1]).final


def test_answers_come_while_samples_are_drawn(bundled, rows) -> None:
    with Client(bundled.url) as client:
        counts = []
        for answer in client.stream("digits", rows, **LONG):
            waiting = metric(bundled, 'errorbar_queue_rows{model="digits"')
            counts.append((int(answer.samples[0]), waiting))
            if len(counts) == 3:
                break
    assert counts[0][0] < counts[1][0] < counts[2][0] < LONG["samples"]
    assert counts[0][1] == len(rows)


def test_a_stream_is_refused_where_it_could_not_be_written(bundled) -> None:
    body = json.dumps({"instances": [[0.0] * 64]}).encode()
    head = (f"POST /v1/models/digits:uncertainty HTTP/1.0\r\nAccept: text/event-stream\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    url = httpx.URL(bundled.url)
    assert url.port is not None
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(head + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b" 422 " in answer.splitlines()[0]
    assert b"HTTP/1.1" in answer.split(b"\r\n\r\n")[1]


def test_a_stream_that_the_servers_end_cuts_says_so(rows) -> None:
    with served(grace_s="1") as server:
        body = json.dumps({"instances": rows.tolist() * 20, **LONG, "samples": 500}).encode()
        path = f"{server.url}/v1/models/digits:uncertainty"
        with httpx.stream("POST", path, content=body, headers={"Accept": "text/event-stream"}, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: progress"
            server.process.terminate()
            last = [line for line in lines if line][-2:]
        assert last[0] == "event: error"
        assert json.loads(last[1].removeprefix("data: "))["code"] == "draining"
        assert server.process.wait(30) == 1
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()
