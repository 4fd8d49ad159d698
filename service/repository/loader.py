"""From a version folder to a model that is ready to answer."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from service.errors import ErrorbarError, InvalidManifest, UnservableModel, reason
from service.preprocessing.readers import Readers, image_reader, text_reader
from service.repository.folder import MANIFEST, WEIGHTS, Content, Fingerprint, read_folder
from service.repository.inputs import Input
from service.repository.manifest import Manifest, manifest_of
from service.sampling import Sampler, prepare
from service.sampling.probe import INERT

TRUSTED_FACTORIES = "models.architectures."
_PROBE_ROWS = 4


@dataclass(frozen=True)
class ReadyModel:
    """A loaded, probed model. digest: sha256 over every file of the folder and the engine's version, of the very bytes
    that were loaded. fingerprint: of the folder when they were read. readers: of images and texts, where it takes
    them."""

    manifest: Manifest
    version: str
    digest: str
    sampler: Sampler
    device: str
    warnings: tuple[str, ...]
    fingerprint: Fingerprint = ()
    readers: Readers = field(default=Readers(), compare=False)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def engine(self) -> Literal["captured", "eager"]:
        """"eager": the network could not be captured and runs one row and one sample at a time."""
        return "eager" if self.sampler.eager_reason else "captured"


def load_model(folder: Path, device: str = "cpu") -> ReadyModel:
    """Loads `<name>/<version>`. InvalidManifest or UnservableModel, naming the folder and the reason, whatever the
    model's own code raises."""
    return model_of(folder, read_folder(folder), device)


def model_of(folder: Path, content: Content, device: str = "cpu") -> ReadyModel:
    """The model in a folder's content; the folder is not looked at again. Errors as of `load_model`."""
    where = folder / MANIFEST
    if MANIFEST not in content.files:
        raise InvalidManifest(f"{where}: cannot be read: there is no such file")
    manifest = manifest_of(content.files[MANIFEST], str(where))
    if manifest.name != folder.parent.name:
        raise InvalidManifest(f"{where}: name: {folder.parent.name!r} (the folder) expected, got {manifest.name!r}")
    try:
        return _loaded(folder.name, content, manifest, device)
    except Exception as e:
        why = e.detail if isinstance(e, ErrorbarError) else f"the model cannot be made ready: {reason(e)}"
        raise UnservableModel(f"{folder}: {why}{_range_hint(e, manifest)}") from e


def _range_hint(error: BaseException, manifest: Manifest) -> str:
    """A word on the ranges, where integers of the probe led out of a table of the network."""
    integers = [f"{i.name} {list(i.range or ())}" for i in manifest.inputs if i.dtype == "int64"]
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, IndexError):
        cause = cause.__cause__
    return f"; is the range of {', '.join(integers)} wider than the vocabulary?" if cause and integers else ""


def _loaded(version: str, content: Content, manifest: Manifest, device: str) -> ReadyModel:
    readers = _readers(manifest, content)
    module = _with_weights(_built(manifest), content.files.get(WEIGHTS))
    sampler = prepare(
        module, {i.name: _probe_input(i) for i in manifest.inputs} if len(manifest.inputs) > 1
        else _probe_input(manifest.inputs[0]),
        manifest.task, manifest.dtype, device, manifest.sampling.sites, manifest.noise_head,
    )
    _check_outputs(manifest, sampler)
    if manifest.sampling.locked and sampler.dtype_note:
        raise UnservableModel(f"its sampling is locked, and {sampler.dtype_note}")
    warnings = tuple(
        f"site {s.name}: {s.note}" for s in sampler.sites if s.note == INERT
    ) + (() if sampler.samples_something else ("no dropout: only predict is available",)) + (
        (f"runs slowly, one row and one sample at a time: {sampler.eager_reason}",) if sampler.eager_reason else ()
    ) + ((sampler.dtype_note,) if sampler.dtype_note else ())
    return ReadyModel(manifest, version, content.digest, sampler, device, warnings, content.fingerprint, readers)


def _readers(manifest: Manifest, content: Content) -> Readers:
    return Readers(
        {i.name: image_reader(i.image, i.shape) for i in manifest.inputs if i.image is not None},
        {i.name: text_reader(i.text, content.files.get(i.text.tokenizer), i.shape[0], i.range or ())
         for i in manifest.inputs if i.text is not None},
    )


def _built(manifest: Manifest) -> nn.Module:
    factory = manifest.architecture.factory
    if not factory.startswith(TRUSTED_FACTORIES):
        raise UnservableModel(f"architecture.factory {factory!r}: only factories under {TRUSTED_FACTORIES}* are run")
    package, name = factory.split(":")
    try:
        module = getattr(importlib.import_module(package), name)(**manifest.architecture.arguments)
    except Exception as e:
        raise UnservableModel(f"architecture {factory!r} cannot be built: {reason(e)}") from e
    if not isinstance(module, nn.Module):
        raise UnservableModel(f"architecture {factory!r} gave a {type(module).__name__}, not a torch module")
    return module


def _with_weights(module: nn.Module, content: bytes | None) -> nn.Module:
    if content is None:
        raise UnservableModel(f"{WEIGHTS} cannot be read: there is no such file")
    try:
        weights = load(content)
    except SafetensorError as e:
        raise UnservableModel(f"{WEIGHTS} cannot be read: {e}") from e
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UnservableModel(f"{WEIGHTS}: {broken[0]} has values that are not finite")
    try:
        module.load_state_dict(weights)
    except RuntimeError as e:
        raise UnservableModel(f"{WEIGHTS} does not fit the architecture: {e}") from e
    return module


def _probe_input(spec: Input) -> Tensor:
    """Seeded rows within the declared range, or of a standard normal. Of integers the second and third row have the
    lowest and the highest in turn, so that each place gets both: a range wider than the vocabulary is to be found here,
    not by a client. They come early because `prepare` looks at the first three rows."""
    generator = torch.Generator().manual_seed(0)
    shape = (_PROBE_ROWS, *spec.shape)
    if spec.range is None:
        return torch.randn(shape, generator=generator)
    low, high = spec.range
    if spec.dtype == "int64":
        rows = np.random.default_rng(0).integers(int(low), int(high), shape, np.int64, endpoint=True)
        even = np.arange(rows[0].size).reshape(spec.shape) % 2 == 0
        rows[1], rows[2] = np.where(even, low, high), np.where(even, high, low)
        return torch.from_numpy(rows)
    return low + (high - low) * torch.rand(shape, generator=generator)


def _check_outputs(manifest: Manifest, sampler: Sampler) -> None:
    shape = sampler.output_shape
    if manifest.labels is not None and shape != (len(manifest.labels),):
        raise UnservableModel(f"{len(manifest.labels)} labels, but the network gives {shape} for a row")
    if manifest.task == "regression" and len(shape) > 1:
        raise UnservableModel(f"a regression model gives (rows,) or (rows, targets), this one {shape} for a row")
