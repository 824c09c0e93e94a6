"""Every registered method × the doors at which state that is shared, kept or derived can go wrong.

The doors are written once; a new method passes through all of them without an edit here.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from genft import METHODS, GenFTError
from test_conformance import MOVED, VARIANTS, adapted, configuration, output, tolerance, train, trained
from test_transforms import family_of, inputs

#: Settings under which what a method keeps from step to step matters within a few steps.
BUSY: dict[str, dict[str, Any]] = {"vectorfit": {"avf_start": 1, "avf_interval": 1, "avf_top_k": 2}}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def result(model: nn.Module, variant: str) -> Tensor:
    return output(model.eval(), inputs(family_of(variant)))


@each_variant
def test_wrapped_twice(variant: str, tmp_path: Path) -> None:
    """What is trained, counted and saved is what the model computes with."""
    family = family_of(variant)
    base = family.build()
    first = get_peft_model(base, configuration(variant, family, **MOVED))
    second = get_peft_model(base, configuration(variant, family, **MOVED))
    assert len(trained(second)) == len(trained(first))
    before = result(second, variant)
    train(second, family.batch(), steps=2, lr=0.05)
    after = result(second, variant)
    assert not torch.allclose(before, after, atol=1e-4)
    second.save_pretrained(tmp_path)
    assert torch.equal(result(PeftModel.from_pretrained(family.build(), tmp_path), variant), after)


@each_variant
def test_two_saved_models_on_one_base(variant: str, tmp_path: Path) -> None:
    family, base = family_of(variant), family_of(variant).build()
    wanted = {}
    for seed in (0, 1):
        own = family.build()  # which sets the seed
        torch.manual_seed(seed)
        model = get_peft_model(own, configuration(variant, family, **MOVED))
        model.save_pretrained(tmp_path / str(seed))
        wanted[seed] = result(model, variant)
    assert not torch.equal(wanted[0], wanted[1])
    for seed in (0, 1):
        assert torch.equal(result(PeftModel.from_pretrained(base, tmp_path / str(seed)), variant), wanted[seed])


@each_variant
def test_injected(variant: str) -> None:
    family = family_of(variant)
    wrapped = adapted(variant, family, **MOVED)
    base = family.build()
    torch.manual_seed(7)
    model = inject_adapter_in_model(configuration(variant, family, **MOVED), base)
    assert not torch.equal(result(model, variant), result(wrapped, variant))
    assert {f"base_model.model.{name}" for name in trained(model)} == set(trained(wrapped))
    set_peft_model_state_dict(model, get_peft_model_state_dict(wrapped))
    assert torch.equal(result(model, variant), result(wrapped, variant))


@each_variant
def test_the_base_changes_after_the_adapter_was_attached(variant: str, tmp_path: Path) -> None:
    """Training mode, evaluation, and the adapter loaded on the new base are one function."""
    family = family_of(variant)
    model = adapted(variant, family, **MOVED)
    before = result(model, variant)
    state = model.state_dict()
    own = set(trained(model))
    factor = {name: 1 + 0.1 * (n % 3) for n, name in enumerate(state) if name not in own}
    model.load_state_dict(
        {
            name: value * factor.get(name, 1) if value.is_floating_point() else value
            for name, value in state.items()
            if "_constants." not in name
        },
        strict=False,
    )
    wanted = result(model, variant)
    assert not torch.allclose(before, wanted, atol=1e-3)
    with_gradient = model(**inputs(family)).logits.detach()
    torch.testing.assert_close(with_gradient, wanted, **tolerance(torch.float32))
    model.save_pretrained(tmp_path)
    base = model.unload()
    torch.testing.assert_close(
        result(PeftModel.from_pretrained(base, tmp_path), variant), wanted, **tolerance(torch.float32)
    )


@each_variant
def test_threads_in_evaluation(variant: str) -> None:
    family = family_of(variant)
    model = adapted(variant, family, **MOVED)
    whole = inputs(family)
    batches = [{key: torch.roll(value, n, 0)[: 1 + n % 2] for key, value in whole.items()} for n in range(4)]
    wanted = [output(model, batch) for batch in batches]

    def wrong(number: int) -> int:
        torch.set_num_threads(1)
        return sum(not torch.equal(output(model, batches[number]), wanted[number]) for _ in range(15))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(wrong, range(4))) == 0


@each_variant
def test_two_models_in_one_optimizer(variant: str) -> None:
    """Each model ends as it would have alone."""
    family = family_of(variant)

    def fresh(seed: int) -> PeftModel:
        base = family.build()
        torch.manual_seed(seed)
        settings = {"dropout": 0.0} if "dropout" in vars(configuration(variant, family)) else {}
        config = configuration(variant, family, **MOVED, **BUSY.get(variant, {}), **settings)
        return get_peft_model(base, config).train()

    def steps(models: list[PeftModel]) -> None:
        parameters = [p for model in models for p in trained(model).values()]
        optimizer = torch.optim.AdamW(parameters, lr=0.01)
        for step in range(4):
            optimizer.zero_grad()
            for model in models:
                torch.manual_seed(step)  # of the base's own dropout
                model(**family.batch()).loss.backward()
            optimizer.step()

    together, alone = [fresh(0), fresh(1)], [fresh(0), fresh(1)]
    steps(together)
    for model in alone:
        steps([model])
    for one, other in zip(together, alone, strict=True):
        values = dict(other.named_parameters())
        assert all(torch.equal(p, values[name]) for name, p in one.named_parameters())
        assert [p.requires_grad for p in one.parameters()] == [p.requires_grad for p in other.parameters()]


def largest(value: Tensor) -> Tensor:
    return torch.where(value.abs() >= value.abs().flatten().kthvalue(max(1, value.numel() // 2)).values, value, 0)


EDITS: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": lambda value: value + 0.1 * torch.randn_like(value),
    "the largest alone": largest,
    "zero": torch.zeros_like,
    "half": lambda value: value.half(),
}


@pytest.mark.filterwarnings("ignore:adapter")
@pytest.mark.parametrize("edit", EDITS)
@each_variant
def test_edited_state_dicts(variant: str, edit: str) -> None:
    """As federated learning edits them: the model takes the values that it is given."""
    family = family_of(variant)
    model = adapted(variant, family, **MOVED)
    state = {name: EDITS[edit](value) for name, value in get_peft_model_state_dict(model).items()}
    set_peft_model_state_dict(model, copy.copy(state))
    now = get_peft_model_state_dict(model)
    for name, value in state.items():
        if not name.endswith(("_base", "_sketch")):
            assert torch.equal(now[name], value.to(now[name].dtype))
    assert result(model, variant).isfinite().all()


@pytest.mark.parametrize("variant", [v for v, (name, _) in VARIANTS.items() if METHODS[name].family == "weight"])
def test_another_method_under_the_same_name(variant: str) -> None:
    """LoRA around it, called "default" too, freezes all of the adapter or nothing."""
    family = family_of(variant)
    model = adapted(variant, family)
    before = {name.replace(".base_layer", "") for name in trained(model)}  # as LoRA's layers take their place
    both = get_peft_model(model, LoraConfig(target_modules=["query"]))
    names = {name.replace(".base_layer", "").removeprefix("base_model.model.") for name in trained(both)}
    assert before <= names


SHARING = [v for v, (name, _) in VARIANTS.items() if METHODS[name].method.shares_factors]  # type: ignore[union-attr]


@pytest.mark.parametrize("variant", SHARING)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_in_ddp(variant: str, reentrant: bool, tmp_path: Path) -> None:
    """A reentrant checkpoint gives shared factors a gradient per layer, which DDP takes for the whole; torch's own
    sentence names neither."""
    family = family_of(variant)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/{os.getpid()}", rank=0, world_size=1)
    try:
        model = adapted(variant, family, **MOVED).train()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        parallel = DistributedDataParallel(model)
        if reentrant:
            with pytest.raises(GenFTError, match=r"use gradient_checkpointing_kwargs=\{'use_reentrant': False\}"):
                parallel(**family.batch())
            parallel = DistributedDataParallel(model, static_graph=True)
        for _ in range(2):
            parallel(**family.batch()).loss.backward()
        assert all(p.grad is not None for p in trained(model).values())
    finally:
        dist.destroy_process_group()
