"""An adapter takes its own tensors from its file, whatever it is called and whatever else the file holds."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from families import FAMILIES
from genft import GenFTConfig, VectorFitConfig
from genft.methods.adaptformer import AdaptFormerConfig
from genft.methods.propetl import PropetlLoraConfig

BERT = FAMILIES["bert"]
CONFIGS: dict[str, Any] = {
    "genft": GenFTConfig(task_type="SEQ_CLS", shared_dim=4, init_weights=False),
    "vectorfit": VectorFitConfig(task_type="SEQ_CLS", save_bases=True, init_weights=False),
    "adaptformer": AdaptFormerConfig(task_type="SEQ_CLS", bottleneck=4, init_weights=False),
    "propetl_lora": PropetlLoraConfig(task_type="SEQ_CLS", r=4, init_weights=False),
}
WEIGHTS = "adapter_model.safetensors"


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**BERT.batch()).logits


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize(
    "names", [("0", "1"), ("1", "0"), ("default", "encoder"), ("layer", "query"), ("a", "bert"), ("u", "sigma")]
)
def test_adapters_called_like_a_part_of_the_model(method: str, names: tuple[str, str], tmp_path: Path) -> None:
    config = CONFIGS[method]
    model = get_peft_model(BERT.build(), config, adapter_name=names[0])
    torch.manual_seed(1)
    model.add_adapter(names[1], config)
    expected = {}
    for name in names:
        model.set_adapter(name)
        expected[name] = logits(model)
    assert (expected[names[0]] - expected[names[1]]).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    folders = {name: tmp_path / name if name != "default" else tmp_path for name in names}
    assert load_file(folders[names[0]] / WEIGHTS).keys() == load_file(folders[names[1]] / WEIGHTS).keys()

    again = PeftModel.from_pretrained(BERT.build(), folders[names[0]], adapter_name=names[0])
    again.load_adapter(folders[names[1]], names[1])
    for name in names:
        again.set_adapter(name)
        torch.testing.assert_close(logits(again), expected[name])


@pytest.mark.parametrize("method", ["vectorfit", "adaptformer"])
def test_an_adapter_called_model(method: str, tmp_path: Path) -> None:
    """peft takes all paths with ``.model.`` out of the state dict, the heads' too, unless that leaves none; methods
    whose shared factors have another path are left with these alone."""
    test_adapters_called_like_a_part_of_the_model(method, ("model", "attention"), tmp_path)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("door", ["from_pretrained", "set_peft_model_state_dict"])
def test_surplus_tensors_do_not_reach_the_base(method: str, door: str, tmp_path: Path) -> None:
    model = get_peft_model(BERT.build(), CONFIGS[method])
    expected = logits(model)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    surplus = "base_model.model.bert.encoder.layer.0.output.dense.weight"
    norm = "base_model.model.bert.embeddings.LayerNorm.weight"
    base = BERT.build()
    tensors |= {surplus: torch.zeros(32, 48), norm: torch.zeros(32), "nonsense": torch.zeros(2)}
    # the base's own weight under the adapted module's name
    tensors |= {"base_model.model.bert.encoder.layer.0.attention.self.query.base_layer.weight": torch.zeros(32, 32)}
    save_file(tensors, tmp_path / WEIGHTS)
    warning = pytest.warns(UserWarning, match=r"left out 4 of \d+ tensors, which are not this adapter's: ")
    if door == "from_pretrained":
        with warning:
            model = PeftModel.from_pretrained(base, tmp_path)
    else:
        model = get_peft_model(base, CONFIGS[method])
        with warning:
            set_peft_model_state_dict(model, tensors)
    torch.testing.assert_close(logits(model), expected)


def test_embeddings_are_taken_and_told(tmp_path: Path) -> None:
    """peft saves them where the vocabulary was resized."""
    model = get_peft_model(BERT.build(), CONFIGS["genft"])
    model.get_base_model().bert.embeddings.word_embeddings.weight.data += 0.1
    expected = logits(model)
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.warns(UserWarning, match=r"replaces the base model's .*word_embeddings\.weight"):
        again = PeftModel.from_pretrained(BERT.build(), tmp_path)
    torch.testing.assert_close(logits(again), expected)


def test_equal_embeddings_need_no_word(tmp_path: Path) -> None:
    get_peft_model(BERT.build(), CONFIGS["genft"]).save_pretrained(tmp_path, save_embedding_layers=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="adapter file")
        PeftModel.from_pretrained(BERT.build(), tmp_path)
