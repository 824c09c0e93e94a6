"""The examples of generated text and images, on tiny models."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from benchmark_data import save_vtab


def example(name: str) -> Any:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_instruction_tuning_trains_the_templates_tokens(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    model = hf.AutoModelForCausalLM.from_pretrained(decoder)
    answer = example("instruction_tuning").main(model, hf.AutoTokenizer.from_pretrained(decoder), steps=3)
    assert isinstance(answer, str)
    config = json.loads((tmp_path / "sums-adapter" / "adapter_config.json").read_text())
    assert len(config["trainable_token_indices"]["embed_tokens"]) == 2


def test_summarisation(encoder_decoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    rows = [{"document": f"w{k % 5} w{k} w1", "summary": f"w{k % 5}"} for k in range(20)]
    file = tmp_path / "documents.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores, summary = example("summarisation").main(
        str(file), str(encoder_decoder), str(tmp_path / "runs"), method="full", epochs=1, learning_rate=0.01
    )
    assert 0 <= scores["rougeL"] <= 1
    assert isinstance(summary, str)


def test_diffusion_adapts_through_both_doors(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("matplotlib")
    save_vtab(tmp_path / "vtab-1k" / "eurosat")
    torch.manual_seed(0)
    net = hf.Dinov2Model(
        hf.Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    )
    sizes = {"label": 1, "channels": (16, 32), "base_steps": 2, "steps": 2, "count": 4}
    peft, diffusers = (
        example("diffusion").main(tmp_path, net.eval(), tmp_path / "out", door=door, **sizes)
        for door in ("peft", "diffusers")
    )
    assert peft == diffusers
    assert list(peft) == ["train", "base", "genft", "vectorfit", "lora", "full"]
    assert len(set(peft.values())) == len(peft)  # every method has changed the samples in its own way
    assert (tmp_path / "out" / "samples.png").stat().st_size > 1000


def test_the_frechet_distance() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("matplotlib")
    frechet = example("diffusion").frechet
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert frechet(rows, rows) == pytest.approx(0, abs=1e-4)
    assert frechet(rows, rows + 2) == pytest.approx(16, rel=1e-4)
    assert frechet(rows, 3 * rows - 2 * rows.mean(0)) == pytest.approx(4 * rows.var(0).sum().item(), rel=1e-4)
