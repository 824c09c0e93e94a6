"""Sentences as tokens, with the tag of every word on one of its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genft.data.encode import Encoded, Item
from genft.errors import ConfigError

#: The label of tokens that the loss does not count, as torch has it.
NOT_COUNTED = -100
_WORD = re.compile(r"\S+")


class TaggedDataset(Encoded):
    """Tokens of sentences, truncated to ``max_length``; padding happens per batch.

    The text is tokenised as it is, so that tokenizers that mark spaces see what they were trained on; a token belongs
    to the word in which it ends.

    Attributes:
        words: the places of every sentence's words in the text: (start, end) in characters.
        first: the number of the token that has every word's tag: its first one with a letter or a digit, so that a
            quotation mark in front of a name changes nothing, or its first one; −1 behind ``max_length``.
        tags: the true tags of every sentence, or None.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tags: Sequence[Sequence[str]] | None,
        classes: Sequence[str],
        tokenizer: Any,
        max_length: int,
    ) -> None:
        super().__init__(None, int)
        if not tokenizer.is_fast:
            raise ConfigError("model: its tokenizer does not tell where tokens are in the text; choose another model")
        self.tags = tags
        self.words = [[word.span() for word in _WORD.finditer(text)] for text in texts]
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")
        self.tokens = encoded
        self.lengths = [len(ids) for ids in encoded["input_ids"]]
        self.first = [_first_tokens(*each) for each in zip(texts, self.words, offsets, strict=True)]
        number = {tag: k for k, tag in enumerate(classes)}
        self.targets = None if tags is None else [[number[tag] for tag in of_sentence] for of_sentence in tags]
        lost = [sum(token < 0 for token in first) for first in self.first]
        if sum(lost):
            cut = sum(n > 0 for n in lost)
            sentences = "1 sentence" if cut == 1 else f"{cut:,} sentences"
            self.notes = (
                f"{sum(lost):,} words of {sentences} lie behind the first {max_length} tokens: they are not learned, "
                "and count as words without an entity",
            )

    def __getitem__(self, index: int) -> Item:
        item = {key: values[index] for key, values in self.tokens.items()}
        if self.targets is None:
            return item
        labels = [NOT_COUNTED] * self.lengths[index]
        for token, target in zip(self.first[index], self.targets[index], strict=True):
            if token >= 0:
                labels[token] = target
        return {**item, "labels": labels}

    def of_words(self, index: int, of_tokens: NDArray[Any], missing: Any) -> list[Any]:
        """The values of a sentence's words, from those of its tokens; ``missing`` for words that were cut off."""
        return [of_tokens[token] if token >= 0 else missing for token in self.first[index]]


def _first_tokens(text: str, words: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    first = np.full((2, len(words)), -1)  # of all tokens, and of those with a letter or a digit
    starts = np.array([start for start, _ in words])
    for token, (start, end) in enumerate(offsets):
        if end > start:
            word = int(np.searchsorted(starts, end - 1, side="right")) - 1
            kinds = (True, any(map(str.isalnum, text[start:end])))
            for kind in (0, 1):
                if kinds[kind] and word >= 0 and first[kind, word] < 0:
                    first[kind, word] = token
    return np.where(first[1] >= 0, first[1], first[0]).tolist()
