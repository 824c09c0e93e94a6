"""Generating answers in batches, and the loss of answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PromptTuningConfig, get_peft_model

from genft import VectorFitConfig
from genft.data.prompting import Prompting
from genft.families.generation.decoding import Sampling, answer_losses, generate
from genft.families.generation.encoding import IGNORED, Writer

PROMPTS = ["w1 w2 w3 w4 w5", "w6", "w7 w8", "w9 w1 w2"]


@pytest.fixture(params=["decoder", "encoder_decoder"])
def ready(request: pytest.FixtureRequest) -> tuple[Any, Writer]:
    folder: Path = request.getfixturevalue(request.param)
    two_parts = request.param == "encoder_decoder"
    auto = hf.AutoModelForSeq2SeqLM if two_parts else hf.AutoModelForCausalLM
    tokenizer, model = hf.AutoTokenizer.from_pretrained(folder), auto.from_pretrained(folder)
    if not two_parts:
        with torch.no_grad():  # a random model answers every prompt alike
            model.get_input_embeddings().weight.mul_(20)
    return model, Writer(tokenizer, Prompting(max_new_tokens=6), 32, two_parts)


def test_a_batch_generates_what_single_prompts_do(ready: tuple[Any, Writer]) -> None:
    model, writer = ready
    single = [generate(model, writer, [prompt])[0] for prompt in PROMPTS]
    assert generate(model, writer, PROMPTS, batch_size=3) == single
    assert len(set(single)) > 1
    assert all(len(text.split()) <= 6 for text in single)


def test_drawn_tokens_follow_the_seed(ready: tuple[Any, Writer]) -> None:
    model, writer = ready
    first, again, other = (generate(model, writer, PROMPTS, Sampling(temperature=2, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert generate(model, writer, PROMPTS, Sampling(beams=2)) != first


def test_an_adapted_model_generates_as_its_merged_self(ready: tuple[Any, Writer]) -> None:
    model, writer = ready
    adapted = get_peft_model(model, VectorFitConfig(avf=False, scope="attention"))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    texts = generate(adapted, writer, PROMPTS)
    assert generate(adapted.merge_and_unload(), writer, PROMPTS) == texts


def test_losses_of_answers_are_the_models_own() -> None:
    config = hf.LlamaConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = hf.LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 11, (3, 7))
    labels = torch.where(torch.rand(3, 7) < 0.6, ids, IGNORED)
    labels[:, 0], labels[:, -1] = IGNORED, ids[:, -1]
    for changed in (model, get_peft_model(model, PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))):
        with torch.no_grad():
            output = changed(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
        losses = answer_losses(output.logits, labels, encoder_decoder=False)
        assert losses[:, 1].tolist() == (labels[:, 1:] != IGNORED).sum(dim=1).tolist()
        assert math.isclose(float(losses[:, 0].sum() / losses[:, 1].sum()), float(output.loss), rel_tol=1e-5)


def test_losses_of_an_encoder_decoder_are_the_models_own(encoder_decoder: Path) -> None:
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(encoder_decoder).eval()
    labels = torch.tensor([[4, 5, 2], [6, 2, IGNORED]])
    with torch.no_grad():
        output = model(input_ids=torch.tensor([[7, 8, 2], [9, 2, 0]]), labels=labels)
    losses = answer_losses(output.logits, labels, encoder_decoder=True)
    assert losses[:, 1].tolist() == [3, 2]
    assert math.isclose(float(losses[:, 0].sum() / losses[:, 1].sum()), float(output.loss), rel_tol=1e-5)
