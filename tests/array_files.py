"""Arrays as the bytes of numpy's files."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np


def bytes_of(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
    """What np.save, np.savez or np.savez_compressed writes."""
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def npy(array: Any) -> bytes:
    """An array of objects is pickled."""
    return bytes_of(np.save, array)


def npz(**arrays: Any) -> bytes:
    return bytes_of(np.savez, **arrays)
