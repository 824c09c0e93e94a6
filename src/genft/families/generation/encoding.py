"""Prompts and answers as tokens: which of them are learned, and what is cut off.

In an encoder-decoder the prompt goes to the encoder; in a decoder it stands before the answer. Texts are padded on the
right while a model learns and on the left while it generates (see ``decoding.py``).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from transformers import DataCollatorForSeq2Seq

from genft.data.encode import PAD_TO, Encoded, Item
from genft.data.prompting import Prompting
from genft.data.prompts import as_chat
from genft.errors import ConfigError, DataError, first_line

#: The label of a token that is not learned.
IGNORED = -100


class Tokens(NamedTuple):
    """One example: the tokens that the model reads, and the labels.

    Attributes:
        shortened: whether the prompt lost its middle.
        cut: whether the end of the answer, or of the text, was cut off.
    """

    ids: list[int]
    labels: list[int]
    shortened: bool
    cut: bool


class _Segment(NamedTuple):
    text: str
    learned: bool


@dataclass(frozen=True)
class Writer:
    """Writes prompts and answers as the tokens of one model.

    Attributes:
        tokenizer: the model's.
        prompting: the task's.
        max_length: the most tokens of a prompt together with its answer; in an encoder-decoder, of the prompt alone.
        encoder_decoder: what the model is.
    """

    tokenizer: Any
    prompting: Prompting
    max_length: int
    encoder_decoder: bool

    def __post_init__(self) -> None:
        if self.prompting.chat and not self.tokenizer.chat_template:
            raise ConfigError(
                "chat: the tokenizer of this model has no chat template; choose an instruction-tuned model, or rows "
                "with a prompt and a response instead of messages"
            )

    @property
    def new_tokens(self) -> int:
        """The most tokens of a generated answer."""
        most = self.prompting.max_new_tokens
        return most if self.encoder_decoder else max(1, min(most, self.max_length // 2))

    @property
    def room(self) -> int:
        """The most tokens of a prompt."""
        return self.max_length if self.encoder_decoder else self.max_length - self.new_tokens

    def prompt(self, text: str) -> list[int]:
        """The tokens of a prompt that is to be answered, or of a text that is to be continued."""
        ids = self._source(text) if self.encoder_decoder else self._ids_and_labels(self._before(text))[0]
        return _middle_cut(ids, self.room)

    def example(self, text: str, answer: str | None) -> Tokens:
        """The tokens of an example.

        Args:
            text: the prompt, or the whole text if it has no answer.
            answer: the answer; with None, every token of ``text`` is learned.

        Raises:
            DataError: an encoder-decoder cannot learn a text without an answer, or the chat template refuses a chat.
        """
        if self.encoder_decoder:
            return self._pair(text, answer)
        if answer is None:
            ids = self._ended(self.tokenizer(text)["input_ids"])
            return Tokens(ids[: self.max_length], ids[: self.max_length], False, len(ids) > self.max_length)
        before = self._before(text)
        ids, labels = self._ids_and_labels(before)
        answer_ids = self._answer("".join(segment.text for segment in before), ids, text, answer)
        shortened = len(ids) > self.room
        ids, labels = _middle_cut(ids, self.room), _middle_cut(labels, self.room)
        cut = len(ids) + len(answer_ids) > self.max_length
        ids, labels = [*ids, *answer_ids], [*labels, *answer_ids]
        return Tokens(ids[: self.max_length], labels[: self.max_length], shortened, cut)

    @cached_property
    def stops(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's end of text, and the end of a message in a chat."""
        stops = {self.tokenizer.eos_token_id} - {None}
        if self.prompting.chat and not self.encoder_decoder:
            last = self.example(as_chat("a"), "a").ids[-1]
            stops |= {last} & set(self.tokenizer.all_special_ids)
        return sorted(stops)

    # ---------------------------------------------------------------- encoder-decoders

    def _pair(self, text: str, answer: str | None) -> Tokens:
        if answer is None:
            raise DataError(
                "texts without answers: an encoder-decoder learns answers to prompts; choose a decoder, or name the "
                "answers' column with --label-column"
            )
        ids, labels = self._source(text), self.tokenizer(text_target=answer)["input_ids"]
        shortened, cut = len(ids) > self.room, len(labels) > self.new_tokens
        return Tokens(_middle_cut(ids, self.room), labels[: self.new_tokens], shortened, cut)

    def _source(self, text: str) -> list[int]:
        whole = "".join(segment.text for segment in self._before(text))
        ids: list[int] = self.tokenizer(whole, add_special_tokens=not self.prompting.chat)["input_ids"]
        return ids

    # ---------------------------------------------------------------- decoders

    def _before(self, text: str) -> list[_Segment]:
        """What stands before the answer; in a chat, earlier messages of the assistant are learned too."""
        if not self.prompting.chat:
            return [_Segment(text, self.prompting.learn_prompts)]
        messages = json.loads(text)
        whole = self._render(messages, reply=True)
        if self.prompting.learn_prompts:
            return [_Segment(whole, True)]
        segments, position = [], 0
        for k, message in enumerate(messages):
            if message["role"] != "assistant" or k == 0:
                continue
            start, end = self._render(messages[:k], reply=True), self._render(messages[: k + 1], reply=False).rstrip()
            # otherwise the template rewrites earlier messages (drops a reasoning model's thoughts): no prompt looks so
            if end.startswith(start) and whole.startswith(end) and len(start) >= position:
                segments += [_Segment(whole[position : len(start)], False), _Segment(end[len(start) :], True)]
                position = len(end)
        return [*segments, _Segment(whole[position:], False)]

    def _render(self, messages: Sequence[dict[str, str]], *, reply: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
        except Exception as e:  # a template raises what its author wrote
            raise DataError(f"the model's chat template refuses a chat: {first_line(e)}") from None
        return text

    def _ids_and_labels(self, segments: Sequence[_Segment]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for segment in segments:
            special = not self.prompting.chat and not ids
            new = self.tokenizer(segment.text, add_special_tokens=special)["input_ids"]
            if special and new and new[-1] == self.tokenizer.eos_token_id:  # some tokenizers end every text
                new = new[:-1]
            ids += new
            labels += new if segment.learned else [IGNORED] * len(new)
        return ids, labels

    def _answer(self, before: str, before_ids: list[int], prompt: str, answer: str) -> list[int]:
        """The tokens of an answer, as they follow the prompt, with the token that ends it."""
        if self.prompting.chat:
            messages = json.loads(prompt)
            complete = self._render([*messages, {"role": "assistant", "content": answer}], reply=False).rstrip()
            after = complete[len(before) :] if complete.startswith(before) else answer
        else:
            apart = not before or before[-1].isspace() or answer[:1].isspace()
            after = answer if apart else f" {answer}"
        special = not self.prompting.chat
        together = self.tokenizer(before + after, add_special_tokens=special)["input_ids"]
        if together[: len(before_ids)] == before_ids and len(together) > len(before_ids):
            return self._ended(together[len(before_ids) :])
        # tokens that reach over the border are never seen when an answer is generated
        return self._ended(self.tokenizer(after, add_special_tokens=False)["input_ids"])

    def _ended(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        has_end = end is None or (bool(ids) and ids[-1] in self.tokenizer.all_special_ids)
        return ids if has_end else [*ids, end]


def _middle_cut(values: list[int], room: int) -> list[int]:
    """At most ``room`` values: both ends are kept, because a prompt's question may stand at either."""
    if len(values) <= room:
        return values
    first = room // 2
    return values[:first] + values[len(values) - (room - first) :]


class PromptDataset(Encoded):
    """Examples as tokens and labels; padding happens per batch."""

    def __init__(
        self, inputs: Sequence[str], answers: Sequence[Sequence[str]], writer: Writer, *, learned: bool = True
    ) -> None:
        """
        Args:
            inputs: prompts, or whole texts.
            answers: the answers of each, of which the first is learned; none for a text that is learned as a whole.
            writer: the model's.
            learned: whether to refuse examples of which no answer is complete.

        Raises:
            DataError: every answer is cut off.
        """
        super().__init__(None, int)
        pairs = zip(inputs, answers, strict=True)
        self.tokens = [writer.example(text, of_text[0] if of_text else None) for text, of_text in pairs]
        self.lengths = [len(tokens.ids) for tokens in self.tokens]
        self.notes = _cut_notes(self.tokens, writer, "texts" if not any(answers) else "answers", refuse=learned)

    def __getitem__(self, index: int) -> Item:
        ids, labels, *_ = self.tokens[index]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def _cut_notes(tokens: Sequence[Tokens], writer: Writer, noun: str, *, refuse: bool) -> tuple[str, ...]:
    cut, shortened = sum(t.cut for t in tokens), sum(t.shortened for t in tokens)
    limit = f"max_new_tokens {writer.new_tokens}" if writer.encoder_decoder else f"max_length {writer.max_length}"
    if refuse and tokens and cut == len(tokens) and noun == "answers":
        raise DataError(f"all {cut:,} answers are longer than {limit} allows, so that no end is learned; raise it")
    notes = []
    if cut:
        notes.append(f"{cut:,} of {len(tokens):,} {noun} lose their end ({limit})")
    if shortened:
        notes.append(
            f"{shortened:,} of {len(tokens):,} prompts lose their middle (they have room for {writer.room} tokens)"
        )
    return tuple(notes)


def collator(tokenizer: Any, model: Any) -> DataCollatorForSeq2Seq:
    """Pads inputs and labels on the right, whatever side the tokenizer pads on when text is generated."""
    padder = copy.deepcopy(tokenizer)
    padder.padding_side = "right"
    return DataCollatorForSeq2Seq(padder, model=model, label_pad_token_id=IGNORED, pad_to_multiple_of=PAD_TO)
