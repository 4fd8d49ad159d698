"""The readers of a model, made when it is loaded: only then are pillow and tokenizers imported, and only if needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.errors import UnservableModel
from service.preprocessing.steps import ImageSteps, TextSteps

if TYPE_CHECKING:
    from service.preprocessing.images import ImageReader
    from service.preprocessing.texts import TextReader


@dataclass(frozen=True)
class Readers:
    """By the names of inputs that take images or texts."""

    images: Mapping[str, ImageReader] = field(default_factory=dict)
    texts: Mapping[str, TextReader] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.images or self.texts)


def image_reader(steps: ImageSteps, shape: Sequence[int]) -> ImageReader:
    """UnservableModel where pillow is missing."""
    try:
        from service.preprocessing.images import ImageReader
    except ImportError as e:
        raise UnservableModel("it takes images, and pillow is missing: pip install 'errorbar[images]'") from e
    return ImageReader(steps, shape)


def text_reader(steps: TextSteps, content: bytes | None, length: int, span: Sequence[float]) -> TextReader:
    """UnservableModel where tokenizers is missing; arguments and other errors as of `TextReader`."""
    try:
        from service.preprocessing.texts import TextReader
    except ImportError as e:
        raise UnservableModel("it takes texts, and tokenizers is missing: pip install 'errorbar[text]'") from e
    return TextReader(steps, content, length, span)
