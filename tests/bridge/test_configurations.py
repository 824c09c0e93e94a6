"""A configuration that a user wrote is never written to, except by peft itself, and serves any number of models."""

from __future__ import annotations

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import METHODS, GenFTConfig, VectorFitConfig

CONFIGS: dict[str, Any] = {
    "genft": lambda **s: GenFTConfig(shared_dim=4, **s),
    "all-linear": lambda **s: GenFTConfig(shared_dim=4, target_modules="all-linear", **s),
    "slices": lambda **s: GenFTConfig(shared_dim=4, target_slices={"query": {"first": [0, 8]}}, **s),
    "vectorfit": lambda **s: VectorFitConfig(avf_start=1, avf_interval=1, avf_events=2, **s),
    "propetl_adapter": lambda **s: METHODS["propetl_adapter"].config(**s),
}
#: What peft writes on any configuration, its own included, before a tuner sees it.
BY_PEFT = {"base_model_name_or_path", "modules_to_save"}


def settings(config: Any) -> dict[str, Any]:
    return {f.name: copy.deepcopy(getattr(config, f.name)) for f in fields(config)}


@torch.no_grad()
def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model.eval()(**batch).logits


def train(model: nn.Module, batch: dict[str, Tensor]) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_not_written_to(name: str, tmp_path: Path) -> None:
    family = FAMILIES["bert"]
    config = CONFIGS[name]()
    before, others = settings(config), set(vars(config))
    model = get_peft_model(family.build(), config)
    assert model.peft_config["default"] is not config
    train(model, family.batch())
    model.save_pretrained(tmp_path)
    model.add_adapter("second", config)
    assert settings(config) == before
    assert set(vars(config)) == others
    # the same configuration on another model: nothing of the first is left in it
    vit = FAMILIES["vit"]
    if name != "slices":
        train(get_peft_model(vit.build(), config), vit.batch())
    assert settings(config) == before
    # what the base decided is in the saved copy
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["base_fingerprint"] is None
    assert saved["target_modules"]
    assert name not in ("genft", "slices") or saved["w0_ratio"] > 0
    loaded = PeftModel.from_pretrained(family.build(), tmp_path)
    assert torch.equal(output(loaded, family.batch()), output(model, family.batch()))


def test_peft_writes_what_it_writes_on_its_own_configurations() -> None:
    """With a task type and a model that has a name: the same fields as on LoRA's."""
    changed = []
    for config in (GenFTConfig(task_type="SEQ_CLS", shared_dim=4), LoraConfig(task_type="SEQ_CLS")):
        before = settings(config)
        model = FAMILIES["bert"].build()
        model.name_or_path = "somebody/bert"
        get_peft_model(model, config)
        changed.append({name for name, value in settings(config).items() if value != before[name]})
    ours, theirs = changed
    assert ours <= BY_PEFT
    assert ours == theirs & BY_PEFT


def test_a_loaded_configuration_serves_another_load(tmp_path: Path) -> None:
    family = FAMILIES["bert"]
    model = get_peft_model(family.build(), GenFTConfig(shared_dim=4, init_weights=False))
    model.save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    before = settings(config)
    for _ in range(2):
        loaded = PeftModel.from_pretrained(family.build(), tmp_path, config=config)
        assert torch.equal(output(loaded, family.batch()), output(model, family.batch()))
    assert settings(config) == before | {"inference_mode": True}


def test_the_configuration_of_an_adapter_serves_another_adapter(tmp_path: Path) -> None:
    """What the first adapter derived from its base stays with it."""
    family = FAMILIES["bert"]
    first = get_peft_model(family.build(), GenFTConfig(shared_dim=4))
    other = family.build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2.0)
    second = get_peft_model(other, first.peft_config["default"])
    ratios = []
    for number, model in enumerate((first, second)):
        model.save_pretrained(tmp_path / str(number))
        ratios.append(json.loads((tmp_path / str(number) / "adapter_config.json").read_text())["w0_ratio"])
    assert ratios[0] == pytest.approx(2 * ratios[1], rel=1e-2)
