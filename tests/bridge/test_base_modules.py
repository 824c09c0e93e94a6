"""Base modules that are not quite linear layers are called, not replaced by a matmul."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from genft import BaseMismatchError, GenFTConfig, GenFTError, VectorFitConfig


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


NONLINEAR = GenFTConfig(target_modules=["0"], shared_dim=3, act_row="tanh", act_col="tanh", init_weights=False)
CONFIGS = {
    "nonlinear": NONLINEAR,
    "identity": GenFTConfig(target_modules=["0"], shared_dim=3, init_weights=False),
    "vectorfit": VectorFitConfig(target_modules=["0"], avf=False, init_weights=False),
    "lean": VectorFitConfig(target_modules=["0"], avf=False, init_weights=False, lean=True),
}


def adapted(base: nn.Module, config: PeftConfig = NONLINEAR) -> nn.Module:
    torch.manual_seed(1)
    return get_peft_model(base, copy.deepcopy(config)).eval()


def test_a_subclass_keeps_its_own_forward_pass() -> None:
    x = torch.randn(3, 6)
    plain, doubled = nn.Linear(6, 6), Doubled(6, 6)
    doubled.load_state_dict(plain.state_dict())
    update = adapted(nn.Sequential(plain))(x) - plain(x)
    torch.testing.assert_close(adapted(nn.Sequential(doubled))(x), doubled(x) + update)


def test_hooks_of_the_base_module_run() -> None:
    base, seen = nn.Linear(6, 6), []
    base.register_forward_hook(lambda module, args, output: seen.append(1))
    adapted(nn.Sequential(base))(torch.randn(2, 6))
    assert seen == [1]


def test_an_offloaded_weight_is_named() -> None:
    model = adapted(nn.Sequential(nn.Linear(6, 6)))
    layer = model.base_model.model[0]
    layer.base_layer.to("meta")
    with pytest.raises(GenFTError, match="is offloaded"):
        model(torch.randn(2, 6))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("what", ["weight", "bias"])
def test_a_base_that_is_trained_as_well_gets_its_gradient(config: PeftConfig, what: str) -> None:
    """The gradient of (W0 + ΔW) x + b with ΔW as a constant; that of everything else as with a frozen base."""
    x, out = torch.randn(5, 6), torch.randn(5, 6)
    model = adapted(nn.Sequential(nn.Linear(6, 6)), config)
    expected = model(x)
    expected.backward(out)
    frozen = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    trained = getattr(model.base_model.model[0].base_layer, what).requires_grad_(True)
    y = model(x)
    torch.testing.assert_close(y, expected)
    y.backward(out)
    torch.testing.assert_close(trained.grad, out.T @ x if what == "weight" else out.sum(0))
    for name, grad in frozen.items():
        torch.testing.assert_close(model.get_parameter(name).grad, grad)


def test_an_adapter_belongs_to_the_base_that_was_trained_with_it(tmp_path: Path) -> None:
    """Not to the one that both began with."""
    first = nn.Sequential(nn.Linear(6, 6))
    trained = copy.deepcopy(first)
    model = adapted(trained)
    model.base_model.model[0].base_layer.weight.requires_grad_(True)
    model(torch.randn(5, 6)).sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    model.save_pretrained(tmp_path)
    x = torch.randn(3, 6)
    expected = model(x)
    base = nn.Sequential(nn.Linear(6, 6))
    base.load_state_dict(model.unload().state_dict())
    torch.testing.assert_close(PeftModel.from_pretrained(base, tmp_path)(x), expected)
    with pytest.raises(BaseMismatchError):
        PeftModel.from_pretrained(first, tmp_path)


def test_a_trained_attention_weight_is_refused() -> None:
    base = nn.ModuleDict({"0": nn.MultiheadAttention(6, 2)})
    model = adapted(base)
    x = torch.randn(3, 1, 6)
    attention = model.base_model.model["0"]
    assert attention(x, x, x)[0].shape == x.shape
    attention.base_layer.in_proj_weight.requires_grad_(True)
    with pytest.raises(GenFTError, match=r"freeze them with requires_grad_\(False\)"):
        attention(x, x, x)
