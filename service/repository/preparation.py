"""`[inputs.image]` and `[inputs.text]` of a manifest: how images and texts become an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

from service.preprocessing.steps import (
    CHANNELS,
    TOKENIZER,
    ColourMode,
    ImageSteps,
    Layout,
    Longer,
    Resize,
    Side,
    TextSteps,
)
from service.repository.inputs import Input
from service.repository.tables import Table

_MOST_PIXELS = 250_000_000
_SMALLEST, _LARGEST = 1e-6, 1e6


def image_steps(table: Table, dtype: str, shape: Sequence[int]) -> ImageSteps:
    """Of an input with that type and shape. InvalidManifest, with the path of the wrong key."""
    mode = cast(ColourMode, table.choice("mode", get_args(ColourMode)))
    channels, default = CHANNELS[mode], ImageSteps(mode)
    layout = cast(Layout, table.choice("layout", get_args(Layout)) if table.has("layout") else default.layout)
    axes = shape if layout != "HW" else (*shape, 1)
    if len(axes) != 3 or (axes[0] if layout == "CHW" else axes[2]) != channels:
        table.refuse("layout", f"{layout} of {mode}, so {channels} channels, does not fit the shape {list(shape)}")
    if dtype != "float32":
        table.refuse("mode", f"images become float32, and the input is {dtype}")
    found = ImageSteps(
        mode=mode, layout=layout,
        resize=cast(Resize, table.choice("resize", get_args(Resize)) if table.has("resize") else default.resize),
        short_side=table.integer("short_side") if table.has("short_side") else None,
        scale=table.number("scale") if table.has("scale") else default.scale,
        mean=_a_channel(table, "mean", channels, default.mean),
        std=_a_channel(table, "std", channels, default.std),
        upright=table.boolean("upright") if table.has("upright") else default.upright,
        most_pixels=table.integer("most_pixels") if table.has("most_pixels") else default.most_pixels,
    )
    for key, values in (("scale", (found.scale,)), ("std", found.std)):
        if not all(_SMALLEST <= v <= _LARGEST for v in values):
            table.refuse(key, f"{_SMALLEST:g} to {_LARGEST:g} expected, got {list(values)}")
    if not all(abs(m) <= _LARGEST for m in found.mean):
        table.refuse("mean", f"{-_LARGEST:g} to {_LARGEST:g} expected, got {list(found.mean)}")
    if found.short_side is not None:
        if found.resize == "none":
            table.refuse("short_side", "nothing is resized with resize = 'none'")
        if found.short_side < max(found.size(shape)):
            table.refuse("short_side", f"at least {max(found.size(shape))}, the input's longer side, expected, got "
                                       f"{found.short_side}")
    if not 1 <= found.most_pixels <= _MOST_PIXELS:
        table.refuse("most_pixels", f"1 to {_MOST_PIXELS} expected, got {found.most_pixels}")
    table.finish()
    return found


def _a_channel(table: Table, key: str, channels: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """One number for every channel, or a list with one for each."""
    if not table.has(key):
        return default
    if not table.is_list(key):
        return (table.number(key),)
    numbers = tuple(map(float, table.numbers(key)))
    if len(numbers) != channels:
        table.refuse(key, f"a number for each of {channels} channels expected, got {len(numbers)}")
    return numbers


def text_steps(table: Table, dtype: str, shape: Sequence[int]) -> TextSteps:
    """Of an input with that type and shape. InvalidManifest, with the path of the wrong key."""
    default = TextSteps()
    found = TextSteps(
        tokenizer=table.text("tokenizer") if table.has("tokenizer") else default.tokenizer,
        longer=cast(Longer, table.choice("longer", get_args(Longer)) if table.has("longer") else default.longer),
        pad=table.text("pad") if table.has("pad") else None,
        pad_side=cast(Side, table.choice("pad_side", get_args(Side)) if table.has("pad_side") else default.pad_side),
        special=table.boolean("special") if table.has("special") else default.special,
        mask=table.text("mask") if table.has("mask") else None,
    )
    if not found.tokenizer.endswith(TOKENIZER) or "/" in found.tokenizer:
        table.refuse("tokenizer", f"a file beside the manifest whose name ends in {TOKENIZER} expected, got "
                                  f"{found.tokenizer!r}")
    if dtype != "int64" or len(shape) != 1:
        table.refuse("tokenizer", f"a text becomes int64 of shape [places], and the input is {dtype} of {list(shape)}")
    table.finish()
    return found


def check_masks(inputs: Sequence[Input], top: Table) -> None:
    """Each text's mask is an input of its own, of the same shape. InvalidManifest."""
    by_name = {spec.name: spec for spec in inputs}
    taken: set[str] = set()
    for i, spec in enumerate(inputs):
        if spec.text is None or spec.text.mask is None:
            continue
        mask, path = by_name.get(spec.text.mask), f"inputs[{i}].text.mask"
        if mask is None or mask is spec:
            top.refuse(path, f"the name of another input expected, got {spec.text.mask!r}")
        if mask.image is not None or mask.text is not None or mask.name in taken:
            top.refuse(path, f"the input {mask.name!r} gets its values from elsewhere")
        if mask.shape != spec.shape:
            top.refuse(path, f"an input of shape {list(spec.shape)} expected, {mask.name!r} has {list(mask.shape)}")
        if mask.range is not None and not mask.range[0] <= 0 < 1 <= mask.range[1]:
            top.refuse(path, f"a range with 0 and 1 in it expected, {mask.name!r} has {list(mask.range)}")
        taken.add(mask.name)
