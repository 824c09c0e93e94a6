"""Blocks of real models: which can take what, and that prompts and prefixes leave no trace behind them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import transformers as hf
from peft import get_peft_model
from torch import Tensor, nn

from families import FAMILIES, IMAGE, TEXT
from genft import METHODS, TargetError
from genft.bridge.block.tokens import lengthened, shortened


def swin() -> nn.Module:
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=32, depths=(1, 1), num_heads=(2, 2))


def dinov3() -> nn.Module:
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**IMAGE, intermediate_size=48, layer_types=None))


def decoder() -> nn.Module:
    return hf.BertLMHeadModel(hf.BertConfig(**TEXT, is_decoder=True))


def clip() -> nn.Module:
    config = {k: v for k, v in IMAGE.items() if k != "num_labels"}
    return hf.CLIPVisionModel(hf.CLIPVisionConfig(**config, intermediate_size=48))


def timm_vit(**settings: Any) -> nn.Module:
    small = {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 2}
    return timm.create_model("vit_tiny_patch16_224", **small | settings).eval()


def adapted(model: nn.Module, name: str, **settings: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(model, METHODS[name].config(init_weights=False, **settings)).eval()


@pytest.mark.parametrize(
    ("build", "name", "words"),
    [
        (swin, "vpt_deep", "cannot take prompts, because its attention depends on positions"),
        (swin, "mam", "cannot take a prefix"),
        (dinov3, "vpt_shallow", "cannot take prompts, because its attention depends on positions"),
        (dinov3, "mam", "cannot take a prefix"),
        (decoder, "mam", "cannot take a prefix, because it is a decoder's"),
    ],
)
def test_refuses_where_tokens_cannot_be_added(build: Any, name: str, words: str) -> None:
    model = build()
    with pytest.raises(TargetError, match=words):
        adapted(model, name)
    assert not any("genft" in type(m).__module__ for m in model.modules())


@pytest.mark.parametrize("name", ["adapter", "houlsby", "mam", "propetl_adapter", "propetl_prefix", "vpt_deep"])
def test_works_on_clip(name: str) -> None:
    model, pixels = clip().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        base = model(pixels).last_hidden_state
        changed = adapted(model, name)(pixels).last_hidden_state
    assert changed.shape == base.shape
    assert not torch.allclose(changed, base, atol=1e-4)


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("name", ["vpt_deep", "vpt_shallow"])
def test_no_prompt_reaches_the_head(name: str, pool: str) -> None:
    """Pooling is over the patches alone: what the head sees follows from as many tokens as without prompts."""
    model, pixels = timm_vit(global_pool=pool), torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(pixels).shape
    model = adapted(model, name, prompts=3)
    seen = []
    model.base_model.model.norm.register_forward_hook(lambda m, args, out: seen.append(args[0].shape))
    model(pixels)
    assert model.base_model.model.forward_features(pixels).shape == tokens
    assert pool == "avg" or seen[0] == tokens


def test_shallow_prompts_pass_from_the_first_adapted_block_through_the_last() -> None:
    model = adapted(timm_vit(depth=4), "vpt_shallow", prompts=3, target_modules=["blocks.1", "blocks.3"])
    lengths: list[int] = []
    for block in model.base_model.model.blocks:
        inner = getattr(block, "base_layer", block)
        inner.register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))
    model(torch.randn(2, 3, 32, 32))
    assert lengths == [5, 8, 8, 8]


@pytest.mark.parametrize("name", ["mam", "propetl_prefix", "vpt_deep", "propetl_adapter"])
def test_timm_checkpointing_gives_the_same_gradients(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = adapted(timm_vit(), name).train()
        model.base_model.model.set_grad_checkpointing(checkpointing)
        model(torch.ones(2, 3, 32, 32)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_shared_factors_have_the_dtype_of_the_base() -> None:
    model = FAMILIES["bert"].build().to(torch.bfloat16)
    model = get_peft_model(model, METHODS["propetl_adapter"].config(), autocast_adapter_dtype=False)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_houlsby_trains_the_layer_normalisations_it_is_asked_to() -> None:
    for wanted, count in (("all", 2), ("last", 1), ("none", 0)):
        model = adapted(FAMILIES["bert"].build(), "houlsby", layer_norms=wanted)
        layer = model.base_model.model.bert.encoder.layer[0]
        names = [n for n in layer.own_factors["default"] if n.startswith("norm")]
        assert len(names) == 2 * count
        assert wanted != "last" or all(n.startswith("norm1") for n in names)
    llama = FAMILIES["llama"].build()
    assert adapted(llama, "houlsby", layer_norms="none")


# -------------------------------------------------------------------- arguments


def scores(mask: Tensor) -> Tensor:
    """Which keys may be seen, as 0 and 1, from any kind of mask."""
    return mask.exp() if mask.is_floating_point() else mask.float()


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("kind", ["4d float", "4d bool", "one row", "2d"])
def test_added_tokens_are_seen_by_all_and_masked_ones_stay_masked(kind: str, keyword: bool, at: int) -> None:
    x, seen = torch.randn(2, 4, 6), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    rows = seen[:, None, None, :].bool()
    mask = {
        "4d float": torch.zeros(2, 1, 4, 4).masked_fill(~rows, float("-inf")),
        "4d bool": rows.expand(2, 1, 4, 4),
        "one row": rows,
        "2d": seen,
    }[kind]
    names, new = ("hidden_states", "attention_mask", "other"), torch.ones(3, 6)
    given: tuple[Any, dict[str, Any]] = ((x,), {"attention_mask": mask, "other": 7}) if keyword else ((x, mask, 7), {})
    args, kwargs = lengthened(*given, names, new, at=at)
    longer = kwargs["attention_mask"] if keyword else args[1]
    assert torch.equal(args[0], torch.cat([x[:, :at], new.expand(2, 3, 6), x[:, at:]], dim=1))
    wanted = torch.cat([seen[:, :at], torch.ones(2, 3), seen[:, at:]], dim=1)
    if kind.startswith("4d"):
        assert longer.shape == (2, 1, 7, 7)
    original = [row for row in range(longer.shape[-2]) if kind != "2d" and not at <= row < at + 3] or [0]
    got = scores(longer) if kind == "2d" else scores(longer)[:, 0, original[-1]]
    assert torch.equal(got, wanted)
    assert (kwargs["other"] if keyword else args[2]) == 7
    assert torch.equal(shortened((args[0], "weights"), 3, at=at)[0], x)
