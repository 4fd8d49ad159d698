"""What goes into a network, as its manifest tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

InputType = Literal["float32", "int64"]


@dataclass(frozen=True)
class Input:
    """One input tensor: `shape` without the row axis. `range` (low, high) is told to clients; integers have one, and no
    value outside it is let in."""

    name: str
    dtype: InputType
    shape: tuple[int, ...]
    range: tuple[float, float] | None = None
