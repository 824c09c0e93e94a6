"""The examples of generated text, on tiny models."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import transformers as hf


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
