"""An image becomes exactly the numbers that the documented steps give, or is refused with the reason."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.errors import InvalidInput, RequestError, TooLarge
from service.preprocessing.images import ImageReader
from service.preprocessing.steps import ImageSteps, Pixels
from tests.preprocessing.files import noise, png, saved

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORIENTATION = 0x0112
AT = "instances[3]"


def read(content: bytes, shape: tuple[int, ...] = (3, 8, 8), mode: Any = "RGB", **steps: Any) -> np.ndarray:
    chosen = ImageSteps(mode, **steps)
    return ImageReader(chosen, shape).read(content, AT)


def stored(content: bytes, mode: str = "RGB") -> np.ndarray:
    """Pixels as they are in the file, (rows, columns, channels)."""
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(content)).convert(mode)))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"])
def test_both_sides_are_resized_then_scaled_and_normalised_in_float32(kind, resize) -> None:
    content = saved(noise(37, 23), kind)
    found = read(content, (3, 16, 12), resize=resize, mean=MEAN, std=STD)
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((12, 16), Image.Resampling[resize.upper()])
    expected = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
    expected = (expected - np.array(MEAN, np.float32)[:, None, None]) / np.array(STD, np.float32)[:, None, None]
    assert (found.dtype, found.shape) == (np.float32, (3, 16, 12))
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 100


@pytest.mark.parametrize(("width", "height", "resized", "corner"), [
    (40, 20, (24, 12), (8, 2)), (20, 41, (12, 24), (2, 8)), (12, 12, (12, 12), (2, 2)), (30, 20, (18, 12), (5, 2)),
    (39, 20, (23, 12), (8, 2)),
])
def test_with_a_short_side_the_middle_is_cut_out_in_proportion(width, height, resized, corner) -> None:
    content = png(noise(width, height))
    left, top = corner
    image = Image.open(io.BytesIO(content)).resize(resized, Image.Resampling.BILINEAR)
    expected = np.asarray(image, np.float32)[top : top + 8, left : left + 8].transpose(2, 0, 1)
    assert np.array_equal(read(content, short_side=12, scale=1.0), expected)


def test_without_resizing_the_pixels_are_the_files_own() -> None:
    content = png(noise(8, 6))
    assert np.array_equal(read(content, (3, 6, 8), resize="none", scale=1.0), stored(content).transpose(2, 0, 1))
    with pytest.raises(InvalidInput, match=re.escape(f"{AT}: 6 x 8 pixels expected, got 8 x 6")):
        read(content, (3, 8, 6), resize="none")


@pytest.mark.parametrize(("mode", "layout", "shape", "axes"), [
    ("RGB", "CHW", (3, 6, 8), (2, 0, 1)), ("RGB", "HWC", (6, 8, 3), (0, 1, 2)), ("L", "CHW", (1, 6, 8), (2, 0, 1)),
    ("L", "HWC", (6, 8, 1), (0, 1, 2)), ("L", "HW", (6, 8), None),
])
def test_axes_stand_as_the_layout_says(mode, layout, shape, axes) -> None:
    content = png(noise(8, 6))
    expected = stored(content, mode)
    expected = expected[..., 0] if axes is None else expected.transpose(axes)
    assert np.array_equal(read(content, shape, mode, layout=layout, resize="none", scale=1.0), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("image", [
    noise(8, 8, 1), noise(8, 8, 1).convert("1"), noise(8, 8).quantize(16), noise(8, 8), noise(8, 8).convert("RGBA"),
    noise(8, 8, 1).convert("LA"),
], ids=["grey", "one bit", "palette", "colours", "opaque alpha", "opaque grey alpha"])
def test_grey_palette_and_opaque_alpha_are_the_same_picture(image, mode) -> None:
    content = png(image)
    found = read(content, (3 if mode == "RGB" else 1, 8, 8), mode, scale=1.0)
    assert np.array_equal(found, stored(content, mode).transpose(2, 0, 1))


def transparent(image: Image.Image) -> Image.Image:
    image.putpixel((2, 3), (*image.getpixel((2, 3))[:-1], 254))
    return image


@pytest.mark.parametrize("content", [
    png(transparent(noise(8, 8).convert("RGBA"))), png(transparent(noise(8, 8, 1).convert("LA"))),
    png(noise(8, 8).quantize(16), transparency=int(noise(8, 8).quantize(16).getpixel((0, 0)))),
    png(noise(8, 8), transparency=noise(8, 8).getpixel((0, 0))),
], ids=["alpha", "grey alpha", "palette", "colour key"])
def test_what_lies_under_transparent_pixels_is_not_guessed(content) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidInput, match=re.escape(f"{AT}: an opaque image expected")):
            read(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stands_upright_unless_the_manifest_says_as_stored(orientation, kind) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = saved(noise(8, 6), kind, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    shape = (3, *upright.shape[:2])
    assert np.array_equal(read(content, shape, resize="none", scale=1.0), upright.transpose(2, 0, 1))
    as_stored = read(content, (3, 6, 8), resize="none", scale=1.0, upright=False)
    assert np.array_equal(as_stored, stored(content).transpose(2, 0, 1))
    assert (orientation == 1) == (as_stored.shape == shape and np.array_equal(as_stored, upright.transpose(2, 0, 1)))


def test_the_short_side_is_that_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = png(noise(40, 20), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).resize((12, 24), Image.Resampling.BILINEAR)
    expected = np.asarray(upright, np.float32)[8:16, 2:10].transpose(2, 0, 1)
    assert np.array_equal(read(content, short_side=12, scale=1.0), expected)


SIXTEEN = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
HEADER = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
SIXTEEN_COLOURS = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", HEADER) + chunk(b"IDAT", zlib.compress(bytes(8 * 49)))
                   + chunk(b"IEND", b""))


@pytest.mark.parametrize(("content", "words"), [
    (png(SIXTEEN), "16 bits"), (SIXTEEN_COLOURS, "16 bits"), (saved(noise(8, 8).convert("CMYK"), "JPEG"), "CMYK"),
    (png(noise(8, 8), save_all=True, append_images=[noise(8, 8, seed=1)]), "an animation of 2"),
    (saved(noise(8, 8), "GIF"), "a PNG or JPEG expected"), (saved(noise(8, 8), "BMP"), "a PNG or JPEG expected"),
    (saved(noise(8, 8), "WEBP"), "a PNG or JPEG expected"), (b"", "got 0 bytes"), (b"<svg/>", "a PNG or JPEG"),
])
def test_what_the_steps_have_no_word_for_is_refused(content, words) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        read(content)
    assert caught.value.faults[0].path == AT


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_cut_short_anywhere_is_refused(kind) -> None:
    content = saved(noise(24, 24), kind)
    assert read(content).shape == (3, 8, 8)
    end = len(content) - (12 if kind == "PNG" else 2)  # the last chunk says only that it is the last
    for length in [*range(0, end, 37), end - 1]:
        with pytest.raises(InvalidInput) as caught:
            read(content[:length])
        assert caught.value.faults[0].path == AT


def test_every_damaged_byte_of_a_png_is_found() -> None:
    content = png(noise(12, 12))
    for place in range(len(content) - 12):
        broken = bytearray(content)
        broken[place] ^= 0x10
        with pytest.raises(RequestError) as caught:
            read(bytes(broken))
        assert caught.value.faults[0].path == AT


def test_damaged_jpegs_are_answered_or_refused_and_nothing_else() -> None:
    content = saved(noise(12, 12), "JPEG")
    refused = 0
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 0xFF
        try:
            assert read(bytes(broken)).shape == (3, 8, 8)
        except RequestError as e:
            refused += e.faults[0].path == AT
    assert refused > 50


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is so large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
            + chunk(b"IEND", b""))


@pytest.mark.parametrize("size", [(5001, 5000), (65_000, 65_000), (2**31 - 1, 2**31 - 1), (1, 25_000_001)])
def test_a_decompression_bomb_is_refused_by_its_size_before_it_is_decoded(size, monkeypatch) -> None:
    from service.preprocessing import images

    monkeypatch.setattr(images.PngImageFile, "load", lambda *given: pytest.fail("it was decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TooLarge, match=f"at most 25000000 pixels expected, got {size[0]} x {size[1]}") as caught:
            read(bomb(*size))
    assert caught.value.faults[0].path == AT


def test_a_thin_image_does_not_become_a_huge_one_by_its_short_side() -> None:
    with pytest.raises(TooLarge, match="once the shorter side is 256"):
        read(png(noise(1, 2000)), short_side=256)


def test_images_of_one_request_share_a_room_of_four_of_the_largest() -> None:
    steps = ImageSteps("RGB", most_pixels=400)
    reader, room, content = ImageReader(steps, (3, 8, 8)), Pixels(steps.most_together), png(noise(20, 20))
    for _ in range(3):
        reader.read(content, AT, room)
    with pytest.raises(TooLarge, match="at most 1600 pixels together"):
        reader.read(content, AT, room)
