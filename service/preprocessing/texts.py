"""From a text to token ids, by the tokenizer that lies beside a model's weights (`tokenizer.json`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from service.errors import InvalidInput, UnservableModel, nearest, reason
from service.preprocessing.steps import TextSteps

MOST_CHARACTERS = 100_000


class Tokens(NamedTuple):
    """As many of each as the input has places. mask: 1 for a token, 0 for a pad."""

    ids: list[int]
    mask: list[int]


class TextReader:
    """Of one input. UnservableModel where its tokenizer cannot be read or does not fit."""

    def __init__(self, steps: TextSteps, content: bytes | None, length: int, span: Sequence[float]) -> None:
        """content: of the tokenizer's file, None where there is none. span: lowest and highest id of the input."""
        if content is None:
            raise UnservableModel(f"{steps.tokenizer} cannot be read: there is no such file")
        try:
            self._tokenizer = Tokenizer.from_str(content.decode())
        except Exception as e:  # tokenizers raises plain Exception
            raise UnservableModel(f"{steps.tokenizer} cannot be read: {reason(e)}") from e
        self.steps, self._length = steps, length
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self._pad = self._pad_id(vocabulary)
        low, high = span
        for token, number in sorted(vocabulary.items(), key=lambda item: item[1]):
            if not low <= number <= high:
                raise UnservableModel(f"{steps.tokenizer}: its token {token!r} has the id {number}, outside the "
                                      f"input's range [{low}, {high}]")
        own = self._tokenizer.num_special_tokens_to_add(False) if steps.special else 0
        if own >= length:
            raise UnservableModel(f"{steps.tokenizer} adds {own} tokens to a text, and the input has {length} places")
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if steps.longer == "truncate":
            self._tokenizer.enable_truncation(length, direction="right")

    def _pad_id(self, vocabulary: dict[str, int]) -> int:
        padding = self._tokenizer.padding
        name = self.steps.pad or (padding["pad_token"] if padding else None)
        if name is None:
            raise UnservableModel(f"{self.steps.tokenizer} does not say what it pads with; name a token as `pad` in "
                                  "[inputs.text]")
        if name not in vocabulary:
            raise UnservableModel(
                f"{self.steps.tokenizer} has no token {name!r} to pad with{nearest(name, vocabulary)}")
        return vocabulary[name]

    def read(self, text: str, path: str) -> Tokens:
        """path: where the text stands in the request. InvalidInput names it."""
        if len(text) > MOST_CHARACTERS:
            raise InvalidInput.at(path, f"a text of at most {MOST_CHARACTERS} characters expected, got {len(text)}")
        try:
            ids = self._tokenizer.encode(text, add_special_tokens=self.steps.special).ids
        except Exception as e:
            raise InvalidInput.at(path, f"the text cannot be made tokens of: {reason(e)}") from e
        if not ids:
            raise InvalidInput.at(path, "a text with at least one token expected, got none")
        if len(ids) > self._length:
            raise InvalidInput.at(path, f"a text of at most {self._length} tokens expected, got {len(ids)}")
        left = self._length - len(ids)
        pads, ones = [self._pad] * left, [1] * len(ids)
        if self.steps.pad_side == "left":
            return Tokens(pads + ids, [0] * left + ones)
        return Tokens(ids + pads, ones + [0] * left)
