"""A folder that is written to, truncated and swapped under load: nobody is failed, and no answer is of two versions."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
import torch

from service.repository import load_model
from tests.conftest import CLASSIFIER, classifier, write_model
from tests.process.conftest import Running, served

pytestmark = pytest.mark.slow

ROW = [1.0, 12.0, 2.0]
BODY = {"instances": [ROW], "samples": 20, "seed": 3}
REQUESTS, CLIENTS, ROUNDS = 1000, 4, 2
PATIENCE_S = 240.0
LOOKS = {"reload_s": "0.05"}


class Folder:
    """One version's folder, and what it may hold: contents "a" and "b", whose answers differ."""

    def __init__(self, root: Path) -> None:
        self.root, self.version = root / "models", root / "models" / "flowers" / "1"
        self.lone: dict[str, list[float]] = {}
        self.contents: dict[str, Path] = {}
        self.digests: dict[str, str] = {}
        for seed, name in enumerate("ab"):
            torch.manual_seed(seed)
            made = write_model(root / name, "flowers", CLASSIFIER, classifier())
            model = load_model(made)
            self.contents[name], self.digests[name] = made, model.digest
            self.lone[model.digest] = model.sampler.uncertainty(torch.tensor([ROW]), 20, 3).mean[0].tolist()
        one, other = self.lone.values()
        assert abs(one[0] - other[0]) > 1e-3
        self.put("a", self.version)

    def put(self, content: str, version: Path) -> None:
        shutil.copytree(self.contents[content], version)

    def weights(self, content: str) -> bytes:
        return (self.contents[content] / "weights.safetensors").read_bytes()


class Watched:
    """The server as its operator sees it."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.url, timeout=60)

    def index(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.post("/v2/repository/index").raise_for_status().json()
        return found

    def until(self, seen: Callable[[list[dict[str, Any]]], bool]) -> None:
        end = monotonic() + PATIENCE_S
        while not seen(index := self.index()):
            assert monotonic() < end, index

    def until_serves(self, digest: str, version: str = "1") -> None:
        self.until(lambda index: any(
            e["digest"] == digest and e["version"] == version and e["role"] == "default" and not e["reason"]
            for e in index))

    def until_refused(self, digest: str) -> None:
        self.until(lambda index: index[0]["digest"] == digest and "goes on" in index[0]["reason"])


def meddle(folder: Folder, watched: Watched) -> None:
    """Everything that people and scripts do to folders."""
    weights, manifest = folder.version / "weights.safetensors", folder.version / "model.toml"
    a, b = folder.digests["a"], folder.digests["b"]
    with weights.open("wb") as file:  # written over in place, slowly
        content = folder.weights("b")
        for start in range(0, len(content), len(content) // 8):
            file.write(content[start : start + len(content) // 8])
            file.flush()
            watched.index()
    watched.until_serves(b)
    os.truncate(weights, weights.stat().st_size // 2)
    watched.until_refused(b)
    new = folder.root / "new"
    new.write_bytes(folder.weights("a"))
    new.rename(weights)
    watched.until_serves(a)
    away, staged = folder.root / ".away", folder.root / ".staged"
    folder.put("b", staged)
    folder.version.rename(away)
    staged.rename(folder.version)
    shutil.rmtree(away)
    watched.until_serves(b)
    right = manifest.read_text()
    manifest.write_text(right[: len(right) // 2])
    watched.until_refused(b)
    manifest.unlink()
    manifest.write_text(right)
    watched.until_serves(b)
    folder.put("a", folder.version.parent / "2")
    watched.until_serves(a, "2")
    shutil.rmtree(folder.version.parent / "2")
    watched.until_serves(b)
    weights.unlink()
    watched.until_refused(b)
    weights.write_bytes(folder.weights("a"))
    watched.until_serves(a)


class Clients:
    """Ask until they are told to stop, and have asked often enough; what was not right is kept."""

    def __init__(self, server: Running, lone: dict[str, list[float]]) -> None:
        self._url, self._lone = server.url, lone
        self.enough = threading.Event()
        self.answered, self.wrong = Counter[str](), list[str]()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            asked = 0
            while not self.enough.is_set() or asked < REQUESTS / CLIENTS:
                asked += 1
                try:
                    answer = http.post("/v1/models/flowers:uncertainty", json=BODY)
                except httpx.HTTPError as e:
                    self.wrong.append(repr(e))
                    continue
                self._check(answer)

    def _check(self, answer: httpx.Response) -> None:
        body = answer.json()
        if answer.status_code != 200:
            self.wrong.append(answer.text)
        elif body["predictions"][0]["mean"] != pytest.approx(self._lone.get(body["digest"], []), abs=1e-6):
            self.wrong.append(f"mixed: {answer.text}")
        else:
            self.answered[body["digest"]] += 1


def test_a_folder_that_is_written_to_truncated_and_swapped_fails_no_request_and_mixes_no_answer(tmp_path) -> None:
    folder = Folder(tmp_path)
    with served("--models", str(folder.root), **LOOKS) as server, Clients(server, folder.lone) as clients:
        for _ in range(ROUNDS):
            meddle(folder, Watched(server))
        clients.enough.set()
    assert clients.wrong == []
    assert sum(clients.answered.values()) >= REQUESTS
    assert set(clients.answered) == set(folder.lone)


def test_a_corrupt_weight_file_at_reload_is_logged_counted_and_shown_and_the_old_version_goes_on(tmp_path) -> None:
    folder = Folder(tmp_path)
    with served("--models", str(folder.root), **LOOKS) as server:
        watched = Watched(server)
        broken = bytearray(folder.weights("b"))
        broken[:8] = b"\xff" * 8
        (folder.version / "weights.safetensors").write_bytes(broken)
        assert "weights.safetensors cannot be read" in server.read_until("goes on")
        watched.until_refused(folder.digests["a"])
        answer = watched.http.post("/v1/models/flowers:uncertainty", json=BODY).json()
        assert answer["digest"] == folder.digests["a"]
        assert answer["predictions"][0]["mean"] == pytest.approx(folder.lone[answer["digest"]], abs=1e-6)
        assert watched.http.get("/readyz").json() == {"ready": True}
        page = watched.http.get("/metrics").text
        assert 'errorbar_model_loads_total{model="flowers",outcome="failed",version="1"} 1.0' in page
        assert 'errorbar_model_ready{model="flowers",version="1"} 1.0' in page


def test_a_server_whose_models_were_wrong_at_the_start_is_ready_once_they_are_mended(tmp_path) -> None:
    folder = Folder(tmp_path)
    (folder.version / "weights.safetensors").write_bytes(b"nothing")
    with served("--models", str(folder.root), ready=False, **LOOKS) as server:
        server.read_until("not ready")
        watched = Watched(server)
        assert watched.http.get("/readyz").status_code == 503
        (folder.version / "weights.safetensors").write_bytes(folder.weights("a"))
        server.read_until("ready: flowers/1")
        assert watched.http.get("/readyz").status_code == 200
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
