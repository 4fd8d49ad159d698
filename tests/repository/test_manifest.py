"""A manifest is read strictly, and what is wrong is named by its path."""

import tomllib

import pytest
import torch

from service.errors import InvalidManifest
from service.repository import warm_up_inputs
from service.repository.manifest import parse_manifest, read_manifest
from tests.conftest import CLASSIFIER, REGRESSION


def document(text: str = CLASSIFIER) -> dict:
    return tomllib.loads(text)


def test_a_good_manifest_is_read_with_its_defaults() -> None:
    manifest = parse_manifest(document())
    assert (manifest.name, manifest.labels) == ("flowers", ("daisy", "rose"))
    assert manifest.inputs[0].shape == (3,)
    assert (manifest.sampling.samples, manifest.sampling.seed, manifest.sampling.locked) == (50, 0, False)
    assert parse_manifest(document(REGRESSION)).tau == 4.0
    noisy = parse_manifest({**document(REGRESSION), "noise": {"head": "log_variance"}})
    assert (noisy.tau, noisy.noise_head) == (None, "log_variance")


@pytest.mark.parametrize(("change", "path", "words"), [
    (lambda d: d.update(lables=["a"]), "lables", "did you mean 'labels'"),
    (lambda d: d.update(name="flow:ers"), "name", "without a colon"),
    (lambda d: d.pop("description"), "description", "missing"),
    (lambda d: d.update(task="clustering"), "task", "'classification' or"),
    (lambda d: d.pop("labels"), "labels", "needs its labels"),
    (lambda d: d.update(labels=["a", "a"]), "labels", "the same"),
    (lambda d: d["inputs"][0].update(shape=[0]), "inputs[0].shape", "at least 1"),
    (lambda d: d["inputs"][0].update(dtype="float64"), "inputs[0].dtype", "'float32' or 'int64'"),
    (lambda d: d["inputs"][0].update(range=[2, 1]), "inputs[0].range", "[low, high]"),
    (lambda d: d["inputs"][0].update(range=[0, float("inf")]), "inputs[0].range", "finite"),
    (lambda d: d["inputs"][0].update(range=[float("nan"), 1]), "inputs[0].range", "finite"),
    (lambda d: d["inputs"][0].update(dtype="int64"), "inputs[0].range", "missing"),
    (lambda d: d["inputs"][0].update(dtype="int64", range=[0.5, 2]), "inputs[0].range", "64-bit integers"),
    (lambda d: d["inputs"][0].update(dtype="int64", range=[0, 2**63]), "inputs[0].range", "64-bit integers"),
    (lambda d: d["features"][1].update(max=float("inf")), "features[1].max", "finite"),
    (lambda d: d["features"][1].update(min=float("nan")), "features[1].min", "finite"),
    (lambda d: d["inputs"][0].update(size=3), "inputs[0].size", "not a key"),
    (lambda d: d["features"].pop(), "features", "2 features"),
    (lambda d: d["features"][1].update(max=0.5), "features[1].max", "at least min"),
    (lambda d: d["features"][1].update(name="petal"), "features", "same name"),
    (lambda d: d["architecture"].update(factory="models"), "architecture.factory", "package.module:callable"),
    (lambda d: d.update(sampling={"samples": 1}), "sampling.samples", "2 to 10000"),
    (lambda d: d.update(sampling={"samples": True}), "sampling.samples", "an integer"),
    (lambda d: d.update(sampling={"sample": 50}), "sampling.sample", "did you mean 'samples'"),
    (lambda d: d.update(noise={"tau": 1.0}), "noise", "only a regression"),
    (lambda d: d.update(noise={"head": "std"}), "noise", "only a regression"),
    (lambda d: d.update(noise={"head": "variance"}), "noise.head", "'log_variance' or 'std'"),
    (lambda d: d.update(noise={"head": "std", "tau": 1.0}), "noise.tau", "not both"),
    (lambda d: d.update(noise={}), "noise.tau", "missing"),
    (lambda d: d.update(warm_up={}), "warm_up.rows", "missing"),
    (lambda d: d.update(warm_up={"row": []}), "warm_up.rows", "missing"),
    (lambda d: d.update(warm_up={"rows": []}), "warm_up.rows", "1 to 64 rows"),
    (lambda d: d.update(warm_up={"rows": [[1, 2, 3]] * 65}), "warm_up.rows", "got 65"),
    (lambda d: d.update(warm_up={"rows": [[1, 2, 3]], "rwos": 1}), "warm_up.rwos", "did you mean 'rows'"),
    (lambda d: d.update(warm_up={"rows": [[1, 2, 3], [1, 2]]}), "warm_up.rows[1]", "a list of 3"),
    (lambda d: d.update(warm_up={"rows": [[1, 2, "x"]]}), "warm_up.rows[0][2]", "a finite number"),
    (lambda d: d.update(warm_up={"rows": [[1, True, 3]]}), "warm_up.rows[0][1]", "a finite number"),
    (lambda d: d.update(warm_up={"rows": [[1, 2, 1e39]]}), "warm_up.rows[0][2]", "float32"),
    (lambda d: d.update(warm_up={"rows": [{"x": [1, 2, float("nan")]}]}), "warm_up.rows[0].x[2]", "a finite number"),
    (lambda d: d.update(warm_up={"rows": [{"y": [1, 2, 3]}]}), "warm_up.rows[0]", "'x' expected"),
    (lambda d: d.update(numerics={"dtype": "float16"}), "numerics.dtype", "did you mean 'bfloat16'"),
    (lambda d: d.update(numerics={"dtype": "bf16"}), "numerics.dtype", "'float32' or 'tf32' or 'bfloat16' expected"),
])
def test_a_wrong_key_is_named_by_its_path(change, path, words) -> None:
    changed = document()
    change(changed)
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(changed)
    assert caught.value.faults[0].path == path
    assert words in caught.value.detail


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_types_of_number_are_accepted(dtype) -> None:
    assert parse_manifest({**document(), "numerics": {"dtype": dtype}}).dtype == dtype


@pytest.mark.parametrize("tau", [0.0, -1.0, float("inf"), float("nan")])
def test_a_precision_that_is_none_is_refused(tau) -> None:
    with pytest.raises(InvalidManifest, match=r"noise\.tau"):
        parse_manifest({**document(REGRESSION), "noise": {"tau": tau}})


TWO_INPUTS = {**document(), "inputs": [
    {"name": "words", "dtype": "int64", "shape": [2], "range": [0, 9]},
    {"name": "age", "dtype": "float32", "shape": []},
]}
del TWO_INPUTS["features"]


def test_rows_to_warm_up_with_run_over_and_over_and_made_up_ones_where_there_are_none() -> None:
    rows = {"rows": [{"words": [1, 2], "age": 3.5}, {"words": [9, 0], "age": 4}]}
    inputs = warm_up_inputs(parse_manifest({**TWO_INPUTS, "warm_up": rows}), 3)
    assert inputs["words"].tolist() == [[1, 2], [9, 0], [1, 2]]
    assert inputs["age"].tolist() == [3.5, 4.0, 3.5]
    assert (inputs["words"].dtype, inputs["age"].dtype) == (torch.int64, torch.float32)
    made_up = warm_up_inputs(parse_manifest(TWO_INPUTS), 2)
    assert made_up["words"].tolist() == [[0, 0], [0, 0]]
    assert made_up["age"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("row", "path"), [
    ({"words": [1, 10], "age": 1}, "warm_up.rows[0].words[1]"), ({"words": [1, 2.5], "age": 1},
                                                                 "warm_up.rows[0].words[1]"),
    ({"words": [1, 2], "age": [1]}, "warm_up.rows[0].age"), ([[1, 2], 1], "warm_up.rows[0]"),
    ({"words": [1, 2]}, "warm_up.rows[0]"),
])
def test_a_wrong_row_of_several_inputs_is_named_by_its_path(row, path) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest({**TWO_INPUTS, "warm_up": {"rows": [row]}})
    assert caught.value.faults[0].path == path


def test_a_file_that_is_no_toml_or_not_there_is_named(tmp_path) -> None:
    with pytest.raises(InvalidManifest, match="cannot be read"):
        read_manifest(tmp_path / "model.toml")
    (tmp_path / "model.toml").write_text("name = ")
    with pytest.raises(InvalidManifest, match="not TOML"):
        read_manifest(tmp_path / "model.toml")
