"""Writes the manifests of the models that tests make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def manifest(
    name: str, task: str, inputs: Sequence[Mapping[str, Any]], architecture: Mapping[str, Any], *,
    description: str = "For a test.", **more: Any
) -> str:
    """The text of a `model.toml`. inputs: of `tensor`; more: labels and the tables that are not always there. The
    architecture comes last, so that a line put behind the text is one more of its arguments."""
    head = {"name": name, "task": task, "description": description}
    return _toml({**head, **more, "inputs": inputs, "architecture": architecture})


def tensor(name: str, *shape: int, dtype: str = "float32", **more: Any) -> dict[str, Any]:
    """An input. more: its range, and how an image or a text becomes it."""
    return {"name": name, "dtype": dtype, "shape": shape, **more}


def built(factory: str, **arguments: Any) -> dict[str, Any]:
    """The architecture that a factory makes."""
    return {"factory": factory, "arguments": arguments} if arguments else {"factory": factory}


def mlp(inputs: int, hidden: Sequence[int], outputs: int, dropout: Sequence[float]) -> dict[str, Any]:
    return built("models.architectures.mlp:MLP", inputs=inputs, hidden=hidden, outputs=outputs, dropout=dropout)


def _toml(table: Mapping[str, Any], path: str = "") -> str:
    """JSON's strings, numbers and lists are TOML's too. A table's own keys stand before the tables in it."""
    text, below = "", ""
    for key, value in table.items():
        if isinstance(value, Mapping):
            below += f"[{path}{key}]\n" + _toml(value, f"{path}{key}.")
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            below += "".join(f"[[{path}{key}]]\n" + _toml(entry, f"{path}{key}.") for entry in value)
        else:
            text += f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
    return text + below
