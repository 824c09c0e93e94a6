"""LoRA adapters written for a program mean there what they mean here, or are refused in a sentence.

vLLM and llama.cpp are read as their loaders read (``PEFTHelper`` and ``convert_lora_to_gguf.py``), diffusers and peft
load for themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from families import FAMILIES, tiny_unet
from genft import METHODS, ConfigError, GenFTConfig, VectorFitConfig
from genft.adapters import to_lora
from genft.adapters.lora_adapter import DIFFUSERS_WEIGHTS
from genft.cli import app

LLAMA, BERT = FAMILIES["llama"], FAMILIES["bert"]


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(**LLAMA.batch()).logits


def adapted(name: str = "genft", **settings: Any) -> PeftModel:
    torch.manual_seed(0)
    few = {"shared_dim": 3, "specific_dim": 2} if name == "genft" else {"avf": False}
    config = METHODS[name].config(task_type="CAUSAL_LM", init_weights=False, **{**few, **settings})
    model = get_peft_model(LLAMA.build(), config)
    return model.eval()


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return config, load_file(folder / "adapter_model.safetensors")


def as_vllm(config: dict[str, Any], tensors: dict[str, Tensor]) -> Callable[[str], float]:
    """The scale of a weight, from the only fields that vLLM's PEFTHelper has."""
    assert config["bias"] == "none"
    assert not config["modules_to_save"]
    assert not config["use_dora"]
    assert not config["use_rslora"]
    assert {n.partition(".lora_")[0].rpartition(".")[2] for n in tensors} == set(config["target_modules"])
    assert {t.shape[0] for n, t in tensors.items() if "lora_A" in n} == {config["r"]}
    return lambda _: config["lora_alpha"] / config["r"]


def as_llama_cpp(config: dict[str, Any], tensors: dict[str, Tensor]) -> Callable[[str], float]:
    """lora_alpha over the rank of each tensor."""
    return lambda name: config["lora_alpha"] / tensors[name].shape[1]


@pytest.mark.parametrize(("program", "reader"), [("vllm", as_vllm), ("llama.cpp", as_llama_cpp)])
@pytest.mark.parametrize("energy", [None, 0.9], ids=["exact", "of many ranks"])
def test_servers_compute_the_same(program: str, reader: Any, energy: float | None, tmp_path: Path) -> None:
    model = adapted()
    lora = to_lora(model, energy=energy, program=program)
    if energy:
        assert len({layer.rank for layer in lora.layers}) > 1
    lora.save(tmp_path)
    config, tensors = read(tmp_path)
    assert all(re.fullmatch(r"base_model\.model\.model\.layers\.\d+\.\S+\.lora_[AB]\.weight", n) for n in tensors)
    scale, plain = reader(config, tensors), LLAMA.build()
    for name in (n for n in tensors if n.endswith("lora_B.weight")):
        module = plain.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_B.weight"))
        update = tensors[name] @ tensors[name.replace("lora_B", "lora_A")]
        module.weight.data += scale(name) * update
    by_peft = PeftModel.from_pretrained(LLAMA.build(), tmp_path)
    torch.testing.assert_close(logits(plain), logits(by_peft), rtol=1e-4, atol=1e-5)
    if not energy:
        torch.testing.assert_close(logits(plain), logits(model), rtol=1e-4, atol=1e-5)


def test_biases_of_vectorfit_are_lora_biases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(BERT.build(), VectorFitConfig(task_type="SEQ_CLS", init_weights=False, avf=False)).eval()
    lora = to_lora(model)
    assert lora.exact
    assert lora.config.lora_bias
    lora.save(tmp_path)
    again = PeftModel.from_pretrained(BERT.build(), tmp_path).eval()
    batch = BERT.batch()
    with torch.no_grad():
        wanted = model(**batch).logits
        torch.testing.assert_close(again(**batch).logits, wanted, rtol=1e-4, atol=1e-5)
        again.merge_and_unload()
        torch.testing.assert_close(again(**batch).logits, wanted, rtol=1e-4, atol=1e-5)
        biases = [n for n in lora.tensors if n.endswith("lora_B.bias")]
        for name in biases:
            lora.tensors[name].zero_()
        lora.save(tmp_path)
        without = PeftModel.from_pretrained(BERT.build(), tmp_path).eval()(**batch).logits
    assert not torch.allclose(without, wanted, atol=1e-4)


def test_what_a_program_would_drop_is_refused() -> None:
    model = get_peft_model(BERT.build(), VectorFitConfig(init_weights=False, avf=False))
    for program in ("vllm", "llama.cpp"):
        with pytest.raises(ConfigError, match=rf"^to-lora: {program} drops the trained biases of this adapter"):
            to_lora(model, program=program)
    with_head = get_peft_model(BERT.build(), GenFTConfig(task_type="SEQ_CLS", shared_dim=3))
    for program in ("vllm", "llama.cpp", "diffusers"):
        with pytest.raises(ConfigError, match=rf"^to-lora: {program} loads only LoRA weights.* classifier"):
            to_lora(with_head, program=program)
    assert to_lora(with_head).program == "peft"
    with pytest.raises(ConfigError, match=r"for: 'vlm' is not known; allowed: .*; nearest: 'vllm'"):
        to_lora(model, program="vlm")


def test_a_rank_that_vllm_does_not_load_is_refused() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(600, 600, bias=False))
    model = get_peft_model(wide, VectorFitConfig(target_modules=["0"], avf=False, init_weights=False))
    with pytest.raises(ConfigError, match=r"the rank is 600, but vllm loads at most 512; limit it with --rank"):
        to_lora(model, program="vllm")
    assert to_lora(model, program="vllm", rank=16).config.r == 16


@pytest.mark.parametrize("name", ["genft", "vectorfit"])
def test_diffusers_loads_its_own_file(name: str, tmp_path: Path) -> None:
    inputs = (torch.ones(1, 4, 8, 8), 5, torch.ones(1, 3, 16))
    few = {"shared_dim": 3} if name == "genft" else {"avf": False}
    config = METHODS[name].config(target_modules=["to_q", "to_out.0"], init_weights=False, **few)
    model = get_peft_model(tiny_unet(), config)
    lora = to_lora(model, program="diffusers")
    assert lora.config.lora_bias is (name == "vectorfit")
    lora.save(tmp_path)
    again = tiny_unet()
    again.load_lora_adapter(str(tmp_path), prefix="unet", weight_name=DIFFUSERS_WEIGHTS)
    with torch.no_grad():
        wanted = model(*inputs).sample
        assert not torch.allclose(tiny_unet()(*inputs).sample, wanted, atol=1e-4)
        torch.testing.assert_close(again(*inputs).sample, wanted, rtol=1e-4, atol=1e-5)


def test_the_command_takes_the_program(tmp_path: Path) -> None:
    base = LLAMA.build()
    base.save_pretrained(tmp_path / "base")
    base = type(base).from_pretrained(tmp_path / "base")
    model = get_peft_model(base, GenFTConfig(task_type="CAUSAL_LM", init_weights=False, shared_dim=3))
    model.save_pretrained(tmp_path / "adapter")
    arguments = ["to-lora", str(tmp_path / "adapter"), "--out", str(tmp_path / "lora"), "--json", "--for"]
    done = CliRunner().invoke(app, [*arguments, "vlm"])
    assert done.exit_code == 2
    assert "for: 'vlm' is not known" in done.stderr
    done = CliRunner().invoke(app, [*arguments, "vllm"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["for"] == "vllm"
    config, tensors = read(tmp_path / "lora")
    as_vllm(config, tensors)
