"""`model.toml`: what a model says of itself. Read strictly: an unknown key is refused, with the nearest one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from service.errors import InvalidManifest
from service.repository.inputs import ENCODED, Input, InputType
from service.repository.preparation import check_masks, image_steps, text_steps
from service.repository.tables import Table, is_integer, read_document
from service.repository.warm_up import WarmRow, warm_up_rows
from service.sampling.masks import Design
from service.sampling.options import DTYPES, MAX_SEED, Dtype, MaskSharing
from service.statistics import NoiseHead, Task

_RESERVED = ("stats",)

@dataclass(frozen=True)
class Feature:
    """One column of a flat input, with the range it had in training."""

    name: str
    unit: str
    min: float
    max: float


@dataclass(frozen=True)
class Architecture:
    """factory: "package.module:callable"; arguments: its keyword arguments."""

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplingDefaults:
    """What an uncertainty request gets when it does not say. `locked`: a request may not say otherwise."""

    samples: int = 50
    seed: int = 0
    masks: MaskSharing = "shared"
    design: Design = "balanced"
    sites: tuple[str, ...] | None = None
    locked: bool = False


@dataclass(frozen=True)
class Manifest:
    name: str
    task: Task
    description: str
    inputs: tuple[Input, ...]
    architecture: Architecture
    labels: tuple[str, ...] | None = None
    features: tuple[Feature, ...] | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    tau: float | None = None  # precision of the observation noise, 1 / (target's unit)²
    noise_head: NoiseHead | None = None  # what the second half of the network's columns says of the noise
    dtype: Dtype = "float32"
    warm_up: tuple[WarmRow, ...] = ()  # rows that run before the model answers; none: what the server makes up


def read_manifest(path: Path) -> Manifest:
    """Reads and checks a `model.toml`. InvalidManifest, with the path of the wrong key."""
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InvalidManifest(f"{path}: cannot be read: {e.strerror}") from e
    return manifest_of(content, str(path))


def manifest_of(content: bytes, where: str) -> Manifest:
    """The same of a file's bytes; `where` they came from stands before what is wrong."""
    document = read_document(content, where)
    try:
        return parse_manifest(document)
    except InvalidManifest as e:
        raise InvalidManifest(f"{where}: {e.detail}", faults=e.faults) from e


def parse_manifest(document: Mapping[str, Any]) -> Manifest:
    top = Table(document)
    task = top.choice("task", get_args(Task))
    labels = top.strings("labels") if top.has("labels") else None
    inputs = tuple(_input(t) for t in top.tables("inputs"))
    features = tuple(_feature(t) for t in top.tables("features")) if top.has("features") else None
    architecture = top.table("architecture")
    factory = architecture.text("factory")
    if factory.count(":") != 1:
        architecture.refuse("factory", f"'package.module:callable' expected, got {factory!r}")
    arguments = architecture.mapping("arguments") if architecture.has("arguments") else {}
    architecture.finish()
    noise = _noise(top.table("noise")) if top.has("noise") else _Noise()
    manifest = Manifest(
        name=top.text("name"),
        task=cast(Task, task),
        description=top.text("description"),
        inputs=inputs,
        architecture=Architecture(factory, arguments),
        labels=labels,
        features=features,
        sampling=_sampling(top.table("sampling")) if top.has("sampling") else SamplingDefaults(),
        tau=noise.tau,
        noise_head=noise.head,
        dtype=_dtype(top.table("numerics")) if top.has("numerics") else "float32",
        warm_up=warm_up_rows(top.table("warm_up"), inputs) if top.has("warm_up") else (),
    )
    top.finish()
    if ":" in manifest.name:
        top.refuse("name", "a name without a colon expected: in an address the verb follows one")
    if manifest.name in _RESERVED:
        top.refuse("name", f"another name expected: /v2/models/{manifest.name} is no model in the protocol")
    _check_together(manifest, top)
    return manifest


def _check_together(manifest: Manifest, top: Table) -> None:
    if not manifest.inputs:
        top.refuse("inputs", "at least one input expected")
    if len({i.name for i in manifest.inputs}) != len(manifest.inputs):
        top.refuse("inputs", "two inputs have the same name")
    check_masks(manifest.inputs, top)
    if manifest.task in ("classification", "multilabel") and not manifest.labels:
        top.refuse("labels", f"a {manifest.task} model needs its labels, in the order of the outputs")
    if manifest.labels is not None and len(set(manifest.labels)) != len(manifest.labels):
        top.refuse("labels", "two labels are the same")
    if (manifest.tau is not None or manifest.noise_head is not None) and manifest.task != "regression":
        top.refuse("noise", "only a regression model has a noise")
    if manifest.features is not None:
        shapes = [i.shape for i in manifest.inputs]
        if shapes != [(len(manifest.features),)]:
            top.refuse("features", f"features name the columns of one flat input; {len(manifest.features)} features "
                                   f"came for shapes {shapes}")
        if len({f.name for f in manifest.features}) != len(manifest.features):
            top.refuse("features", "two features have the same name")
        if ENCODED in {f.name for f in manifest.features}:
            top.refuse("features", f"other names expected: in a request {ENCODED!r} marks a value in base64")


def _input(table: Table) -> Input:
    bounds = table.numbers("range") if table.has("range") else None
    if bounds is not None and (len(bounds) != 2 or not -inf < bounds[0] <= bounds[1] < inf):
        table.refuse("range", f"[low, high], finite, expected, got {list(bounds)}")
    shape = table.integers("shape")
    if any(n < 1 for n in shape):
        table.refuse("shape", f"sizes of at least 1, without the row axis, expected, got {list(shape)}")
    dtype = cast(InputType, table.choice("dtype", get_args(InputType)))
    if dtype == "int64" and bounds is None:
        table.refuse("range", "missing; [low, high] of the integers that the network takes expected, such as the first "
                              "and the last token of its vocabulary")
    if dtype == "int64" and not all(is_integer(n) and -(2**63) <= n < 2**63 for n in bounds or ()):
        table.refuse("range", f"two 64-bit integers expected, got {list(bounds or ())}")
    found = Input(
        table.text("name"), dtype, shape, None if bounds is None else (bounds[0], bounds[1]),
        image_steps(table.table("image"), dtype, shape) if table.has("image") else None,
        text_steps(table.table("text"), dtype, shape) if table.has("text") else None,
    )
    if found.name == ENCODED:
        table.refuse("name", f"another name expected: in a request {ENCODED!r} marks a value in base64")
    table.finish()
    return found


def _feature(table: Table) -> Feature:
    feature = Feature(table.text("name"), table.text("unit"), table.number("min"), table.number("max"))
    for key, bound in (("min", feature.min), ("max", feature.max)):
        if not isfinite(bound):
            table.refuse(key, f"a finite number expected, got {bound}")
    if not feature.min <= feature.max:
        table.refuse("max", f"at least min = {feature.min} expected, got {feature.max}")
    table.finish()
    return feature


def _sampling(table: Table) -> SamplingDefaults:
    default = SamplingDefaults()
    found = SamplingDefaults(
        samples=table.integer("samples") if table.has("samples") else default.samples,
        seed=table.integer("seed") if table.has("seed") else default.seed,
        masks=cast(MaskSharing, table.choice("masks", get_args(MaskSharing))) if table.has("masks") else default.masks,
        design=cast(Design, table.choice("design", get_args(Design))) if table.has("design") else default.design,
        sites=table.strings("sites") if table.has("sites") else None,
        locked=table.boolean("locked") if table.has("locked") else default.locked,
    )
    if not 2 <= found.samples <= 10_000:
        table.refuse("samples", f"2 to 10000 expected, got {found.samples}")
    if not 0 <= found.seed <= MAX_SEED:
        table.refuse("seed", f"0 to {MAX_SEED} expected, got {found.seed}")
    table.finish()
    return found


class _Noise(NamedTuple):
    tau: float | None = None
    head: NoiseHead | None = None


def _noise(table: Table) -> _Noise:
    """The noise of the observations: the same for all rows (`tau`), or the network's own (`head`)."""
    if table.has("head"):
        head = cast(NoiseHead, table.choice("head", get_args(NoiseHead)))
        if table.has("tau"):
            table.refuse("tau", "tau or head expected, not both: the noise is either the same for all rows or the "
                                "network's own")
        table.finish()
        return _Noise(head=head)
    tau = table.number("tau")
    if not 0 < tau < inf:
        table.refuse("tau", f"a precision above 0 expected, got {tau}")
    table.finish()
    return _Noise(tau)


def _dtype(table: Table) -> Dtype:
    dtype = cast(Dtype, table.choice("dtype", DTYPES))
    table.finish()
    return dtype
