"""Models on disk: what loads, what is refused, which version serves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.architectures import mlp
from service.errors import InvalidManifest, ModelNotFound, NotReady, UnservableModel, VersionNotFound
from service.repository import Repository, load_model
from service.repository.loader import _probe_input
from service.sampling import preparation
from service.scheduling import Engine
from tests.conftest import CLASSIFIER, classifier, write_model
from tests.manifests import built, manifest, tensor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return write_model(tmp_path, "flowers", CLASSIFIER, classifier())


def test_a_loaded_model_answers_and_has_a_digest_over_all_its_files(folder) -> None:
    first = load_model(folder)
    assert first.sampler.predict(torch.zeros(2, 3)).shape == (2, 2)
    assert load_model(folder).digest == first.digest
    (folder / "CARD.md").write_text("A card.")
    assert load_model(folder).digest != first.digest


def test_the_highest_version_serves_by_default_as_a_number(folder) -> None:
    for version in ("2", "10"):
        write_model(folder.parent.parent, "flowers", CLASSIFIER, classifier(), version)
    repository = Repository(folder.parent.parent)
    for name, number in repository.versions:
        repository.admit(repository.load(name, number))
    assert repository.all_ready
    assert repository.get("flowers").version == "10"
    assert repository.get("flowers", "2").version == "2"


def test_what_is_not_there_is_told_apart_from_what_is_not_ready(folder) -> None:
    repository = Repository(folder.parent.parent)
    with pytest.raises(ModelNotFound, match="did you mean 'flowers'"):
        repository.get("flower")
    with pytest.raises(VersionNotFound, match="there are: 1"):
        repository.get("flowers", "2")
    model = repository.load("flowers", "1")
    with pytest.raises(NotReady):
        repository.get("flowers")
    assert not repository.all_ready
    repository.admit(model)
    assert repository.get("flowers") is model


@pytest.mark.parametrize("root", ["nowhere", "."])
def test_a_folder_without_models_is_refused(tmp_path, root) -> None:
    with pytest.raises(InvalidManifest, match="<root>/<name>/<version>"):
        Repository(tmp_path / root)


def test_a_name_that_is_not_the_folders_is_refused(folder) -> None:
    (folder / "model.toml").write_text(CLASSIFIER.replace('name = "flowers"', 'name = "roses"'))
    with pytest.raises(InvalidManifest, match="'flowers'"):
        load_model(folder)


def test_only_trusted_code_is_run(folder) -> None:
    (folder / "model.toml").write_text(CLASSIFIER.replace("models.architectures.mlp:MLP", "os:system"))
    with pytest.raises(UnservableModel, match=r"models\.architectures"):
        load_model(folder)


@pytest.mark.parametrize(("break_it", "reason"), [
    (lambda f: f.write_bytes(b"not safetensors at all"), "cannot be read"),
    (lambda f: f.write_bytes(f.read_bytes()[:-40]), "cannot be read"),
    (lambda f: f.unlink(), "cannot be read"),
    (lambda f: save_file({k: v for k, v in load_file(f).items() if "output" not in k}, f), "does not fit"),
    (lambda f: save_file({k: v * float("nan") for k, v in load_file(f).items()}, f), "not finite"),
])
def test_broken_weights_are_refused(folder, break_it, reason) -> None:
    break_it(folder / "weights.safetensors")
    with pytest.raises(UnservableModel, match=reason):
        load_model(folder)


def test_labels_must_be_as_many_as_the_outputs(folder) -> None:
    (folder / "model.toml").write_text(CLASSIFIER.replace('"rose"]', '"rose", "tulip"]'))
    with pytest.raises(UnservableModel, match="3 labels"):
        load_model(folder)


def test_arguments_that_build_nothing_are_refused(folder) -> None:
    (folder / "model.toml").write_text(CLASSIFIER + "width = 3\n")
    with pytest.raises(UnservableModel, match="cannot be built"):
        load_model(folder)


class Tokens(nn.Module):
    """Three tokens of a vocabulary of ten."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.output = nn.Linear(12, 2)
        self.fault = fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fault:
            raise KeyError(self.fault)
        return self.output(nn.functional.dropout(self.embedding(x), 0.5, self.training).flatten(1))


def tokens(highest: int = 9, **arguments: str) -> str:
    return manifest(
        "words", "classification", [tensor("x", 3, dtype="int64", range=[0, highest])],
        built("models.architectures.mlp:Tokens", **arguments), description="Three words.", labels=["no", "yes"],
    )


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mlp, "Tokens", Tokens, raising=False)
    torch.manual_seed(0)
    return write_model(tmp_path, "words", tokens(), Tokens())


def test_a_model_of_tokens_loads_and_is_probed_with_the_first_and_the_last(words) -> None:
    model = load_model(words)
    assert model.sampler.samples_something
    rows = _probe_input(model.manifest.inputs[0])
    assert rows.dtype == torch.int64
    assert (rows[:3].amin(0).tolist(), rows[:3].amax(0).tolist()) == ([0, 0, 0], [9, 9, 9])
    engine = Engine()
    engine.warm(model)
    engine.drain()


@pytest.mark.parametrize("high", [10, 9223372036854775807])
def test_a_range_wider_than_the_vocabulary_is_refused_before_a_client_meets_it(words, high) -> None:
    (words / "model.toml").write_text(tokens(high))
    with pytest.raises(UnservableModel, match=rf"words.1: .*IndexError.*range of x \[0, {high}\] wider"):
        load_model(words)


def test_whatever_a_models_own_code_raises_makes_it_unservable_with_a_reason(words) -> None:
    (words / "model.toml").write_text(tokens(fault="first line\nsecond"))
    with pytest.raises(UnservableModel) as caught:
        load_model(words)
    assert str(words) in caught.value.detail
    assert "KeyError" in caught.value.detail


def test_a_manifest_that_is_no_text_is_refused(folder) -> None:
    (folder / "model.toml").write_bytes(b'name = "fl\xff"')
    with pytest.raises(InvalidManifest, match="not TOML"):
        load_model(folder)


def test_where_the_hardware_lacks_bfloat16_a_model_serves_in_float32_with_a_warning(folder, monkeypatch) -> None:
    monkeypatch.setattr(preparation, "lacks_bfloat16", lambda device: "it is an abacus")
    (folder / "model.toml").write_text(CLASSIFIER + '[numerics]\ndtype = "bfloat16"\n')
    model = load_model(folder)
    assert model.sampler.dtype == "float32"
    assert any("it is an abacus" in warning for warning in model.warnings)


def test_locked_sampling_in_bfloat16_is_refused_where_the_hardware_lacks_it(folder, monkeypatch) -> None:
    monkeypatch.setattr(preparation, "lacks_bfloat16", lambda device: "it is an abacus")
    (folder / "model.toml").write_text(CLASSIFIER + '[numerics]\ndtype = "bfloat16"\n[sampling]\nlocked = true\n')
    with pytest.raises(UnservableModel, match=r"locked.*abacus"):
        load_model(folder)
