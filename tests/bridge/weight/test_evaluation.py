"""Updates kept in evaluation: made once, noticed to be stale, given back, and never saved."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import GenFTConfig, VectorFitConfig
from genft.bridge.update_cache import WatchedWeight
from genft.methods.genft import GenFT

X = torch.randn(4, 16)


def adapted(**settings: Any) -> PeftModel:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8, bias=False))
    nonlinear = {"specific_dim": 2, "act_row": "tanh", "act_col": "tanh"}
    given = {"target_modules": ["0", "1"], "shared_dim": 4, "init_weights": False, **nonlinear, **settings}
    return get_peft_model(base, GenFTConfig(**given)).eval()


@torch.no_grad()
def output(model: nn.Module, x: Tensor = X) -> Tensor:
    return model(x)


def fresh(model: PeftModel) -> Tensor:
    """What the model computes without what it has kept."""
    model.base_model.update_cache.clear()
    return output(model)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry for every ΔW that is generated."""
    calls: list[int] = []
    make = GenFT.delta_weight

    def counted(self: GenFT, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return make(self, *args, **kwargs)

    monkeypatch.setattr(GenFT, "delta_weight", counted)
    return calls


def test_generates_once(generated: list[int]) -> None:
    model = adapted()
    generated.clear()
    outputs = [output(model) for _ in range(3)]
    assert len(generated) == 2
    assert torch.equal(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[0], model(X))  # with gradients: made anew
    assert len(generated) == 4


def factor(model: PeftModel, name: str) -> nn.Parameter:
    return next(p for n, p in model.named_parameters() if n.endswith(name))


def weight(model: PeftModel) -> nn.Parameter:
    return model.base_model.model[1].base_layer.weight


CHANGES: dict[str, Callable[[PeftModel], object]] = {
    "own factor, .data": lambda m: factor(m, "default.a").data.mul_(2),
    "own factor, one number": lambda m: factor(m, "default.b").data.view(-1)[3].add_(0.5),
    "shared factor, .data": lambda m: factor(m, "u_in_16").data.add_(0.1),
    "factor, in place": lambda m: factor(m, "u_in_16").detach().copy_(torch.ones(16, 4)),
    "factor, another tensor": lambda m: setattr(factor(m, "u_in_16"), "data", torch.ones(16, 4)),
    "base weight, .data": lambda m: weight(m).data.mul_(1.5),
    "base weight, one number": lambda m: weight(m).data[2, 5].add_(1.0),
    "base weight, in place": lambda m: weight(m).detach().zero_(),
    "base weight, another parameter": lambda m: setattr(
        m.base_model.model[1].base_layer, "weight", nn.Parameter(torch.ones(8, 16))
    ),
    "base bias": lambda m: m.base_model.model[0].base_layer.bias.data.add_(1),
    "precision": lambda m: m.double() and m.float() and factor(m, "u_in_16").data.add_(0.1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_notices(change: str) -> None:
    model = adapted()
    before = output(model)
    CHANGES[change](model)
    after = output(model)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh(model))


def test_notices_a_step_of_training() -> None:
    model = adapted()
    before = output(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    assert not torch.equal(output(model), before)
    assert torch.equal(output(model), fresh(model))


def test_a_few_rows_of_a_large_frozen_weight_are_noticed_in_a_long_pass_or_after_a_while() -> None:
    base = nn.Sequential(nn.Linear(512, 512))
    config = GenFTConfig(target_modules=["0"], init_weights=False, shared_dim=4)
    model = get_peft_model(base, config).eval()
    output(model, torch.randn(1, 512))
    for tokens, passes in ((64, 1), (1, 32)):
        x = torch.randn(tokens, 512)
        model.base_model.model[0].base_layer.weight.data[100].zero_()
        model.base_model.model[0].base_layer.weight.data[7].mul_(3.0)
        for _ in range(passes):
            output(model, x)
        assert torch.equal(output(model, x), model.base_model.update_cache.clear() or output(model, x))


def test_memory_is_given_back() -> None:
    model = adapted()
    cache = model.base_model.update_cache
    for give_back in (model.train, cache.clear, model.double, model.merge_adapter):
        model.float().eval()
        output(model)
        assert cache.nbytes == 4 * (16 * 16 + 8 * 16)
        give_back()
        assert cache.nbytes == 0
    model.unmerge_adapter()
    model.add_adapter("other", model.peft_config["default"])
    output(model)
    model.set_adapter("other")
    assert cache.nbytes == 0
    output(model)
    model.delete_adapter("other")
    assert cache.nbytes == 0


def test_adapters_do_not_meet() -> None:
    model = adapted()
    first = output(model)
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")
    second = output(model)
    model.set_adapter("default")
    assert torch.equal(output(model), first)
    assert not torch.equal(first, second)
    with model.disable_adapter():
        assert torch.equal(output(model), output(model.get_base_model()))
    model.merge_adapter()
    torch.testing.assert_close(output(model), first)


def test_is_neither_copied_nor_pickled_nor_saved(tmp_path: Path) -> None:
    model = adapted()
    before, state = output(model), model.state_dict()
    assert set(state) == set(adapted().state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.base_model.update_cache.nbytes == 0
        assert torch.equal(output(twin), before)
        factor(twin, "default.a").data.mul_(2)
        assert not torch.equal(output(twin), before)
    assert torch.equal(output(model), before)
    model.save_pretrained(tmp_path)
    assert torch.equal(output(PeftModel.from_pretrained(adapted().unload(), tmp_path)), before)


def test_a_limit(generated: list[int]) -> None:
    model = adapted()
    cache = model.base_model.update_cache
    wanted = output(model)
    cache.limit = 0
    generated.clear()
    assert torch.equal(output(model), output(model))
    assert len(generated) == 4
    cache.limit = 4 * 16 * 16
    with pytest.warns(UserWarning, match=r"exceed the cache limit .* generated again in every forward pass; merge"):
        torch.testing.assert_close(output(model), wanted)
    generated.clear()
    torch.testing.assert_close(output(model), wanted)
    assert len(generated) == 1
    assert cache.nbytes == cache.limit


def test_thin_factors_are_kept_where_the_sum_does_not_fit(recwarn: pytest.WarningsRecorder) -> None:
    base = nn.Sequential(nn.Linear(256, 256))
    config = GenFTConfig(target_modules=["0"], init_weights=False, shared_dim=4)
    model, x = get_peft_model(base, config).eval(), torch.randn(3, 256)
    wanted = output(model, x)
    model.base_model.update_cache.limit = 4 * 256 * 200
    torch.testing.assert_close(output(model, x), wanted)
    assert model.base_model.update_cache.nbytes == 4 * 2 * 256 * 4
    assert not [w for w in recwarn if "generated in every" in str(w.message)]


def test_what_is_made_in_inference_mode_can_meet_a_gradient() -> None:
    model = adapted().requires_grad_(False)
    with torch.inference_mode():
        wanted = model(X)
    x = X.clone().requires_grad_()
    y = model(x)
    y.sum().backward()
    assert torch.equal(y, wanted)
    assert x.grad is not None


def test_half_precision_keeps_the_update_beside_the_weight(generated: list[int]) -> None:
    model = adapted()
    model.base_model.model[0].base_layer.bfloat16()
    model.base_model.model[1].base_layer.bfloat16()
    x = X.bfloat16()
    generated.clear()
    first = output(model, x)
    assert len(generated) == 2
    assert model.base_model.update_cache.nbytes > 0
    assert torch.equal(output(model, x), first)


def test_vectorfit() -> None:
    base = nn.Sequential(nn.Linear(16, 16))
    model = get_peft_model(base, VectorFitConfig(target_modules=["0"], init_weights=False, avf=False)).eval()
    wanted = model(X).detach()
    torch.testing.assert_close(output(model), wanted)
    assert model.base_model.update_cache.nbytes == 4 * 16 * 16


def test_a_bias_written_through_data_is_noticed() -> None:
    base = nn.Sequential(nn.Linear(16, 16))
    model = get_peft_model(base, VectorFitConfig(target_modules=["0"], init_weights=False, avf=False)).eval()
    before = output(model)
    model.base_model.model[0].base_layer.bias.data[3] += 1.0
    after = output(model)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh(model))


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        base = nn.Sequential(nn.Linear(16, 16))
    model = get_peft_model(base, GenFTConfig(target_modules=["0"], shared_dim=4, init_weights=False)).eval()
    with torch.inference_mode():
        assert torch.equal(model(X), output(model))


def test_a_merge_in_inference_mode_can_be_undone_and_trained_on() -> None:
    model = adapted()
    before = output(model)
    with torch.inference_mode():
        model.merge_adapter()
        model.unmerge_adapter()
    assert torch.equal(output(model), before)
    model(X).sum().backward()
    assert factor(model, "default.a").grad is not None


def test_what_is_held_is_compared_in_the_first_pass_only() -> None:
    model = adapted()
    with model.base_model.update_cache.hold():
        before = output(model)
        factor(model, "default.a").data.mul_(2)
        assert torch.equal(output(model), before)
    assert not torch.equal(output(model), before)
    assert torch.equal(output(model), fresh(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_switches_are_respected_while_updates_are_held(dtype: torch.dtype) -> None:
    model = adapted()
    model.add_adapter("other", model.peft_config["default"])
    for layer in (model.base_model.model[0], model.base_model.model[1]):
        layer.base_layer.to(dtype)
    x, outputs = X.to(dtype), []
    for _ in range(2):
        with model.base_model.update_cache.hold():
            outputs += [output(model, x), output(model, x)]
            model.set_adapter("other")
            outputs += [output(model, x), output(model, x)]
            with model.disable_adapter():
                outputs += [output(model, x)]
            model.set_adapter("default")
            outputs += [output(model, x)]
    first, again, second, twice, base, back, *rest = outputs
    assert all(torch.equal(a, b) for a, b in zip(outputs[:6], rest, strict=True))
    assert torch.equal(first, again)
    assert torch.equal(first, back)
    assert torch.equal(second, twice)
    assert len({y.float().sum().item() for y in (first, second, base)}) == 3
    with model.base_model.update_cache.hold():
        output(model, x)
        model.merge_adapter()
        torch.testing.assert_close(output(model, x), first, rtol=0.02, atol=0.02)
        assert torch.equal(model.train()(x), output(model, x))


def test_generating_compares_once_per_text(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    same = WatchedWeight.same
    monkeypatch.setattr(WatchedWeight, "same", lambda self, tokens: compared.append(1) or same(self, tokens))
    model = get_peft_model(FAMILIES["llama"].build(), VectorFitConfig(task_type="CAUSAL_LM", avf=False)).eval()
    ids = FAMILIES["llama"].batch()["input_ids"][:1]
    for n in (2, 12):
        compared.clear()
        model.generate(input_ids=ids, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)
        layers = len(model.base_model.targeted_module_names)
        assert len(compared) <= 3 * layers  # what is cached, and what is derived from W0
