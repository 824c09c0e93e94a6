"""What works with peft's LoRA works with our adapters: torch.export, torch.func, the meta device, weighted sums; and
what does not work is one sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from families import FAMILIES, Family
from genft import METHODS, ConfigError, GenFTConfig, TargetError, VectorFitConfig
from test_conformance import MOVED, REFUSED, VARIANTS, adapted, configuration, output, tolerance

each_variant = pytest.mark.parametrize("variant", VARIANTS)
LINEAR = ("bitfit", "vectorfit")


def family_of(variant: str, *candidates: str) -> Family:
    """The first family that the method works on, without a head of its own."""
    name = next(name for name in candidates or ("bert", "vit") if (variant, name) not in REFUSED)
    return replace(FAMILIES[name], task_type=None, head=())


def inputs(family: Family) -> dict[str, Tensor]:
    return {key: value for key, value in family.batch().items() if key != "labels"}


@each_variant
def test_an_unmerged_model_is_exported(variant: str) -> None:
    family = family_of(variant)
    model = adapted(variant, family, **MOVED)
    with torch.no_grad():
        program = torch.export.export(model, (), inputs(family))
    torch.testing.assert_close(
        program.module()(**inputs(family)).logits, output(model, inputs(family)), **tolerance(torch.float32)
    )


@each_variant
def test_vmap_over_examples_and_gradients_of_each(variant: str) -> None:
    family = family_of(variant)
    model = adapted(variant, family, **MOVED)
    name, batch = next((key, value) for key, value in inputs(family).items() if key in ("input_ids", "pixel_values"))
    values = {key: p.detach() for key, p in model.named_parameters() if p.requires_grad}

    def logits(values: dict[str, Tensor], example: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (), {name: example[None]}).logits[0]

    outputs = torch.vmap(logits, in_dims=(None, 0))(values, batch)
    torch.testing.assert_close(outputs, output(model, {name: batch}), **tolerance(torch.float32))
    gradients = torch.vmap(torch.func.grad(lambda v, x: logits(v, x).square().sum()), in_dims=(None, 0))(values, batch)
    model(**{name: batch}).logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        if key in values:
            assert parameter.grad is not None
            torch.testing.assert_close(gradients[key].sum(0), parameter.grad, rtol=1e-3, atol=1e-4)


@each_variant
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_pass_on_the_meta_device(variant: str, low_cpu_mem_usage: bool) -> None:
    """For the shapes of a model that is too large for this machine; values may come later."""
    family = family_of(variant, "vit", "bert")
    real = family.build()
    with torch.device("meta"):
        base = type(real)(real.config)
    model = get_peft_model(base, configuration(variant, family), low_cpu_mem_usage=low_cpu_mem_usage).to("meta")
    for training in (False, True):
        logits = model.train(training)(**{key: value.to("meta") for key, value in inputs(family).items()}).logits
        assert logits.is_meta
        assert logits.shape == output(real, inputs(family)).shape


@pytest.mark.parametrize("variant", LINEAR)
def test_a_weighted_sum_is_exact(variant: str) -> None:
    family = family_of(variant)
    model = adapted(variant, family, **MOVED)
    model.add_adapter("other", configuration(variant, family, **MOVED))
    model.base_model.add_weighted_adapter(["default", "other"], [0.25, -1.5], "sum")
    assert model.active_adapters == ["default"]
    single = {}
    for name in ("default", "other", "sum"):
        model.set_adapter(name)
        model.merge_adapter()
        single[name] = {key: p.detach().clone() for key, p in model.named_parameters() if "base_layer" in key}
        model.unmerge_adapter()
    base = {key: p.detach() for key, p in model.named_parameters() if "base_layer" in key}
    moved = 0
    for key, w0 in base.items():
        wanted = 0.25 * (single["default"][key] - w0) - 1.5 * (single["other"][key] - w0)
        torch.testing.assert_close(single["sum"][key] - w0, wanted, rtol=1e-4, atol=1e-5)
        moved += bool(wanted.abs().max() > 1e-2)
    assert moved > 5


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in LINEAR and METHODS[VARIANTS[v][0]].mergeable])
def test_a_weighted_sum_that_would_not_be_exact_is_refused(variant: str) -> None:
    model = adapted(variant, family_of(variant), **MOVED)
    with pytest.raises(ConfigError, match=r"add_weighted_adapter: the update of .* is not linear in what it trains"):
        model.base_model.add_weighted_adapter(["default"], [1.0], "sum")
    assert set(model.peft_config) == {"default"}


def two(**settings: Any) -> PeftModel:
    family = replace(FAMILIES["bert"], task_type=None, head=())
    model = adapted("vectorfit", family, **MOVED)
    model.add_adapter("other", VectorFitConfig(**{"init_weights": False, **settings}))
    return model


@pytest.mark.parametrize(
    ("names", "weights", "new", "how", "message"),
    [
        (["defualt"], [1.0], "sum", "linear", r"'defualt' is not known; .*nearest: 'default'"),
        (["default"], [1.0], "other", "linear", r"adapter_name 'other' is taken"),
        (["default", "other"], [1.0], "sum", "linear", r"received 2 adapters and the weights \[1.0\]"),
        (["default"], [float("nan")], "sum", "linear", r"the weights \[nan\]"),
        (["default"], [1.0], "sum", "svd", r"combination_type received 'svd'; allowed: 'linear'"),
    ],
)
def test_a_sum_that_cannot_be_is_one_sentence(
    names: list[str], weights: list[float], new: str, how: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        two().base_model.add_weighted_adapter(names, weights, new, how)


@pytest.mark.parametrize(
    ("settings", "difference"), [({"relative": True}, "relative"), ({"target_modules": ["query"]}, "different weights")]
)
def test_adapters_of_different_kinds_have_no_sum(settings: dict[str, Any], difference: str) -> None:
    with pytest.raises(ConfigError, match=difference):
        two(**settings).base_model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")


@pytest.mark.parametrize("name", ["target_parameters", "ensure_weight_tying"])
@pytest.mark.parametrize("config", [GenFTConfig, VectorFitConfig, METHODS["adaptformer"].config])
def test_settings_of_lora_that_we_do_not_have(name: str, config: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: methods of genft adapt"):
        config(**{name: ["x"]})


@pytest.mark.parametrize(("target", "kind"), [("conv", "Conv2d"), ("embed", "Embedding")])
def test_targets_that_are_no_linear_weights(target: str, kind: str) -> None:
    base = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "embed": nn.Embedding(5, 6), "head": nn.Linear(4, 2)})
    with pytest.raises(TargetError, match=rf"target_modules: {target} is a {kind}, not a linear weight"):
        get_peft_model(base, GenFTConfig(target_modules=[target]))
