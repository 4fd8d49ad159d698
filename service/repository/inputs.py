"""What goes into a network, as its manifest tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.preprocessing.steps import ImageSteps, TextSteps

InputType = Literal["float32", "int64"]
ENCODED = "b64"  # in a request, the key of a value in base64: no input or feature is called so


@dataclass(frozen=True)
class Input:
    """One input tensor: `shape` without the row axis. `range` (low, high) is told to clients; integers have one, and no
    value outside it is let in. image, text: how images or texts become this input, where it takes them."""

    name: str
    dtype: InputType
    shape: tuple[int, ...]
    range: tuple[float, float] | None = None
    image: ImageSteps | None = None
    text: TextSteps | None = None
