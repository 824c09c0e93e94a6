import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from genft.errors import ConfigError
from genft.ops import entries, generator
from genft.ops.entries import ACTIVATIONS
from genft.ops.generator import Form, Stage

PAIRS = list(itertools.product(ACTIVATIONS, ACTIVATIONS))
STAGES = ("both", "row", "col")
NONLINEAR = {"act_row": "leaky_relu", "act_col": "gelu", "ratio": 0.7, "scaling": 1.3, "dropout": 0.2}


def generate(w0, row, col, *, seed=None, **form):
    return generator.generate(w0, row, col, Form(**form), seed=seed)


def generate_plain(w0, row, col, *, seed=None, **form):
    return generator.generate_plain(w0, row, col, Form(**form), seed=seed)


def low_rank(w0, row, col, **form):
    return generator.low_rank(w0, row, col, Form(**form))


def problem(o, i, r, *, stages="both", dtype=torch.float64, w0_dtype=None, seed=0):
    """A weight, its stages, and the list of trained factors."""
    g = torch.Generator().manual_seed(seed)
    w0 = torch.randn(o, i, generator=g, dtype=torch.float64).to(w0_dtype or dtype)
    row, col = (
        Stage(*((torch.randn(n, r, generator=g, dtype=torch.float64) / 2).to(dtype).requires_grad_() for _ in "PQ"))
        for n in (i, o)
    )
    row, col = row if stages != "col" else None, col if stages != "row" else None
    return w0, row, col, [*(row or ())[:2], *(col or ())[:2]]


def value_and_gradients(form, w0, row, col, factors, **kw):
    dw = form(w0, row, col, **kw)
    weights = torch.linspace(-1, 1, dw.numel(), dtype=torch.float64).view_as(dw).to(dw.dtype)
    for f in factors:
        f.grad = None
    dw.backward(weights)
    return dw.detach(), *(f.grad for f in factors)


def assert_agree(*args, rtol=1e-10, atol=1e-10, **kw):
    ours = value_and_gradients(generate, *args, **kw)
    plain = value_and_gradients(generate_plain, *args, **kw)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.fixture
def small_tiles(monkeypatch):
    """Small tiles, so that small matrices have several."""
    monkeypatch.setattr(entries, "_TILE", {"cpu": (8, 5)})


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("act_row", "act_col"), PAIRS)
def test_agrees_with_the_plain_form(act_row, act_col, seed, stages, small_tiles):
    p = problem(21, 13, 4, stages=stages)
    assert_agree(*p, act_row=act_row, act_col=act_col, ratio=0.7, scaling=-1.3, dropout=0.2, seed=seed)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("act_row", "act_col"), PAIRS)
def test_gradcheck(act_row, act_col, seed, stages):
    w0, row, col, factors = problem(9, 6, 2, stages=stages)

    def f(*factors):
        it = iter(factors)
        row_, col_ = (None if s is None else Stage(next(it), next(it)) for s in (row, col))
        return generate(w0, row_, col_, act_row=act_row, act_col=act_col, dropout=0.2, seed=seed)

    assert torch.autograd.gradcheck(f, factors, fast_mode=True)


@given(
    o=st.integers(1, 40),
    i=st.integers(1, 40),
    r=st.integers(1, 45),
    acts=st.sampled_from(PAIRS),
    stages=st.sampled_from(STAGES),
    seed=st.none() | st.integers(0, 2**62),
    p=st.floats(0, 0.9),
)
@settings(max_examples=80, deadline=None)
def test_any_shape(o, i, r, acts, stages, seed, p):
    act_row, act_col = acts
    assert_agree(*problem(o, i, r, stages=stages), act_row=act_row, act_col=act_col, dropout=p, seed=seed, atol=1e-8)


@pytest.mark.parametrize("w0_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("acts", [{}, NONLINEAR])
def test_computes_in_the_factors_dtype(w0_dtype, stages, acts, small_tiles):
    p = problem(24, 17, 3, stages=stages, dtype=torch.float32, w0_dtype=w0_dtype)
    assert generate(*p[:3], **acts).dtype == torch.float32
    assert_agree(*p, seed=1, rtol=1e-4, atol=1e-4, **acts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stages", STAGES)
def test_low_precision_factors(dtype, stages, small_tiles):
    """No further from float64 than the plain form in the same precision, with slack for luck."""
    low = problem(40, 24, 4, stages=stages, dtype=dtype)
    exact = tuple(
        None if t is None else Stage(*(u.detach().double().requires_grad_() for u in t[:2])) for t in low[1:3]
    )
    exact = (low[0].double(), *exact, [t for s in exact if s is not None for t in s[:2]])
    kw = dict(NONLINEAR, seed=4)
    truth = value_and_gradients(generate_plain, *exact, **kw)
    ours, plain = (value_and_gradients(form, *low, **kw) for form in (generate, generate_plain))
    for a, b, t in zip(ours, plain, truth, strict=True):
        assert a.dtype == dtype
        assert (a - t).norm() <= 1.5 * (b - t).norm() + 1e-3 * t.norm()


@pytest.mark.parametrize("stages", STAGES)
def test_low_rank_is_the_update_of_linear_stages(stages):
    w0, row, col, _ = problem(15, 11, 4, stages=stages)
    left, right = low_rank(w0, row, col, ratio=0.3, scaling=2.0)
    assert left.shape == (15, 4)
    assert right.shape == (11, 4)
    torch.testing.assert_close(left @ right.T, generate_plain(w0, row, col, ratio=0.3, scaling=2.0))


def test_strided_weights():
    """A Conv1D weight is stored transposed, a row slice of a fused one is a view."""
    w0, *rest = problem(16, 16, 3)
    assert_agree(w0.T, *rest, seed=1, **NONLINEAR)
    assert_agree(torch.cat([w0, w0])[8:24], *rest, seed=1, **NONLINEAR)


def test_dropout_is_unbiased():
    """With linear stages the mean over masks is the update without dropout."""
    w0, row, col, _ = problem(12, 10, 3)
    draws = torch.stack([generate(w0, row, col, dropout=0.4, seed=s).detach() for s in range(4000)])
    z = (draws.mean(0) - generate(w0, row, col)) / (draws.std(0) / len(draws) ** 0.5)
    assert abs(z.mean()) < 0.5
    assert z.abs().max() < 5


def test_a_seed_fixes_the_masks_and_another_changes_them():
    w0, row, col, _ = problem(32, 32, 3)
    a, b, c = (generate(w0, row, col, seed=s, **NONLINEAR) for s in (1, torch.tensor(1), 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(generate(w0, row, col, **NONLINEAR), generate(w0, row, col, **{**NONLINEAR, "dropout": 0.0}))


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("acts", [{}, NONLINEAR])
@pytest.mark.parametrize("wanted", [1, 2, 4, 8, 6, 9])
def test_only_the_gradients_that_are_wanted(stages, acts, wanted):
    w0, row, col, factors = problem(20, 12, 3, stages=stages)
    full = value_and_gradients(generate, w0, row, col, factors, seed=1, **acts)[1:]
    for k, f in enumerate(factors):
        f.requires_grad_(bool(wanted >> k & 1))
    some = [k for k, f in enumerate(factors) if f.requires_grad]
    if not some:
        assert not generate(w0, row, col, seed=1, **acts).requires_grad
        return
    part = value_and_gradients(generate, w0, row, col, [factors[k] for k in some], seed=1, **acts)[1:]
    for k, g in zip(some, part, strict=True):
        torch.testing.assert_close(g, full[k])


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("acts", [{}, NONLINEAR])
def test_the_frozen_weight_gets_no_gradient(stages, acts):
    w0, row, col, _ = problem(20, 12, 3, stages=stages)
    w0.requires_grad_()
    generate(w0, row, col, seed=1, **acts).sum().backward()
    assert w0.grad is None


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("w0_dtype", [torch.bfloat16, torch.float32])
def test_keeps_only_thin_tensors_and_bits(stages, w0_dtype):
    o, i, r = 256, 192, 2
    w0, row, col, _ = problem(o, i, r, stages=stages, dtype=torch.float32, w0_dtype=w0_dtype)
    kept = {}

    def pack(t):
        s = t.untyped_storage()
        if s.data_ptr() != w0.untyped_storage().data_ptr():
            kept[s.data_ptr()] = s.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        generate(w0, row, col, seed=1, **NONLINEAR)
    masks = (1 if stages != "both" else 2) * o * i // 8
    assert sum(kept.values()) <= masks + 4 * r * (4 * (o + i))


def test_second_derivatives_are_refused():
    w0, row, col, factors = problem(8, 8, 2)
    (g,) = torch.autograd.grad(generate(w0, row, col, **NONLINEAR).sum(), factors[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="genft generator: second derivatives are not implemented"):
        g.sum().backward()


@pytest.mark.parametrize("acts", [{}, NONLINEAR])
def test_autocast_changes_nothing(acts):
    w0, row, col, factors = problem(24, 24, 3, dtype=torch.float32)
    expected = value_and_gradients(generate, w0, row, col, factors, seed=1, **acts)

    def form(*args, **kw):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return generate(*args, **kw)

    for a, b in zip(value_and_gradients(form, w0, row, col, factors, seed=1, **acts), expected, strict=True):
        assert torch.equal(a, b)


def test_a_backward_pass_under_autocast_keeps_its_precision():
    p = problem(24, 24, 3, dtype=torch.float32)
    expected = value_and_gradients(generate, *p, seed=1, **NONLINEAR)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b in zip(value_and_gradients(generate, *p, seed=1, **NONLINEAR), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing(use_reentrant):
    w0, row, col, factors = problem(24, 16, 3)
    expected = value_and_gradients(generate, w0, row, col, factors, seed=1, **NONLINEAR)

    def form(w0, row, col, **kw):
        return checkpoint(
            lambda *f: generate(w0, Stage(*f[:2]), Stage(*f[2:]), **kw), *row[:2], *col[:2], use_reentrant=use_reentrant
        )

    for a, b in zip(value_and_gradients(form, w0, row, col, factors, seed=1, **NONLINEAR), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("acts", [{}, NONLINEAR])
def test_compiles_as_one_graph(stages, acts):
    p = problem(24, 16, 3, stages=stages, dtype=torch.float32)
    torch._dynamo.reset()

    def form(w0, row, col, *, seed):
        return generate(w0, row, col, seed=seed, **acts)

    compiled = torch.compile(form, fullgraph=True, backend="aot_eager")
    for seed in (None, torch.tensor(1), torch.tensor(2)):
        expected = value_and_gradients(generate, *p, seed=seed, **acts)
        for a, b in zip(value_and_gradients(compiled, *p, seed=seed), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_operations_are_well_formed():
    x, y, p, g = (torch.randn(n, 3, requires_grad=True) for n in (10, 7, 10, 7))
    mask = generator.entry_mask((10, 7), 0.2, 1, torch.device("cpu"))
    w0 = torch.randn(10, 7)
    torch.library.opcheck(entries.project, (w0, g, False))
    torch.library.opcheck(entries.project, (w0.bfloat16(), p, True))
    torch.library.opcheck(entries.entries, (x, y, mask, "gelu", 1.5))
    torch.library.opcheck(entries.contract, (x, y, p, mask, "tanh", 1.5))


@pytest.mark.parametrize("acts", [{}, NONLINEAR])
def test_meta_tensors(acts):
    w0, row, col, factors = problem(24, 16, 3)
    row, col = (Stage(*(f.detach().to("meta").requires_grad_() for f in s[:2])) for s in (row, col))
    dw = generate(w0.to("meta"), row, col, seed=1, **acts)
    assert dw.is_meta
    assert dw.shape == (24, 16)
    dw.sum().backward()
    assert [f.grad.shape for f in (*row[:2], *col[:2])] == [f.shape for f in factors]


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"act_row": "leaky"}, "act_row: 'leaky' is not known; allowed: .* nearest: 'leaky_relu'"),
        ({"act_col": "swish"}, "act_col: 'swish' is not known"),
        ({"dropout": 1.0}, "dropout: 1.0 is not a probability below 1"),
        ({"dropout": -0.1}, "dropout: -0.1 is not a probability below 1"),
    ],
)
@pytest.mark.parametrize("form", [generate, generate_plain])
def test_what_cannot_be_generated_is_refused(form, kw, message):
    w0, row, col, _ = problem(8, 8, 2)
    with pytest.raises(ConfigError, match=message):
        form(w0, row, col, **kw)


@pytest.mark.parametrize("form", [generate, generate_plain, low_rank])
def test_at_least_one_stage(form):
    with pytest.raises(ConfigError, match="row, col: neither a row stage nor a column stage"):
        form(torch.eye(3), None, None)
