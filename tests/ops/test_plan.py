"""The cost model: it counts what is computed, and takes the cheapest form that keeps the update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from genft.ops import plan
from genft.ops.lowrank import low_rank_linear


def shape(o: int = 768, i: int = 768, tokens: int = 512, rank: int | None = 34, **settings: Any) -> plan.Shape:
    given: dict[str, Any] = {"training": True, "exact_sum": True, **settings}
    return plan.Shape(o=o, i=i, tokens=tokens, rank=rank, **given)


def spectral(o: int, i: int, tokens: int, **settings: Any) -> plan.Shape:
    """A weight that VectorFit trains."""
    return shape(o, i, tokens, min(o, i), **{"bases": 2, **settings})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["factored", "materialised", "weight", "beside"])
def test_counts_what_is_computed(form: Any, training: bool) -> None:
    o, i, t, k = 32, 24, 40, 4
    w0, x = torch.randn(o, i), torch.randn(t, i, requires_grad=training)
    left, right = (torch.randn(n, k, requires_grad=training) for n in (o, i))
    in_place = {torch.ops.aten.addmm_: lambda y, a, b, **kwargs: 2 * a[0] * a[1] * b[1]}  # torch counts addmm only
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter, torch.set_grad_enabled(training):
        if form in ("factored", "materialised"):
            y = low_rank_linear(x, w0, None, [(0, o)], [(left, right)], form=form)
        elif form == "weight":
            y = x @ torch.addmm(w0, left, right.T).T
        else:
            y = x @ w0.T + x @ (left @ right.T).T
        if training:
            y.sum().backward()
    assert counter.get_total_flops() == plan.flops(form, shape(o, i, t, k, training=training))


def test_few_tokens_go_through_thin_factors_and_many_through_the_weight() -> None:
    assert plan.choose(shape(tokens=64)) == "factored"
    assert plan.choose(shape(tokens=8192)) == "materialised"
    assert plan.choose(shape(tokens=8192, exact_sum=False)) == "factored"
    assert plan.choose(shape(tokens=8192, rank=700)) == "weight"
    assert plan.choose(shape(rank=None)) == "weight"
    assert plan.choose(shape(rank=None, exact_sum=False)) == "beside"


def test_vectorfit() -> None:
    assert plan.choose(spectral(768, 768, 256)) == "factored"
    assert plan.choose(spectral(768, 768, 256, exact=False)) == "published"
    assert plan.choose(spectral(768, 768, 4096)) == "weight"
    assert plan.choose(spectral(3072, 768, 4096)) == "materialised"
    assert plan.choose(spectral(768, 768, 64, exact_sum=False)) == "factored"
    assert plan.choose(spectral(768, 768, 256, bases=1)) == "factored"


def test_a_plan_that_is_asked_for_is_used_where_it_can_be() -> None:
    assert plan.choose(shape(tokens=8192), "factored") == "factored"
    assert plan.choose(shape(tokens=1), "materialised") == "materialised"
    assert plan.choose(shape(tokens=1), "beside") == "beside"
    assert plan.choose(shape(exact_sum=False), "materialised") == "beside"
    assert plan.choose(shape(rank=None), "factored") == "weight"


@pytest.mark.parametrize("tokens", [16, 256, 512, 2048, 8192, 10**6])
def test_a_block_costs_at_most_its_published_form(tokens: int) -> None:
    """72 T d² (docs/performance.md), once the singular values have left their start."""
    d, total = 768, 0.0
    for o, i in 4 * [(d, d)] + [(4 * d, d), (d, 4 * d)]:
        s = spectral(o, i, tokens, exact=False)
        total += plan.flops(plan.choose(s), s)
    assert total <= 72 * tokens * d * d


@given(
    o=st.integers(1, 5000),
    i=st.integers(1, 5000),
    tokens=st.integers(1, 10**6),
    rank=st.none() | st.integers(1, 5000),
    training=st.booleans(),
    exact_sum=st.booleans(),
    bases=st.sampled_from([0, 1, 2]),
    wanted=st.sampled_from(plan.PLANS),
)
def test_always_finds_a_form_that_keeps_the_update(wanted: str, exact_sum: bool, **settings: Any) -> None:
    form = plan.choose(plan.Shape(exact_sum=exact_sum, **settings), wanted)
    assert exact_sum or form in ("factored", "beside", "published")
