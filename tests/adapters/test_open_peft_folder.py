"""Folders that peft alone wrote are opened with the same checks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from families import FAMILIES
from genft import AdapterFileError
from genft.adapters.saved import open_adapter

BERT = FAMILIES["bert"]
WEIGHTS = "adapter_model.safetensors"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**BERT.batch()).logits


@pytest.fixture
def saved(tmp_path: Path) -> PeftModel:
    BERT.build().save_pretrained(tmp_path / "base")
    base = type(BERT.build()).from_pretrained(tmp_path / "base")
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "adapter")
    return model


def test_as_it_was(saved: PeftModel, tmp_path: Path) -> None:
    opened = open_adapter(tmp_path / "adapter")
    torch.testing.assert_close(logits(opened.model), logits(saved))
    assert (opened.saved, opened.tokenizer, opened.folder) == (None, None, tmp_path / "adapter")


@pytest.mark.parametrize("damage", ["surplus", "missing", "nan", "cut", "none"])
def test_damage_is_one_sentence(damage: str, saved: PeftModel, tmp_path: Path) -> None:
    file = tmp_path / "adapter" / WEIGHTS
    tensors = load_file(file)
    first = sorted(tensors)[0]
    message = {
        "surplus": "holds base_model.model.bert.pooler.dense.weight, which is not this adapter's and would overwrite",
        "missing": f"has no values for {first}; it is incomplete",
        "nan": f"{first} holds NaN or infinite values",
        "cut": "is damaged or incomplete",
        "none": "is missing",
    }[damage]
    if damage == "surplus":
        save_file({**tensors, "base_model.model.bert.pooler.dense.weight": torch.zeros(32, 32)}, file)
    elif damage == "missing":
        save_file({k: v for k, v in tensors.items() if k != first}, file)
    elif damage == "nan":
        save_file({**tensors, first: torch.full_like(tensors[first], torch.nan)}, file)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        file.unlink()
    with pytest.raises(AdapterFileError, match=message):
        open_adapter(tmp_path / "adapter")


def test_embeddings_that_peft_saved(saved: PeftModel, tmp_path: Path) -> None:
    saved.get_base_model().bert.embeddings.word_embeddings.weight.data += 0.1
    saved.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    torch.testing.assert_close(logits(open_adapter(tmp_path / "adapter").model), logits(saved))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_pickle_of_tensors(saved: PeftModel, tmp_path: Path) -> None:
    """peft writes one with safe_serialization=False; it is read without running code from it."""
    (tmp_path / "adapter" / WEIGHTS).unlink()
    saved.save_pretrained(tmp_path / "adapter", safe_serialization=False)
    torch.testing.assert_close(logits(open_adapter(tmp_path / "adapter").model), logits(saved))
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"nonsense")
    with pytest.raises(AdapterFileError, match=r"adapter_model\.bin: cannot be read"):
        open_adapter(tmp_path / "adapter")
