"""Libraries that bring peft's adapters to models of their own: sentence-transformers and diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from families import tiny_unet
from genft import METHODS

WORDS = ["refund", "please", "the", "parcel", "is", "late", "broken", "thanks"]
TEXTS = ["refund please", "the parcel is late", "the parcel is broken", "thanks"]
EACH: dict[str, dict[str, Any]] = {
    "genft": {"shared_dim": 4, "specific_dim": 2},
    "vectorfit": {"avf": False},
    "propetl_lora": {"r": 4},
}
each_method = pytest.mark.parametrize("name", EACH)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a tokenizer of whole words, as a Hub folder."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    hf.BertTokenizer(str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(0)
    shape = hf.BertConfig(
        vocab_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    model = hf.BertModel(shape)
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    model.save_pretrained(folder)
    return folder


@each_method
def test_an_embedding_model_of_sentence_transformers(
    name: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained with its own trainer, saved, and loaded again: the same embeddings."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.21.0")
    st = pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.losses")
    datasets = pytest.importorskip("datasets")
    model = st.SentenceTransformer(str(encoder), device="cpu")
    before = model.encode(TEXTS)
    model.add_adapter(METHODS[name].config(task_type="FEATURE_EXTRACTION", **EACH[name]))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(f"{name}_" in n for n in trained)
    if name != "propetl_lora":  # the others start at the pretrained function
        np.testing.assert_allclose(model.encode(TEXTS), before, atol=1e-5)
    rows = datasets.Dataset.from_dict({"anchor": TEXTS, "positive": TEXTS[1:] + TEXTS[:1]})
    trainer = st.SentenceTransformerTrainer(
        model,
        st.SentenceTransformerTrainingArguments(
            str(tmp_path / "run"),
            num_train_epochs=3,
            learning_rate=0.05,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
        ),
        train_dataset=rows,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    wanted = model.eval().encode(TEXTS)
    assert np.abs(wanted - before).max() > 1e-2
    model.save_pretrained(str(tmp_path / "saved"))
    saved = {p.name for p in (tmp_path / "saved").rglob("*.safetensors")}
    assert saved == {"adapter_model.safetensors"}
    again = st.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), wanted)


@torch.no_grad()
def noise(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sample, text = (torch.randn(shape, generator=generator) for shape in ((1, 4, 8, 8), (1, 3, 16)))
    return model.eval()(sample, 5, text).sample


@each_method
def test_a_unet_of_diffusers(name: str, tmp_path: Path) -> None:
    """``add_adapter`` and its switches; the tensors through peft, because diffusers' own file format is LoRA's."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    config = METHODS[name].config(target_modules=["to_q", "to_v"], **EACH[name])
    model, base = tiny_unet(), noise(tiny_unet())
    model.add_adapter(config, "ours")
    trained = [p for n, p in model.named_parameters() if f"{name}_" in n]
    assert trained
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(torch.ones(1, 4, 8, 8), 5, torch.ones(1, 3, 16)).sample.square().mean().backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
    wanted = noise(model)
    assert not torch.allclose(wanted, base, atol=1e-5)
    model.disable_adapters()
    assert torch.equal(noise(model), base)
    model.enable_adapters()
    assert torch.equal(noise(model), wanted)
    save_file(get_peft_model_state_dict(model, adapter_name="ours"), tmp_path / "ours.safetensors")
    again = tiny_unet()
    again.add_adapter(config, "other")
    set_peft_model_state_dict(again, load_file(tmp_path / "ours.safetensors"), "other")
    assert torch.equal(noise(again), wanted)
    model.delete_adapters("ours")
    assert torch.equal(noise(model), base)
