"""Which tokens of prompts and answers are learned, and what is cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers as hf

from genft import ConfigError, DataError
from genft.data.prompting import Prompting
from genft.families.generation.encoding import IGNORED, PromptDataset, Writer, collator

CHAT = [
    {"role": "user", "content": "w1 w2"},
    {"role": "assistant", "content": "w3"},
    {"role": "user", "content": "w4"},
]


def writer(folder: Path, max_length: int = 64, *, encoder_decoder: bool = False, **prompting: Any) -> Writer:
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    return Writer(tokenizer, Prompting(**prompting), max_length, encoder_decoder)


def learned(writer: Writer, text: str, answer: str | None) -> list[tuple[str, bool]]:
    tokens = writer.example(text, answer)
    words = writer.tokenizer.convert_ids_to_tokens(tokens.ids)
    assert all(label in (IGNORED, token) for token, label in zip(tokens.ids, tokens.labels, strict=True))
    return list(zip(words, (label != IGNORED for label in tokens.labels), strict=True))


def test_only_the_answer_and_its_end_are_learned(decoder: Path) -> None:
    of = writer(decoder)
    expected = [("Question:", False), ("w1", False), ("Answer:", False), ("w2", True), ("[EOS]", True)]
    assert learned(of, "Question: w1 Answer:", "w2") == expected
    assert of.prompt("Question: w1 Answer:") == of.example("Question: w1 Answer:", "w2").ids[:3]
    assert all(yes for _, yes in learned(writer(decoder, learn_prompts=True), "Question: w1 Answer:", "w2"))
    assert learned(of, "w1 w2", None) == [("w1", True), ("w2", True), ("[EOS]", True)]


def test_every_message_of_the_assistant_is_learned_and_its_end_stops_an_answer(decoder: Path) -> None:
    of = writer(decoder, chat=True)
    expected = "<|user|> w1 w2 <|end|> <|assistant|> *w3 *<|end|> <|user|> w4 <|end|> <|assistant|> *w5 *<|end|>"
    assert " ".join("*" * yes + word for word, yes in learned(of, json.dumps(CHAT), "w5")) == expected
    assert of.stops == [2, 6]
    prompt = of.prompt(json.dumps(CHAT))
    assert prompt == of.example(json.dumps(CHAT), "w5").ids[: len(prompt)]


def test_a_template_that_rewrites_earlier_messages_learns_the_last(decoder: Path) -> None:
    of = writer(decoder, chat=True)
    of.tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|> ' }}"
        "{% if m.role != 'assistant' or loop.last %}{{ m.content + ' ' }}{% endif %}{{ '<|end|> ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
    )
    words = learned(of, json.dumps(CHAT), "w5")
    assert [word for word, yes in words if yes] == ["w5", "<|end|>"]


def test_what_a_chat_template_refuses_is_told(decoder: Path) -> None:
    of = writer(decoder, chat=True)
    of.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(DataError, match="chat template refuses a chat: System role not supported"):
        of.example(json.dumps(CHAT), "w5")
    of.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat: the tokenizer of this model has no chat template"):
        Writer(of.tokenizer, Prompting(chat=True), 64, False)


def test_long_prompts_lose_their_middle_and_long_answers_their_end(decoder: Path) -> None:
    of = writer(decoder, 8, max_new_tokens=4)
    prompt = " ".join(f"w{k}" for k in range(10))
    tokens = of.example(prompt, "1 2 3")
    words = of.tokenizer.convert_ids_to_tokens(tokens.ids)
    assert words == ["w0", "w1", "w8", "w9", "1", "2", "3", "[EOS]"]
    assert (tokens.shortened, tokens.cut, len(tokens.labels)) == (True, False, 8)
    assert of.prompt(prompt) == tokens.ids[:4]
    data = PromptDataset([prompt, "w1"], [("1 2 3 4 5",), ("1",)], of)
    assert data.notes == (
        "1 of 2 answers lose their end (max_length 8)",
        "1 of 2 prompts lose their middle (they have room for 4 tokens)",
    )
    assert data.lengths == [8, 3]
    with pytest.raises(DataError, match="all 1 answers are longer than max_length 8 allows"):
        PromptDataset([prompt], [("1 2 3 4 5",)], of)
    assert len(PromptDataset([prompt], [("1 2 3 4 5",)], of, learned=False)) == 1


def test_an_encoder_decoder_reads_the_prompt_and_learns_the_answer(encoder_decoder: Path) -> None:
    of = writer(encoder_decoder, 4, encoder_decoder=True, max_new_tokens=3)
    tokens = of.example("w1 w2 w3 w4 w5", "1 2 3")
    assert of.tokenizer.convert_ids_to_tokens(tokens.ids) == ["w1", "w2", "w5", "[EOS]"]
    assert of.tokenizer.convert_ids_to_tokens(tokens.labels) == ["1", "2", "3"]
    assert (tokens.shortened, tokens.cut) == (True, True)
    assert of.prompt("w1") == of.example("w1", "1").ids
    with pytest.raises(DataError, match="an encoder-decoder learns answers to prompts"):
        of.example("w1", None)


def test_batches_are_padded_on_the_right_and_padding_is_not_learned(decoder: Path) -> None:
    of = writer(decoder)
    of.tokenizer.padding_side = "left"
    data = PromptDataset(["w1", "w1 w2 w3"], [("1",), ("2",)], of)
    batch = collator(of.tokenizer, None)([data[0], data[1]])
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 8)
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 5]
    assert batch["labels"][0].tolist() == [IGNORED, *of.tokenizer("1 [EOS]")["input_ids"], *[IGNORED] * 5]
    assert of.tokenizer.padding_side == "left"
