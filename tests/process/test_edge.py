"""Keys, TLS, ports and the log of the real server."""

from __future__ import annotations

import json
import re
import signal
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from service.client import Client
from service.errors import Unauthenticated
from service.keys import hashed, with_key
from tests.process.conftest import Running, ended, served

pytestmark = pytest.mark.slow

ROW = {"instances": [[1.0, 12.0, 2.0]]}
PREDICT = "/v1/models/flowers:predict"


def certify(folder: Path, authority: trustme.CA) -> dict[str, str]:
    """Settings of a server whose certificate this authority signed; in place of the one in the folder, if there is."""
    made = authority.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    return {"tls_certificate": str(folder / "chain.pem"), "tls_key": str(folder / "key.pem")}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_tls_is_spoken_from_its_lowest_version_on_and_nothing_else(tmp_path, small_models) -> None:
    authority = trustme.CA()
    with served("--models", str(small_models), **certify(tmp_path, authority)) as server:
        assert server.url.startswith("https://")
        answer = httpx.post(f"{server.url}{PREDICT}", json=ROW, verify=trusting(authority))
        assert answer.status_code == 200
        with Client(server.url, verify=trusting(authority)) as client:
            assert client.predict("flowers", ROW["instances"]).labels
        old = trusting(authority)
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        for wrong in (old, ssl.create_default_context()):
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/healthz", verify=wrong)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.url.replace('https', 'http')}/healthz")


def test_clients_show_a_certificate_where_one_is_asked_for(tmp_path, small_models) -> None:
    authority, others = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = certify(tmp_path, authority) | {"tls_client_ca": str(tmp_path / "ca.pem"), "tls_minimum": "1.3"}
    with served("--models", str(small_models), **settings) as server:
        for issuer in (None, others):
            stranger = trusting(authority)
            if issuer is not None:
                issuer.issue_cert("stranger@example.org").configure_cert(stranger)
            with pytest.raises(httpx.HTTPError):
                httpx.get(f"{server.url}/healthz", verify=stranger)
        known = trusting(authority)
        authority.issue_cert("plant@example.org").configure_cert(known)
        assert httpx.get(f"{server.url}/healthz", verify=known).status_code == 200
        known.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz", verify=known)


def test_a_renewed_certificate_is_used_without_a_restart_and_a_broken_one_is_not(tmp_path, small_models) -> None:
    first, second = trustme.CA(), trustme.CA()
    with served("--models", str(small_models), **certify(tmp_path, first)) as server:
        assert httpx.get(f"{server.url}/healthz", verify=trusting(first)).status_code == 200
        certify(tmp_path, second)
        server.process.send_signal(signal.SIGHUP)
        server.read_until("tls certificate: read again")
        assert httpx.get(f"{server.url}/healthz", verify=trusting(second)).status_code == 200
        (tmp_path / "chain.pem").write_text("no certificate")
        server.process.send_signal(signal.SIGHUP)
        server.read_until("stays in force")
        assert httpx.get(f"{server.url}/healthz", verify=trusting(second)).status_code == 200


@pytest.mark.parametrize(("change", "words"), [
    ({"tls_key": ""}, "go together"), ({"tls_key": "chain.pem"}, "tls_key"), ({"tls_key": "none.pem"}, "No such"),
    ({"tls_client_ca": "none.pem"}, "tls_client_ca"), ({"tls_client_ca": "key.pem"}, "tls_client_ca"),
    ({"tls_minimum": "1.1"}, "TLS_MINIMUM"), ({"keys": "none.toml"}, "cannot be read"),
    ({"keys": "key.pem"}, "not TOML"),
])
def test_what_is_wrong_with_a_certificate_or_a_file_of_keys_ends_the_start_in_a_sentence(
    tmp_path, small_models, change, words
) -> None:
    settings = certify(tmp_path, trustme.CA()) | {
        name: str(tmp_path / value) if "." in value and "minimum" not in name else value
        for name, value in change.items()}
    given = {name: value for name, value in settings.items() if value}
    done = ended("serve", "--port", "0", "--models", str(small_models), **given)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_keys_come_and_go_without_a_restart(tmp_path, small_models) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(with_key("", "old", hashed("old")))
    with served("--models", str(small_models), keys=str(path)) as server:
        def status(key: str) -> int:
            return httpx.post(f"{server.url}{PREDICT}", json=ROW, headers={"X-API-Key": key}).status_code

        assert (status("old"), status("new")) == (200, 401)
        path.write_text(with_key("", "new", hashed("new")))
        server.read_until("keys: read again")  # it looks by itself
        assert (status("old"), status("new")) == (401, 200)
        path.write_text("[[keys")
        server.process.send_signal(signal.SIGHUP)
        server.read_until("keys: not read again")
        assert (status("old"), status("new")) == (401, 200)
        with Client(server.url, key="new") as client:
            assert client.predict("flowers", ROW["instances"]).labels
        with Client(server.url) as client, pytest.raises(Unauthenticated, match="a key expected"):
            client.predict("flowers", ROW["instances"])
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0


def test_administrators_have_a_port_of_their_own_that_a_full_one_leaves_alone(small_models) -> None:
    with served("--models", str(small_models), ready=False, admin_port="0", connections="2") as server:
        found = re.search(r"http://127\.0\.0\.1:\d+", server.read_until("administrators' port"))
        assert found is not None
        server.read_until("ready: ")
        with httpx.Client() as one, httpx.Client() as other, httpx.Client() as third:
            assert one.get(f"{server.url}/metrics").status_code == 404
            assert other.post(f"{server.url}{PREDICT}", json=ROW).status_code == 200
            assert third.get(f"{server.url}/healthz").status_code == 429
            assert httpx.get(f"{found.group()}/metrics").status_code == 200
            assert httpx.get(f"{found.group()}/healthz").status_code == 200
            assert httpx.post(f"{found.group()}{PREDICT}", json=ROW).status_code == 404


def test_a_port_that_is_taken_ends_the_start_in_a_sentence(small_models) -> None:
    with served("--models", str(small_models)) as server:
        port = server.url.rsplit(":", 1)[1]
        for settings in ({"port": port}, {"port": "0", "admin_port": port}):
            done = ended("serve", "--models", str(small_models), **settings)
            assert done.returncode == 3
            assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr


def lines_of(server: Running) -> list[dict[str, object]]:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=30) == 0
    assert server.process.stderr is not None
    return [json.loads(line) for line in [*server.log, *server.process.stderr]]


def test_a_log_in_json_is_json_in_every_line_and_names_nothing_it_may_not(small_models) -> None:
    settings = {"log_format": "json", "log_requests": "true", "log_models": "false"}
    with served("--models", str(small_models), **settings) as server:
        for path in (PREDICT, "/v1/models/flowers%0A2026-11-25%20INFO%20forged:predict", "/%00%1b%5b2J"):
            httpx.post(f"{server.url}{path}", json=ROW, headers={"X-Request-Id": 'a"b\\c=d'})
        lines = lines_of(server)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    asked = [line for line in lines if line["message"] == "request"]
    assert [(line["status"], line["code"]) for line in asked] == [
        (200, "ok"), (404, "model_not_found"), (404, "not_found")]
    assert str(asked[0]["digest"]).startswith("sha256:")
    assert {line["request_id"] for line in asked} == {'a"b\\c=d'}
    assert "flowers" not in json.dumps(lines)
    assert "forged" not in json.dumps(lines)



def test_workers_share_keys_and_the_administrators_port_and_outlive_being_told_to_read_again(
    tmp_path, small_models
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(with_key("", "old", hashed("old")))
    with served("--models", str(small_models), workers="2", keys=str(path), admin_port="0") as server:
        server.read_until("ready: ")  # the second one
        server.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            server.read_until("keys: read again")  # the same, by each
        written = tmp_path / "written.toml"
        written.write_text(with_key("", "new", hashed("new")))
        written.replace(path)
        for _ in range(2):
            server.read_until("keys: read again")
        for key, status in [("old", 401), ("new", 200)] * 8:  # of connections of their own, so that both are asked
            answer = httpx.post(f"{server.url}{PREDICT}", json=ROW, headers={"X-API-Key": key})
            assert answer.status_code == status
        assert httpx.get(f"{server.url}/metrics").status_code == 404
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
