"""Keys: who may ask for what, how often, and what a refusal tells."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from service.api.access import LISTENER, access
from service.api.app import Server, create_app
from service.clock import ManualClock
from service.keys import hashed, with_key
from service.settings import Settings

ROW = {"instances": [[1.0, 12.0, 2.0]]}
PREDICT = "/v1/models/flowers:predict"
Made = Callable[..., TestClient]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1e9)  # later than the clock of the engine, so that no deadline has passed


@pytest.fixture
def made(state, small_models, tmp_path, clock) -> Made:
    """An application with three keys: `all`, `one` (flowers only, twice a second) and `boss` (an admin's)."""

    def make(listener: str = "main", **settings: object) -> TestClient:
        text = with_key("", "all", hashed("all"))
        text = with_key(text, "one", hashed("one"), ["flowers", "tulips"], "2/s")
        text = with_key(text, "boss", hashed("boss"), admin=True)
        path = tmp_path / "keys.toml"
        path.write_text(text)
        server = Server(Settings(models=small_models, device="cpu", **{"keys": path} | settings), clock)  # type: ignore
        server.engine, server.repository, server.loaded = state.engine, state.repository, True
        app = create_app(server.settings, state=server)

        async def at_listener(scope, receive, send) -> None:
            scope["state"] = {LISTENER: listener}
            await app(scope, receive, send)

        client = TestClient(at_listener)
        client.server = server  # type: ignore[attr-defined]
        return client

    return make


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path", "nobody", "one", "everything", "boss"), [
    ("GET", "/healthz", 200, 200, 200, 200),
    ("GET", "/readyz", 200, 200, 200, 200),
    ("GET", "/v2/health/live", 200, 200, 200, 200),
    ("GET", "/v2/health/ready", 200, 200, 200, 200),
    ("GET", "/v1/models", 401, 200, 200, 200),
    ("GET", "/v1/models/flowers", 401, 200, 200, 200),
    ("GET", "/v1/models/height", 401, 403, 200, 200),
    ("GET", "/v1/models/height/versions/1", 401, 403, 200, 200),
    ("GET", "/v1/models/rubbish", 401, 403, 404, 404),
    ("POST", PREDICT, 401, 200, 200, 200),
    ("POST", "/v1/models/flowers/versions/1:uncertainty", 401, 200, 200, 200),
    ("POST", "/v1/models/height:predict", 401, 403, 400, 400),
    ("POST", "/v1/models/%68eight:predict", 401, 403, 400, 400),
    ("POST", "/v1/models//height:predict", 401, 404, 404, 404),
    ("POST", "/v2/models/height/infer", 401, 403, None, None),
    ("GET", "/metrics", 401, 403, 403, 200),
    ("POST", "/v2/repository/index", 401, 403, 403, None),
    ("POST", "/v2/repository/models/flowers/load", 401, 403, 403, None),
    ("POST", "/v2/repository", 401, 403, 403, None),
    ("GET", "/v1/audit/x", 401, 403, 403, None),
    ("GET", "/openapi.json", 401, 200, 200, 200),
    ("GET", "/docs", 401, 200, 200, 200),
    ("GET", "/", 401, None, None, None),
    ("GET", "/nothing", 401, 404, 404, 404),
    ("GET", "/healthz/", 401, 404, 404, 404),
    ("GET", "//healthz", 401, 404, 404, 404),
])
def test_each_route_asks_for_the_key_it_needs(made, method, path, nobody, one, everything, boss) -> None:
    client = made()
    body = ROW if method == "POST" else None
    for key, wanted in ((None, nobody), ("one", one), ("all", everything), ("boss", boss)):
        answer = client.request(method, path, json=body, headers=bearer(key) if key else {})
        if wanted is None:  # whether there is such a route is not the guard's to say
            assert answer.status_code not in (401, 403)
        else:
            assert answer.status_code == wanted, (key, answer.text)


@pytest.mark.parametrize("headers", [
    [], [("Authorization", "Bearer")], [("Authorization", "Bearer ")], [("Authorization", "Basic YWxsOmFsbA==")],
    [("Authorization", "all")], [("Authorization", "Bearer al")], [("Authorization", "Bearer all,one")],
    [("Authorization", f"Bearer {hashed('all')}")], [("X-API-Key", "")], [("X-API-Key", "ALL")],
    [("Authorization", "Bearer all"), ("X-API-Key", "all")], [("X-API-Key", "all"), ("X-API-Key", "one")],
    [("Authorization", "Bearer all"), ("Authorization", "Bearer no")],
])
def test_anything_but_one_known_key_is_unauthenticated(made, headers) -> None:
    answer = made().post(PREDICT, json=ROW, headers=headers)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="errorbar"'
    assert answer.headers["X-Request-Id"] == body["request_id"]
    assert "all" not in body["detail"].replace("all other", "")


@pytest.mark.parametrize("headers", [
    {"Authorization": "Bearer all"}, {"authorization": "bearer  all "}, {"X-API-Key": "all"},
    {"Authorization": "Basic YWxsOmFsbA==", "X-API-Key": "all"},
])
def test_a_key_comes_as_bearer_or_in_a_header_of_its_own(made, headers) -> None:
    assert made().post(PREDICT, json=ROW, headers=headers).status_code == 200


def test_a_key_has_its_rate_and_is_told_truly_when_to_come_again(made, clock) -> None:
    client = made()
    statuses = [client.post(PREDICT, json=ROW, headers=bearer("one")).status_code for _ in range(2)]
    refused = client.post(PREDICT, json=ROW, headers=bearer("one"))
    assert (*statuses, refused.status_code, refused.json()["code"]) == (200, 200, 429, "overloaded")
    assert client.post(PREDICT, json=ROW, headers=bearer("all")).status_code == 200  # of another key
    clock.advance(float(refused.headers["Retry-After"]))
    assert client.post(PREDICT, json=ROW, headers=bearer("one")).status_code == 200


def test_a_key_with_a_highest_priority_is_refused_a_higher_one_before_the_queue(made, tmp_path) -> None:
    client = made()
    (tmp_path / "keys.toml").write_text(with_key("", "low", hashed("low"), priority=3))
    client.server.keys.refresh()
    statuses = [client.post(PREDICT, json=ROW | more, headers=bearer("low")).status_code
                for more in ({}, {"priority": 3}, {"priority": 4}, {"priority": 10})]
    assert statuses == [200, 200, 403, 422]


def test_a_key_for_some_models_is_told_of_no_others(made, clock) -> None:
    client = made()
    pages = []
    for path in ("/v1/models", "/openapi.json", "/docs", "/v1/models/tulips", "/v1/models/flowers/versions/9"):
        clock.advance(10)
        pages.append(client.get(path, headers=bearer("one")).text)
    assert "flowers" in pages[0]
    for page in pages:
        assert '"height"' not in page
        assert "'height'" not in page
        assert "plain," not in page
    full = client.get("/openapi.json", headers=bearer("all")).text
    assert '"height"' in full


def test_the_contract_says_where_a_key_is_needed(made) -> None:
    document = made().get("/openapi.json", headers=bearer("all")).json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    needs = {path: bool(op["security"]) for path, item in document["paths"].items() for op in item.values()}
    assert needs["/healthz"] is False
    assert needs["/v1/models/{name}:predict"] is True


def test_a_refusal_is_counted_and_says_nothing_of_the_model(made) -> None:
    client = made()
    client.post(PREDICT, json=ROW)
    page = client.get("/metrics", headers=bearer("boss")).text
    assert 'errorbar_requests_total{code="unauthenticated",mode="",model="",version=""} 1.0' in page


def test_keys_are_those_of_the_file_now(made, tmp_path) -> None:
    client = made()
    (tmp_path / "keys.toml").write_text(with_key("", "new", hashed("new")))
    client.server.keys.refresh()
    assert client.post(PREDICT, json=ROW, headers=bearer("all")).status_code == 401
    assert client.post(PREDICT, json=ROW, headers=bearer("new")).status_code == 200
    (tmp_path / "keys.toml").write_text("[[keys")
    client.server.keys.refresh()
    assert client.post(PREDICT, json=ROW, headers=bearer("new")).status_code == 200


@pytest.mark.parametrize("keys", [True, False])
def test_administrators_may_have_a_port_of_their_own(made, keys) -> None:
    settings = {"admin_port": 0} | ({} if keys else {"keys": None})
    main, admin = made(**settings), made("admin", **settings)
    key = bearer("boss") if keys else {}
    assert main.get("/metrics", headers=key).status_code == 404
    assert main.post("/v2/repository/index", headers=key).status_code == 404
    assert main.post(PREDICT, json=ROW, headers=key).status_code == 200
    assert admin.get("/metrics").status_code == 200  # who reaches the port may read them
    assert admin.get("/healthz").status_code == 200
    assert admin.post(PREDICT, json=ROW, headers=key).status_code == 404
    assert admin.get("/v1/models", headers=key).json()["code"] == "not_found"
    if keys:
        assert admin.post("/v2/repository/index").status_code == 401
        assert admin.post("/v2/repository/index", headers=bearer("all")).status_code == 403


def test_health_tells_those_without_a_key_no_names_of_folders(made) -> None:
    from service.errors import UnservableModel

    client = made()
    client.server.failure = UnservableModel("/srv/models/hiv/1: 3 labels")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "hiv" not in answer.text


def test_what_is_not_known_needs_a_key() -> None:
    for path in ("", "/", "/new", "/v3/x", "/Metrics", "/metrics/", "/healthz\n", "/v2/health/ready/x"):
        assert access(path) == "key"
    for path in ("/v2/repository/\n", "/v1/audit/a/b", "/metrics"):
        assert access(path) == "admin"


def test_a_request_is_a_line_in_the_log_without_what_it_brought(made, caplog) -> None:
    with caplog.at_level(logging.INFO, "errorbar.requests"):
        client = made(log_requests=True)
        client.post(PREDICT, json={"instances": [[1.0, 2.0, "John Smith"]]}, headers=bearer("all"))
        client.get("/secret/path?name=John", headers=bearer("all") | {"X-Request-Id": "mine"})
        client.post(PREDICT, json=ROW, headers=bearer("one"))
        client.post(PREDICT, json=ROW, headers=bearer("al"))
    wrong, missing, right, unknown = (r.errorbar_fields for r in caplog.records)
    assert (wrong["status"], wrong["code"], wrong["key"], wrong["model"]) == (400, "invalid_input", "all", "flowers")
    assert wrong["route"] == "/v1/models/*:predict"
    assert (missing["route"], missing["request_id"], missing["code"]) == ("(none)", "mine", "not_found")
    assert (right["code"], right["status"], right["key"]) == ("ok", 200, "one")
    assert right["digest"].startswith("sha256:")
    assert {"total_ms", "decode_ms", "queue_ms", "device_ms", "summary_ms", "encode_ms"} <= right.keys()
    assert (unknown["status"], unknown["code"]) == (401, "unauthenticated")
    assert "key" not in unknown
    assert "John" not in str([r.__dict__ for r in caplog.records])


def test_a_log_of_errors_leaves_out_what_went_well(made, caplog) -> None:
    with caplog.at_level(logging.INFO, "errorbar.requests"):
        client = made(log_requests="errors")
        client.get("/healthz")
        client.get("/nothing")
    assert [r.errorbar_fields["status"] for r in caplog.records] == [401]
