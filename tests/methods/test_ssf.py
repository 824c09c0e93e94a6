"""SSF against its equation on linear layers, normalisations and convolutions, and its count on ViT-B/16."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import METHODS, MergeError, TargetError, counts
from genft.methods.ssf import SSFConfig

#: A layer, a shape of its input, and the dimension of its output channels.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: nn.Linear(5, 4), (3, 5), -1),
    "linear without a bias": (lambda: nn.Linear(5, 4, bias=False), (3, 5), -1),
    "layer norm": (lambda: nn.LayerNorm(4), (3, 2, 4), -1),
    "layer norm without a bias": (lambda: nn.LayerNorm(4, bias=False), (3, 2, 4), -1),
    "rms norm": (lambda: nn.RMSNorm(4), (3, 2, 4), -1),
    "group norm": (lambda: nn.GroupNorm(2, 4), (3, 4, 5), 1),
    "convolution": (lambda: nn.Conv2d(3, 4, 2, stride=2), (2, 3, 6, 6), 1),
}


class Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def built(name: str) -> Model:
    torch.manual_seed(1)
    model = Model(LAYERS[name][0]())
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model


def adapted(base: nn.Module, **settings: bool) -> PeftModel:
    return get_peft_model(base, SSFConfig(target_modules=["layer"], **settings))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name.rpartition(".")[2]: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_the_equation(name: str) -> None:
    """y = γ ⊙ x + β for x, the output of the layer; merged too."""
    _, shape, channels = LAYERS[name]
    base, x = built(name).double(), torch.randn(shape, dtype=torch.float64)
    plain = copy.deepcopy(base)
    model = adapted(base)
    assert torch.equal(model(x), plain(x))
    gamma = torch.tensor([1.2, 0.7, -0.4, 1.0], dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([0.3, 0.0, -0.5, 2.0], dtype=torch.float64, requires_grad=True)
    view = [1] * len(plain(x).shape)
    view[channels] = 4
    wanted = gamma.view(view) * plain(x) + beta.view(view)
    factors = trained(model)
    with torch.no_grad():
        factors["scale_bias"].copy_(gamma - 1)
        factors["shift_bias"].copy_(beta)
    found = model(x)
    torch.testing.assert_close(found, wanted)
    for y in (wanted, found):
        y.square().sum().backward()
    torch.testing.assert_close(factors["scale_bias"].grad, gamma.grad)
    torch.testing.assert_close(factors["shift_bias"].grad, beta.grad)
    with model.disable_adapter():
        assert torch.equal(model(x), plain(x))
    if name == "rms norm":
        with pytest.raises(MergeError, match="a RMSNorm has no place for the bias that 'default' adds"):
            model.merge_adapter()
        return
    before = {n: p.clone() for n, p in plain.named_parameters()}
    model.merge_adapter()
    torch.testing.assert_close(model(x), wanted)
    model.unmerge_adapter()
    assert {n: p.tolist() for n, p in model.base_model.model.layer.base_layer.named_parameters()} == {
        n.removeprefix("layer."): p.tolist() for n, p in before.items()
    }
    torch.testing.assert_close(model.merge_and_unload()(x), wanted)


def test_what_has_no_channels_is_refused() -> None:
    with pytest.raises(TargetError, match="layer is a Embedding, not a linear weight"):
        adapted(Model(nn.Embedding(3, 4)))


@pytest.mark.parametrize("family", ["vit", "dinov2", "timm"])
def test_scales_every_layer_of_a_vision_transformer_but_the_head(family: str) -> None:
    model = get_peft_model(FAMILIES[family].build(), SSFConfig())
    base = FAMILIES[family].build()
    kinds = (nn.Linear, nn.LayerNorm, nn.Conv2d)
    names = {name for name, m in base.named_modules() if isinstance(m, kinds) and "head" not in name.split(".")}
    assert set(model.base_model.targeted_module_names) == names - {"classifier"}


def test_counts() -> None:
    """V-PETL Bench prints 0.21 M on ViT-B/16: two numbers per output of the patch embedding, of qkv, projection, both
    MLP weights and both normalisations of twelve blocks, and of the last normalisation."""
    block = 3 * 768 + 768 + 3072 + 768 + 2 * 768
    found = counts.count_method(METHODS["ssf"], {}, counts.vit_base).adapter
    assert found == 2 * (768 + 12 * block + 768) == 205_824
    assert f"{found / 1e6:.2f}" == "0.21"
