"""FPET against a literal transcription of its merge and its blocks: three blocks, three by three patches, by loops."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import timm
import torch
import transformers as hf
from peft import get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import METHODS, ConfigError, TargetError
from genft.methods.fpet_adaptformer import FPETAdaptFormerConfig
from genft.methods.fpet_lora import FPETLoraConfig
from genft.methods.token_merging import checkerboard, merged, one_bit
from genft.models.blocks import find_blocks, takes_score_offsets
from literal_blocks import F64, HEADS, WIDTH, Named, compare, gelu, layer_norm, linear, named

GRID = 3
CONFIGS: dict[str, Any] = {
    "fpet_lora": FPETLoraConfig(r=3, scale=0.5, layer=1, refine=6),
    "fpet_adaptformer": FPETAdaptFormerConfig(bottleneck=3, scale=0.5, layer=1, refine=6),
}


def binary(w: Tensor) -> Tensor:
    """Every entry is rounded to one of two values; the gradient is that of the normalised entry."""
    entries = w.flatten()
    mean = sum(entries) / len(entries)
    std = (sum((e - mean) ** 2 for e in entries) / (len(entries) - 1)) ** 0.5
    rounded = []
    for e in entries:
        normal = (e - mean) / (std + 1e-5)
        to = 0.6744897501960817 if normal > 0 else -0.6744897501960817
        rounded.append((to - normal.item() + normal) * std + mean)
    return torch.stack(rounded).reshape(w.shape)


def merge(x: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
    """One image, token by token: x (tokens, width), metric (tokens, width of a head)."""
    patches = [(row, column) for row in range(GRID) for column in range(GRID)]
    even = [1 + i for i, (row, column) in enumerate(patches) if (row + column) % 2 == 0]
    odd = [1 + i for i, (row, column) in enumerate(patches) if (row + column) % 2 == 1]
    sums, sizes = {t: x[t] for t in odd}, {t: torch.ones((), dtype=x.dtype) for t in odd}
    for i in even:
        scores = {t: metric[i] @ metric[t] / (metric[i].norm() * metric[t].norm()) for t in odd}
        first, second = sorted(scores.values(), reverse=True)[:2]
        for t, score in scores.items():
            soft = 1 / (1 + torch.exp((first + second) / 2 - score))
            entry = (soft > 0.5).to(x.dtype) + soft - soft.detach()
            sums[t], sizes[t] = sums[t] + entry * x[i], sizes[t] + entry
    tokens = torch.stack([x[0], *(sums[t] / sizes[t] for t in odd)])
    return tokens, torch.stack([torch.ones((), dtype=x.dtype), *(sizes[t] for t in odd)])


class Parts(NamedTuple):
    """The weights of a block of any of the three libraries."""

    norm1: nn.Module
    q: tuple[Tensor, Tensor]
    k: tuple[Tensor, Tensor]
    v: tuple[Tensor, Tensor]
    o: nn.Module
    norm2: nn.Module
    fc1: nn.Module
    fc2: nn.Module
    scale1: Tensor | float = 1.0
    scale2: Tensor | float = 1.0


def parts_of(layer: Any) -> Parts:
    if hasattr(layer, "attn"):
        q, k, v = zip(layer.attn.qkv.weight.chunk(3), layer.attn.qkv.bias.chunk(3), strict=True)
        return Parts(layer.norm1, q, k, v, layer.attn.proj, layer.norm2, layer.mlp.fc1, layer.mlp.fc2)
    a, m = layer.attention, layer.mlp
    q, k, v = ((p.weight, p.bias) for p in (a.q_proj, a.k_proj, a.v_proj))
    if hasattr(layer, "layer_scale1"):
        scales = layer.layer_scale1.lambda1, layer.layer_scale2.lambda1
        return Parts(layer.norm1, q, k, v, a.o_proj, layer.norm2, m.fc1, m.fc2, *scales)
    return Parts(layer.layernorm_before, q, k, v, a.o_proj, layer.layernorm_after, m.fc1, m.fc2)


def fpet(layers: Any, x: Tensor, factors: list[Named], method: str) -> Tensor:
    sizes: Tensor | None = None
    for index, (p, f) in enumerate(zip(map(parts_of, layers), factors, strict=True)):
        n = layer_norm(x, p.norm1)
        q, k, v = linear(n, *p.q), linear(n, *p.k), linear(n, *p.v)
        if method == "fpet_lora":
            q = q + 0.5 * (n @ f["q_down_weight"].T @ f["q_up_weight"].T)
            v = v + 0.5 * (n @ f["v_down_weight"].T @ f["v_up_weight"].T)
        heads = [slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS) for h in range(HEADS)]
        out = []
        for head in heads:
            scores = (q[..., head] @ k[..., head].transpose(1, 2) / (WIDTH / HEADS) ** 0.5).exp()
            if sizes is not None:
                scores = scores * sizes[:, None]  # exp(score + log s)
            out.append(scores / scores.sum(-1, keepdim=True) @ v[..., head])
        x = x + linear(torch.cat(out, -1), p.o.weight, p.o.bias) * p.scale1
        if index == 1:
            key = torch.stack([k[..., head] for head in heads]).mean(0).detach()
            down, up = binary(f["refine_down_weight"]), binary(f["refine_up_weight"])
            metric = key + (key @ down.T).clamp(min=0) @ up.T
            each = [merge(*image) for image in zip(x, metric, strict=True)]
            x, sizes = (torch.stack(part) for part in zip(*each, strict=True))
        n = layer_norm(x, p.norm2)
        y = linear(gelu(linear(n, p.fc1.weight, p.fc1.bias)), p.fc2.weight, p.fc2.bias) * p.scale2
        if method == "fpet_adaptformer":
            y = y + 0.5 * ((x @ f["down_weight"].T).clamp(min=0) @ f["up_weight"].T)
        x = x + y
    return x


SIZE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "image_size": 16 * GRID,
    "patch_size": 16,
}


def timm_model() -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=16 * GRID, patch_size=16, embed_dim=WIDTH, depth=3, num_heads=HEADS, mlp_ratio=1.5, num_classes=0
    )


#: A model, the name of its last normalisation, and its tokens for images.
MODELS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[Any, Tensor], Tensor]]] = {
    "vit": (
        lambda: hf.ViTModel(hf.ViTConfig(**SIZE, intermediate_size=48), add_pooling_layer=False),
        "layernorm",
        lambda model, pixels: model(pixels).last_hidden_state,
    ),
    "dinov2": (
        lambda: hf.Dinov2Model(hf.Dinov2Config(**SIZE, mlp_ratio=2, layerscale_value=0.5)),
        "layernorm",
        lambda model, pixels: model(pixels).last_hidden_state,
    ),
    "timm": (timm_model, "norm", lambda model, pixels: model.forward_features(pixels)),
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("method", CONFIGS)
def test_the_blocks_and_their_gradients(method: str, family: str) -> None:
    torch.manual_seed(5)
    build, norm, tokens = MODELS[family]
    base: Any = build().to(F64).eval()
    layers: Any = [base.get_submodule(path) for path in find_blocks(base)]
    if not takes_score_offsets(layers[0]):
        pytest.skip("blocks of this version of transformers take no mask, and are refused")
    for parameter in base.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    model: Any = get_peft_model(copy.deepcopy(base), CONFIGS[method], autocast_adapter_dtype=False).to(F64).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    starts: list[Tensor] = []
    layers[0].register_forward_pre_hook(lambda _, args: starts.append(args[0]))
    pixels = torch.randn(2, 3, 16 * GRID, 16 * GRID, dtype=F64)
    tokens(base, pixels)
    wanted = layer_norm(fpet(layers, starts[0], named(model), method), getattr(base, norm))
    got = tokens(model.base_model.model, pixels)
    assert got.shape == (2, 1 + 4, WIDTH)
    compare(model, got, wanted)


@pytest.mark.parametrize("grid", [2, 3, 14])
def test_every_patch_of_one_colour_joins_one_of_the_other(grid: int) -> None:
    a, b = checkerboard(grid, torch.device("cpu"))
    assert sorted([*a.tolist(), *b.tolist()]) == list(range(grid**2))
    assert {(i // grid + i % grid) % 2 for i in a.tolist()} == {0}
    assert {(i // grid + i % grid) % 2 for i in b.tolist()} == {1}
    x = torch.randn(3, grid**2 + 1, 5)
    new, sizes = merged(x, torch.randn(3, grid**2 + 1, 4), grid)
    assert new.shape == (3, grid**2 // 2 + 1, 5)
    assert torch.equal(new[:, 0], x[:, 0])
    assert sizes.sum(1).tolist() == [grid**2 + 1] * 3
    torch.testing.assert_close((new * sizes[..., None]).sum(1), x.sum(1))  # nothing is lost


def test_one_bit_per_weight() -> None:
    w = torch.randn(6, 8)
    values = one_bit(w).unique()
    assert len(values) == 2
    torch.testing.assert_close(values.mean(), w.mean())


@pytest.mark.parametrize(("method", "count"), [("fpet_lora", 294_912 + 4_096), ("fpet_adaptformer", 147_456 + 4_096)])
@pytest.mark.parametrize("family", ["vit", "timm"])
def test_counts_of_the_released_code(method: str, count: int, family: str) -> None:
    with torch.device("meta"):
        wrapped = hf.TimmWrapperConfig(architecture="vit_base_patch16_224", num_labels=2)
        base = (
            hf.ViTForImageClassification(hf.ViTConfig())
            if family == "vit"
            else hf.TimmWrapperForImageClassification(wrapped)
        )
        model = get_peft_model(base, METHODS[method].config())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("method", CONFIGS)
def test_mixed_precision_compares_tokens_in_single(method: str) -> None:
    f = FAMILIES["vit"]
    torch.manual_seed(0)
    model = get_peft_model(f.build(), METHODS[method].config(layer=0, init_weights=False)).eval()
    precise = model(**f.batch()).logits
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**f.batch()).logits
    assert (mixed - precise).norm() < 0.03 * precise.norm()
    x = torch.randn(1, 10, 5)
    metric = torch.ones(1, 10, 4) + 0.03 * torch.randn(1, 10, 4)  # in bfloat16 most cosines would be 1
    with torch.autocast("cpu", torch.bfloat16):
        method_ = model.base_model.adapters["default"].method
        factors = {"refine_down_weight": torch.zeros(2, 4), "refine_up_weight": torch.zeros(4, 2)}
        sizes = method_.merge(x, metric[:, None], factors, training=False)[1]
    assert sizes.sum() == 10


@pytest.mark.parametrize("method", CONFIGS)
def test_both_implementations_of_attention_weight_by_size(method: str) -> None:
    f, outputs = FAMILIES["vit"], []
    for implementation in ("sdpa", "eager"):
        base: Any = f.build()
        base.set_attn_implementation(implementation)
        torch.manual_seed(0)
        model = get_peft_model(base, METHODS[method].config(layer=0, init_weights=False)).eval()
        outputs.append(model(**f.batch()).logits)
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize(("blocks", "layer"), [(12, 6), (24, 12), (3, 1), (2, 0)])
def test_runs_merge_in_the_middle_block(blocks: int, layer: int) -> None:
    with torch.device("meta"):
        model: Any = hf.ViTForImageClassification(hf.ViTConfig(**{**SIZE, "num_hidden_layers": blocks}))
    assert METHODS["fpet_lora"].recipe.settings(model, 10) == {"layer": layer}


@pytest.mark.parametrize("method", CONFIGS)
def test_what_cannot_be_merged_is_refused(method: str) -> None:
    vit, config = FAMILIES["vit"], METHODS[method].config
    with pytest.raises(TargetError, match=r"layer: received 6; allowed: 0, of 2 adapted blocks"):
        get_peft_model(vit.build(), config())
    registers = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SIZE, num_register_tokens=4))
    with pytest.raises(ConfigError, match=rf"{method}: needs a class token and a square grid .* read 14 tokens"):
        get_peft_model(registers, config(layer=0))(torch.randn(1, 3, 48, 48))
    flash = vit.build()
    flash.config._attn_implementation = "flash_attention_2"
    with pytest.raises(TargetError, match="takes no offsets of its attention's scores; use attn_implementation='sdpa'"):
        get_peft_model(flash, config(layer=0))
    wide = hf.ViTForImageClassification(hf.ViTConfig(**{**SIZE, "image_size": (32, 64)}))
    with pytest.raises(ConfigError, match="needs square grids of patches; this model has 2 × 4"):
        METHODS[method].recipe.settings(wide, 10)  # type: ignore[arg-type]
    model: Any = get_peft_model(vit.build(), config(layer=0)).eval()
    with pytest.raises(
        ConfigError, match="attention_mask: received a mask that hides tokens; a model whose tokens are merged takes"
    ):
        model.base_model.model.vit(vit.batch()["pixel_values"], attention_mask=torch.tensor([[1, 1, 1, 1, 0]] * 4))
    shown = model.base_model.model.vit(vit.batch()["pixel_values"], attention_mask=torch.ones(4, 5)).last_hidden_state
    assert torch.equal(shown, model.base_model.model.vit(vit.batch()["pixel_values"]).last_hidden_state)
