"""Images and tokenizers as people have them, made in a moment."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = ["the cat sat on the mat", "a dog sat on the cat", "the mat was red", "a red dog"]


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    """Every pixel its own colour; 1, 3 or 4 channels."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values[..., 0] if channels == 1 else values)


def png(image: Image.Image, **more: Any) -> bytes:
    return saved(image, "PNG", **more)


def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def packed(content: bytes) -> dict[str, str]:
    """As a request carries it."""
    return {"b64": base64.b64encode(content).decode()}


def tokenizer(special: bool = True, pad: bool = True) -> Tokenizer:
    """Of whole words of the sentences: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3. special: texts get the last two. pad: it
    says what it pads with."""
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    if pad:
        made.enable_padding(pad_id=0, pad_token="[PAD]", length=99)
        made.enable_truncation(2)
    return made
