"""GenFT's official and bounded forms against literal float64 transcriptions, through the whole of peft."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from genft import ConfigError, GenFTConfig
from genft.api.method import Site
from genft.methods.genft import GenFT
from genft.methods.genft_config import ACTIVATIONS
from genft.ops.masks import entry_mask, keep_probability, unpack
from official_genft import Generator, specific_product, written_for

IMAGES: dict[str, Any] = {"ratio_power": 4, "specific_scope": "layer"}
TEXTS: dict[str, Any] = {"ratio_power": 1, "factor_bias": True, "transpose_delta": False, "init_shared": "linear"}


def official(**settings: Any) -> GenFTConfig:
    own = {"form": "official", "init_weights": "paper", "init_b": "normal", "w0_ratio": 0.7, "scaling": 1.3}
    return GenFTConfig(**{**own, **settings})


def drawn(method: GenFT, site: Site) -> dict[str, Tensor]:
    return {n: torch.randn(f.shape, dtype=torch.float64).requires_grad_() for n, f in method.factors(site).items()}


def assert_same_function(got: Tensor, wanted: Tensor, f: dict[str, Tensor]) -> None:
    torch.testing.assert_close(got, wanted)
    cotangent = torch.randn_like(wanted)
    ours, theirs = (
        torch.autograd.grad(update, list(f.values()), cotangent, retain_graph=True, materialize_grads=True)
        for update in (got, wanted)
    )
    for name, a, b in zip(f, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


# -------------------------------------------------------------------- the authors' form


@pytest.mark.parametrize("program", [IMAGES, TEXTS], ids=["images", "texts"])
@pytest.mark.parametrize(("inner", "outer"), list(itertools.product(ACTIVATIONS, ACTIVATIONS)))
@pytest.mark.parametrize("dims", [(3, 2), (3, 0)])
def test_official_form_is_what_the_authors_programs_compute(
    program: dict[str, Any], inner: str, outer: str, dims: tuple[int, int]
) -> None:
    config = official(shared_dim=dims[0], specific_dim=dims[1], act_inner=inner, act_outer=outer, **program)
    method, site, d = GenFT(config), Site("layer.query", 6, 6), 6
    w0, f = torch.randn(d, d, dtype=torch.float64), drawn(method, site)
    wanted = written_for(config, w0, f)
    assert_same_function(method.delta_weight(w0, f), wanted, f)
    pair = method.low_rank(w0, f)
    assert (pair is None) == (outer != "identity")
    if pair is not None:
        assert_same_function(pair[0] @ pair[1].T, wanted, f)


def test_ratio_to_the_fourth_power() -> None:
    """With homogeneous activations the images' update carries ratio⁴, the texts' ratio, or none without b."""
    w0, site = torch.randn(6, 6, dtype=torch.float64), Site("m", 6, 6)
    for power, b, factor in ((4, 2, 1.4**4), (4, 0, 1.4**4), (1, 2, 1.4), (1, 0, 1.0)):
        one, more = (
            GenFT(official(w0_ratio=r, ratio_power=power, shared_dim=3, specific_dim=b, act_inner="relu"))
            for r in (1.0, 1.4)
        )
        f = drawn(one, site)
        torch.testing.assert_close(more.delta_weight(w0, f), factor * one.delta_weight(w0, f))


def test_without_shared_columns_the_texts_have_no_generator() -> None:
    config = official(shared_dim=0, specific_dim=2, dropout=0.3, **TEXTS)
    method, site = GenFT(config), Site("m", 6, 4)
    f, w0 = drawn(method, site), torch.randn(6, 4, dtype=torch.float64)
    assert {n: tuple(t.shape) for n, t in f.items()} == {"a": (4, 2), "b": (6, 2)}
    assert_same_function(method.delta_weight(w0, f), 1.3 * specific_product(f["b"], f["a"].T), f)
    left, right = method.low_rank(w0, f)
    torch.testing.assert_close(left @ right.T, method.delta_weight(w0, f))
    dropped = method.delta_weight(w0, f, dropout_seed=3)
    kept = unpack(entry_mask((6, 4), 0.3, 3, torch.device("cpu")), 6)
    torch.testing.assert_close(dropped, kept * method.delta_weight(w0, f) / keep_probability(0.3))


def test_without_shared_columns_the_images_generator_has_the_specific_pair_alone() -> None:
    config = official(shared_dim=0, specific_dim=2, act_inner="gelu", act_outer="leaky_relu", **IMAGES)
    method, site = GenFT(config), Site("layer.query", 6, 6)
    f, w0 = drawn(method, site), torch.randn(6, 6, dtype=torch.float64)
    assert_same_function(method.delta_weight(w0, f), written_for(config, w0, f), f)


def test_masks_drop_entries_of_both_generated_matrices() -> None:
    config = official(shared_dim=3, specific_dim=2, act_inner="gelu", act_outer="tanh", dropout=0.3, **TEXTS)
    method, site = GenFT(config), Site("m", 6, 6)
    f, w0 = drawn(method, site), torch.randn(6, 6, dtype=torch.float64)
    cpu, keep = torch.device("cpu"), keep_probability(0.3)
    # our packed masks cover the (o, i) matrices F and Dᵀ
    masks = [unpack(entry_mask((6, 6), 0.3, 5, cpu, stream=n), 6) / keep for n in (0, 1)]
    wanted = written_for(config, w0, f, masks=(masks[0], masks[1].T))
    assert_same_function(method.delta_weight(w0, f, dropout_seed=5), wanted, f)


def test_starts_are_those_of_the_authors_programs() -> None:
    d, a, b = 400, 30, 4
    site = Site("layer.query", d, d)

    def started(**settings: Any) -> dict[str, Tensor]:
        found = {}
        for name, factor in GenFT(official(shared_dim=a, specific_dim=b, **settings)).factors(site).items():
            found[name] = torch.empty(factor.shape)
            with torch.no_grad():
                factor.init(found[name])
        return found

    images = started(**IMAGES, init_a="kaiming_uniform", init_b="kaiming_uniform")
    for name in ("u_in", "u_out", "v_in", "v_out"):
        assert images[name].std() == pytest.approx(0.02, rel=0.05)
    texts = started(**TEXTS, init_a="kaiming_uniform", init_b="kaiming_uniform")
    bounds = {
        "u_in": d**-0.5, "u_out": a**-0.5, "v_in": d**-0.5, "v_out": a**-0.5, "a": d**-0.5, "b": b**-0.5,
        "u_in_bias": d**-0.5, "u_out_bias": a**-0.5, "v_in_bias": d**-0.5, "v_out_bias": a**-0.5,
    }  # fmt: skip
    assert set(texts) == set(bounds)
    for name, bound in bounds.items():
        assert bound * 0.8 < texts[name].abs().max() <= bound, name
    assert {n: len(t) for n, t in texts.items() if "bias" in n} == {
        "u_in_bias": a + b, "u_out_bias": d, "v_in_bias": a + b, "v_out_bias": d,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"form": "officiel"}, "form: 'officiel' is not known.*nearest: 'official'"),
        ({"act_inner": "gelu"}, "act_inner: has no meaning with form='bounded'; use form='official'"),
        ({"factor_bias": True}, "factor_bias: has no meaning with form='bounded'; use form='official'"),
        ({"ratio_power": 4}, "ratio_power: has no meaning with form='bounded'"),
        ({"ratio_power": 2, "form": "official"}, "ratio_power: 2 is not known; allowed: 1, 4"),
        ({"form": "official", "act_row": "gelu"}, "act_row: has no meaning with form='official'; use act_inner"),
        ({"form": "official", "act_col": "gelu"}, "act_col: has no meaning with form='official'; use act_outer"),
        ({"form": "official", "factors": "tied", "init_weights": "paper"}, "factors: 'tied' has no meaning"),
        ({"form": "official", "act_outer": "relu"}, "act_outer: 'relu' has no gradient at 0"),
        ({"form": "bounded", "init_weights": "paper"}, "init_weights: 'paper' has no meaning with form='bounded'"),
        ({"form": "bounded", "scaling": 0.1}, "scaling: has no meaning with form='bounded'; use relative_scale"),
        ({"form": "paper", "relative_scale": 2.0}, "relative_scale: has no meaning with form=.paper.; use form=.bo"),
        ({"form": "paper", "relative_limit": 0.5}, "relative_limit: has no meaning with form=.paper.; use form=.bo"),
        ({"relative_limit": 0}, "relative_limit: received 0; allowed: a number above 0"),
        ({"form": "bounded", "relative_scale": 0}, "relative_scale: received 0; allowed: a number above 0"),
        ({"init_shared": "linear"}, "init_shared: received 'linear'; allowed with init_weights=True: auto, ortho"),
        ({"init_shared": "svd", "init_weights": "paper"}, "init_shared: received 'svd'; allowed with init_weights='pa"),
    ],
)  # fmt: skip
def test_combinations_without_meaning_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        GenFTConfig(**wrong)


class Fused(nn.Module):
    """A layer with a fused qkv, and one with separate weights beside it."""

    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.d = d
        self.layers = nn.ModuleList([nn.ModuleDict({"qkv": nn.Linear(d, 3 * d)}) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            q, k, v = layer["qkv"](x).split(self.d, dim=-1)
            x = torch.tanh(q * k + v)
        return x


@pytest.mark.parametrize("plan", ["auto", "factored", "materialised", "beside"])
@pytest.mark.parametrize("outer", ["identity", "leaky_relu"])
def test_images_q_and_v_of_a_fused_weight(plan: str, outer: str) -> None:
    """As their attention does it: x @ generated(W_q) is added to q, x @ generated(W_v) to v, one pair a layer."""
    torch.manual_seed(0)
    base = Fused().double()
    config = official(
        shared_dim=3, specific_dim=2, act_inner="gelu", act_outer=outer, target_slices={"qkv": ["q", "v"]}, plan=plan,
        **IMAGES,
    )  # fmt: skip
    model = get_peft_model(base, config).double()
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == 4 * 12 * 3 + 2 * 2 * 12 * 2
    x = torch.randn(5, 12, dtype=torch.float64)

    def theirs(x: Tensor) -> Tensor:
        for layer in base.layers:
            wrapped = layer["qkv"]
            w, y, d = wrapped.base_layer.weight, wrapped.base_layer(x), base.d
            f = {s.slice: wrapped.factors("default", s) for s in wrapped.attachments["default"].sites}
            generator = Generator.from_ours(config, f["q"])
            q = y[:, :d] + x @ generator(w[:d], f["q"]["a"].T, f["q"]["b"])
            v = y[:, -d:] + x @ generator(w[-d:], f["v"]["a"].T, f["v"]["b"])
            x = torch.tanh(q * y[:, d:-d] + v)
        return x

    for mode in (model.train(), model.eval()):
        got = mode(x)
        torch.testing.assert_close(got, theirs(x))
    model.train()
    cotangent = torch.randn_like(got)
    ours = torch.autograd.grad(model(x), list(trained.values()), cotangent)
    for (name, _), a, b in zip(
        trained.items(), ours, torch.autograd.grad(theirs(x), list(trained.values()), cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


# -------------------------------------------------------------------- bounded


def bounded(w0: Tensor, c: GenFTConfig, f: dict[str, Tensor]) -> Tensor:
    """ΔW = λ · rms(W0) · √(i/r) · act_col(Q2 B̂ᵀ), with gains and ratio as far as they have an effect."""
    o, i = w0.shape
    act = {"identity": lambda z: z, "leaky_relu": nn.functional.leaky_relu, "gelu": nn.functional.gelu}
    both = o == i and "a" in f
    a_row, b_row = (f["a"], f["b"]) if both else (f["a_row"], f["b_row"])
    a_col, b_col = (f["a"], f["b"]) if both else (f["a_col"], f["b_col"])
    p1, q1 = torch.cat([f["u_in"], a_row], 1) / c.start_norm, torch.cat([f["u_out"], b_row], 1) / c.start_norm
    p2, q2 = torch.cat([f["v_in"], a_col], 1), torch.cat([f["v_out"], b_col], 1)
    b = act[c.act_row](c.w0_ratio * w0 @ p1 @ q1.T).T @ p2
    b = b / b.square().sum(0).sqrt()
    if c.relative_limit is not None:
        q2 = q2 / (1 + (c.relative_scale * q2.square().mean().sqrt() / c.relative_limit) ** 2).sqrt()
    size = w0.square().mean().sqrt() * (i / p1.shape[1]) ** 0.5
    return c.relative_scale * size * act[c.act_col](q2 @ b.T)


@pytest.mark.parametrize("acts", [("identity", "identity"), ("leaky_relu", "identity"), ("gelu", "leaky_relu")])
@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (8, 5)])
@pytest.mark.parametrize("limit", [None, 0.8])
def test_bounded_form(acts: tuple[str, str], shape: tuple[int, int], limit: float | None) -> None:
    config = GenFTConfig(
        form="bounded",
        shared_dim=3,
        specific_dim=2,
        act_row=acts[0],
        act_col=acts[1],
        w0_ratio=0.7,
        relative_scale=1.3,
        relative_limit=limit,
    )
    method, site = GenFT(config), Site("m", *shape)
    w0, f = torch.randn(shape, dtype=torch.float64), drawn(method, site)
    derived = method.derive(site, w0)
    wanted = bounded(w0, config, f)
    assert_same_function(method.delta_weight(w0, {**f, **derived}), wanted, f)
    pair = method.low_rank(w0, {**f, **derived})
    assert (pair is None) == (acts[1] != "identity")
    if pair is not None:
        assert pair[0].shape[1] == 5
        assert_same_function(pair[0] @ pair[1].T, wanted, f)


def test_bounded_update_is_free_of_every_scale() -> None:
    """It follows the size of W0 alone: neither ratio, gain nor the size of the other factors enters."""
    site = Site("m", 6, 8)
    w0 = torch.randn(6, 8, dtype=torch.float64)
    method = GenFT(GenFTConfig(shared_dim=3, specific_dim=2, w0_ratio=0.7))
    f = drawn(method, site)
    plain = method.delta_weight(w0, {**f, **method.derive(site, w0)})
    torch.testing.assert_close(method.delta_weight(5 * w0, {**f, **method.derive(site, 5 * w0)}), 5 * plain)
    larger = {n: t if n in ("v_out", "b_col") else 7 * t for n, t in f.items()}
    torch.testing.assert_close(method.delta_weight(w0, {**larger, **method.derive(site, w0)}), plain)
    other = GenFT(GenFTConfig(shared_dim=3, specific_dim=2, w0_ratio=50.0, init_gain=1.0))
    torch.testing.assert_close(other.delta_weight(w0, {**f, **other.derive(site, w0)}), plain)


@pytest.mark.parametrize("stages", [{}, {"col_stage": False}, {"row_stage": False}])
def test_the_relative_change_stays_below_its_limit(stages: dict[str, bool]) -> None:
    """However far the last factor goes; far below it, nothing changes."""
    site, limit = Site("m", 96, 64), 0.1
    w0 = torch.randn(96, 64, dtype=torch.float64) / 7
    settings = {"shared_dim": 4, "w0_ratio": 7.0, "relative_scale": 1.0, **stages}
    limited, free = (GenFT(GenFTConfig(relative_limit=given, **settings)) for given in (limit, None))
    f = drawn(free, site)
    last = "v_out" if "col_stage" not in stages else "u_out"
    values = f[last].detach() / f[last].square().mean().sqrt()
    for size in (1e-4, limit / 3**0.5, 1.0, 1e4):
        given = {**f, **free.derive(site, w0), last: size * values}
        small, large = limited.delta_weight(w0, given), free.delta_weight(w0, given)
        torch.testing.assert_close(small, large / (1 + (size / limit) ** 2) ** 0.5)
        assert (small.norm() / w0.norm()).item() < 1.15 * limit  # the columns of B are only nearly orthogonal
        assert (large.norm() / w0.norm()).item() == pytest.approx(size, rel=0.15)


@pytest.mark.parametrize("d", [16, 64, 256])
@pytest.mark.parametrize("rank", [4, 16])
def test_one_step_of_adam_changes_a_weight_by_the_rate(d: int, rank: int) -> None:
    """Relative to its own size, at every width and rank: about λη."""
    torch.manual_seed(0)
    for size in (0.02, 1.0):
        layer = nn.Sequential(nn.Linear(d, d, bias=False))
        nn.init.normal_(layer[0].weight, std=size)
        config = GenFTConfig(target_modules=["0"], shared_dim=rank)
        assert config.relative_scale == 10
        model = get_peft_model(layer, config)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        x = torch.randn(4 * d, d)
        (model(x) - torch.randn(4 * d, d)).square().mean().backward()
        optimizer.step()
        wrapped = model.base_model.model[0]
        change = wrapped.get_delta_weight("default").norm() / wrapped.base_layer.weight.norm()
        assert 0.5e-3 < change < 2e-3


@pytest.mark.parametrize("act_row", ["identity", "gelu"])
def test_only_rate_times_scale_matters(act_row: str) -> None:
    """Training at a tenth of the rate with ten times λ is the same training."""
    x, y = torch.randn(32, 12, dtype=torch.float64), torch.randn(32, 12, dtype=torch.float64)
    updates = []
    for scale, rate in ((1.0, 3e-2), (10.0, 3e-3)):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(12, 12)).double()
        config = GenFTConfig(target_modules=["0"], shared_dim=4, act_row=act_row, relative_scale=scale)
        model = get_peft_model(base, config, autocast_adapter_dtype=False)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate, eps=1e-30)
        for _ in range(20):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        updates.append(model.base_model.model[0].get_delta_weight("default"))
    assert updates[0].norm() > 0.05 * base[0].base_layer.weight.norm()
    torch.testing.assert_close(updates[1], updates[0])


def test_starts_along_the_weights_singular_vectors() -> None:
    torch.manual_seed(0)
    base = nn.ModuleDict({"query": nn.Linear(12, 12), "value": nn.Linear(12, 12)})
    model = get_peft_model(
        base,
        GenFTConfig(form="bounded", init_shared="svd", target_modules=["query", "value"], shared_dim=3, specific_dim=1),
    )
    shared = model.base_model.genft_shared["default"]
    weights = [base[n].base_layer.weight.detach() for n in ("query", "value")]
    right = torch.linalg.svd(torch.cat(weights), full_matrices=False).Vh[:3]
    left = torch.linalg.svd(torch.cat(weights, dim=1), full_matrices=False).U[:, :3].T
    for name, directions in (("u_in_12", right), ("u_out_12", right), ("v_in_12", left)):
        cosines = directions @ shared[name].detach() / 0.4  # the gain over the scale
        torch.testing.assert_close(cosines.abs(), torch.eye(3), atol=1e-4, rtol=0)
    assert not shared["v_out_12"].any()
