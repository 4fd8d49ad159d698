"""What only a real process can show."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading

import httpx
import pytest
import torch

from service.repository import load_model
from service.sampling.arming import state_digest
from service.settings import BUNDLED_MODELS
from tests.process.conftest import ROOT, served

FLOWERS = [[1.0, 12.0, 2.0]] * 1000


def test_a_server_that_is_told_to_end_answers_what_is_in_flight_and_exits_0(small_models) -> None:
    with served("--models", str(small_models)) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        answers: list[httpx.Response] = []
        body = {"instances": FLOWERS, "samples": 1000}

        def ask() -> None:
            answers.append(client.post("/v1/models/flowers:uncertainty", json=body))

        asking = threading.Thread(target=ask)
        asking.start()
        while "errorbar_queue_rows{model=\"flowers\"} 1000.0" not in client.get("/metrics").text and not answers:
            pass
        server.process.send_signal(signal.SIGTERM)
        asking.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["predictions"]) == 1000
        assert server.process.wait(timeout=30) == 0


def test_a_model_that_cannot_be_served_keeps_the_server_from_being_ready(tmp_path, small_models) -> None:
    folder = tmp_path / "flowers" / "1"
    folder.mkdir(parents=True)
    manifest = (small_models / "flowers" / "1" / "model.toml").read_text()
    (folder / "model.toml").write_text(manifest.replace('"daisy"', '"daisy", "tulip"'))
    (folder / "weights.safetensors").write_bytes((small_models / "flowers/1/weights.safetensors").read_bytes())
    with served("--models", str(tmp_path), ready=False) as server:
        server.read_until("not ready")
        answer = httpx.get(f"{server.url}/readyz")
        assert answer.status_code == 503
        assert "3 labels" in answer.json()["detail"]
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert httpx.post(f"{server.url}/v1/models/flowers:predict", json={}).json()["code"] == "not_ready"


@pytest.mark.parametrize(("arguments", "words"), [
    (["--port", "99999"], "port"), (["--models", "/nowhere/at/all"], "not a folder"),
])
def test_a_wrong_setting_ends_the_server_with_a_sentence(arguments, words) -> None:
    ended = subprocess.run([sys.executable, "-m", "service", "serve", *arguments], capture_output=True, text=True,
                           check=False, cwd=ROOT)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_weights_are_the_same_after_a_thousand_uncertainty_requests() -> None:
    model = load_model(BUNDLED_MODELS / "digits_cnn" / "1")
    files = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in BUNDLED_MODELS.rglob("*") if p.is_file()}
    before = state_digest(model.sampler._module)
    rows = torch.rand(1, 1, 8, 8) * 16
    first = model.sampler.uncertainty(rows).mean
    for seed in range(1000):
        assert model.sampler.uncertainty(rows, 10, seed).mean.isfinite().all()
    assert state_digest(model.sampler._module) == before
    assert {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in files} == files
    assert model.sampler.uncertainty(rows).mean.equal(first)


def test_loading_the_bundled_models_says_nothing_that_is_not_errorbars_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "verify"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count("ok") == 4
