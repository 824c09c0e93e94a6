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


TEMPLATE = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"


def word_tokenizer(words: list[str], **settings: Any) -> hf.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token=words[1], **settings)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A tokenizer whose chat template has tokens that the model does not know."""
    chat = word_tokenizer(["[UNK]", "w1"], eos_token="<|end|>")
    chat.add_tokens(["<|user|>", "<|assistant|>"], special_tokens=True)
    chat.chat_template = TEMPLATE
    chat.save_pretrained(tmp_path / "template")
    return tmp_path / "template"


@pytest.mark.parametrize("name", ["genft", "vectorfit"])
def test_sft_with_a_template_that_adds_tokens(name: str, template: Path, tmp_path: Path) -> None:
    """The trainer writes the new tokens into our configuration; they are trained and saved with the adapter."""
    model: Any = LLAMA.build()
    known = model.config.vocab_size
    tokenizer = word_tokenizer([f"w{n}" for n in range(known - 1)] + ["[UNK]"], eos_token="w0")
    config = METHODS[name].config(task_type="CAUSAL_LM")
    talk = [{"role": "user", "content": "w2 w3"}, {"role": "assistant", "content": "w5 w4"}]
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(
            str(tmp_path / "run"),
            chat_template_path=str(template),
            max_steps=3,
            learning_rate=0.05,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=datasets.Dataset.from_dict({"messages": [talk] * 8}),
        processing_class=tokenizer,
        peft_config=config,
    )
    new = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>", "<|end|>"])
    assert min(new) >= known
    written = trainer.model.peft_config["default"].trainable_token_indices
    assert set(new) <= set(written["embed_tokens"])
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    changed = {n for n, p in trainer.model.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert any(f"{name}_" in n for n in changed)
    assert any("trainable_tokens" in n for n in changed)
    trainer.save_model(str(tmp_path / "adapter"))
    base: Any = LLAMA.build()
    base.resize_token_embeddings(len(tokenizer))
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True)
    assert set(new) <= set(ids["input_ids"].flatten().tolist())
    with torch.no_grad():
        assert torch.equal(loaded(**ids).logits, trainer.model.eval()(**ids).logits)
