"""Several processes share one port: what only real ones can show."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.load import closed_loop, loopback
from benchmarks.outcomes import Result
from benchmarks.traffic import http_post
from service.errors import InvalidSettings
from service.shared_port import listeners
from service.workers import hand_over, pause_s, threads_each
from tests.process.conftest import Running, ended, served
from tests.process.test_server import FLOWERS, Exchange

pytestmark = pytest.mark.slow

ASK = http_post("/v1/models/flowers:uncertainty", b'{"instances": [[1.0, 12.0, 2.0]], "samples": 20}')
ASK_ONCE = http_post(
    "/v1/models/flowers:predict", b'{"instances": [[1.0, 12.0, 2.0]]}', {"Connection": "close"})
MEMORY = 'errorbar_device_memory_bytes{device="cpu"}'


def seen(server: Running, words: str, times: int) -> None:
    """Reads the log until these words stood in it so often."""
    while sum(words in line for line in server.log) < times:
        server.read_until(words)


def metrics(server: Running) -> dict[str, float]:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def answered(server: Running, mode: str, expected: int) -> dict[str, float]:
    """The metrics once so many requests were counted, which is within a second; never are there more."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = metrics(server)
        count = found.get(f'errorbar_requests_total{{code="ok",mode="{mode}",model="flowers",version="1"}}', 0)
        assert count <= expected
        if count == expected:
            return found
    raise AssertionError(f"{count} of {expected} counted")


def asked(server: Running, request: bytes, count: int, connections: int = 16) -> Result:
    return closed_loop(loopback(server.url), [request], connections, 60.0, most=count, keep_bodies=True)


def pids(found: dict[str, float]) -> list[int]:
    return sorted(int(m[1]) for name in found if (m := re.fullmatch(r'process_cpu_seconds_total{pid="(\d+)"}', name)))


@pytest.fixture(scope="module")
def one_model(small_models, tmp_path_factory) -> Path:
    """A folder that is loaded sooner."""
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(small_models / "flowers", folder / "flowers")
    return folder


@contextmanager
def two_workers(models: Path, **settings: str) -> Iterator[Running]:
    """A server of two processes that are both ready."""
    with served("--models", str(models), "--workers", "2", ready=False, **settings) as server:
        seen(server, "listening on", 2)
        seen(server, "ready: ", 2)
        yield server


@pytest.fixture(scope="module")
def two(one_model) -> Iterator[Running]:
    with two_workers(one_model) as server:
        yield server


def test_what_two_workers_counted_adds_up_exactly_also_after_one_was_killed_and_replaced(two) -> None:
    result = asked(two, ASK, 500)
    assert result.counts() == {"200": 500}
    before = answered(two, "uncertainty", 500)
    assert before["errorbar_processes"] == 2
    assert before['errorbar_model_ready{model="flowers",version="1"}'] == 1
    assert before['errorbar_request_seconds_count{mode="uncertainty",model="flowers"}'] == 500
    first, second = pids(before)

    os.kill(first, signal.SIGKILL)
    two.read_until(f"worker {first} was ended by SIGKILL")
    assert asked(two, ASK_ONCE, 200).counts() == {"200": 200}  # by the one that is left
    found = answered(two, "predict", 200)
    assert found["errorbar_processes"] == 1
    assert pids(found) == [second]
    assert found['errorbar_request_seconds_count{mode="uncertainty",model="flowers"}'] == 500

    seen(two, "listening on", 3)
    assert asked(two, ASK, 100).counts() == {"200": 100}
    after = answered(two, "uncertainty", 600)
    assert after["errorbar_processes"] == 2
    assert found[MEMORY] < min(before[MEMORY], after[MEMORY])  # each lays weights out for the library it finds faster
    assert first not in pids(after)


def test_every_worker_gives_the_same_answer_to_rounding(two) -> None:
    bodies = map(json.loads, asked(two, ASK, 64, connections=64).bodies.values())
    rows = np.array([[body["predictions"][0][name] for name in ("mean", "std")] for body in bodies])
    assert np.abs(rows - rows[0]).max() <= 1e-6


def test_a_port_that_workers_share_is_not_shared_with_another_server(two, one_model) -> None:
    port = two.url.rpartition(":")[2]
    for workers in ("1", "2"):
        other = ended("serve", "--models", str(one_model), "--port", port, "--workers", workers)
        assert other.returncode != 0
        assert "address already in use" in other.stderr.lower()


def test_workers_that_are_told_to_end_answer_what_is_in_flight_and_the_parent_exits_0(one_model) -> None:
    with two_workers(one_model) as server:
        exchanges = [Exchange(server.url, {"instances": FLOWERS, "samples": 200}) for _ in range(8)]
        for exchange in exchanges:
            exchange.begun()
        server.process.send_signal(signal.SIGTERM)
        for exchange in exchanges:
            exchange.send_body()
        for exchange in exchanges:
            status, answer = exchange.answer()
            assert status == 200
            assert len(answer["predictions"]) == len(FLOWERS)
        assert server.process.wait(timeout=60) == 0
        server.read_until("workers told to end: 2")


def test_every_worker_reads_its_keys_again_when_the_parent_is_told_so(one_model, tmp_path) -> None:
    keys = tmp_path / "keys.toml"
    made = ended("keys", "add", "ward", "--file", str(keys))
    assert made.returncode == 0
    with two_workers(one_model, keys=str(keys)) as server:
        server.process.send_signal(signal.SIGHUP)
        seen(server, ": read again", 2)
        answer = httpx.get(f"{server.url}/v1/models", headers={"X-API-Key": made.stdout.split()[-1]})
        assert answer.status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0


def test_a_worker_that_had_to_cut_a_request_makes_the_parent_exit_1(one_model) -> None:
    with two_workers(one_model, grace_s="0.5") as server:
        stuck = Exchange(server.url, {"instances": FLOWERS})
        stuck.begun()
        server.process.send_signal(signal.SIGTERM)
        assert stuck.answer()[0] == 503
        assert server.process.wait(timeout=60) == 1
        server.read_until("ended with status 1")


def test_workers_told_to_end_before_they_listen_end_well(one_model) -> None:
    with served("--models", str(one_model), "--workers", "2", ready=False) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0


def test_workers_whose_parent_was_killed_free_the_port(one_model) -> None:
    with served("--models", str(one_model), "--workers", "2", ready=False) as server:
        seen(server, "listening on", 2)
        server.process.kill()
        server.process.communicate(timeout=60)  # the log ends when the last worker has ended
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")


def test_a_place_whose_workers_die_young_stays_empty_longer_and_longer() -> None:
    assert [pause_s(deaths) for deaths in (1, 2, 3, 4, 100)] == [0.0, 0.5, 1.0, 2.0, 30.0]


def test_processors_are_shared_out_but_every_worker_has_one() -> None:
    cores = len(os.sched_getaffinity(0))
    assert [threads_each(workers) for workers in (1, cores, 4 * cores)] == [cores, 1, 1]


def test_a_host_of_several_addresses_has_the_same_port_at_each() -> None:
    made = listeners("localhost", 0, shared=True)
    try:
        assert len({one.getsockname()[1] for one in made}) == 1
        again = listeners("localhost", made[0].getsockname()[1], shared=True)
        assert len(again) == len(made)
    finally:
        for one in [*made, *again]:
            one.close()


def test_a_system_that_cannot_share_a_port_is_told_so(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InvalidSettings, match="workers: more than 1 needs Linux"):
        hand_over({})
