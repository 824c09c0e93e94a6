"""Every registered method × every model family, through peft's own functions.

A new method is picked up from the registry with its default configuration; VARIANTS adds configurations worth the
same treatment.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_model_status, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer

from families import FAMILIES, Family
from genft import METHODS, MergeError, TargetError

OURS = [name for name, info in METHODS.items() if info.family in ("weight", "block")]
FPET = ("fpet_lora", "fpet_adaptformer")
PROMPTS = ("vpt_deep", "vpt_shallow", "vfpt", "spt_deep", "vapt", "e2vpt")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in OURS},
    # images of five tokens: fifty prompts would drown them
    **{name: (name, {"prompts": 4}) for name in PROMPTS},
    "vapt": ("vapt", {"prompts": 4, "grid": 2, "kernel": 1, "dropout": 0.0}),
    "e2vpt": ("e2vpt", {"prompts": 3, "key_values": 2, "kept": ["1" * 16, "0" * 16, "01" * 8]}),
    "sa2vp": ("sa2vp", {"inner": 4, "weight": 1.5, "grid": 2}),
    **{name: (name, {"layer": 0}) for name in FPET},
    "mam": ("mam", {"prefix_length": 4, "prefix_hidden": 16}),
    "propetl_prefix": ("propetl_prefix", {"prefix_length": 4, "prefix_hidden": 16, "keep": 0.5}),
    "genft-equations": ("genft", {"form": "paper", "specific_dim": 2}),
    "genft-nonlinear": (
        "genft",
        {"form": "paper", "specific_dim": 2, "act_row": "leaky_relu", "act_col": "gelu", "dropout": 0.1},
    ),
    "genft-official": (
        "genft",
        {
            "form": "official",
            "specific_dim": 2,
            "act_inner": "gelu",
            "act_outer": "leaky_relu",
            "ratio_power": 4,
            "factor_bias": True,
        },
    ),
    "genft-specific": ("genft", {"shared_dim": 6, "specific_dim": 2, "act_row": "leaky_relu"}),
    "genft-layer-mlp": ("genft", {"specific_scope": "layer", "shared_dim": 4, "specific_dim": 2, "mlp": True}),
    "svft-banded": ("svft", {"pattern": "banded"}),
    "svft-random": ("svft", {"pattern": "random", "off_diagonals": 3}),
}
# IDENTITY: the settings under which a method is not at its start, so that its update can be seen
MOVED = {"init_weights": False}

#: What a method cannot do, with the words in which it says so.
REFUSED = {
    **{("bitfit", family): "no module .* has a bias" for family in ("llama", "phi3", "t5")},
    **{("houlsby", family): "has no LayerNorm with weight and bias to train" for family in ("llama", "phi3")},
    ("houlsby", "t5"): "has no attention whose output could be adapted",
    **{
        (method, family): "cannot take a prefix, because it is a decoder's or its attention depends on positions"
        for method in ("mam", "propetl_prefix")
        for family in ("deberta", "llama", "phi3", "gpt2", "t5")
    },
    **{
        (method, family): "prompts of this method are for images"
        for method in (*PROMPTS, "sa2vp")
        for family in ("bert", "deberta", "llama", "phi3", "gpt2", "t5")
    },
    **{
        (method, family): "merges patches of images; it does not work on text"
        for method in FPET
        for family in ("bert", "deberta", "llama", "phi3", "gpt2", "t5")
    },
    **{
        (method, "dinov2"): "takes no offsets of its attention's scores"
        for method in FPET
        if "attention_mask" not in inspect.signature(Dinov2Layer.forward).parameters  # before transformers 5.24
    },
}

#: The others start near the pretrained function, as their papers do.
exact = [v for v, (name, _) in VARIANTS.items() if METHODS[name].config.starts_pretrained]
mergeable = [v for v, (name, _) in VARIANTS.items() if METHODS[name].mergeable]


def pairs(variants: Any = VARIANTS, families: Any = FAMILIES) -> Any:
    return pytest.mark.parametrize(
        ("variant", "family"), [(v, f) for v in variants for f in families if (v, f) not in REFUSED]
    )


def configuration(variant: str, family: Family, **settings: Any) -> Any:
    name, own = VARIANTS[variant]
    own = dict(own)
    config: dict[str, Any] = {"task_type": family.task_type, "modules_to_save": list(family.head) or None}
    if own.pop("mlp", False):
        names = family.queries_values.get("target_modules", list(family.queries_values.get("target_slices", {})))
        config |= {"target_modules": [*names, *family.mlp], "target_slices": family.queries_values.get("target_slices")}
    return METHODS[name].config(**config, **{**own, **settings})


def adapted(variant: str, family: Family, **settings: Any) -> PeftModel:
    torch.manual_seed(2)
    return get_peft_model(family.build(), configuration(variant, family, **settings)).eval()


def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits.float()


def evaluate(model: nn.Module, batch: dict[str, Tensor]) -> float:
    with torch.no_grad():
        return float(model(**batch).loss)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model: nn.Module, batch: dict[str, Tensor], steps: int = 8, lr: float = 5e-3) -> list[float]:
    model.train()
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(trained(model).values(), lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """By dtype, never by method."""
    return {torch.float32: {"atol": 2e-5, "rtol": 1e-4}, torch.bfloat16: {"atol": 5e-2, "rtol": 5e-2}}[dtype]


@pairs(exact)
def test_starts_at_the_pretrained_function(variant: str, family: str) -> None:
    f = FAMILIES[family]
    batch = f.batch()
    assert torch.equal(output(f.build(), batch), output(adapted(variant, f), batch))


@pairs()
def test_trains_only_its_own_parameters_and_all_of_them(variant: str, family: str) -> None:
    f = FAMILIES[family]
    batch, model = f.batch(), adapted(variant, f)
    before = copy.deepcopy(model.state_dict())
    start = evaluate(model, batch)
    train(model, batch)
    assert evaluate(model, batch) < start
    names = trained(model)
    for name, value in model.state_dict().items():
        if name in names:
            assert not torch.equal(value, before[name]), f"{name} did not move"
        else:
            assert torch.equal(value, before[name]), f"{name} moved"


@pairs()
def test_counts_what_its_factors_say(variant: str, family: str) -> None:
    """Distinct factors of all sites, counted from their declared shapes, are the trained parameters."""
    f = FAMILIES[family]
    model = adapted(variant, f)
    adapter = model.base_model.adapters["default"]
    method, sites = adapter.method, adapter.sites
    declared: dict[str, int] = {}
    for site in (s for group in sites.values() for s in group):
        for name, factor in method.factors(site).items():
            key = factor.shared_as or f"{site}/{name}"
            declared[key] = torch.Size(factor.shape).numel()
    head = sum(p.numel() for n, p in trained(model).items() if "modules_to_save" in n)
    assert sum(p.numel() for p in trained(model).values()) - head == sum(declared.values())


@pairs()
def test_saves_and_loads_bit_for_bit(variant: str, family: str, tmp_path: Any) -> None:
    f = FAMILIES[family]
    batch, model = f.batch(), adapted(variant, f)
    train(model, batch, steps=2)
    model.save_pretrained(tmp_path)
    values = load_file(tmp_path / "adapter_model.safetensors")
    numbers = sum(v.numel() for name, v in values.items() if not name.endswith(("_base", "_sketch")))
    assert numbers == sum(p.numel() for p in trained(model).values())
    loaded = PeftModel.from_pretrained(f.build(), tmp_path).eval()
    assert torch.equal(output(loaded, batch), output(model, batch))
    light = PeftModel.from_pretrained(f.build(), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(output(light, batch), output(model, batch))


@pairs()
def test_disabling_gives_the_base_model_back(variant: str, family: str) -> None:
    f = FAMILIES[family]
    batch, base = f.batch(), output(f.build(), f.batch())
    model = adapted(variant, f, **MOVED)
    assert not torch.allclose(output(model, batch), base, atol=1e-4)
    trainable = set(trained(model))
    with model.disable_adapter():
        assert torch.equal(output(model, batch), base)
    assert set(trained(model)) == trainable
    assert torch.equal(output(model.unload(), batch), base)


@pairs(mergeable)
def test_merges_and_unmerges(variant: str, family: str) -> None:
    f = FAMILIES[family]
    batch, model = f.batch(), adapted(variant, f, **MOVED)
    weights = {n: p.clone() for n, p in model.named_parameters()}
    wanted = output(model, batch)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(output(model, batch), wanted, **tolerance(torch.float32))
    model.unmerge_adapter()
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    plain = model.merge_and_unload()
    assert not any("genft" in type(m).__module__ for m in plain.modules())
    torch.testing.assert_close(output(plain, batch), wanted, **tolerance(torch.float32))


@pytest.mark.parametrize(("variant", "family"), REFUSED)
def test_says_what_it_cannot_do(variant: str, family: str) -> None:
    with pytest.raises(TargetError, match=REFUSED[variant, family]):
        adapted(variant, FAMILIES[family])


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in mergeable])
def test_refuses_to_merge_what_cannot_be_merged(variant: str) -> None:
    model = adapted(variant, next(f for name, f in FAMILIES.items() if (variant, name) not in REFUSED))
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(MergeError, match=r"no change of the base weights can replace"):
            merge()


@pairs()
def test_several_adapters(variant: str, family: str) -> None:
    # without a task type and a head of its own: peft does not combine several trained heads
    f = replace(FAMILIES[family], task_type=None, head=())
    batch, model = f.batch(), adapted(variant, f, **MOVED)
    first = output(model, batch)
    trainable = set(trained(model))
    model.add_adapter("second", configuration(variant, f, **MOVED))
    assert set(trained(model)) == trainable
    assert torch.equal(output(model, batch), first)
    model.set_adapter("second")
    second = output(model, batch)
    assert not torch.allclose(first, second, atol=1e-4)
    assert all("second" in name for name in trained(model))
    model.base_model.set_adapter(["default", "second"])
    assert not torch.allclose(output(model, batch), second, atol=1e-4)
    assert get_model_status(model).active_adapters == ["default", "second"]
    model.set_adapter("second")
    model.delete_adapter("second")
    assert set(trained(model)) == trainable
    assert not any("second" in name for name in model.state_dict())
    assert torch.equal(output(model, batch), first)


@pairs()
def test_half_precision_base(variant: str, family: str) -> None:
    f = FAMILIES[family]
    batch = f.batch()
    half = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in batch.items()}
    coarse = replace(f, build=lambda: f.build().to(torch.bfloat16))
    model = adapted(variant, coarse, **MOVED)
    assert all(p.dtype == torch.float32 for n, p in trained(model).items() if model.base_model.prefix in n)
    # the reference has the same rounded weights and computes in float32
    rounded = replace(f, build=lambda: f.build().to(torch.bfloat16).to(torch.float32))
    reference = adapted(variant, rounded, **MOVED)
    reference.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    wanted, base = output(reference, batch), output(rounded.build(), batch)
    error = (output(model, half) - wanted).norm()
    assert error < 0.03 * wanted.norm()
    assert error < 0.5 * (wanted - base).norm(), "the update was rounded away"
    batch = half
    losses = train(model, batch, steps=4)
    assert all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("reentrant", [False, True])
@pairs(families=[name for name in FAMILIES if name != "timm"])
def test_gradient_checkpointing_gives_the_same_gradients(variant: str, family: str, reentrant: bool) -> None:
    f = FAMILIES[family]
    batch = f.batch()
    gradients = []
    for checkpointing in (False, True):
        model = adapted(variant, f, **MOVED).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads() if "input_ids" in batch else None
        torch.manual_seed(4)
        model(**batch).loss.backward()
        gradients.append({n: p.grad for n, p in trained(model).items()})
    if family in ("vit", "dinov2") and reentrant:
        return  # images need no gradient, so a reentrant checkpoint has nothing to hold on to: torch's own limit
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, **tolerance(torch.float32), msg=name)


def compiles(variant: str, family: str, backend: str) -> None:
    """The forward pass of an adapted model is one graph, in evaluation and in training, and means the same."""
    f = FAMILIES[family]
    batch, model = f.batch(), adapted(variant, f, **MOVED)
    wanted = output(model, batch)
    torch.compiler.reset()
    del batch["labels"]  # transformers' own losses log, which breaks the graph
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    torch.testing.assert_close(output(compiled, batch), wanted, **tolerance(torch.float32))
    model.train()
    compiled(**batch).logits.square().mean().backward()
    assert all(p.grad is not None for p in trained(model).values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles_without_graph_breaks(variant: str) -> None:
    """On one family, traced only: the nightly tests compile every family, and the backward pass too."""
    compiles(variant, next(f for f in ("bert", "timm") if (variant, f) not in REFUSED), backend="eager")


#: Most methods share the code of the bridge that is traced.
COMPILED_EVERYWHERE = ("genft", "genft-nonlinear", "vectorfit")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("variant", "family"),
    [
        (v, f)
        for v in VARIANTS
        for f in (["bert", "llama", "gpt2", "vit", "timm"] if v in COMPILED_EVERYWHERE else ["bert", "timm"])
        if (v, f) not in REFUSED
    ],
)
def test_compiles_on_every_family(variant: str, family: str) -> None:
    compiles(variant, family, backend="aot_eager")


@pairs()
def test_copies_and_pickles(variant: str, family: str) -> None:
    f = FAMILIES[family]
    batch, model = f.batch(), adapted(variant, f, **MOVED)
    wanted = output(model, batch)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(twin, batch), wanted)
        train(twin, batch, steps=1)
    assert torch.equal(output(model, batch), wanted)
