"""Health, model list, card, contract and errors of the framework."""

import pytest
import torch

from models.architectures.mlp import MLP
from tests.conftest import CLASSIFIER, WITHOUT_DROPOUT, classifier, client_of, loaded, write_model


@pytest.mark.parametrize("path", ["/healthz", "/v2/health/live"])
def test_a_live_process_says_so(client, path) -> None:
    assert client.get(path).json() == {"live": True}


@pytest.mark.parametrize("path", ["/readyz", "/v2/health/ready"])
def test_a_loaded_server_is_ready(client, path) -> None:
    assert client.get(path).json() == {"ready": True}


def test_the_model_list_has_name_version_task_and_readiness(client) -> None:
    assert client.get("/v1/models").json()["models"][0] == {
        "name": "flowers", "version": "1", "task": "classification", "ready": True}


def test_the_card_says_where_dropout_acts(client) -> None:
    card = client.get("/v1/models/flowers").json()
    assert [(s["kind"], s["p"], s["active"], s["mask_shape"]) for s in card["sites"]] == [
        ("dropout", 0.5, True, [16]), ("dropout", 0.3, True, [8])]
    assert card["features"][0] == {"name": "petal", "unit": "cm", "min": 0.0, "max": 2.5}
    assert card["sampling"]["samples"] == 50
    assert card["calibration"] is None
    assert client.get("/v1/models/flowers/versions/1").json() == card


def test_the_card_warns_of_a_model_without_dropout(client) -> None:
    assert client.get("/v1/models/plain").json()["warnings"] == ["no dropout: only predict is available"]


def test_unknown_routes_and_methods_are_problems_too(client) -> None:
    missing, method = client.get("/nowhere"), client.get("/v1/models/flowers:predict/x")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert method.status_code == 404
    wrong = client.delete("/v1/models")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", "/v1/models/flowers:predict", "POST"), ("GET", "/v1/models/flowers/versions/1:uncertainty", "POST"),
    ("POST", "/v1/models/flowers", "GET"), ("POST", "/healthz", "GET, HEAD"),
])
def test_a_method_that_a_route_has_not_is_told_which_it_has(client, method, path, allowed) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/v1/models/flowers:feedback", "/v1/models/flowers/versions/1:explain"])
def test_a_verb_that_there_is_not_is_no_route(client, method, path) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/models/", "/healthz/", "/v1/models/flowers:predict/"])
def test_a_slash_too_many_leads_nowhere_and_never_to_the_host_of_a_header(client, path) -> None:
    answer = client.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "location" not in answer.headers


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_may_ask_for_the_head_alone(client, path) -> None:
    assert client.head(path).status_code == 200


@pytest.mark.filterwarnings("error")
def test_the_contract_is_made_once_the_models_are_there_and_then_kept(client) -> None:
    app = client.app.app
    assert app.openapi() is app.openapi()


def test_errors_under_v2_have_the_field_its_clients_read(client) -> None:
    body = client.get("/v2/nowhere").json()
    assert body["error"] == body["detail"]


def test_every_example_of_the_contract_works(client) -> None:
    document = client.get("/openapi.json").json()
    tried = 0
    for path, item in document["paths"].items():
        operation = item.get("post")
        if operation is None or path.startswith("/v2/repository"):  # those change what the other tests ask
            continue
        for parameter in operation["parameters"]:
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path, json=example).status_code == 200, path
        tried += 1
    assert tried == 6


def test_the_contract_knows_the_names_of_the_models(client) -> None:
    path = client.get("/openapi.json").json()["paths"]["/v1/models/{name}:predict"]
    assert path["post"]["parameters"][0]["schema"]["enum"] == ["flowers", "height", "plain"]


def test_the_contract_page_needs_no_other_address(client) -> None:
    page = client.get("/docs").text
    assert "/v1/models/{name}:uncertainty" in page
    assert "<script" not in page
    assert "https://" not in page


def test_an_example_of_uncertainty_is_of_a_model_that_has_one(tmp_path) -> None:
    torch.manual_seed(0)
    write_model(tmp_path, "almost", WITHOUT_DROPOUT.replace('"plain"', '"almost"'), MLP(2, (4,), 2, (0.0,)))
    locked = CLASSIFIER + "\n[sampling]\nsamples = 30\nseed = 4\nlocked = true\n"
    write_model(tmp_path, "flowers", locked, classifier())
    client = client_of(loaded(tmp_path))
    document = client.get("/openapi.json").json()
    for path in ("/v1/models/{name}:predict", "/v1/models/{name}:uncertainty", "/v2/models/{name}/infer"):
        operation = document["paths"][path]["post"]
        name = operation["parameters"][0]["example"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path.replace("{name}", name), json=example).status_code == 200
        assert (name == "flowers") == ("predict" not in path)
