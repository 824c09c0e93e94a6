"""The configurations for peft's own comparison: peft reads each, and it trains on a Llama of grouped heads."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, get_peft_model

from families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path.parent for path in ROOT.glob("examples/peft_comparison/experiments/*/*/adapter_config.json"))


def test_the_folder_is_what_the_script_writes(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "peft_experiments.py"))
    written = script["write"](tmp_path)
    assert [path.relative_to(tmp_path) for path in sorted(written)] == [
        path.relative_to(script["FOLDER"]) for path in EXPERIMENTS
    ]
    for path in written:
        for name in ("adapter_config.json", "training_params.json"):
            there = script["FOLDER"] / path.relative_to(tmp_path) / name
            assert _content(path / name) == _content(there), there


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_peft_reads_and_trains_each(folder: Path) -> None:
    family = FAMILIES["llama"]
    model = get_peft_model(family.build(), PeftConfig.from_pretrained(str(folder)))
    rate = json.loads((folder / "training_params.json").read_text())["optimizer_kwargs"]["lr"]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    batch, losses = family.batch(), []
    for _ in range(6):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def _content(file: Path) -> Any:
    content = json.loads(file.read_text())
    content.pop("peft_version", None)
    return content
