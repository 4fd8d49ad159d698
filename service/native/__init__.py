"""Loops in C, for what torch has no fast operation for. Built when the package is installed, where there is a compiler.

Without it everything runs on torch and numpy: the same masks bit for bit, the same answers within rounding, slower.
The library shares the threads that torch computes with (OpenMP). It knows the digest of the sources that it was built
of; where others lie beside it, it is not used.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from service.native.sources import digest

_FOLDER = Path(__file__).parent
MOST_CLASSES = 1024
MOST_BLOCKS = 64
_ONE_THREAD = 1 << 15

_Int, _Pointer = ctypes.c_int64, ctypes.c_void_p


class Masks(ctypes.Structure):
    """What `errorbar_masks` reads; see library.h."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("key", ctypes.c_uint64 * 2), ("balanced", _Int), ("inner", _Int), ("first_block", _Int), ("blocks", _Int),
        ("runs", _Int), ("outer", _Pointer), ("rest", _Int), ("few", _Int), ("many", _Int), ("patterns", _Pointer),
        ("keeps", _Int), ("made", _Pointer),
    ]


class Dither(ctypes.Structure):
    """What `errorbar_dither` reads."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("samples", _Int), ("rows", _Int), ("units", _Int), ("start", ctypes.c_uint32),
        ("sample_step", ctypes.c_uint32), ("unit_step", ctypes.c_uint32), ("limit", ctypes.c_int32),
        ("low", ctypes.c_uint32), ("high", ctypes.c_uint32), ("stays", _Pointer), ("made", _Pointer),
    ]


class Moments(ctypes.Structure):
    """What `errorbar_moments` reads."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("samples", _Int), ("columns", _Int), ("blocks", _Int), ("values", _Pointer), ("mean", _Pointer),
        ("std", _Pointer),
    ]


class Stage(ctypes.Structure):
    """One layer of a `Chain`."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("inputs", _Int), ("outputs", _Int), ("width", _Int), ("words", _Int), ("weight", _Pointer),
        ("bias", _Pointer), ("keeps", _Pointer), ("relu", _Int),
    ]


class Chain(ctypes.Structure):
    """What `errorbar_dense_chain` and `errorbar_tile_chain` read."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("rows", _Int), ("samples", _Int), ("count", _Int), ("row_masks", _Int), ("softmax", _Int),
        ("largest", ctypes.c_float), ("values", _Pointer), ("output", _Pointer), ("stages", _Pointer),
    ]


class Classes(ctypes.Structure):
    """What `errorbar_softmax` and `errorbar_information` read."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("samples", _Int), ("rows", _Int), ("classes", _Int), ("values", _Pointer), ("made", _Pointer),
        ("size", _Int), ("entropies", _Pointer), ("votes", _Pointer),
    ]


class Statistics(ctypes.Structure):
    """What `errorbar_statistics` reads."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("samples", _Int), ("rows", _Int), ("columns", _Int), ("size", _Int), ("blocks", _Int), ("balanced", _Int),
        ("values", _Pointer), ("mean", _Pointer), ("std", _Pointer), ("entropies", _Pointer), ("votes", _Pointer),
        ("mean_se", _Pointer), ("std_se", _Pointer), ("information", _Pointer),
    ]


class Convolution(ctypes.Structure):
    """What a `ChannelSums` is of."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("channels", _Int), ("height", _Int), ("width", _Int), ("padded_height", _Int), ("padded_width", _Int),
        ("top", _Int), ("left", _Int), ("taps", _Int), ("outputs", _Int), ("positions", _Int), ("phases", _Int),
        ("relu", _Int), ("lanes", _Int), ("tap_at", _Pointer), ("slot_at", _Pointer), ("weight", _Pointer),
        ("bias", _Pointer),
    ]


class ChannelSums(ctypes.Structure):
    """What `errorbar_channel_sums` reads."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("convolution", ctypes.POINTER(Convolution)), ("rows", _Int), ("samples", _Int), ("values", _Pointer),
        ("stride", _Int * 4), ("mask", _Pointer), ("mask_rows", _Int), ("after", _Pointer), ("after_rows", _Int),
        ("output", _Pointer),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The functions of library.h; None where they were not built, or of other sources than these."""
    found = PathFinder.find_spec(f"{__name__}.library", [str(_FOLDER)])
    if found is None or found.origin is None:
        return None
    assert torch.__version__  # its OpenMP is loaded first, and shared by name
    try:
        loaded = ctypes.CDLL(found.origin)
        loaded.errorbar_sources.restype = ctypes.c_char_p
        built_of = loaded.errorbar_sources().decode()
    except (OSError, AttributeError) as e:
        logging.getLogger(__name__).warning("%s cannot be used, so torch does its work: %s", found.origin, e)
        return None
    if digest(_FOLDER) not in (None, built_of):
        logging.getLogger(__name__).warning(
            "%s was built of other sources than these, so torch does its work until it is built again", found.origin)
        return None
    for name in ("masks", "dither", "moments", "dense_chain", "tile_chain", "softmax", "information", "statistics",
                 "channel_sums"):
        getattr(loaded, f"errorbar_{name}").argtypes = [ctypes.c_void_p, ctypes.c_int]
    return loaded


def reads(values: Tensor) -> bool:
    """Whether the library is there and can read the tensor: float32, contiguous, in the CPU's memory."""
    fits = values.dtype is torch.float32 and values.device.type == "cpu" and values.is_contiguous()
    return fits and library() is not None


def check_float32(*tensors: Tensor) -> None:
    """TypeError where one is of another type: its memory would be read as what it is not."""
    for tensor in tensors:
        if tensor.dtype is not torch.float32:
            raise TypeError(f"float32 expected, got {tensor.dtype}")


def threads(numbers: int) -> int:
    """How many share the work on so many numbers: one where waking the others would take longer."""
    return torch.get_num_threads() if numbers > _ONE_THREAD else 1
