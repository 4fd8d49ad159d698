"""Rows as people have them, with images, texts and packed tensors among them, to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, prod
from typing import Any

import numpy as np
from torch import Tensor

from service.api.decode import decode_instances
from service.errors import InvalidInput, TooLarge, cut, nearest
from service.preprocessing.steps import Pixels
from service.preprocessing.tensors import read_base64, read_tensor
from service.repository import Input, Manifest, ReadyModel
from service.repository.inputs import ENCODED

_KEYS = (ENCODED, "dtype")


def decode_rows(
    instances: Any, model: ReadyModel, plain: bool, first_row: int = 0, most_bytes: int | None = None
) -> dict[str, Tensor]:
    """As `decode_instances`, of rows that may have encoded values: strings where an input takes texts, and
    {"b64": ...}. most_bytes: that what is encoded may take once it is numbers; None also lifts the bound on all images
    together. InvalidInput, TooLarge, with the path of the first wrong value."""
    if isinstance(instances, list) and _has_encoded(instances, model.manifest):
        instances = _Unpacking(model, first_row, most_bytes).rows(instances)
    return decode_instances(instances, model.manifest, plain, first_row)


def _has_encoded(instances: list[Any], manifest: Manifest) -> bool:
    """Of rows by feature, as many as they may be, hardly anything is looked at."""
    kinds = set(map(type, instances))
    if str in kinds:
        return True
    inputs = len(manifest.inputs)
    return dict in kinds and any(
        type(row) is dict and (ENCODED in row or (len(row) <= inputs and any(map(_is_encoded, row.values()))))
        for row in instances
    )


def _is_encoded(value: Any) -> bool:
    """bytes: of an image, where they did not come as JSON."""
    return type(value) in (str, bytes) or (type(value) is dict and ENCODED in value)


class _Unpacking:
    """Of one request's rows: each encoded value becomes an array or a list, everything else stays as it is."""

    def __init__(self, model: ReadyModel, first_row: int, most_bytes: int | None) -> None:
        self._inputs, self._readers = model.manifest.inputs, model.readers
        self._first_row, self._most_bytes, self._bytes = first_row, most_bytes, 0
        masks = {spec.text.mask for spec in self._inputs if spec.text is not None}
        self._given = [spec for spec in self._inputs if spec.name not in masks]
        self._pixels = {name: Pixels(inf if most_bytes is None else reader.steps.most_together)
                        for name, reader in self._readers.images.items()}

    def rows(self, instances: Sequence[Any]) -> list[Any]:
        by_name = any(type(row) is dict and ENCODED not in row for row in instances)
        return [self._row(row, f"instances[{i}]", by_name) for i, row in enumerate(instances, self._first_row)]

    def _row(self, row: Any, path: str, by_name: bool) -> Any:
        if not _is_encoded(row):
            return self._named(row, path) if type(row) is dict else row
        what = "a string" if type(row) is str else f'an object with "{ENCODED}"'
        if by_name:
            raise InvalidInput.at(path, f"an object by name as in the other rows expected, got {what}")
        if len(self._given) > 1:
            names = ", ".join(spec.name for spec in self._given)
            raise InvalidInput.at(path, f"an object with the inputs {names} expected, got {what}")
        made = self._made(self._given[0], row, path)
        return made if len(self._inputs) > 1 else made[self._given[0].name]

    def _named(self, row: Mapping[str, Any], path: str) -> dict[str, Any]:
        found = dict(row)
        for spec in self._inputs:
            if not _is_encoded(row.get(spec.name)):
                continue
            made = self._made(spec, row[spec.name], f"{path}.{spec.name}")
            for name in made.keys() & row.keys() - {spec.name}:
                raise InvalidInput.at(f"{path}.{name}", f"it is made from the text of {spec.name!r}; leave it out")
            found |= made
        return found

    def _made(self, spec: Input, value: Any, path: str) -> dict[str, Any]:
        """The values of this input, and of its mask where it has one."""
        self._take(spec, path)
        if type(value) is str:
            return self._tokens(spec, value, path)
        if type(value) is bytes:
            return {spec.name: self._readers.images[spec.name].read(value, path, self._pixels[spec.name])}
        for key in value:
            if key not in _KEYS:
                raise InvalidInput.at(f"{path}.{cut(key)}", f"not a key of an encoded value{nearest(key, _KEYS)}")
        content = read_base64(value[ENCODED], path)
        if spec.name in self._readers.images and "dtype" not in value:
            return {spec.name: self._readers.images[spec.name].read(content, path, self._pixels[spec.name])}
        return {spec.name: read_tensor(content, value.get("dtype"), spec.dtype, spec.shape, path)}

    def _tokens(self, spec: Input, text: str, path: str) -> dict[str, Any]:
        reader = self._readers.texts.get(spec.name)
        if reader is None:
            expected = f'{{"{ENCODED}": "..."}} with an image' if spec.name in self._readers.images else "numbers"
            raise InvalidInput.at(
                path, f"{expected} expected, got a string; texts need [inputs.text] in the model's manifest")
        tokens = reader.read(text, path)
        return {spec.name: tokens.ids} | ({} if reader.steps.mask is None else {reader.steps.mask: tokens.mask})

    def _take(self, spec: Input, path: str) -> None:
        self._bytes += prod(spec.shape) * np.dtype(spec.dtype).itemsize
        if self._most_bytes is not None and self._bytes > self._most_bytes:
            raise TooLarge.at(path, f"encoded values of at most {self._most_bytes} bytes as numbers expected, got more")
