"""What methods derive from W0 follows a base that changes after the adapter was attached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import GenFTConfig, VectorFitConfig

BERT = FAMILIES["bert"]
CONFIGS: dict[str, Any] = {
    # the published form, which does not read W0
    "vectorfit": VectorFitConfig(init_weights=False, avf=False, plan="factored", exact=False),
    "vectorfit lean": VectorFitConfig(init_weights=False, avf=False, lean=True),
    "genft bounded": GenFTConfig(init_weights=False, form="bounded", shared_dim=4),
}


def adapted(base: nn.Module, name: str) -> PeftModel:
    torch.manual_seed(3)
    return get_peft_model(base, copy.deepcopy(CONFIGS[name]))


def plain(seed: int) -> nn.Module:
    model = BERT.build()
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def outputs(model: PeftModel) -> dict[str, Tensor]:
    """In training and in evaluation, unmerged and merged."""
    found = {"training": model.train()(**BERT.batch()).logits.detach()}
    with torch.no_grad():
        found["evaluation"] = model.eval()(**BERT.batch()).logits
    model.merge_adapter()
    with torch.no_grad():
        found["merged"] = model(**BERT.batch()).logits
    model.unmerge_adapter()
    with torch.no_grad():
        found["unmerged"] = model(**BERT.batch()).logits
    return found


def by_load_state_dict(model: PeftModel, other: nn.Module) -> None:
    wanted = {n.replace("base_layer.", ""): p for n, p in other.state_dict().items()}
    base = model.get_base_model()
    names = {n: n.replace("base_layer.", "") for n in base.state_dict()}
    base.load_state_dict({n: wanted[plain] for n, plain in names.items() if plain in wanted}, strict=False)


def by_data(model: PeftModel, other: nn.Module) -> None:
    wanted = dict(other.named_parameters())
    for n, p in model.get_base_model().named_parameters():
        if (plain := n.replace("base_layer.", "")) in wanted:
            p.data = wanted[plain].data.clone()


def and_moved(model: PeftModel, other: nn.Module) -> None:
    by_load_state_dict(model, other)
    model.to("cpu")


@pytest.mark.parametrize("change", [by_load_state_dict, by_data, and_moved])
@pytest.mark.parametrize("name", CONFIGS)
def test_another_base_under_an_adapter(name: str, change: Callable[[PeftModel, nn.Module], None]) -> None:
    model, other = adapted(plain(0), name), plain(1)
    before = outputs(model)["training"]
    change(model, other)
    wanted = outputs(adapted(plain(1), name))
    found = outputs(model)
    assert (found["training"] - before).abs().max() > 1e-3
    for mode, value in found.items():
        assert (value - wanted["evaluation"]).abs().max() < 1e-3, mode


@pytest.mark.parametrize("name", CONFIGS)
def test_an_edit_of_one_weight_is_noticed(name: str) -> None:
    model = adapted(plain(0), name)
    outputs(model)
    layer = model.get_base_model().bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        layer.base_layer.weight[3] += 1.0
    found = outputs(model)
    for value in found.values():
        torch.testing.assert_close(value, found["evaluation"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_base_trained_beside_the_adapter(name: str) -> None:
    model = adapted(plain(0), name)
    model.train().requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        model(**BERT.batch()).loss.backward()
        optimizer.step()
    found = outputs(model)
    for value in found.values():
        torch.testing.assert_close(value, found["evaluation"], rtol=1e-3, atol=1e-4)


def test_merging_moving_and_casting_derive_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(plain(0), "vectorfit")
    method = model.base_model.adapters["default"].method

    def refuse(*args: Any) -> None:
        raise AssertionError("W0 has not changed")

    monkeypatch.setattr(type(method), "derive", refuse)
    outputs(model)
    outputs(copy.deepcopy(model))
    model.to(torch.float64)
    model(**BERT.batch())
    model.to("cpu")
    outputs(model)
