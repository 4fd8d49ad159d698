"""How images and texts become an input is read strictly from the manifest, with a default for what it does not say."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from service.errors import InvalidManifest
from service.preprocessing.steps import ImageSteps, TextSteps
from service.repository.manifest import Manifest, parse_manifest
from tests.conftest import CLASSIFIER
from tests.process.conftest import ROOT

IMAGE = {"name": "x", "dtype": "float32", "shape": [3, 8, 6], "image": {"mode": "RGB"}}
TEXT = {"name": "x", "dtype": "int64", "shape": [8], "range": [0, 39], "text": {}}
MASK = {"name": "mask", "dtype": "int64", "shape": [8], "range": [0, 1]}


def parsed(*inputs: dict[str, Any], **more: Any) -> Manifest:
    document = tomllib.loads(CLASSIFIER)
    document.pop("features")
    return parse_manifest({**document, "inputs": list(inputs), **more})


def of(spec: dict[str, Any], table: str, **keys: Any) -> dict[str, Any]:
    """The input with other keys in that table."""
    return {**spec, table: {**spec[table], **keys}}


def test_an_input_without_tables_takes_neither_images_nor_texts() -> None:
    spec = parse_manifest(tomllib.loads(CLASSIFIER)).inputs[0]
    assert (spec.image, spec.text) == (None, None)


def test_the_defaults_are_the_documented_ones() -> None:
    assert parsed(IMAGE).inputs[0].image == ImageSteps(
        "RGB", "bilinear", None, 255.0, (0.0,), (1.0,), "CHW", True, 25_000_000)
    assert parsed(TEXT).inputs[0].text == TextSteps("tokenizer.json", "refuse", None, "right", True, None)


def test_every_key_is_read() -> None:
    keys = {"mode": "RGB", "resize": "lanczos", "short_side": 10, "scale": 1, "mean": [1, 2, 3], "std": 2,
            "layout": "CHW", "upright": False, "most_pixels": 100}
    assert parsed(of(IMAGE, "image", **keys)).inputs[0].image == ImageSteps(
        "RGB", "lanczos", 10, 1.0, (1.0, 2.0, 3.0), (2.0,), "CHW", False, 100)
    words = {"tokenizer": "x.tokenizer.json", "longer": "truncate", "pad": "[PAD]", "pad_side": "left",
             "special": False, "mask": "mask"}
    assert parsed(of(TEXT, "text", **words), MASK).inputs[0].text == TextSteps(
        "x.tokenizer.json", "truncate", "[PAD]", "left", False, "mask")


@pytest.mark.parametrize(("keys", "key", "words"), [
    ({"mode": "rgb"}, "mode", "'RGB' or 'L'"), ({"mode": "L"}, "layout", "1 channels"),
    ({"modus": "RGB"}, "modus", "did you mean 'mode'"), ({"resize": "bilinar"}, "resize", "did you mean 'bilinear'"),
    ({"layout": "HWC"}, "layout", "HWC of RGB"), ({"layout": "HW"}, "layout", "does not fit"),
    ({"short_side": 7}, "short_side", "at least 8"), ({"short_side": 8.0}, "short_side", "an integer"),
    ({"short_side": 9, "resize": "none"}, "short_side", "nothing is resized"),
    ({"scale": 0}, "scale", "1e-06 to 1e+06"), ({"scale": float("nan")}, "scale", "1e-06 to 1e+06"),
    ({"scale": -255}, "scale", "1e-06 to 1e+06"), ({"std": [1, 1, 0]}, "std", "1e-06 to 1e+06"),
    ({"std": 1e-50}, "std", "1e-06 to 1e+06"), ({"std": [1, 1]}, "std", "each of 3 channels"),
    ({"mean": [1, 1, 1, 1]}, "mean", "each of 3 channels"), ({"mean": float("inf")}, "mean", "-1e+06 to 1e+06"),
    ({"mean": "imagenet"}, "mean", "a number"), ({"upright": 1}, "upright", "true or false"),
    ({"most_pixels": 0}, "most_pixels", "1 to 250000000"), ({"most_pixels": 10**9}, "most_pixels", "1 to 250000000"),
])
def test_a_wrong_key_of_an_image_is_named_by_its_path(keys, key, words) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parsed(of(IMAGE, "image", **keys))
    assert caught.value.faults[0].path == f"inputs[0].image.{key}"
    assert words in caught.value.detail


@pytest.mark.parametrize(("keys", "key", "words"), [
    ({"tokeniser": "tokenizer.json"}, "tokeniser", "did you mean 'tokenizer'"),
    ({"tokenizer": "vocab.txt"}, "tokenizer", "ends in tokenizer.json"),
    ({"tokenizer": "../tokenizer.json"}, "tokenizer", "beside the manifest"),
    ({"longer": "cut"}, "longer", "'refuse' or 'truncate'"), ({"pad": 0}, "pad", "a string"),
    ({"pad_side": "both"}, "pad_side", "'right' or 'left'"), ({"special": "yes"}, "special", "true or false"),
    ({"mask": "musk"}, "mask", "another input"), ({"mask": "x"}, "mask", "another input"),
])
def test_a_wrong_key_of_a_text_is_named_by_its_path(keys, key, words) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parsed(of(TEXT, "text", **keys), MASK)
    assert caught.value.faults[0].path == f"inputs[0].text.{key}"
    assert words in caught.value.detail


@pytest.mark.parametrize(("inputs", "path", "words"), [
    ([{**IMAGE, "dtype": "int64", "range": [0, 255]}], "inputs[0].image.mode", "images become float32"),
    ([{**IMAGE, "shape": [192]}], "inputs[0].image.layout", "does not fit"),
    ([{**TEXT, "dtype": "float32"}], "inputs[0].text.tokenizer", "a text becomes int64"),
    ([{**TEXT, "shape": [2, 4]}], "inputs[0].text.tokenizer", "a text becomes int64"),
    ([of(TEXT, "text", mask="mask"), {**MASK, "shape": [7]}], "inputs[0].text.mask", "shape [8] expected"),
    ([of(TEXT, "text", mask="mask"), {**MASK, "range": [1, 2]}], "inputs[0].text.mask", "0 and 1"),
    ([of(TEXT, "text", mask="y"), {**TEXT, "name": "y"}], "inputs[0].text.mask", "from elsewhere"),
    ([of(TEXT, "text", mask="mask"), MASK, {**of(TEXT, "text", mask="mask"), "name": "y"}], "inputs[2].text.mask",
     "from elsewhere"),
    ([{**TEXT, "name": "b64"}], "inputs[0].name", "marks a value in base64"),
])
def test_inputs_that_cannot_be_are_named_by_their_path(inputs, path, words) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parsed(*inputs)
    assert caught.value.faults[0].path == path
    assert words in caught.value.detail


def test_the_tables_that_the_documentation_shows_are_read() -> None:
    shown = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "inputs.md").read_text(), re.DOTALL)
    manifests = [parsed(*tomllib.loads(table)["inputs"]) for table in shown]
    assert [(bool(m.inputs[0].image), bool(m.inputs[0].text)) for m in manifests] == [(True, False), (False, True)]
    assert manifests[1].inputs[0].text == TextSteps(longer="truncate", mask="attention_mask")


def test_no_feature_is_called_as_encoded_values_are() -> None:
    document = tomllib.loads(CLASSIFIER)
    document["features"][0]["name"] = "b64"
    with pytest.raises(InvalidManifest, match="marks a value in base64"):
        parse_manifest(document)
