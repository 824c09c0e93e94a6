"""Which models take a prefix of keys and values, asked of the models that the installed transformers has."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PrefixTuningConfig, get_peft_model
from torch import nn

from families import FAMILIES, TEXT, seeded
from genft.models.prefixes import accept_prefix, families_with_prefix, takes_prefix

ENCODERS_AND_DECODERS = {
    "bert": FAMILIES["bert"].build,
    "roberta": seeded(lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**TEXT))),
    "electra": seeded(lambda: hf.ElectraForSequenceClassification(hf.ElectraConfig(**TEXT, embedding_size=32))),
    "llama": seeded(
        lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**TEXT, num_key_value_heads=4, pad_token_id=0))
    ),
}


def inputs() -> dict[str, torch.Tensor]:
    return FAMILIES["bert"].batch()


@pytest.mark.parametrize("name", ENCODERS_AND_DECODERS)
def test_every_number_of_the_prefix_is_used(name: str) -> None:
    """Keys and values of every virtual token in every layer have a gradient, and without them nothing changes."""
    model: Any = ENCODERS_AND_DECODERS[name]()
    with torch.no_grad():
        wanted = model(**inputs()).logits
    assert accept_prefix(model)
    with torch.no_grad():
        assert torch.equal(model(**inputs()).logits, wanted)
    adapted = get_peft_model(model, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)).eval()
    result = adapted(**inputs())
    assert not torch.allclose(result.logits, wanted)
    result.loss.backward()
    prefix = adapted.prompt_encoder["default"].embedding.weight
    assert prefix.grad is not None
    assert bool((prefix.grad != 0).all())


def test_a_copy_calls_its_own_forward_pass() -> None:
    model: Any = FAMILIES["bert"].build()
    accept_prefix(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.base_model.parameters():
            parameter.zero_()
        assert not torch.allclose(copied(**inputs()).logits, model(**inputs()).logits)


@pytest.mark.parametrize("name", ["deberta", "vit", "timm"])
def test_a_model_without_a_cache_is_left_as_it_is(name: str) -> None:
    model: Any = FAMILIES[name].build()
    before = inspect.signature(model.forward)
    assert not accept_prefix(model)
    assert inspect.signature(model.forward) == before


def test_suggested_families_take_a_prefix() -> None:
    assert {"bert", "llama"} <= set(families_with_prefix())
    assert not takes_prefix(hf.DebertaV2ForSequenceClassification)
    assert not takes_prefix(nn.Linear(2, 2))
