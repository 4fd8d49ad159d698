"""From a PNG or JPEG to the numbers that a manifest's `[inputs.image]` makes of it.

What stands in a file beyond eight bits a channel and one opaque picture is refused, not guessed at: 16-bit samples,
transparency, CMYK, animation. Colour profiles and gamma are not applied.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps
from PIL.ExifTags import Base
from PIL.Image import Image, Resampling
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from service.errors import InvalidInput, TooLarge, reason
from service.preprocessing.steps import ImageSteps, Pixels
from service.preprocessing.tensors import JPEG, PNG

_PNG_BITS = 24  # where a PNG says how many bits a channel has
_OPAQUE = 255


class ImageReader:
    """Of one input."""

    def __init__(self, steps: ImageSteps, shape: Sequence[int]) -> None:
        self.steps, self._size = steps, steps.size(shape)
        channels = (1, 1, -1) if steps.layout != "CHW" else (-1, 1, 1)
        self._scale = np.float32(steps.scale)
        self._mean, self._std = (np.array(v, np.float32).reshape(channels) for v in (steps.mean, steps.std))
        self._filter = None if steps.resize == "none" else Resampling[steps.resize.upper()]
        self._shape = tuple(shape)

    def read(self, content: bytes, path: str, room: Pixels | None = None) -> NDArray[np.float32]:
        """The input's numbers, in its shape. path: where the image stands in the request. room: what that may bring in
        all; None is no end. InvalidInput, TooLarge."""
        room = room or Pixels(inf)
        image = self._opened(content, path)
        room.take(image.width * image.height, path)
        resized = self._resized_size(image, path)
        room.take(resized[0] * resized[1], path)
        try:
            if content.startswith(PNG):
                _opened_as(content).verify()  # decoding alone passes over checksums
            image.load()
            if self.steps.upright:
                image = ImageOps.exif_transpose(image)
        except Exception as e:  # decoders raise no closed list of errors on rubbish
            raise _broken(path, e) from e
        image = _opaque(image, path).convert(self.steps.mode)
        if self._filter is not None:
            image = image.resize(resized, self._filter)
        image = self._middle(image)
        pixels = np.asarray(image, np.float32).reshape(self._size[1], self._size[0], -1)
        if self.steps.layout == "CHW":
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return ((pixels / self._scale - self._mean) / self._std).reshape(self._shape)

    def _opened(self, content: bytes, path: str) -> Image:
        """With its size known and nothing decoded yet."""
        if not content.startswith((PNG, JPEG)):
            raise InvalidInput.at(path, f"a PNG or JPEG expected, got {len(content)} bytes of something else")
        try:
            image = _opened_as(content)
        except Exception as e:
            raise _broken(path, e) from e
        if image.width * image.height > self.steps.most_pixels:
            raise TooLarge.at(path, f"an image of at most {self.steps.most_pixels} pixels expected, got "
                                    f"{image.width} x {image.height}")
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise InvalidInput.at(path, f"one picture expected, got an animation of {frames}")
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA") or _bits(content) > 8:
            kind = f"{_bits(content)} bits" if _bits(content) > 8 else image.mode
            raise InvalidInput.at(path, f"grey, colours or a palette of 8 bits a channel expected, got {kind}")
        return image

    def _resized_size(self, image: Image, path: str) -> tuple[int, int]:
        """Width and height after resizing, of the image as it will stand upright."""
        turned = self.steps.upright and _orientation(image, path) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        if self._filter is None and (width, height) != self._size:
            raise InvalidInput.at(path, f"{self._size[0]} x {self._size[1]} pixels expected, got {width} x {height}")
        short = self.steps.short_side
        if short is None:
            return self._size
        long = int(short * max(width, height) / min(width, height))
        if short * long > self.steps.most_pixels:
            raise TooLarge.at(path, f"at most {self.steps.most_pixels} pixels once the shorter side is {short} "
                                    f"expected, got {width} x {height}")
        return (short, long) if width <= height else (long, short)

    def _middle(self, image: Image) -> Image:
        width, height = self._size
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def _opened_as(content: bytes) -> PngImageFile | JpegImageFile:
    """By its first bytes, past pillow's own look at sizes, which warns where this module refuses."""
    return (PngImageFile if content.startswith(PNG) else JpegImageFile)(io.BytesIO(content))


def _bits(content: bytes) -> int:
    """A channel of a PNG, which pillow cuts to 8 without a word; a JPEG it opens has 8."""
    return content[_PNG_BITS] if content.startswith(PNG) else 8


def _orientation(image: Image, path: str) -> int:
    try:
        return int(image.getexif().get(Base.Orientation, 1))
    except Exception as e:
        raise _broken(path, e) from e


def _opaque(image: Image, path: str) -> Image:
    """Without its alpha, which says nothing in an opaque picture. InvalidInput where anything shines through."""
    if not image.has_transparency_data:
        return image
    whole = image.convert("RGBA")
    lowest: Any = whole.getchannel("A").getextrema()[0]
    if lowest < _OPAQUE:
        raise InvalidInput.at(path, "an opaque image expected, got one with transparent pixels")
    return whole


def _broken(path: str, error: Exception) -> InvalidInput:
    return InvalidInput.at(path, f"an image that is whole expected, this one cannot be decoded: {reason(error)}")
