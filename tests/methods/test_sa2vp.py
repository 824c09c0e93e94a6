"""SA²VP against a literal transcription of its second stream: six blocks, four by four patches, token by token."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import METHODS, ConfigError, TargetError
from genft.api.method import FrozenBlock
from genft.methods.sa2vp import SA2VPConfig, neighbourhood
from literal_blocks import F64, HEADS, WIDTH, Named, compare, gelu, layer_norm, linear, named, vit_layer


def seen_by(token: int, grid: int) -> list[int]:
    """Token 0 sees all; a patch the patches around it, as far as they exist."""
    if token == 0:
        return list(range(grid**2 + 1))
    r, c = divmod(token - 1, grid)
    around = [(r + a, c + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    return [1 + i * grid + j for i, j in around if 0 <= i < grid and 0 <= j < grid]


def exchange(layer: Any, y: Tensor, x: Tensor, f: Named, grid: int) -> Tensor:
    """W_2 GELU(W_1 LN(y + A(y, x)) + b_1) + b_2."""
    a, ny, nx = layer.attention, layer_norm(y, layer.layernorm_before), layer_norm(x, layer.layernorm_before)
    q = linear(ny, a.q_proj.weight, a.q_proj.bias)
    k, v = (linear(nx, m.weight, m.bias) for m in (a.k_proj, a.v_proj))
    rows = []
    for t in range(grid**2 + 1):
        near, heads = seen_by(t, grid), []
        for h in range(HEADS):
            part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            scores = (k[:, near, part] @ q[:, t, part, None])[..., 0] / (WIDTH / HEADS) ** 0.5
            heads.append((scores.softmax(-1)[..., None] * v[:, near, part]).sum(1))
        rows.append(torch.cat(heads, -1))
    z = y + linear(torch.stack(rows, 1), a.o_proj.weight, a.o_proj.bias)
    z = z - z.mean(-1, keepdim=True)
    z = z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt() * f["norm_weight"] + f["norm_bias"]
    return gelu(z @ f["down_weight"].T + f["down_bias"]) @ f["up_weight"].T + f["up_bias"]


def sa2vp(layers: Any, h: Tensor, positions: Tensor, f: list[Named], w: float, grid: int) -> tuple[Tensor, Tensor]:
    maps = [own["map"] @ own["map_weight"].T + own["map_bias"] if "map" in own else None for own in f]
    p = (maps[0] + positions).expand(len(h), -1, -1)
    for i, layer in enumerate(layers):
        if i in (0, 4):
            fused = exchange(layer, p, h, f[i], grid)
            p = vit_layer(layer, p)
            if i == 4:
                p = p + vit_layer(layer, maps[i].expand(len(h), -1, -1)) * f[i]["map_scale"]
            h, p = vit_layer(layer, h), p + fused * w
        else:
            fused = exchange(layer, h, p, f[i], grid)
            p, h = vit_layer(layer, p), vit_layer(layer, h) + fused * w
    return h, p


def test_the_second_stream_on_vit() -> None:
    torch.manual_seed(5)
    config = hf.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=HEADS, intermediate_size=48, image_size=64
    )
    base = hf.ViTModel(config, add_pooling_layer=False).to(F64).eval()
    for parameter in base.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    adapter = SA2VPConfig(inner=3, weight=0.5, grid=4)
    model: Any = get_peft_model(copy.deepcopy(base), adapter, autocast_adapter_dtype=False).to(F64).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    pixels = torch.randn(2, 3, 64, 64, dtype=F64)
    positions = base.embeddings.position_embeddings[0]
    wanted, _ = sa2vp(base.layers, base.embeddings(pixels), positions, named(model), 0.5, 4)
    compare(model, model(pixels).last_hidden_state, layer_norm(wanted, base.layernorm))


@pytest.mark.parametrize("weight", [0.2, 0.0])
def test_the_loss_of_both_streams(weight: float) -> None:
    """0.8 of the cross-entropy of the image's class token and 0.2 of the map's, by one normalisation and one head."""
    torch.manual_seed(6)
    config = hf.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=HEADS, intermediate_size=48, image_size=64
    )
    config.num_labels = 3
    base: Any = hf.ViTForImageClassification(config).to(F64).eval()
    for parameter in base.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    adapter = SA2VPConfig(inner=3, weight=0.5, grid=4, prompt_loss=weight)
    model: Any = get_peft_model(copy.deepcopy(base), adapter, autocast_adapter_dtype=False).to(F64).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    batch = {"pixel_values": torch.randn(2, 3, 64, 64, dtype=F64), "labels": torch.tensor([2, 0])}
    got = METHODS["sa2vp"].recipe.loss(model, adapter, lambda: model(**batch).loss)

    vit, positions = base.vit, base.vit.embeddings.position_embeddings[0]
    streams = sa2vp(vit.layers, vit.embeddings(batch["pixel_values"]), positions, named(model), 0.5, 4)
    losses = []
    for stream in streams:
        logits = linear(layer_norm(stream, vit.layernorm)[:, 0], base.classifier.weight, base.classifier.bias)
        chances = logits.exp() / logits.exp().sum(1, keepdim=True)
        losses.append(-(chances[0, 2].log() + chances[1, 0].log()) / 2)
    compare(model, got, (1 - weight) * losses[0] + weight * losses[1])
    # afterwards the model predicts from the image again, and keeps nothing
    torch.testing.assert_close(model(**batch).loss, losses[0])
    assert model.base_model.adapters["default"].carried.second_stream is None


@pytest.mark.parametrize("family", ["vit", "dinov2", "timm"])
def test_the_loss_of_both_streams_in_training(family: str) -> None:
    f = FAMILIES[family]
    torch.manual_seed(0)
    config = SA2VPConfig(inner=3, grid=2, dropout=0.0, modules_to_save=list(f.head))
    model: Any = get_peft_model(f.build(), config).train()
    losses: list[Tensor] = []

    def of_outputs() -> Tensor:
        losses.append(model(**f.batch()).loss)
        return losses[-1]

    loss = METHODS["sa2vp"].recipe.loss(model, config, of_outputs)
    torch.testing.assert_close(loss, 0.8 * losses[0] + 0.2 * losses[1])
    assert losses[0] != losses[1]
    trained = [p for p in model.parameters() if p.requires_grad]
    for of_image, of_both in zip(
        torch.autograd.grad(losses[0], trained, retain_graph=True), torch.autograd.grad(loss, trained), strict=True
    ):
        assert not torch.equal(of_image, of_both)


def test_neighbours_are_at_most_a_row_and_a_column_away() -> None:
    mask = neighbourhood(14, torch.device("cpu"))
    assert [mask[t].nonzero().flatten().tolist() for t in range(197)] == [seen_by(t, 14) for t in range(197)]


@pytest.mark.parametrize(("inner", "count"), [(8, 202_200), (16, 372_912), (32, 714_336)])
@pytest.mark.parametrize("family", ["vit", "timm"])
def test_counts_of_the_released_code(inner: int, count: int, family: str) -> None:
    with torch.device("meta"):
        timm = hf.TimmWrapperConfig(architecture="vit_base_patch16_224", num_labels=2)
        base = (
            hf.ViTForImageClassification(hf.ViTConfig())
            if family == "vit"
            else hf.TimmWrapperForImageClassification(timm)
        )
        model = get_peft_model(base, SA2VPConfig(inner=inner))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_the_grid_follows_from_the_model_and_others_are_refused() -> None:
    f = FAMILIES["vit"]
    assert METHODS["sa2vp"].recipe.settings(f.build(), 10) == {"grid": 2}  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"grid: received 14, i.e. 196 patches .* blocks read 5 tokens"):
        get_peft_model(f.build(), SA2VPConfig())(**f.batch())
    beit = hf.BeitModel(hf.BeitConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, image_size=32))
    with pytest.raises(TargetError, match="queries and keys could come from two streams; use a ViT or a DINOv2"):
        get_peft_model(beit, SA2VPConfig(grid=2))


def test_position_embeddings_follow_the_size_of_the_images() -> None:
    f, pixels = FAMILIES["vit"], torch.randn(1, 3, 64, 64)
    base: Any = f.build()
    asked = base.vit.embeddings.interpolate_pos_encoding(torch.zeros(1, 17, WIDTH), 64, 64)[0]
    model: Any = get_peft_model(base, SA2VPConfig(grid=4)).eval()
    block = FrozenBlock(torch.clone, torch.clone, lambda q, kv, mask: q, base.vit.embeddings.position_embeddings[0])
    method = model.base_model.adapters["default"].method
    torch.testing.assert_close(method._positions(torch.zeros(1, 17, WIDTH), block), asked)
    assert model(pixels, interpolate_pos_encoding=True).logits.shape == (1, 2)
    with pytest.raises(ConfigError, match="needs position embeddings of a class token and a square grid"):
        method._positions(torch.zeros(1, 17, WIDTH), FrozenBlock(torch.clone, torch.clone, lambda q, kv, mask: q, None))
