"""Propulsion against its equation written out, and what its parametrisation promises."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from genft import ConfigError
from genft.methods.propulsion import PropulsionConfig


class Model(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def propelled(base: nn.Module, **settings: Any) -> nn.Module:
    return get_peft_model(base, PropulsionConfig(target_modules=["layer"], **settings))


def z_bias(model: nn.Module) -> nn.Parameter:
    (found,) = (p for name, p in model.named_parameters() if "z_bias" in name)
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("degree", [1, 15])
def test_outputs_and_gradients_are_the_equation(degree: int, bias: bool) -> None:
    """y = (W x + b) ⊙ z^k, trained in z."""
    base = Model(bias=bias).double()
    w, b = base.layer.weight.detach().clone(), base.layer.bias.detach().clone() if bias else torch.zeros(3).double()
    model, x = propelled(base, degree=degree), torch.randn(4, 5, dtype=torch.float64)
    z = torch.tensor([1.1, 0.9, -1.02], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        z_bias(model).copy_(z - 1)
    wanted, found = (x @ w.T + b) * z**degree, model(x)
    torch.testing.assert_close(found, wanted)
    for y in (wanted, found):
        y.square().sum().backward()
    torch.testing.assert_close(z_bias(model).grad, z.grad)
    torch.testing.assert_close(model.merge_and_unload()(x), wanted)


def test_starts_at_the_pretrained_layer_and_counts_one_scale_per_output() -> None:
    base, x = Model(), torch.randn(2, 5)
    wanted = base(x)
    model = propelled(base)
    assert torch.equal(model(x), wanted)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3


def test_weight_decay_draws_to_the_pretrained_layer() -> None:
    model = propelled(Model(), init_weights=False)
    before = z_bias(model).detach().clone()
    optimizer = torch.optim.SGD([z_bias(model)], lr=1.0, weight_decay=0.5)
    z_bias(model).grad = torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(z_bias(model), 0.5 * before)


@pytest.mark.parametrize("degree", [0, -1, 2.5, True])
def test_a_degree_that_is_no_power_is_refused(degree: Any) -> None:
    with pytest.raises(ConfigError, match=r"degree: received .*; allowed: a whole number above 0"):
        PropulsionConfig(degree=degree)
