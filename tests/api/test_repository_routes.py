"""What the operator asks of the repository over HTTP, and what clients see of it."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from service.repository.serving import in_canary
from tests.conftest import CLASSIFIER, classifier, client_of, loaded, write_model

FLOWER = {"instances": [[1.0, 12.0, 2.0]]}
INDEX, LOAD, UNLOAD = "/v2/repository/index", "/v2/repository/models/{}/load", "/v2/repository/models/{}/unload"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """flowers/1 and flowers/2, whose answers differ."""
    root = tmp_path_factory.mktemp("versions")
    for seed in (1, 2):
        torch.manual_seed(seed)
        write_model(root, "flowers", CLASSIFIER, classifier(), str(seed))
    return root


class Site:
    """A server over a copy of these folders."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.state = loaded(root, reload_s=0, **settings)
        self.client = client_of(self.state)

    def index(self, **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.post(INDEX, json=body).json()
        return found

    def post(self, path: str, name: str = "flowers", **body: Any) -> Any:
        return self.client.post(path.format(name), json=body)

    def answers(self, request_id: str = "", path: str = "") -> Any:
        headers = {"X-Request-Id": request_id} if request_id else {}
        return self.client.post(f"/v1/models/flowers{path}:predict", json=FLOWER, headers=headers)

    def metrics(self) -> str:
        return self.client.get("/metrics").text

    def end(self) -> None:
        self.state.keeper_thread.stop()
        self.state.engine.drain(abandon=True)
        self.state.shadowing.stop()


@pytest.fixture
def root(versions: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(versions, tmp_path / "models"))


@pytest.fixture
def site(root: Path) -> Iterator[Site]:
    (root / "flowers" / "serving.toml").write_text('version = "1"\n[canary]\nversion = "2"\nshare = 0.3\n')
    made = Site(root)
    yield made
    made.end()


@pytest.fixture(scope="module")
def still(versions: Path) -> Iterator[Site]:
    """One that the tests which share it leave as it is."""
    made = Site(versions)
    yield made
    made.end()


def test_the_index_has_every_version_with_state_digest_and_role(site) -> None:
    one, two = site.index()
    assert (one["name"], one["version"], one["state"], one["reason"], one["role"]) == (
        "flowers", "1", "READY", "", "default")
    assert one["digest"] == site.answers(path="/versions/1").json()["digest"]
    assert (two["version"], two["role"]) == ("2", "canary")
    site.post(UNLOAD)
    assert [e["state"] for e in site.index()] == ["UNAVAILABLE", "UNAVAILABLE"]
    assert site.index(ready=True) == []


def test_the_index_needs_no_body(still) -> None:
    assert len(still.client.post(INDEX).json()) == 2


def test_a_request_goes_to_the_canary_by_its_id_and_never_where_it_names_a_version(site) -> None:
    ids = [f"id-{i}" for i in range(40)]
    expected = ["2" if in_canary("flowers", i, 0.3) else "1" for i in ids]
    assert len(set(expected)) == 2
    assert [site.answers(i).json()["version"] for i in ids] == expected
    assert {site.answers(i, "/versions/1").json()["version"] for i in ids[:10]} == {"1"}
    assert 'version="2"' in site.metrics()


def test_an_unloaded_model_answers_503_until_it_is_loaded_again(site) -> None:
    assert site.post(UNLOAD, parameters={"unload_dependents": False}).json()["name"] == "flowers"
    refused = site.answers()
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert int(refused.headers["Retry-After"]) > 0
    assert site.client.get("/readyz").status_code == 200
    loaded = site.post(LOAD)
    assert loaded.status_code == 200
    assert [v["state"] for v in loaded.json()["versions"]] == ["READY", "READY"]
    assert site.answers(path="/versions/1").status_code == 200


def test_loading_takes_up_a_new_version_and_says_what_is_wrong_with_a_broken_one(site) -> None:
    shutil.copytree(site.root / "flowers" / "1", site.root / "flowers" / "3")
    assert site.post(LOAD).status_code == 200
    assert site.answers(path="/versions/3").status_code == 200
    (site.root / "flowers" / "3" / "weights.safetensors").write_bytes(b"nothing")
    refused = site.post(LOAD)
    assert (refused.status_code, refused.json()["code"]) == (422, "unservable_model")
    assert "weights.safetensors cannot be read" in refused.json()["error"]
    assert site.answers(path="/versions/3").status_code == 200
    shown = next(e for e in site.index() if e["version"] == "3")
    assert shown["state"] == "READY"
    assert "goes on" in shown["reason"]
    assert 'errorbar_model_loads_total{model="flowers",outcome="failed",version="3"} 1.0' in site.metrics()


def test_the_memory_of_a_replaced_model_is_freed_with_its_last_answer(site) -> None:
    for rows in (1, 300):  # on the event loop, and on the engine's thread
        many = {"instances": FLOWER["instances"] * rows, "samples": 1000}
        assert site.client.post("/v1/models/flowers/versions/1:uncertainty", json=many).status_code == 200
    network = weakref.ref(site.state.repository.get("flowers", "1").sampler)
    assert network() is not None
    (site.root / "flowers" / "1" / "weights.safetensors").write_bytes(
        (site.root / "flowers" / "2" / "weights.safetensors").read_bytes())
    assert site.post(LOAD).status_code == 200
    assert network() is None


def test_wrong_rules_are_told_and_the_ones_before_stay(site) -> None:
    (site.root / "flowers" / "serving.toml").write_text('version = "1"\n[canry]\n')
    refused = site.post(LOAD)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_manifest")
    assert refused.json()["errors"][0]["path"] == "canry"
    assert [e["role"] for e in site.index()] == ["default", "canary"]


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
@pytest.mark.parametrize("name", ["flower", "..", "%2e%2e", "..%2fflowers", "flowers%00"])
def test_a_name_that_is_not_in_the_repository_leads_nowhere(still, path, name) -> None:
    answer = still.post(path, name)
    assert answer.status_code == 404
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize(("path", "body", "status", "code"), [
    (LOAD, {"parameters": {"config": "{}"}}, 422, "invalid_option"),
    (LOAD, {"parameters": {"file:1/model.toml": "AAAA"}}, 422, "invalid_option"),
    (LOAD, {"parameters": []}, 422, "invalid_option"),
    (UNLOAD, {"parameters": {"unload_dependent": True}}, 422, "invalid_option"),
    (INDEX, {"ready": 1}, 422, "invalid_option"),
    (INDEX, {"redy": True}, 422, "invalid_option"),
])
def test_a_request_that_asks_for_what_there_is_not_is_refused(still, path, body, status, code) -> None:
    answer = still.post(path, **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["error"]


@pytest.mark.parametrize(("content", "kind", "status"), [
    (b"[1", "application/json", 400), (b"[]", "application/json", 400), (b"x" * 70_000, "application/json", 413),
    (b"", "application/x-npy", 415),
])
def test_a_body_that_is_none_is_refused(still, content, kind, status) -> None:
    assert still.client.post(INDEX, content=content, headers={"Content-Type": kind}).status_code == status


def test_nothing_is_loaded_or_unloaded_once_the_server_goes_down(site) -> None:
    site.state.draining = True
    for path in (LOAD, UNLOAD):
        assert site.post(path).json()["code"] == "draining"


def test_the_contract_follows_what_is_served(site) -> None:
    before = site.client.get("/openapi.json").json()
    assert before["paths"]["/v1/models/{name}/versions/{version}:predict"]["post"]["parameters"][1]["schema"]["enum"
        ] == ["1", "2"]
    shutil.copytree(site.root / "flowers" / "1", site.root / "flowers" / "3")
    site.post(LOAD)
    after = site.client.get("/openapi.json").json()
    assert after["paths"]["/v1/models/{name}/versions/{version}:predict"]["post"]["parameters"][1]["schema"]["enum"
        ] == ["1", "2", "3"]


def test_a_shadow_answers_nobody_and_is_compared(root) -> None:
    (root / "flowers" / "serving.toml").write_text('[shadow]\nversion = "2"\n')
    site = Site(root)
    for i in range(3):
        assert site.answers(f"{i}").json()["version"] == "1"
    site.state.shadowing.finish()
    page = site.metrics()
    compared = [line for line in page.splitlines() if line.startswith("errorbar_shadow_rows_total{")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in compared) == 3
    assert all('version="2"' in line for line in compared)
    assert 'errorbar_shadow_difference_count{model="flowers",version="2"} 3.0' in page
    assert 'errorbar_requests_total{code="ok",mode="predict",model="flowers",version="2"}' not in page
    site.end()


def test_a_lazy_server_is_ready_at_once_and_loads_what_is_asked_for(root) -> None:
    site = Site(root, lazy=True)
    assert site.client.get("/readyz").status_code == 200
    assert [e["state"] for e in site.index()] == ["UNAVAILABLE", "UNAVAILABLE"]
    first = site.answers()
    assert (first.status_code, first.json()["code"]) == (503, "not_ready")
    assert int(first.headers["Retry-After"]) >= 1
    site.state.keeper_thread.ask(lambda: None).result(60)  # what was wished for before is done by then
    assert site.answers().json()["version"] == "2"
    site.end()
