"""What every bundled model on disk must keep."""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from service.repository.manifest import read_manifest
from tests.models.bundled import RECIPES, card, card_row, folder, ready

every_model = pytest.mark.parametrize("name", RECIPES)


@every_model
def test_the_state_loads_strictly_into_the_manifests_factory_and_arguments(name: str) -> None:
    architecture = read_manifest(folder(name) / "model.toml").architecture
    package, factory = architecture.factory.split(":")
    module = getattr(importlib.import_module(package), factory)(**architecture.arguments)
    assert isinstance(module, nn.Module)
    module.load_state_dict(load_file(folder(name) / "weights.safetensors"), strict=True)


@every_model
def test_the_manifest_holds_the_tables_of_the_contract(name: str) -> None:
    recipe = RECIPES[name]
    document = tomllib.loads((folder(name) / "model.toml").read_text(encoding="utf-8"))
    expected = {"name", "task", "description", "inputs", "architecture", "sampling", "numerics"}
    expected |= {"labels"} if recipe.labels else set()
    expected |= {"features"} if recipe.features(recipe.split()) else set()
    expected |= {"noise"} if recipe.task == "regression" else set()
    assert set(document) == expected
    assert document["sampling"] == {"samples": 50, "seed": 0, "masks": "shared", "design": "balanced"}
    assert document["numerics"] == {"dtype": "float32"}
    (tensor,) = document["inputs"]
    assert (tensor["dtype"], tuple(tensor["shape"])) == ("float32", recipe.input_shape)


@every_model
def test_the_manifest_is_the_one_that_the_recipe_writes_today(name: str) -> None:
    recipe, manifest = RECIPES[name], read_manifest(folder(name) / "model.toml")
    assert manifest.description == recipe.description
    assert (manifest.labels or ()) == recipe.labels
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in manifest.architecture.arguments.items()}
    assert arguments == {**recipe.sizes, **recipe.dropout}
    features = [vars(feature) for feature in manifest.features or ()]
    assert features == [vars(feature) for feature in recipe.features(recipe.split())]


@every_model
def test_no_training_row_lies_outside_the_ranges_that_the_manifest_tells(name: str) -> None:
    manifest = read_manifest(folder(name) / "model.toml")
    rows = torch.from_numpy(RECIPES[name].split().train.inputs)
    for column, feature in enumerate(manifest.features or ()):
        assert feature.unit
        assert not bool(((rows[:, column] < feature.min) | (rows[:, column] > feature.max)).any()), feature.name
    if manifest.inputs[0].range is not None:
        low, high = manifest.inputs[0].range
        assert low <= float(rows.min()) <= float(rows.max()) <= high


@every_model
def test_the_scaling_in_the_weights_is_that_of_the_training_rows(name: str) -> None:
    recipe = RECIPES[name]
    split = recipe.split()
    fresh = recipe.build(split, with_dropout=True).state_dict()
    saved = load_file(folder(name) / "weights.safetensors")
    for buffer in ("shift", "scale"):
        assert torch.allclose(saved[f"standardise.{buffer}"], fresh[f"standardise.{buffer}"])
        assert not bool((saved[f"standardise.{buffer}"] == (buffer == "scale")).all())


@every_model
def test_the_weights_are_small(name: str) -> None:
    assert (folder(name) / "weights.safetensors").stat().st_size < 300_000


@every_model
def test_every_site_samples_and_the_loader_has_nothing_to_warn_of(name: str) -> None:
    model = ready(name)
    assert model.warnings == ()
    assert all(site.active for site in model.sampler.sites)
    assert len(model.sampler.sites) == len([m for m in _dropouts(name) if m.p > 0])


def _dropouts(name: str) -> list[nn.Dropout | nn.Dropout2d]:
    recipe = RECIPES[name]
    modules = recipe.build(recipe.split(), with_dropout=True).modules()
    return [m for m in modules if isinstance(m, (nn.Dropout, nn.Dropout2d))]


@every_model
def test_the_card_tells_data_licence_command_and_split_and_has_no_date_or_path_of_a_machine(name: str) -> None:
    text = card(name)
    for words in ("licence", RECIPES[name].command, "split seed", "without dropout", "## Does dropout help"):
        assert words in text
    assert not re.search(r"\b\d{4}-\d{2}-\d{2}\b|(^|\s)/\w+/", text)


@every_model
def test_the_card_has_both_modes_and_the_network_without_dropout_side_by_side(name: str) -> None:
    for words in ("with dropout, deterministic", "with dropout, Monte Carlo (T = 50)", "trained without dropout"):
        assert len(card_row(name, words)) == 2
