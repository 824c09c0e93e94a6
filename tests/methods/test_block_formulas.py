"""Every block method against a literal float64 transcription of its paper, inside whole blocks: values and gradients.

The transcriptions use the base model's own weights and write each step of the block out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import METHODS
from genft.methods.propetl import top_mask
from literal_blocks import F64, WIDTH, Named, attend, compare, gelu, layer_norm, linear, named, vit_layer


def gelu_tanh(z: Tensor) -> Tensor:
    return 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))


def bottleneck(x: Tensor, f: Named, prefix: str, act: Callable[[Tensor], Tensor]) -> Tensor:
    hidden = act(x @ f[f"{prefix}down_weight"].T + f[f"{prefix}down_bias"])
    return hidden @ f[f"{prefix}up_weight"].T + f[f"{prefix}up_bias"]


def bert_layer(
    layer: Any,
    x: Tensor,
    seen: Tensor,
    *,
    attention: Callable[[Tensor], Tensor] = lambda h: h,
    mlp: Callable[[Tensor], Tensor] = lambda h: h,
    beside: Callable[[Tensor], Tensor] = lambda x: 0.0 * x,
    norms: Any = ((0.0, 0.0), (0.0, 0.0)),
    prefix: Any = None,
) -> Tensor:
    """A post-norm layer, with the places that methods change."""
    a = layer.attention
    h = attend(x, a.self.query, a.self.key, a.self.value, seen, prefix)
    h = attention(linear(h, a.output.dense.weight, a.output.dense.bias))
    x = layer_norm(x + h, a.output.LayerNorm, *norms[0])
    h = gelu(linear(x, layer.intermediate.dense.weight, layer.intermediate.dense.bias))
    h = mlp(linear(h, layer.output.dense.weight, layer.output.dense.bias))
    return layer_norm(x + h + beside(x), layer.output.LayerNorm, *norms[1])


def prefix_of(f: Named, states: Callable[[Tensor], Tensor] = lambda s: s) -> tuple[Tensor, Tensor]:
    hidden = torch.tanh(linear(f["prefix_embedding"], f["prefix_hidden_weight"], f["prefix_hidden_bias"]))
    both = states(linear(hidden, f["prefix_weight"], f["prefix_bias"]))
    return both[:, :WIDTH], both[:, WIDTH:]


def masked(weight: Tensor, score: Tensor, keep: float) -> Tensor:
    """θ ⊙ m by sorting, as the authors' GetSubnet does; the gradient of m reaches |score| unchanged."""

    class GetSubnet(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, scores: Tensor) -> Tensor:
            out = scores.clone()
            _, idx = scores.flatten().sort()
            j = int((1 - keep) * scores.numel())
            flat = out.flatten()
            flat[idx[:j]] = 0
            flat[idx[j:]] = 1
            return flat.view_as(scores)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    return weight * GetSubnet.apply(score.abs())


def houlsby(layer: Any, x: Tensor, seen: Tensor, f: Named) -> Tensor:
    return bert_layer(
        layer,
        x,
        seen,
        attention=lambda h: h + bottleneck(h, f, "attention_", gelu_tanh),
        mlp=lambda h: h + bottleneck(h, f, "mlp_", gelu_tanh),
        norms=tuple((f[f"norm{i}_weight"], f[f"norm{i}_bias"]) for i in range(2)),
    )


def adapter(layer: Any, x: Tensor, seen: Tensor, f: Named) -> Tensor:
    return bert_layer(layer, x, seen, mlp=lambda h: h + bottleneck(h, f, "", gelu))


def adaptformer(layer: Any, x: Tensor, seen: Tensor, f: Named) -> Tensor:
    return bert_layer(layer, x, seen, beside=lambda x: 0.1 * bottleneck(x, f, "", torch.relu))


def mam(layer: Any, x: Tensor, seen: Tensor, f: Named) -> Tensor:
    beside = lambda x: 2.0 * bottleneck(x, f, "adapter_", torch.relu)  # noqa: E731
    return bert_layer(layer, x, seen, beside=beside, prefix=prefix_of(f))


def propetl_adapter(layer: Any, x: Tensor, seen: Tensor, f: Named) -> Tensor:
    weights = {n: masked(f[n], f[f"{n}_score"], 0.5) for n in ("down_weight", "up_weight")}
    return bert_layer(layer, x, seen, mlp=lambda h: h + bottleneck(h, f | weights, "", torch.relu))


def propetl_prefix(layer: Any, x: Tensor, seen: Tensor, f: Named) -> Tensor:
    return bert_layer(layer, x, seen, prefix=prefix_of(f, lambda states: masked(states, f["states_score"], 0.1)))


SETTINGS = {
    "vapt": {"grid": 2, "prompts": 3},
    "e2vpt": {"prompts": 3, "key_values": 2, "segments": 4, "kept": ["1111", "0110", "0000"]},
}
TEXT = {f.__name__: f for f in (houlsby, adapter, adaptformer, mam, propetl_adapter, propetl_prefix)}


def adapted(family: str, name: str) -> tuple[nn.Module, nn.Module]:
    """The base model and a copy with an adapter whose factors are all random, both in float64."""
    torch.manual_seed(5)
    base = FAMILIES[family].build().to(F64)
    config = METHODS[name].config(init_weights=False, **SETTINGS.get(name, {}))
    model = get_peft_model(copy.deepcopy(base), config, autocast_adapter_dtype=False).to(F64).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return base, model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", TEXT)
def test_on_bert_with_padding(name: str, attention: str) -> None:
    base, model = adapted("bert", name)
    model.base_model.model.set_attn_implementation(attention)
    batch = FAMILIES["bert"].batch()
    batch["attention_mask"][1, 5:] = 0
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    got = model.base_model.model.bert(**inputs).last_hidden_state
    wanted = base.bert.embeddings(inputs["input_ids"])
    for layer, factors in zip(base.bert.encoder.layer, named(model), strict=True):
        wanted = TEXT[name](layer, wanted, inputs["attention_mask"].bool(), factors)
    compare(model, got, wanted)


def vpt_deep(layers: Any, x: Tensor, f: list[Named]) -> Tensor:
    """[x_l, _, E_l] = L_l([x_l-1, P_l-1, E_l-1])."""
    for layer, own in zip(layers, f, strict=True):
        p = own["prompts"]
        y = vit_layer(layer, torch.cat([x[:, :1], p.expand(len(x), -1, -1), x[:, 1:]], dim=1))
        x = torch.cat([y[:, :1], y[:, 1 + len(p) :]], dim=1)
    return x


def vpt_shallow(layers: Any, x: Tensor, f: list[Named]) -> Tensor:
    """Z_l = what the blocks make of P_0, which nothing after the last block reads."""
    p = f[0]["prompts"]
    x = torch.cat([x[:, :1], p.expand(len(x), -1, -1), x[:, 1:]], dim=1)
    for layer in layers:
        x = vit_layer(layer, x)
    return torch.cat([x[:, :1], x[:, 1 + len(p) :]], dim=1)


def vfpt(layers: Any, x: Tensor, f: list[Named]) -> Tensor:
    """The first half of the prompts as Re Σ_jk P_jk exp(-2πi (a j / n + b k / d)), written out."""
    transformed = []
    for own in f:
        p = own["prompts"]
        n, d = len(p) // 2, p.shape[1]
        angle = lambda k: 2 * torch.pi * torch.arange(k, dtype=F64)[:, None] * torch.arange(k, dtype=F64) / k  # noqa: E731
        rows, columns = angle(n), angle(d)
        first = torch.cos(rows) @ p[:n] @ torch.cos(columns) - torch.sin(rows) @ p[:n] @ torch.sin(columns)
        transformed.append({"prompts": torch.cat([first, p[n:]])})
    return vpt_deep(layers, x, transformed)


def vapt(layers: Any, x: Tensor, f: list[Named]) -> Tensor:
    """φ(α_l(K_l * LN_l(E_l))) after the class token, image by image; the first block's prompts are trained."""
    for layer, own in zip(layers, f, strict=True):
        if "prompts" in own:
            p = own["prompts"].expand(len(x), -1, -1)
        else:
            e = x - x.mean(-1, keepdim=True)
            e = e / (e.square().mean(-1, keepdim=True) + 1e-5).sqrt() * own["norm_weight"] + own["norm_bias"]
            image = e[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
            kernel = own["kernel"].expand(WIDTH, 1, 2, 2)  # one for all channels
            z = nn.functional.conv2d(image, kernel, groups=WIDTH).flatten(2).transpose(1, 2)
            p = own["token_weight"] @ z + own["token_bias"][:, None]
            p = p + torch.relu(p @ own["mlp_down"].T) @ own["mlp_up"].T
        y = vit_layer(layer, torch.cat([x[:, :1], p, x[:, 1:]], dim=1))
        x = torch.cat([y[:, :1], y[:, 1 + p.shape[1] :]], dim=1)
    return x


def e2vpt(layers: Any, x: Tensor, f: list[Named]) -> Tensor:
    """Prompt k times ρ_k, its j-th quarter times ζ_kj; V is both keys and values."""
    rho, zeta = (1, 1, 0), ((1, 1, 1, 1), (0, 1, 1, 0), (1, 1, 1, 1))
    for layer, own in zip(layers, f, strict=True):
        p, v = own["prompts"], own["key_values"]
        rows = [torch.cat([rho[k] * zeta[k][j] * p[k, 8 * j : 8 * j + 8] for j in range(4)]) for k in range(3)]
        p = torch.stack(rows).expand(len(x), -1, -1)
        y = vit_layer(layer, torch.cat([x[:, :1], p, x[:, 1:]], dim=1), (v, v))
        x = torch.cat([y[:, :1], y[:, 4:]], dim=1)
    return x


def spt_deep(layers: Any, x: Tensor, f: list[Named]) -> Tensor:
    return vpt_deep(layers, x, f)


@pytest.mark.parametrize("transcribed", [vpt_deep, vpt_shallow, vfpt, spt_deep, vapt, e2vpt], ids=lambda f: f.__name__)
def test_prompts_on_vit(transcribed: Callable[..., Tensor]) -> None:
    base, model = adapted("vit", transcribed.__name__)
    pixels = FAMILIES["vit"].batch()["pixel_values"].to(F64)
    got = model.base_model.model.vit(pixels).last_hidden_state
    x = transcribed(base.vit.layers, base.vit.embeddings(pixels), named(model))
    compare(model, got, layer_norm(x, base.vit.layernorm))


def test_prefix_on_a_fused_projection() -> None:
    """timm's qkv: the prefix is the same as on transformers' separate k and v with the same weights."""
    base, model = adapted("timm", "mam")
    pixels = FAMILIES["timm"].batch()["pixel_values"].to(F64)
    timm, factors = base.timm_model, named(model)
    x = timm._pos_embed(timm.patch_embed(pixels))
    for block, f in zip(timm.blocks, factors, strict=True):
        parts = [nn.Linear(WIDTH, WIDTH, dtype=F64) for _ in range(3)]
        for part, w, b in zip(parts, block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True):
            part.weight, part.bias = nn.Parameter(w), nn.Parameter(b)
        h = attend(layer_norm(x, block.norm1), *parts, extra=prefix_of(f))
        x = x + linear(h, block.attn.proj.weight, block.attn.proj.bias)
        h = gelu(linear(layer_norm(x, block.norm2), block.mlp.fc1.weight, block.mlp.fc1.bias))
        h = linear(h, block.mlp.fc2.weight, block.mlp.fc2.bias)
        x = x + h + 2.0 * bottleneck(x, f, "adapter_", torch.relu)
    compare(model, model.base_model.model.timm_model.forward_features(pixels), layer_norm(x, timm.norm))


def test_propetl_lora() -> None:
    base, model = adapted("bert", "propetl_lora")
    adapter = model.base_model.adapters["default"]
    method, sites = adapter.method, adapter.sites
    shared = adapter.shared
    for path, (site,) in sites.items():
        layer = model.base_model.model.get_submodule(path)
        f = layer.factors("default", site)
        role = path.rpartition(".")[2]
        assert f["a"] is shared[f"a_{role}_32x32"]  # one A for all queries, another for all values
        wanted = 48 / 32 * masked(f["b"], f["b_score"], 0.1) @ masked(f["a"], f["a_score"], 0.1)
        w0 = base.get_submodule(path).weight
        factors = list(f.values())
        got = method.delta_weight(w0, f)
        torch.testing.assert_close(got, wanted)
        weight = torch.randn_like(wanted)
        for mine, literal in zip(
            torch.autograd.grad((got * weight).sum(), factors),
            torch.autograd.grad((wanted * weight).sum(), factors),
            strict=True,
        ):
            torch.testing.assert_close(mine, literal)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.97, 1.0])
def test_masks_are_binary_and_keep_their_share(keep: float) -> None:
    score = torch.randn(7, 11, requires_grad=True)
    mask = top_mask(score, keep)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.sum() == 77 - int((1 - keep) * 77)
    assert score.abs()[mask == 1].min() >= score.abs()[mask == 0].max() if keep < 1 else True
    mask.sum().backward()
    assert torch.equal(score.grad, score.sign())


def test_masks_differ_between_blocks_and_start_as_published() -> None:
    torch.manual_seed(0)
    model = get_peft_model(FAMILIES["bert"].build(), METHODS["propetl_adapter"].config())
    first, second = named(model)
    assert first["down_weight"] is second["down_weight"]
    assert not torch.equal(top_mask(first["down_weight_score"], 0.5), top_mask(second["down_weight_score"], 0.5))
    assert first["down_weight_score"].abs().max() <= WIDTH**-0.5  # kaiming_uniform with a = √5
    assert first["down_weight"].std().item() == pytest.approx(0.02, rel=0.1)


def test_prompts_are_bounded_as_published() -> None:
    model = get_peft_model(FAMILIES["vit"].build(), METHODS["vpt_deep"].config())
    bound = (6 / (3 * 16 * 16 + WIDTH)) ** 0.5
    values = torch.cat([f["prompts"].flatten() for f in named(model)])
    assert 0.98 * bound < values.abs().max() <= bound


def roberta() -> nn.Module:
    return hf.AutoModelForSequenceClassification.from_config(
        hf.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    )


def vit() -> nn.Module:
    return hf.ViTForImageClassification(hf.ViTConfig())


@pytest.mark.parametrize(
    ("build", "name", "settings", "count"),
    [
        (vit, "adapter", {}, 156_768),
        (vit, "adaptformer", {"bottleneck": 8}, 156_768),
        (vit, "vpt_shallow", {}, 76_800),
        (vit, "vpt_deep", {"prompts": 60}, 552_960),
        (vit, "vfpt", {"prompts": 50}, 460_800),
        (vit, "spt_deep", {}, 184_320),
        (vit, "vapt", {"prompts": 5}, 42_418),
        (vit, "vapt", {}, 55_608),
        (vit, "vapt", {"prompts": 100}, 293_028),
        (vit, "e2vpt", {}, 12 * (10 + 5) * 768),
        (vit, "e2vpt", {"prompts": 32, "kept": ["0" * 16] * 32}, 12 * (32 + 5) * 768),
        (roberta, "houlsby", {"bottleneck": 200, "layer_norms": "last"}, 7_414_464),
        (roberta, "houlsby", {"bottleneck": 200}, 7_432_896),
        (roberta, "propetl_adapter", {}, 1_179_648 + 99_136),
        (roberta, "propetl_lora", {}, 1_179_648 + 98_304),
        (roberta, "propetl_prefix", {}, 1_179_648 + 1_230_848),
        (roberta, "mam", {}, 15_695_840),
        (roberta, "mam", {"prefix_length": 30, "bottleneck": 384, "scale": 4.0}, 22_493_984),
    ],
)
def test_counts_of_the_papers(build: Callable[[], nn.Module], name: str, settings: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        model = get_peft_model(build(), METHODS[name].config(**settings))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
