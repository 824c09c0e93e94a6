"""TRL's SFT trainer with our configurations, and a chat template that adds tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers

from families import FAMILIES
from genft import METHODS

trl = pytest.importorskip("trl", exc_type=ImportError)
datasets = pytest.importorskip("datasets")
LLAMA = FAMILIES["llama"]


@pytest.mark.parametrize("name", ["genft", "vectorfit"])
def test_sft_trains_and_saves_an_adapter(name: str, tmp_path: Path) -> None:
    model: Any = LLAMA.build()
    words = {f"w{n}": n for n in range(model.config.vocab_size - 1)} | {"[UNK]": model.config.vocab_size - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="w0", pad_token="w1")
    config = METHODS[name].config(task_type="CAUSAL_LM")
    assert config.trainable_token_indices is None  # as the trainer reads it
    config.trainable_token_indices = {"embed_tokens": [5]}  # what it writes for a template with a new token
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(str(tmp_path), max_steps=3, learning_rate=0.05, report_to=[], use_cpu=True, bf16=False),
        train_dataset=datasets.Dataset.from_dict({"text": ["w2 w3 w5 w4", "w5 w6 w5 w7"] * 4}),
        processing_class=fast,
        peft_config=config,
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    changed = {n for n, p in trainer.model.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert any(f"{name}_" in n for n in changed)
    assert any("trainable_tokens" in n for n in changed)
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(LLAMA.build(), tmp_path / "adapter").eval()
    batch = LLAMA.batch()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, trainer.model.eval()(**batch).logits)
