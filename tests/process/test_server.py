"""What only a real process can show."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest
import torch

from service.repository import load_model
from service.sampling.arming import state_digest
from service.settings import BUNDLED_MODELS
from tests.process.conftest import ended, served

FLOWERS = [[1.0, 12.0, 2.0]] * 1000


class Exchange:
    """One request, sent in two halves: it is in flight once `begun` returns."""

    def __init__(self, url: str, body: object) -> None:
        self._body = json.dumps(body).encode()
        address = httpx.URL(url)
        self._socket = socket.create_connection((address.host, address.port), timeout=60)

    def begun(self) -> None:
        """Returns when the server's route waits for the body: it says 100 Continue then."""
        self._socket.sendall(
            b"POST /v1/models/flowers:uncertainty HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(self._body))
        assert self._socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"

    def send_body(self) -> None:
        self._socket.sendall(self._body)

    def answer(self) -> tuple[int, dict[str, Any]]:
        with self._socket, HTTPResponse(self._socket) as response:
            response.begin()
            return response.status, json.loads(response.read())


def test_a_server_that_is_told_to_end_answers_what_is_in_flight_and_exits_0(small_models) -> None:
    with served("--models", str(small_models)) as server:
        body = {"instances": FLOWERS, "samples": 1000}
        early, late = Exchange(server.url, body), Exchange(server.url, body)
        early.begun(), late.begun()
        early.send_body()
        server.process.send_signal(signal.SIGTERM)
        late.send_body()
        for exchange in (early, late):
            status, answer = exchange.answer()
            assert status == 200
            assert len(answer["predictions"]) == 1000
        assert server.process.wait(timeout=30) == 0


def test_a_request_that_outlasts_the_servers_patience_is_told_so_and_the_server_exits_1(small_models) -> None:
    with served("--models", str(small_models), grace_s="0.5") as server:
        stuck = Exchange(server.url, {"instances": FLOWERS})
        stuck.begun()
        server.process.send_signal(signal.SIGTERM)
        status, answer = stuck.answer()
        assert (status, answer["code"]) == (503, "draining")
        assert server.process.wait(timeout=30) == 1
        assert "requests cut: 1;" in server.read_until("requests cut")


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
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 1


@pytest.mark.parametrize(("arguments", "words"), [
    (["--port", "99999"], "port"), (["--models", "/nowhere/at/all"], "not a folder"),
])
def test_a_wrong_setting_ends_the_server_with_a_sentence(arguments, words) -> None:
    done = ended("serve", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


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
    done = ended("verify")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.count("ok") == 4
