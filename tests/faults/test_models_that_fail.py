"""The real server with a network that raises, gives no numbers, ends its thread, hangs or runs out of memory: only the
request that is to blame fails, and whoever was admitted is answered."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch

from tests.conftest import write_model
from tests.faults.architectures.faulty import EXITS, HANGS, NOT_A_NUMBER, OUT_OF_MEMORY, RAISES, SLOW, Faulty
from tests.manifests import built, manifest, tensor
from tests.process.conftest import ROOT, Running, served

pytestmark = pytest.mark.slow

MANIFEST = manifest(
    "faulty", "classification", [tensor("x", 1, range=[0.0, 1.0])], built("models.architectures.faulty:Faulty"),
    description="Fails where its input says so.", labels=["a", "b"],
)
PREDICT, UNCERTAIN = "/v1/models/faulty:predict", "/v1/models/faulty:uncertainty"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faulty")
    torch.manual_seed(0)
    write_model(root, "faulty", MANIFEST, Faulty())
    return root


@contextmanager
def serving(models: Path, **settings: str) -> Iterator[Running]:
    with served("--models", str(models), program=[str(ROOT / "tests/faults/serve.py")], **settings) as running:
        yield running


@pytest.fixture(scope="module")
def server(faulty: Path) -> Iterator[Running]:
    with serving(faulty) as running:
        yield running


def ask(server: Running, *values: float, path: str = PREDICT, **fields: object) -> httpx.Response:
    body = {"instances": [[v] for v in values], **fields}
    return httpx.post(server.url + path, json=body, timeout=WAIT_S)


def get(server: Running, path: str) -> httpx.Response:
    return httpx.get(server.url + path, timeout=WAIT_S)


@pytest.mark.parametrize(("fault", "words"), [
    (RAISES, "an input that it cannot bear"), (NOT_A_NUMBER, "not finite"), (EXITS, "SystemExit"),
    (OUT_OF_MEMORY, "out of memory"),
], ids=["raises", "no number", "ends its thread", "out of memory"])
@pytest.mark.parametrize("path", [PREDICT, UNCERTAIN])
def test_of_many_requests_at_once_only_the_poisonous_one_fails(server, fault, words, path) -> None:
    values = [float(n) for n in range(16)]
    fields = {"samples": 20} if path == UNCERTAIN else {}
    alone = [ask(server, v, path=path, **fields).json()["predictions"] for v in values]
    with ThreadPoolExecutor(17) as pool:
        poisonous = pool.submit(ask, server, fault, path=path, **fields)
        answers = [pool.submit(ask, server, v, path=path, **fields) for v in values]
    failed = poisonous.result()
    assert (failed.status_code, failed.json()["code"]) == (500, "model_failed")
    assert words in failed.json()["detail"]
    for answer, expected in zip(answers, alone, strict=True):
        assert answer.result().status_code == 200
        found = answer.result().json()["predictions"]
        key = "probabilities" if path == PREDICT else "mean"
        assert found[0][key] == pytest.approx(expected[0][key], abs=1e-6)
    assert get(server, "/readyz").status_code == 200


def test_a_thread_that_died_was_counted(server) -> None:
    assert ask(server, EXITS).status_code == 500
    page = get(server, "/metrics").text
    count = next(line for line in page.splitlines() if line.startswith("errorbar_worker_restarts_total"))
    assert float(count.split()[1]) >= 1


def test_a_client_that_leaves_is_not_computed_for(server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + UNCERTAIN, timeout=httpx.Timeout(WAIT_S, read=0.5), json={
            "instances": [[SLOW]] * 200, "samples": 500, "timeout_ms": 3_600_000})
    rows, looks = 1.0, 0
    while rows and looks < 2000:  # minutes of work were it not given up
        page = get(server, "/metrics").text
        rows = float(next(x for x in page.splitlines() if x.startswith("errorbar_queue_rows{")).split()[1])
        looks += 1
    assert rows == 0
    assert 'code="client_disconnected",mode="uncertainty",model="faulty"' in get(server, "/metrics").text


def test_a_network_that_hangs_is_told_and_the_process_ends_for_another_to_take_its_place(faulty) -> None:
    with serving(faulty, hang_s="1.0") as server:
        assert ask(server, 1.0).status_code == 200
        with ThreadPoolExecutor(4) as pool:
            stuck = pool.submit(ask, server, HANGS)
            server.read_until("has not returned in time")
            assert (stuck.result().status_code, stuck.result().json()["code"]) == (500, "model_failed")
        assert "did not return in time" in stuck.result().json()["detail"]
        assert server.process.wait(WAIT_S) == 1


def test_a_server_that_hangs_is_not_ready_and_refuses_what_comes(faulty) -> None:
    with serving(faulty, hang_s="1.0") as server, httpx.Client(base_url=server.url, timeout=WAIT_S) as open_before:
        assert open_before.get("/readyz").status_code == 200
        stuck = threading.Thread(target=lambda: ask(server, HANGS))
        stuck.start()
        server.read_until("has not returned in time")
        try:
            seen = {open_before.get(path).status_code for path in ("/readyz", "/v2/health/ready")}
        except httpx.TransportError:  # it has ended already
            seen = {503}
        stuck.join(WAIT_S)
        assert seen == {503}


def test_under_load_a_server_that_is_told_to_end_answers_all_that_it_admitted(faulty) -> None:
    with serving(faulty) as server, ThreadPoolExecutor(24) as pool:
        answers = [
            pool.submit(ask, server, SLOW, float(n), path=UNCERTAIN, samples=50) for n in range(24)
        ]
        answers[0].result()
        server.process.send_signal(signal.SIGTERM)
        found = []
        for answer in answers:
            try:
                found.append(answer.result().status_code)
            except httpx.ConnectError:
                found.append(0)  # it came after the port was closed
        assert found.count(200) >= 1
        assert set(found) <= {200, 503, 0}
        assert server.process.wait(WAIT_S) == 0


def test_a_server_that_is_killed_closes_its_connections_and_another_one_serves(faulty) -> None:
    with serving(faulty) as server, ThreadPoolExecutor(4) as pool:
        left = [pool.submit(ask, server, SLOW, path=UNCERTAIN, samples=5000) for _ in range(4)]
        while get(server, "/metrics").text.count('errorbar_queue_rows{model="faulty"} 4.0') == 0:
            pass
        server.process.kill()
        for answer in left:
            with pytest.raises(httpx.TransportError):
                answer.result()
    with serving(faulty) as again:
        assert ask(again, 1.0).status_code == 200
