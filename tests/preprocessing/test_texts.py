"""A text becomes the ids of its tokenizer, as many as the input has places, or is refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from service.errors import InvalidInput, UnservableModel
from service.preprocessing.steps import TextSteps
from service.preprocessing.texts import MOST_CHARACTERS, TextReader, Tokens
from tests.preprocessing.files import tokenizer

AT = "instances[3]"


def reader(made: Tokenizer | None = None, length: int = 8, span: tuple[int, int] = (0, 39), **steps: Any) -> TextReader:
    return TextReader(TextSteps(**steps), (made or tokenizer()).to_str().encode(), length, span)


def ids(*words: str) -> list[int]:
    vocabulary = tokenizer().get_vocab()
    return [vocabulary[word] for word in words]


def test_places_that_are_left_are_padded_and_masked() -> None:
    assert reader().read("The cat", AT) == Tokens(
        [2, *ids("the", "cat"), 3, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0])
    assert reader(pad_side="left").read("The cat", AT) == Tokens(
        [0, 0, 0, 0, 2, *ids("the", "cat"), 3], [0, 0, 0, 0, 1, 1, 1, 1])


def test_what_the_tokenizer_itself_says_of_lengths_does_not_count() -> None:
    made = tokenizer()
    assert made.padding is not None
    assert made.truncation is not None
    assert reader(made).read("the cat sat on a", AT).mask == [1] * 7 + [0]


def test_its_own_tokens_are_left_out_where_the_manifest_says_so() -> None:
    assert reader(special=False).read("the cat", AT).ids == [*ids("the", "cat"), 0, 0, 0, 0, 0, 0]


def test_a_word_that_is_not_known_is_the_tokenizers_unknown_token() -> None:
    assert reader().read("the giraffe", AT).ids[:4] == [2, *ids("the", "[UNK]"), 3]


def test_a_text_that_fills_the_input_is_taken_and_one_token_more_refused() -> None:
    assert reader().read("the cat sat on the mat", AT) == Tokens(
        [2, *ids("the", "cat", "sat", "on", "the", "mat"), 3], [1] * 8)
    with pytest.raises(InvalidInput, match="at most 8 tokens expected, got 9") as caught:
        reader().read("the cat sat on the red mat", AT)
    assert caught.value.faults[0].path == AT


def test_truncated_texts_keep_their_beginning_and_the_tokens_of_the_tokenizer() -> None:
    found = reader(longer="truncate").read("the cat sat on the red mat was a dog", AT)
    assert found == Tokens([2, *ids("the", "cat", "sat", "on", "the", "red"), 3], [1] * 8)


def test_an_empty_text_is_its_special_tokens_or_nothing_that_could_be_answered() -> None:
    assert reader().read("", AT) == Tokens([2, 3, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0])
    for text in ("", "  \n"):
        with pytest.raises(InvalidInput, match="at least one token expected") as caught:
            reader(special=False).read(text, AT)
        assert caught.value.faults[0].path == AT


def test_the_manifest_may_name_the_token_to_pad_with() -> None:
    assert reader(pad="[UNK]").read("", AT).ids == [2, 3, 1, 1, 1, 1, 1, 1]
    assert reader(tokenizer(pad=False), pad="[PAD]").read("", AT).ids == [2, 3, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("made", "given", "words"), [
    (tokenizer(), {"span": (0, 10)}, "outside the input's range"),
    (tokenizer(), {"span": (1, 39)}, "'[PAD]' has the id 0"),
    (tokenizer(pad=False), {}, "name a token as `pad`"), (tokenizer(), {"pad": "[PAT]"}, "did you mean '[PAD]'"),
    (tokenizer(), {"length": 2}, "adds 2 tokens to a text, and the input has 2 places"),
])
def test_a_tokenizer_that_does_not_fit_is_refused_when_it_is_loaded(made, given, words) -> None:
    with pytest.raises(UnservableModel) as caught:
        reader(made, **given)
    assert words in caught.value.detail


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"version": "1.0"}'])
def test_a_tokenizer_that_cannot_be_read_is_refused(content) -> None:
    with pytest.raises(UnservableModel, match=r"tokenizer\.json cannot be read"):
        TextReader(TextSteps(), content, 8, (0, 39))


def test_a_text_that_the_tokenizer_fails_on_is_named() -> None:
    made = Tokenizer(models.WordLevel({"known": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InvalidInput, match="cannot be made tokens of") as caught:
        reader(made, pad="known").read("strange", AT)
    assert caught.value.faults[0].path == AT


def test_a_text_without_end_is_refused_before_it_is_looked_at() -> None:
    assert reader(longer="truncate").read("cat " * (MOST_CHARACTERS // 4), AT).mask == [1] * 8
    with pytest.raises(InvalidInput, match=f"at most {MOST_CHARACTERS} characters"):
        reader(longer="truncate").read("c" * (MOST_CHARACTERS + 1), AT)
