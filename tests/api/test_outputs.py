"""Every kind of output and input through the whole server."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from models.architectures.mlp import MLP
from service.api.app import Server
from service.repository import loader
from tests.api.networks import Segmenter, Tagger
from tests.conftest import client_of, loaded, write_model
from tests.manifests import built, manifest, mlp, tensor


def flat(name: str, task: str, outputs: int, **more: Any) -> str:
    return manifest(name, task, [tensor("x", 3)], mlp(3, [8], outputs, [0.4]), **more)


TAGGER = manifest(
    "tagger", "generic", [tensor("tokens", 5, dtype="int64", range=[0, 10]), tensor("context", 3)],
    built("tests.api.networks:Tagger"), description="A tag for every token.",
)
SEGMENTER = manifest(
    "segmenter", "generic", [tensor("picture", 1, 4, 6)], built("tests.api.networks:Segmenter"),
    description="A class for every pixel.",
)
ROW = [0.5, -1.0, 2.0]
TOKENS = {"tokens": [1, 2, 3, 4, 10], "context": [0.1, 0.2, 0.3]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    root = tmp_path_factory.mktemp("outputs")
    torch.manual_seed(0)

    def net(outputs: int) -> MLP:
        return MLP(3, (8,), outputs, (0.4,))

    write_model(root, "several", flat("several", "regression", 3, noise={"tau": 4.0}), net(3))
    write_model(root, "noisy", flat("noisy", "regression", 4, noise={"head": "log_variance"}), net(4))
    write_model(root, "single", flat("single", "regression", 2, noise={"head": "log_variance"}), net(2))
    write_model(root, "labels", flat("labels", "multilabel", 3, labels=["red", "tall", "old"]), net(3))
    write_model(root, "tagger", TAGGER, Tagger())
    write_model(root, "segmenter", SEGMENTER, Segmenter())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "TRUSTED_FACTORIES", ("models.architectures.", "tests.api."))
        return loaded(root)


@pytest.fixture(scope="module")
def client(server: Server) -> TestClient:
    return client_of(server)


def ask(client: TestClient, model: str, mode: str, row: object, rows: int = 1, **options: object) -> dict:
    answer = client.post(f"/v1/models/{model}:{mode}", json={"instances": [row] * rows, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def shapes(row: dict, *names: str) -> list[tuple[int, ...]]:
    return [np.shape(row[name]) for name in names]


def test_several_targets_have_a_number_each_and_share_the_manifests_noise(client) -> None:
    assert np.shape(ask(client, "several", "predict", ROW)["predictions"][0]["value"]) == (3,)
    row = ask(client, "several", "uncertainty", ROW, samples=30, quantiles=[0.1, 0.9], include_samples=True)
    row = row["predictions"][0]
    assert shapes(row, "mean", "std", "mean_se", "std_se", "total_std") == [(3,)] * 5
    assert shapes(row, "quantiles", "sample_values") == [(2, 3), (30, 3)]
    assert row["noise_std"] == 0.5
    assert row["total_std"] == pytest.approx([math.hypot(s, 0.5) for s in row["std"]])


def test_a_noise_head_answers_with_the_noise_of_every_target(client, server) -> None:
    body = ask(client, "noisy", "uncertainty", ROW, samples=50, seed=2, quantiles=[0.5], include_samples=True)
    row = body["predictions"][0]
    assert body["sampling"]["method"] == "sampled"
    assert shapes(row, "mean", "std", "noise_std", "total_std", "quantiles", "sample_values") == [
        (2,), (2,), (2,), (2,), (1, 2), (50, 2)]
    raw = server.repository.get("noisy").sampler
    answer = raw.uncertainty(torch.tensor([ROW]), 50, 2)
    assert row["noise_std"] == pytest.approx(answer.noise_std[0].tolist(), rel=1e-6)
    assert row["total_std"] == pytest.approx(np.hypot(row["std"], row["noise_std"]).tolist())
    assert len(ask(client, "noisy", "predict", ROW)["predictions"][0]["value"]) == 2


def test_a_noise_head_of_one_target_answers_with_plain_numbers(client) -> None:
    row = ask(client, "single", "uncertainty", ROW, quantiles=[0.5], include_samples=True)["predictions"][0]
    assert all(isinstance(row[name], float) for name in ("mean", "std", "noise_std", "total_std"))
    assert shapes(row, "quantiles", "sample_values") == [(1,), (50,)]
    assert row["total_std"] > row["noise_std"] > 0
    assert isinstance(ask(client, "single", "predict", ROW)["predictions"][0]["value"], float)


def test_the_card_says_where_the_noise_comes_from(client) -> None:
    noise = {name: client.get(f"/v1/models/{name}").json()["noise"] for name in ("several", "noisy", "labels")}
    assert noise == {"several": {"tau": 4.0}, "noisy": {"head": "log_variance"}, "labels": None}


def test_each_label_of_a_multilabel_model_is_a_bernoulli_of_its_own(client) -> None:
    row = ask(client, "labels", "uncertainty", ROW, samples=50, include_samples=True)["predictions"][0]
    names = ("mean", "std", "mean_se", "std_se", "entropy", "entropy_se", "expected_entropy", "mutual_information",
             "mutual_information_se", "variation_ratio")
    assert shapes(row, *names) == [(3,)] * len(names)
    mean = np.array(row["mean"])
    assert row["entropy"] == pytest.approx((-mean * np.log(mean) - (1 - mean) * np.log(1 - mean)).tolist(), abs=1e-6)
    share = (np.array(row["sample_values"]) > 0.5).mean(0)
    assert row["variation_ratio"] == pytest.approx(np.minimum(share, 1 - share).tolist())
    assert row["label"] == ["red", "tall", "old"][int(mean.argmax())]


def test_tokens_and_a_context_to_tags_in_a_dictionary(client, server) -> None:
    assert np.shape(ask(client, "tagger", "predict", TOKENS)["predictions"][0]["output"]) == (5, 4)
    row = ask(client, "tagger", "uncertainty", TOKENS, 2, samples=30, quantiles=[0.1, 0.5], include_samples=True)
    row = row["predictions"][1]
    assert shapes(row, "mean", "std", "mean_se", "std_se") == [(5, 4)] * 4
    assert shapes(row, "quantiles", "sample_values") == [(2, 5, 4), (30, 5, 4)]
    sampler = server.repository.get("tagger").sampler
    inputs = torch.tensor([TOKENS["tokens"]]), torch.tensor([TOKENS["context"]])
    slow = sampler.reference(inputs, 30)
    assert np.array(row["std"]) == pytest.approx(slow.std[0].numpy(), abs=1e-6)
    assert np.array(row["quantiles"]) == pytest.approx(
        np.quantile(slow.draws[0].double(), [0.1, 0.5], axis=0), abs=1e-6)


@pytest.mark.parametrize(("change", "path"), [
    ({"tokens": [1, 2, 3, 4, 11]}, "instances[0].tokens[4]"), ({"tokens": [1, 2, 3, -1, 0]}, "instances[0].tokens[3]"),
    ({"tokens": [1, 2, 3, 4, 5.5]}, "instances[0].tokens[4]"), ({"context": [1.0, 2.0]}, "instances[0].context"),
])
def test_a_token_past_the_vocabulary_is_named_by_its_input_and_place(client, change, path) -> None:
    answer = client.post("/v1/models/tagger:uncertainty", json={"instances": [TOKENS | change]})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["errors"][0]["path"] == path


def test_pixels_keep_their_place(client, server) -> None:
    picture = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(1))
    body = ask(client, "segmenter", "uncertainty", picture.tolist(), samples=20, include_samples=True)
    row = body["predictions"][0]
    assert shapes(row, "mean", "std", "sample_values") == [(2, 4, 6), (2, 4, 6), (20, 2, 4, 6)]
    slow = server.repository.get("segmenter").sampler.reference(picture.unsqueeze(0), 20)
    assert np.array(row["mean"]) == pytest.approx(slow.mean[0].numpy(), abs=1e-5)


def test_quantiles_of_large_outputs_are_bounded_too(client) -> None:
    answer = client.post("/v1/models/tagger:uncertainty", json={
        "instances": [TOKENS] * 60, "samples": 1000, "quantiles": [0.5]})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
