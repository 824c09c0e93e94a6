"""GenFT against a literal float64 transcription of Eq. 4-7, through the whole of peft."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from torch import Tensor, nn

from genft import ConfigError, GenFTConfig, TargetError
from genft.api.method import Site
from genft.methods.genft import GenFT
from genft.methods.genft_config import ACTIVATIONS

ACTS = {
    "identity": lambda z: z,
    "relu": lambda z: torch.where(z > 0, z, 0 * z),
    "leaky_relu": lambda z: torch.where(z > 0, z, 0.01 * z),
    "gelu": lambda z: z * 0.5 * (1 + torch.erf(z / 2**0.5)),
    "tanh": lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1),
}


def equations(**settings: Any) -> GenFTConfig:
    """The configuration of the paper's equations, with attention's four weights."""
    return GenFTConfig(**{"form": "paper", "scope": "attention", "shared_dim": 24, "specific_dim": 2, **settings})


def transcription(w0: Tensor, c: GenFTConfig, f: dict[str, Tensor]) -> Tensor:
    """Eq. 4-7 word for word, with U and V formed, and every choice spelled out."""
    i, o = w0.shape[1], w0.shape[0]

    def pair(name: str, stage: str, d: int) -> Tensor:
        if c.specific_dim == 0:
            return w0.new_zeros(d, 0)
        return f[name] if name in f else f[f"{name}_{stage}"]

    def shared(letter: str, end: str, d: int) -> Tensor:
        if c.shared_dim == 0:
            return w0.new_zeros(d, 0)
        return f[letter] if c.factors == "tied" else f[f"{letter}_{end}"]

    # what starts with columns of norm gain is used divided by it: P1, Q1 and P2, but not the last factor, Q2
    gain = 1.0 if c.init_weights == "paper" else c.init_gain
    features = (c.w0_ratio or 1.0) * w0
    if c.row_stage:
        u1 = torch.cat([shared("u", "in", i), pair("a", "row", i)], dim=1)
        u2 = torch.cat([shared("u", "out", i), pair("b", "row", i)], dim=1)
        u1, u2 = u1 / gain, u2 / (gain if c.col_stage else 1)
        features = ACTS[c.act_row](features @ (u2 @ u1.T).T)  # F.linear(ratio * W0, U), Algorithm 1 line 20
    if not c.col_stage:
        return c.scaling * features
    v1 = torch.cat([shared("v", "in", o), pair("a", "col", o)], dim=1) / gain
    v2 = torch.cat([shared("v", "out", o), pair("b", "col", o)], dim=1)
    column = ACTS[c.act_col](features.T @ (v2 @ v1.T).T)  # (i, o), line 26
    return c.scaling * (column.T if c.transpose_delta else column)


def drawn(method: GenFT, site: Site) -> dict[str, Tensor]:
    return {n: torch.randn(f.shape, dtype=torch.float64).requires_grad_() for n, f in method.factors(site).items()}


def configurations() -> list[dict[str, Any]]:
    found = []
    for factors, scope, start, row, col, transpose in itertools.product(
        ("independent", "tied"),
        ("module", "layer"),
        (True, False, "paper"),
        (True, False),
        (True, False),
        (True, False),
    ):
        impossible = (not (row or col)) or (start is True and factors == "tied") or (not transpose and not col)
        if not impossible:
            found.append(
                {
                    "factors": factors,
                    "specific_scope": scope,
                    "init_weights": start,
                    "row_stage": row,
                    "col_stage": col,
                    "transpose_delta": transpose,
                }
            )
    return found


@pytest.mark.parametrize("form", configurations(), ids=lambda c: "-".join(str(v) for v in c.values()))
@pytest.mark.parametrize("dims", [(3, 2), (0, 2), (3, 0)])
@pytest.mark.parametrize("shape", [(6, 6), (5, 7)])
def test_every_form_equals_the_equations(form: dict[str, Any], dims: tuple[int, int], shape: tuple[int, int]) -> None:
    if not form["transpose_delta"] and shape[0] != shape[1]:
        return
    config = equations(
        shared_dim=dims[0],
        specific_dim=dims[1],
        act_row="leaky_relu",
        act_col="tanh",
        w0_ratio=0.7,
        scaling=1.3,
        init_gain=1.7,
        **form,
    )
    method, site = GenFT(config), Site("layer.query", *shape)
    w0, f = torch.randn(shape, dtype=torch.float64), drawn(method, site)
    got, wanted = method.delta_weight(w0, f), transcription(w0, config, f)
    torch.testing.assert_close(got, wanted)
    cotangent = torch.randn_like(wanted)
    for a, b in zip(
        torch.autograd.grad(got, list(f.values()), cotangent),
        torch.autograd.grad(wanted, list(f.values()), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@settings(max_examples=60, deadline=None)
@given(
    o=st.integers(1, 9),
    i=st.integers(1, 9),
    a=st.integers(0, 4),
    b=st.integers(0, 3),
    act_row=st.sampled_from(ACTIVATIONS),
    act_col=st.sampled_from(ACTIVATIONS),
    stages=st.sampled_from([(True, True), (True, False), (False, True)]),
    seed=st.integers(0, 2**16),
)
def test_low_rank_form_is_the_same_update(
    o: int, i: int, a: int, b: int, act_row: str, act_col: str, stages: tuple[bool, bool], seed: int
) -> None:
    if a + b == 0:
        return
    torch.manual_seed(seed)
    config = equations(
        shared_dim=a, specific_dim=b, act_row=act_row, act_col=act_col, init_weights=False,
        row_stage=stages[0], col_stage=stages[1], init_gain=1.5,
    )  # fmt: skip
    method, site = GenFT(config), Site("m", o, i)
    w0, f = torch.randn(o, i, dtype=torch.float64), drawn(method, site)
    delta = method.delta_weight(w0, f)
    torch.testing.assert_close(delta, transcription(w0, config, f))
    pair = method.low_rank(w0, f)
    last = act_col if stages[1] else act_row
    if last != "identity":
        assert pair is None
    if pair is not None:
        torch.testing.assert_close(pair[0] @ pair[1].T, delta)


def test_gradcheck() -> None:
    config = equations(shared_dim=2, specific_dim=1, act_row="gelu", act_col="leaky_relu", dropout=0.3)
    method, site = GenFT(config), Site("m", 4, 5)
    w0, f = torch.randn(4, 5, dtype=torch.float64), drawn(method, site)
    assert torch.autograd.gradcheck(
        lambda *values: method.delta_weight(w0, dict(zip(f, values, strict=True)), dropout_seed=7), tuple(f.values())
    )


def two_layers(d: int = 16) -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.value = nn.Linear(d, d), nn.Linear(d, d)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.value(torch.tanh(self.query(x))))

    torch.manual_seed(0)
    return nn.Sequential(Attention(), Attention(), Attention())


def test_the_gain_changes_how_factors_start_and_not_what_they_generate() -> None:
    """Except that with a last factor that is not zero the update grows with it."""
    started = {}
    for gain in (1.0, 4.0):
        torch.manual_seed(0)
        model = get_peft_model(two_layers(), equations(target_modules=["query"], shared_dim=4, init_gain=gain))
        started[gain] = dict(model.named_parameters())
    small, large = started[1.0], started[4.0]
    for name in small:
        if small[name].requires_grad:
            torch.testing.assert_close(large[name], 4 * small[name])
    w0, site = torch.randn(6, 5, dtype=torch.float64), Site("m", 6, 5)
    for row, col in ((True, True), (True, False), (False, True)):
        last = ("v_out", "b_col") if col else ("u_out", "b_row")
        settings = {"shared_dim": 3, "row_stage": row, "col_stage": col, "act_row": "tanh", "act_col": "gelu"}
        one, four = (GenFT(equations(init_gain=gain, **settings)) for gain in (1.0, 4.0))
        f = drawn(one, site)
        scaled = {name: t if name in last else 4 * t for name, t in f.items()}
        torch.testing.assert_close(four.delta_weight(w0, scaled), one.delta_weight(w0, f))


def test_the_ratio_makes_every_base_as_large(tmp_path: Path) -> None:
    for size in (0.01, 1.0, 30.0):
        base = two_layers()
        with torch.no_grad():
            for p in base.parameters():
                p.mul_(size)
        weights = torch.stack([p for n, p in base.named_parameters() if n.endswith("query.weight")]).detach()
        model = get_peft_model(base, equations(target_modules=["query"], shared_dim=4))
        ratio = model.base_model.adapters["default"].method.derived_settings()["w0_ratio"]
        assert ratio * weights.square().mean().sqrt() == pytest.approx(1, rel=1e-2)
        model.save_pretrained(tmp_path)
        assert GenFTConfig.from_pretrained(tmp_path).w0_ratio == ratio  # written down, not derived again
    with torch.no_grad():
        for p in (empty := two_layers()).parameters():
            p.zero_()
    with pytest.raises(
        ConfigError, match=r"w0_ratio: cannot be derived from the adapted weights, whose sum of squares is 0"
    ):
        get_peft_model(empty, equations(target_modules=["query"]))
    given = get_peft_model(two_layers(), equations(target_modules=["query"], shared_dim=4, w0_ratio=0.3))
    assert given.base_model.adapters["default"].method.derived_settings() == {}
    assert given.peft_config["default"].w0_ratio == 0.3


def test_one_configuration_follows_every_model_that_it_serves(tmp_path: Path) -> None:
    config = equations(target_modules=["query"], shared_dim=4)
    small, large = two_layers(), two_layers()
    with torch.no_grad():
        for p in large.parameters():
            p.mul_(8)
    ratios = []
    first, second = get_peft_model(small, config), get_peft_model(large, config)
    for model in (first, second):
        model.save_pretrained(tmp_path)
        ratios.append(GenFTConfig.from_pretrained(tmp_path).w0_ratio)
    assert ratios[0] == pytest.approx(8 * ratios[1], rel=1e-2)


def test_the_ratio_of_a_base_that_is_loaded_later() -> None:
    base, config = two_layers(), equations(target_modules=["query"], shared_dim=4, init_weights=False)
    wanted = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
    with torch.device("meta"):
        late = get_peft_model(two_layers(), config)
    late.load_state_dict(wanted.state_dict(), assign=True)
    x = torch.randn(7, 16)
    torch.testing.assert_close(late(x), wanted(x))
    late_method, method = (m.base_model.adapters["default"].method for m in (late, wanted))
    assert late_method.derived_settings() == method.derived_settings() != {}


@pytest.mark.parametrize("scope", ["module", "layer"])
@pytest.mark.parametrize("factors", ["independent", "tied"])
def test_parameter_counts_of_the_specification(scope: str, factors: str) -> None:
    d, layers, a, b = 16, 3, 5, 2
    config = equations(
        target_modules=["query", "value"], shared_dim=a, specific_dim=b, specific_scope=scope, factors=factors,
        init_weights="paper", init_b="normal",
    )  # fmt: skip
    model = get_peft_model(two_layers(d), config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 4 * d * a + (2 if scope == "layer" else 4) * layers * d * b


@pytest.mark.parametrize("acts", [p for p in itertools.product(ACTIVATIONS, ACTIVATIONS) if p[1] != "relu"])
@pytest.mark.parametrize("dims", [(4, 2), (0, 2), (4, 0)])
def test_identity_start_learns_with_every_factor(acts: tuple[str, str], dims: tuple[int, int]) -> None:
    config = equations(
        target_modules=["query", "value"], shared_dim=dims[0], specific_dim=dims[1], act_row=acts[0], act_col=acts[1]
    )
    base, x = two_layers(), torch.randn(7, 16)
    wanted = base(x)
    model = get_peft_model(base, config)
    assert torch.equal(model(x), wanted)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    moved: set[str] = set()
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        moved |= {n for n, p in trainable.items() if p.grad.abs().max() > 0}
        optimizer.step()
    assert moved == set(trainable)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"act_row": "rellu"}, "act_row: 'rellu' is not known; allowed: identity, relu.*nearest: 'relu'"),
        ({"shared_dim": -1}, "shared_dim: received -1"),
        ({"shared_dim": 1.5}, "shared_dim: received 1.5"),
        ({"shared_dim": 0, "specific_dim": 0}, "both are 0"),
        ({"dropout": 1.0}, "dropout: received 1.0; allowed: 0 <= dropout < 1"),
        ({"act_col": "relu"}, "act_col: 'relu' has no gradient at 0"),
        ({"act_row": "relu", "col_stage": False}, "act_row: 'relu' has no gradient at 0"),
        ({"factors": "tied"}, "factors: 'tied' cannot start"),
        ({"init_gain": 0}, "init_gain: received 0; allowed: a number above 0"),
        ({"row_stage": False, "col_stage": False}, "both are off"),
        ({"transpose_delta": False, "col_stage": False}, "transpose_delta: False needs the column stage"),
        ({"init_weights": "papr"}, "init_weights: 'papr' is not known.*nearest: 'paper'"),
        ({"target_slices": {"qkv": "q"}}, "target_slices"),
        ({"target_slices": {"qkv": {"q": [0]}}}, "rows are"),
    ],
)
def test_refuses_by_name(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        equations(**wrong)


def test_reports_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        equations(act_row="x", shared_dim=-2, dropout=3)
    assert len(caught.value.problems) == 3


def test_untransposed_update_needs_square_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(TargetError, match=r"transpose_delta: False needs square weights; 0 is \(6, 4\)"):
        get_peft_model(model, equations(target_modules=["0"], transpose_delta=False))


@pytest.mark.parametrize(
    ("start", "silent"),
    [
        ({"init_a": "zeros", "init_b": "zeros"}, "a, b"),
        ({"init_a": "normal", "init_b": "zeros"}, None),
        ({"shared_dim": 0, "specific_dim": 2, "init_a": "normal", "init_b": "zeros"}, "a, b"),
        ({"shared_dim": 0, "specific_dim": 2, "init_a": "normal", "init_b": "normal"}, None),
        (
            {
                "shared_dim": 0, "specific_dim": 2, "init_a": "normal", "init_b": "zeros",
                "row_stage": False, "act_col": "relu",
            },
            "a_col, b_col",
        ),
    ],
)  # fmt: skip
def test_names_factors_that_never_train_once(start: dict[str, Any], silent: str | None) -> None:
    config = equations(target_modules=["query", "value"], init_weights="paper", **{"shared_dim": 3, **start})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model(two_layers(), config)
    said = [str(w.message) for w in caught if "never get a gradient" in str(w.message)]
    assert len(said) == (silent is not None)
    if silent:
        assert f"genft: {silent} of 0.query" in said[0]
        assert "init_a" in said[0]


def test_rank_beyond_the_weight_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="more than the rank that 0.query"):
        get_peft_model(two_layers(4), equations(target_modules=["query"], shared_dim=8))
