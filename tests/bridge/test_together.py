"""Updates computed together: the same numbers and gradients as weight by weight, and only where that is safe."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genft import GenFTConfig
from genft.api.method import Site
from genft.bridge.forward_pass import ForwardPass
from genft.bridge.root import Root
from genft.methods.genft import GenFT

DIMS: dict[str, Any] = {"shared_dim": 3, "specific_dim": 2, "init_weights": False}
FORMS: dict[str, dict[str, Any]] = {
    "paper": DIMS,
    "row stage": {**DIMS, "col_stage": False},
    "column stage": {**DIMS, "row_stage": False},
    "shared alone": {**DIMS, "specific_dim": 0},
    "specific alone": {**DIMS, "shared_dim": 0, "specific_dim": 4},
    "one pair per layer": {**DIMS, "specific_scope": "layer"},
    "bounded": {**DIMS, "form": "bounded"},
    "bounded, row stage": {**DIMS, "form": "bounded", "col_stage": False},
    "official": {**DIMS, "form": "official", "act_inner": "gelu", "init_weights": "paper", "init_b": "normal",
                 "factor_bias": True},
    "untransposed": {**DIMS, "transpose_delta": False},
}  # fmt: skip
#: Forms with an activation on the entries of a generated matrix.
APART: dict[str, dict[str, Any]] = {
    "activation between": {**DIMS, "act_row": "tanh"},
    "activation on ΔW": {**DIMS, "act_col": "tanh"},
    "not generated": {**DIMS, "form": "official", "ratio_power": 1, "shared_dim": 0, "init_weights": "paper"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(6, 6), (8, 5)])
@pytest.mark.parametrize("stored", [torch.float64, torch.float32], ids=str)
def test_it_is_the_update_of_every_weight(form: str, shape: tuple[int, int], stored: torch.dtype) -> None:
    o, i = shape
    config = GenFTConfig(**FORMS[form])
    if o != i and not config.transpose_delta:
        pytest.skip("needs square weights")
    method, sites = GenFT(config), [Site(f"layers.{n}.query", o, i) for n in range(3)]
    shared: dict[str, Tensor] = {}
    factors, trained = [], {}
    weights = [torch.randn(o, i, dtype=stored) for _ in sites]
    for site, w0 in zip(sites, weights, strict=True):
        own = {}
        for name, factor in method.factors(site).items():
            value = torch.randn(factor.shape, dtype=torch.float64).requires_grad_()
            own[name] = value if factor.shared_as is None else shared.setdefault(factor.shared_as, value)
            trained[id(own[name])] = own[name]
        factors.append({**own, **{n: t.double() for n, t in method.derive(site, w0).items()}})
    together = method.low_rank_together(weights, factors)
    assert together is not None
    left, right = (t.expand(3, *t.shape[-2:]) for t in together)
    alone = [method.low_rank(w0, f) for w0, f in zip(weights, factors, strict=True)]
    cotangents = torch.randn(3, o, i, dtype=torch.float64)
    wanted = torch.stack([pair[0] @ pair[1].T for pair in alone if pair is not None])
    torch.testing.assert_close(left @ right.mT, wanted)
    got, expected = (
        torch.autograd.grad(update, list(trained.values()), cotangents) for update in (left @ right.mT, wanted)
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("form", APART)
def test_a_form_with_work_on_whole_matrices_is_computed_apart(form: str) -> None:
    method, site = GenFT(GenFTConfig(**APART[form])), Site("m", 6, 6)
    f = {name: torch.randn(factor.shape) for name, factor in method.factors(site).items()}
    assert method.low_rank_together([torch.randn(6, 6)] * 2, [f, f]) is None


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.v, self.up = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.q(x) * self.v(x)) + self.up(x)[..., :6]


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.kept: range = range(3)
        self.reentrant: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        for n in self.kept:
            if self.reentrant is None:
                x = self.layers[n](x)
            else:
                x = checkpoint(self.layers[n], x, use_reentrant=self.reentrant)
        return x


def adapted(dtype: torch.dtype = torch.float64, **settings: Any) -> tuple[nn.Module, Blocks, ForwardPass]:
    torch.manual_seed(0)
    base = Blocks().requires_grad_(False).to(dtype)
    model = get_peft_model(base, GenFTConfig(target_modules=["q", "v", "up"], **{**DIMS, **settings}))
    return model.train(), base, Root.of(base).forward_pass


def step(model: nn.Module, x: Tensor, mixed: bool = False) -> tuple[Tensor, dict[str, Tensor | None]]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        y = model(x).double()
    y.square().sum().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def assert_same_step(
    got: tuple[Tensor, dict[str, Any]], wanted: tuple[Tensor, dict[str, Any]], **tolerance: float
) -> None:
    torch.testing.assert_close(got[0], wanted[0], **tolerance)
    torch.testing.assert_close(got[1], wanted[1], **tolerance)


@pytest.mark.parametrize("form", ["paper", "bounded"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_pass_is_computed_together(form: str, mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, forward_pass = adapted(torch.float32 if mixed else torch.float64, form=form)
    x = torch.randn(4, 6, dtype=torch.float32 if mixed else torch.float64)
    tolerance = {"rtol": 0.03, "atol": 0.1} if mixed else {}
    sizes: list[int] = []
    usual = GenFT.low_rank_together
    monkeypatch.setattr(GenFT, "low_rank_together", lambda self, w0, f: sizes.append(len(w0)) or usual(self, w0, f))
    forward_pass.together = False
    first = step(model, x, mixed)
    assert not sizes
    forward_pass.together = True
    assert_same_step(step(model, x, mixed), first, **tolerance)
    assert sorted(sizes) == [3, 6]  # up; q and v
    assert forward_pass.together
    assert not forward_pass.pairs


def test_what_the_optimizer_changed_is_used() -> None:
    model, _, _ = adapted()
    x = torch.randn(4, 6, dtype=torch.float64)
    step(model, x)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    apart = copy.deepcopy(model)
    assert_same_step(step(model, x), step(apart, x))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_layers_are_computed_apart(reentrant: bool) -> None:
    """Also if checkpoints are switched on when updates have already been computed together."""
    model, base, _ = adapted()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    first = step(model, x)
    step(model, x)
    base.reentrant = reentrant
    for _ in range(3):
        assert_same_step(step(model, x), first)


def test_a_layer_that_is_left_out_gets_no_gradient() -> None:
    model, base, forward_pass = adapted()
    x = torch.randn(4, 6, dtype=torch.float64)
    step(model, x)
    base.kept = range(2)
    step(model, x)
    assert not forward_pass.together
    _, gradients = step(model, x)
    assert {g is None for name, g in gradients.items() if ".layers.2." in name} == {True}


def test_other_passes_in_between() -> None:
    """Evaluation, passes without gradients, a disabled adapter, and one that is merged."""
    model, _, _ = adapted()
    x = torch.randn(4, 6, dtype=torch.float64)
    first = step(model, x)
    model.eval()
    torch.testing.assert_close(model(x).detach(), first[0])
    model.train()
    with torch.no_grad():
        torch.testing.assert_close(model(x), first[0])
    assert_same_step(step(model, x), first)
    with model.disable_adapter():
        base_y = model(x)
    model.merge_adapter()
    torch.testing.assert_close(model(x), first[0])
    model.unmerge_adapter()
    assert_same_step(step(model, x), first)
    assert not torch.allclose(base_y, first[0])
