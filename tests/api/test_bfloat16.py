"""A model whose manifest asks for bfloat16, as a client sees it."""

import shutil

import pytest
import torch
from fastapi.testclient import TestClient

from models.recipes.publish import REPOSITORY, VERSION
from service.sampling.device import lacks_bfloat16
from service.wire import ModelCard
from tests.conftest import client_of, loaded

pytestmark = pytest.mark.skipif(
    bool(lacks_bfloat16(torch.device("cpu"))), reason="the CPU has no fast bfloat16, so float32 runs"
)
DIGIT = [float(i % 17) for i in range(64)]


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> TestClient:
    """The bundled digits and digits_cnn, in bfloat16."""
    root = tmp_path_factory.mktemp("models")
    for name in ("digits", "digits_cnn"):
        folder = root / name / VERSION
        shutil.copytree(REPOSITORY / name / VERSION, folder)
        manifest = (folder / "model.toml").read_text(encoding="utf-8")
        assert '[numerics]\ndtype = "float32"' in manifest
        changed = manifest.replace('[numerics]\ndtype = "float32"', '[numerics]\ndtype = "bfloat16"')
        (folder / "model.toml").write_text(changed, encoding="utf-8")
    return client_of(loaded(root))


@pytest.mark.parametrize("name", ["digits", "digits_cnn"])
def test_the_card_says_bfloat16_and_how_far_it_moves_the_figures(client, name) -> None:
    card = client.get(f"/v1/models/{name}").json()
    assert card["sampling"]["dtype"] == "bfloat16"
    error = card["sampling"]["dtype_error"]
    assert 0 < error["mean"] < 0.1
    assert 0 < error["std"] < 0.1
    ModelCard.model_validate(card)


def test_answers_say_bfloat16_and_their_means_are_probabilities(client) -> None:
    body = client.post("/v1/models/digits:uncertainty", json={"instances": [DIGIT]}).json()
    assert body["sampling"]["dtype"] == "bfloat16"
    assert sum(body["predictions"][0]["mean"]) == pytest.approx(1, abs=1e-6)


def test_a_card_in_float32_has_no_such_figures(application) -> None:
    sampling = application.get("/v1/models/flowers").json()["sampling"]
    assert (sampling["dtype"], sampling["dtype_error"]) == ("float32", None)
