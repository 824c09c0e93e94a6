"""Row slices of fused weights: adapting q and v of a fused weight is adapting q and v of the model unfused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from families import FAMILIES
from genft import METHODS, ConfigError, GenFTConfig, LoraSlicesConfig, TargetError, VectorFitConfig
from genft.bridge.weight.layer import WeightLayer

WEIGHT_METHODS = [name for name, info in METHODS.items() if info.family == "weight"]
D, KV = 16, 8


class Fused(nn.Module):
    """Attention with grouped heads whose q, k and v are rows of one weight."""

    def __init__(self, conv: bool = False) -> None:
        super().__init__()
        self.qkv = Conv1D(D + 2 * KV, D) if conv else nn.Linear(D, D + 2 * KV)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split([D, KV, KV], dim=-1)
        return attend(q, k, v)


class Unfused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, KV), nn.Linear(D, KV)

    def forward(self, x: Tensor) -> Tensor:
        return attend(self.q(x), self.k(x), self.v(x))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k.repeat(1, 1, 2), v.repeat(1, 1, 2))


def twins(conv: bool = False) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    separate = nn.Sequential(Unfused(), Unfused())
    fused = nn.Sequential(Fused(conv), Fused(conv))
    for one, all_ in zip(separate, fused, strict=True):
        weight = torch.cat([one.q.weight, one.k.weight, one.v.weight]).data
        all_.qkv.weight.data = weight.T.contiguous() if conv else weight
        all_.qkv.bias.data = torch.cat([one.q.bias, one.k.bias, one.v.bias]).data
    return fused, separate


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_fused_equals_unfused(name: str, conv: bool) -> None:
    fused, separate = twins(conv)
    rows = {"q": [0, D], "v": [D + KV, D + 2 * KV]}
    config = METHODS[name].config
    a = get_peft_model(fused, config(target_slices={"qkv": rows}, init_weights=False))
    b = get_peft_model(separate, config(target_modules=["q", "v"], init_weights=False))
    ours, theirs = trained(a), trained(b)
    assert sum(p.numel() for p in ours.values()) == sum(p.numel() for p in theirs.values())
    pairs = {n: matching(n, theirs) for n in ours}
    for n, other in pairs.items():
        ours[n].data.copy_(theirs[other])
    x = torch.randn(2, 5, D)
    torch.testing.assert_close(a(x), b(x))
    a(x).square().sum().backward()
    b(x).square().sum().backward()
    for n, other in pairs.items():
        torch.testing.assert_close(ours[n].grad, theirs[other].grad, atol=1e-4, rtol=1e-4)
    wanted = b(x)
    torch.testing.assert_close(a.merge_and_unload()(x), wanted)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def matching(name: str, others: dict[str, Any]) -> str:
    """'…0.qkv.genft_factors.default.q_a' ↔ '…0.q.genft_factors.default.a'; shared factors keep their names."""
    if "_shared" in name:  # by the names that all sites share; where each role has its own, by the slice's
        return name if name in others else name.replace("_qkv_", "_")
    path, _, leaf = name.rpartition(".")
    which, _, symbol = leaf.partition("_")
    return f"{path.replace('.qkv.', f'.{which}.')}.{symbol}"


@pytest.mark.parametrize(("family", "rows"), [("phi3", [(0, 32), (48, 64)]), ("gpt2", [(0, 32), (64, 96)])])
def test_rows_of_q_and_v_follow_the_head_counts(family: str, rows: list[tuple[int, int]]) -> None:
    f = FAMILIES[family]
    model = get_peft_model(f.build(), GenFTConfig(task_type=f.task_type, shared_dim=4, **f.queries_values))
    layer = next(m for m in model.modules() if isinstance(m, WeightLayer))
    assert [(s.start, s.stop) for s in layer.attachments["default"].sites] == rows
    assert [s.slice for s in layer.attachments["default"].sites] == ["q", "v"]


@pytest.mark.parametrize("family", ["phi3", "gpt2", "timm"])
def test_slices_are_the_default_of_fused_families(family: str) -> None:
    f = FAMILIES[family]
    for scope, slices in (("qv", ["q", "v"]), ("attention", ["q", "k", "v"])):
        config = GenFTConfig(task_type=f.task_type, shared_dim=4, scope=scope)
        model = get_peft_model(f.build(), config)
        assert list(model.peft_config["default"].target_slices.values()) == [slices]


def attention(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True, **kwargs), 2, enable_nested_tensor=False
    )


@pytest.mark.parametrize("name", WEIGHT_METHODS)
@pytest.mark.parametrize("grad", [True, False])
def test_attention_fast_path_does_not_bypass_the_adapter(name: str, grad: bool) -> None:
    x = torch.randn(3, 5, 16)
    model = get_peft_model(attention().eval(), METHODS[name].config(target_modules=["self_attn"], init_weights=False))
    base = attention().eval()(x)
    with torch.set_grad_enabled(grad):
        got = model(x)
    slow = model.train()(x)  # there is no fast path in training, and no dropout here
    torch.testing.assert_close(got, slow)
    assert not torch.allclose(got, base, atol=1e-3)
    merged = model.eval().merge_and_unload()
    torch.testing.assert_close(merged(x), slow)
    assert isinstance(merged.layers[0].self_attn, nn.MultiheadAttention)


def test_encoder_layer_fast_path_does_not_bypass_its_mlp() -> None:
    x, padding = torch.randn(3, 5, 16), torch.zeros(3, 5, dtype=torch.bool)
    padding[:, -1] = True
    model = get_peft_model(
        attention().eval(), GenFTConfig(target_modules=["linear1"], shared_dim=4, init_weights=False)
    )
    with torch.no_grad():
        fast = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fast[:, :4], model.train()(x, src_key_padding_mask=padding)[:, :4])
    assert all(layer.activation_relu_or_gelu for layer in model.unload().layers)


def test_slices_of_an_attention_module() -> None:
    x = torch.randn(3, 5, 16)
    config = GenFTConfig(target_slices={"self_attn": ["q", "v"]}, shared_dim=4, init_weights=False)
    model = get_peft_model(attention().eval(), config)
    merged = {n: p.clone() for n, p in model.named_parameters() if "in_proj_weight" in n}
    wanted = model(x)
    model.merge_adapter()
    for n, p in model.named_parameters():
        if n in merged:
            change = (p - merged[n]).abs().sum(dim=1) > 0
            assert change[:16].all()
            assert not change[16:32].any()
            assert change[32:].all()
    torch.testing.assert_close(model(x), wanted)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"target_modules": ["out_proj"]}, "read directly by nn.MultiheadAttention.*self_attn"),
        ({"target_slices": {"self_attn": ["x"]}}, "has no slice 'x'; allowed: q, k, v"),
        ({"target_slices": {"self_attn": {"q": [0, 99]}}}, "has 48 rows; received \\[0, 99\\]"),
        ({"target_slices": {"self_attn": {"a": [0, 9], "b": [8, 12]}}}, "'b' and 'a' overlap"),
        ({"target_slices": {"self_atn": ["q"]}}, "no linear weight matches 'self_atn'.*nearest: 'self_attn'"),
        (
            {"target_modules": ["linear1"], "target_slices": {"self_attn": ["q"]}},
            "no adapted weight is named 'self_attn'",
        ),
    ],
)
def test_refuses_slices_by_name(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        get_peft_model(attention(), GenFTConfig(shared_dim=4, **config))


def test_refuses_interleaved_fused_weights() -> None:
    import transformers as hf

    model = hf.BloomForCausalLM(hf.BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(TargetError, match="interleaves q, k and v head by head in BloomForCausalLM"):
        get_peft_model(model, GenFTConfig(target_slices={"query_key_value": ["q"]}, shared_dim=4))


def test_lora_through_the_bridge_equals_peft() -> None:
    """peft's own LoRA is an independent check of the bridge: the same outputs and gradients on whole weights."""

    def base() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 7))

    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["0", "2"]}
    theirs = get_peft_model(base(), LoraConfig(**settings, init_lora_weights=False))
    ours = get_peft_model(base(), LoraSlicesConfig(**settings))
    reference, mine = trained(theirs), trained(ours)
    for n, p in mine.items():
        p.data.copy_(reference[peft_name(n)])
    x = torch.randn(5, 12)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    for n, p in mine.items():
        torch.testing.assert_close(p.grad, reference[peft_name(n)].grad)


def peft_name(name: str) -> str:
    path, _, letter = name.rpartition(".")
    return path.replace("lora_slices_factors.default", f"lora_{letter}.default") + ".weight"


def test_slices_whose_tensors_would_have_one_name_are_refused() -> None:
    base = nn.Sequential(nn.Linear(4, 8))
    with pytest.raises(ConfigError, match=r"0 would have two tensors 'q_sigma_bias'; rename one of 'q', 'q_sigma'"):
        get_peft_model(base, VectorFitConfig(target_slices={"0": {"q": [0, 4], "q_sigma": [4, 8]}}))
    model = get_peft_model(base, GenFTConfig(target_slices={"0": {"q": [0, 4], "q_sigma": [4, 8]}}, specific_dim=2))
    own = [name for name, p in model.named_parameters() if p.requires_grad and "q_" in name]
    assert len(own) == 4  # A and B of each slice


def test_a_slice_is_named_without_dots() -> None:
    with pytest.raises(ConfigError, match=r"received the name 'a.b'; a slice is named without dots"):
        GenFTConfig(target_slices={"0": {"a.b": [0, 4]}})
