"""Base modules that are not quite linear layers are called, not replaced by a matmul."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from genft import GenFTConfig, GenFTError


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def adapted(base: nn.Module, **settings: Any) -> nn.Module:
    torch.manual_seed(1)
    return get_peft_model(
        base, GenFTConfig(target_modules=["0"], shared_dim=3, act_row="tanh", act_col="tanh", init_weights=False)
    ).eval()


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
