"""``trainable_token_indices``: peft trains rows of an embedding beside our adapter, and saves them with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from families import FAMILIES
from genft import METHODS

LLAMA = FAMILIES["llama"]
TOKENS = [1, 3]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(**LLAMA.batch()).logits


@pytest.mark.parametrize("name", ["genft", "vectorfit", "propetl_lora"])
@pytest.mark.parametrize("indices", [TOKENS, {"embed_tokens": TOKENS}], ids=["list", "by name"])
def test_tokens_are_trained_saved_and_merged(name: str, indices: Any, tmp_path: Path) -> None:
    config = METHODS[name].config(trainable_token_indices=indices, task_type="CAUSAL_LM")
    model = get_peft_model(LLAMA.build(), config)
    embedding = model.get_base_model().get_input_embeddings()
    before = embedding.weight.detach().clone()
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        batch = LLAMA.batch()
        batch["input_ids"][:, :2] = torch.tensor(TOKENS)
        model(**batch).loss.backward()
        optimizer.step()
    wanted = logits(model)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(LLAMA.build(), tmp_path)
    assert torch.equal(logits(again), wanted)
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-4, atol=1e-5)
    changed = (merged.get_input_embeddings().weight != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == TOKENS
