"""What the protocol says of the server and of a model."""

from __future__ import annotations

from typing import Any

import service
from service.repository import ReadyModel
from service.repository.inputs import Input
from service.scheduling.job import MODES, Mode

_OF_CLASSES = ("entropy", "entropy_se", "expected_entropy", "mutual_information", "mutual_information_se",
               "variation_ratio")
DATATYPES = {"float32": "FP32", "int64": "INT64"}
Tensor = dict[str, Any]


def server_metadata() -> dict[str, Any]:
    return {"name": "errorbar", "version": service.__version__,
            "extensions": ["binary_tensor_data", "classification", "model_repository"]}


def model_metadata(model: ReadyModel, versions: list[str]) -> dict[str, Any]:
    """versions: of that name, which can be asked for. Inputs that take texts or images are BYTES, and take numbers of
    their own shape too; what is made from a text with it, its mask, is left out. Each output says in which mode it is,
    and on which option it depends."""
    masks = {spec.text.mask for spec in model.manifest.inputs if spec.text is not None}
    return {
        "name": model.name, "versions": versions, "platform": "pytorch_errorbar",
        "inputs": [_input(spec) for spec in model.manifest.inputs if spec.name not in masks],
        "outputs": [output for mode in MODES if mode == "predict" or model.sampler.samples_something
                    for output in outputs_in(model, mode)],
    }


def _input(spec: Input) -> Tensor:
    if spec.text is not None or spec.image is not None:
        return {"name": spec.name, "datatype": "BYTES", "shape": [-1]}
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": [-1, *spec.shape]}


def outputs_in(model: ReadyModel, mode: Mode) -> list[Tensor]:
    """Of a mode, in their order."""
    task, labels = model.manifest.task, model.manifest.labels
    whole = list(model.sampler.output_shape)
    if task == "regression" and whole == [1]:
        whole = []
    named = labels is not None and task in ("classification", "multilabel")
    found: list[Tensor] = []

    def add(name: str, datatype: str, shape: list[int], when: str | None = None) -> None:
        parameters = {"mode": mode} | ({} if when is None else {"option": when})
        found.append({"name": name, "datatype": datatype, "shape": [-1, *shape], "parameters": parameters})

    if mode == "predict":
        add({"regression": "value", "generic": "output"}.get(task, "probabilities"), "FP32", whole)
    else:
        for name in ("mean", "std", "mean_se", "std_se"):
            add(name, "FP32", whole, _when(name))
        if task in ("classification", "multilabel"):
            for name in _OF_CLASSES:
                add(name, "FP32", whole[:-1] if task == "classification" else whole, _when(name))
        if task == "regression":
            add("noise_std", "FP32", whole)
            add("total_std", "FP32", whole)
        add("quantiles", "FP32", [-1, *whole], "quantiles")
        add("sample_values", "FP32", [-1, *whole], "include_samples")
        add("samples", "INT64", [])
        add("se_df", "INT64", [], "samples")
        add("stopped", "BYTES", [])
        for option in ("settled", "after_stopping"):
            add(option, "BYTES" if option == "settled" else "BOOL", [], "decide, tolerance or on_deadline")
    if named:
        add("index", "INT64", [])
        add("label", "BYTES", [])
    return found


def _when(name: str) -> str | None:
    """Standard errors do not exist where there are too few samples."""
    return "samples" if name.endswith("_se") else None
