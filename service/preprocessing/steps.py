"""What a manifest says of how images and texts become an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.errors import TooLarge

ColourMode = Literal["RGB", "L"]
Resize = Literal["bilinear", "bicubic", "nearest", "box", "hamming", "lanczos", "none"]
Layout = Literal["CHW", "HWC", "HW"]
Longer = Literal["refuse", "truncate"]
Side = Literal["right", "left"]
CHANNELS = {"RGB": 3, "L": 1}
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class ImageSteps:
    """How an image becomes an input. mode: colours, or grey by luma. short_side: the shorter side is resized to this,
    the longer in proportion, and the middle cut out; None: both sides are resized to the input's. A number is
    (pixel / scale - mean) / std in float32, mean and std one a channel or one for all. upright: turned as its EXIF
    orientation says. most_pixels: of one image as it comes."""

    mode: ColourMode
    resize: Resize = "bilinear"
    short_side: int | None = None
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "CHW"
    upright: bool = True
    most_pixels: int = 25_000_000

    @property
    def most_together(self) -> int:
        """Pixels that the images of one request may have, as they come and once they are resized."""
        return 4 * self.most_pixels

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Width and height, in pixels, of an input of that shape."""
        height, width = shape[1:] if self.layout == "CHW" else shape[:2]
        return width, height


@dataclass(frozen=True)
class TextSteps:
    """How a text becomes an input. longer: what happens to a text of more tokens than the input has places; truncated
    ones keep their beginning. pad: the token for places that are left, None: the one that the tokenizer pads with.
    pad_side: where those places are. special: whether the tokenizer's own tokens, such as for beginning and end, are
    added. mask: the input that gets 1 for a token and 0 for a pad."""

    tokenizer: str = TOKENIZER
    longer: Longer = "refuse"
    pad: str | None = None
    pad_side: Side = "right"
    special: bool = True
    mask: str | None = None


class Pixels:
    """The room that the images of one request share."""

    def __init__(self, most: float) -> None:
        self._most = self._left = most

    def take(self, count: int, path: str) -> None:
        """TooLarge where the images are too many for their size."""
        self._left -= count
        if self._left < 0:
            raise TooLarge.at(path, f"images of at most {self._most} pixels together expected, got more")
