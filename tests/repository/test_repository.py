"""Models on disk: what loads, what is refused, which version serves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.architectures.mlp import MLP
from service.errors import InvalidManifest, ModelNotFound, NotReady, UnservableModel, VersionNotFound
from service.repository import Repository, load_model
from tests.conftest import CLASSIFIER, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return write_model(tmp_path, "flowers", CLASSIFIER, MLP(3, (16, 8), 2, (0.5, 0.3)))


def test_a_loaded_model_answers_and_has_a_digest_over_all_its_files(folder) -> None:
    first = load_model(folder)
    assert first.sampler.predict(torch.zeros(2, 3)).shape == (2, 2)
    assert load_model(folder).digest == first.digest
    (folder / "CARD.md").write_text("A card.")
    assert load_model(folder).digest != first.digest


def test_the_highest_version_serves_by_default_as_a_number(folder) -> None:
    for version in ("2", "10"):
        write_model(folder.parent.parent, "flowers", CLASSIFIER, MLP(3, (16, 8), 2, (0.5, 0.3)), version)
    repository = Repository(folder.parent.parent)
    repository.load_all()
    assert repository.get("flowers").version == "10"
    assert repository.get("flowers", "2").version == "2"


def test_what_is_not_there_is_told_apart_from_what_is_not_ready(folder) -> None:
    repository = Repository(folder.parent.parent)
    with pytest.raises(ModelNotFound, match="did you mean 'flowers'"):
        repository.get("flower")
    with pytest.raises(VersionNotFound, match="there are: 1"):
        repository.get("flowers", "2")
    with pytest.raises(NotReady):
        repository.get("flowers")


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
