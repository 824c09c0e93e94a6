"""The generator, forward and backward, compared with Algorithm 1 of the paper as published.

    python benchmarks/generator.py
    python benchmarks/generator.py --profile --widths 768      # where our form spends its time

For each width: milliseconds of a forward and backward pass of one weight, their ratio, the ratio's ceiling by FLOPs,
and the bytes kept for the backward pass beyond W0 and the parameters, with and without the four concatenated factors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import common
from genft.ops.generator import generate

CASES = {
    "nonlinear, dropout 0.1": ("leaky_relu", 0.1),
    "nonlinear": ("leaky_relu", 0.0),
    "identity": ("identity", 0.0),
}
PUBLISHED_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": F.leaky_relu,
    "identity": lambda x: x,
}


def algorithm_1(
    w0: Tensor, u: Tensor, v: Tensor, a: Tensor, b: Tensor, *, act: str, dropout: float, ratio: float, scaling: float
) -> Tensor:
    """Algorithm 1 of arXiv 2506.11042, line by line, with cat along the columns, which the listing leaves open."""
    act1 = act2 = PUBLISHED_ACTIVATIONS[act]
    u1 = torch.cat([u, a], dim=1)
    u2 = torch.cat([u, b], dim=1)
    big_u = torch.mm(u2, u1.T)
    f_row = act1(F.linear(ratio * w0, big_u))
    f_row = F.dropout(f_row, dropout)
    v1 = torch.cat([v, a], dim=1)
    v2 = torch.cat([v, b], dim=1)
    big_v = torch.mm(v2, v1.T)
    f_column = act2(F.linear(f_row.T, big_v))
    return scaling * F.dropout(f_column, dropout)


def ours(
    w0: Tensor, u: Tensor, v: Tensor, a: Tensor, b: Tensor, *, act: str, dropout: float, ratio: float, scaling: float
) -> Tensor:
    """The same function of the same parameters; ΔW has the layout of W0, the transpose of the published one."""
    return from_factors(w0, *factors(u, v, a, b), act=act, dropout=dropout, ratio=ratio, scaling=scaling)


def factors(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """P1, Q1, P2, Q2."""
    return [torch.cat([shared, specific], dim=1) for shared in (u, v) for specific in (a, b)]


def from_factors(w0: Tensor, p1: Tensor, q1: Tensor, p2: Tensor, q2: Tensor, *, act: str, **settings: float) -> Tensor:
    seed = int(torch.randint(2**62, ())) if settings["dropout"] else None
    return generate(w0, (p1, q1), (p2, q2), act_row=act, act_col=act, seed=seed, **settings)


def ceiling(case: str, r: int, d: int) -> float:
    """FLOPs of Algorithm 1 over ours: 10 d³ + 12 d² r over 26 d² r, or over 10 d² r through an r × r core."""
    return (10 * d + 12 * r) / ((10 if case == "identity" else 26) * r)


def problem(case: str, shared: int, specific: int, d: int) -> tuple[list[Tensor], Tensor, dict[str, Any]]:
    """(W0 and the parameters, the gradient with respect to ΔW, the settings)."""
    act, dropout = CASES[case]
    torch.manual_seed(0)
    w0, grad = torch.randn(d, d) / d**0.5, torch.randn(d, d)
    parameters = [(torch.randn(d, k) / d**0.5).requires_grad_() for k in (shared, shared, specific, specific)]
    return [w0, *parameters], grad, {"act": act, "dropout": dropout, "ratio": 0.5, "scaling": 0.1}


def profile(case: str, shared: int, specific: int, d: int, calls: int = 20) -> None:
    """Print the time of our forward and backward pass by torch operation."""
    tensors, grad, settings = problem(case, shared, specific, d)
    ours(*tensors, **settings).backward(grad)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as p:
        for _ in range(calls):
            ours(*tensors, **settings).backward(grad)
    operations = sorted(p.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in operations)
    rows = [
        {
            "operation": e.key,
            "share": f"{e.self_cpu_time_total / total:.1%}",
            "ms": e.self_cpu_time_total / calls / 1e3,
            "calls": e.count // calls,
        }
        for e in operations[:12]
    ]
    print(f"{case}, d {d}, r {shared + specific}\n{common.table(rows)}")


def measure(case: str, shared: int, specific: int, d: int, **timing: Any) -> dict[str, object]:
    (w0, *parameters), grad, settings = problem(case, shared, specific, d)
    forms = {
        name: partial(form, w0, *parameters, **settings)
        for name, form in (("algorithm 1", algorithm_1), ("ours", ours))
    }
    kept = {name: common.kept_bytes(form, (w0, *parameters)) for name, form in forms.items()}
    thin = factors(*parameters)
    beside = {
        "algorithm 1": kept["algorithm 1"] - sum(t.nbytes for t in thin),  # it keeps all four
        "ours": common.kept_bytes(partial(from_factors, w0, *thin, **settings), (w0, *thin)),
    }
    time = common.seconds({name: lambda form=form: form().backward(grad) for name, form in forms.items()}, **timing)
    return {
        "case": case,
        "d": d,
        "r": shared + specific,
        "algorithm 1 ms": 1e3 * time["algorithm 1"],
        "ours ms": 1e3 * time["ours"],
        "faster": time["algorithm 1"] / time["ours"],
        "ceiling": ceiling(case, shared + specific, d),
        "algorithm 1 MB": kept["algorithm 1"] / 1e6,
        "ours MB": kept["ours"] / 1e6,
        "smaller": kept["algorithm 1"] / kept["ours"],
        "smaller, factors aside": beside["algorithm 1"] / beside["ours"],
    }


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--widths", type=int, nargs="+", default=[384, 768, 1024, 2048, 4096])
    p.add_argument("--shared", type=int, nargs="+", default=[64], help="a, the shared dimension")
    p.add_argument("--specific", type=int, nargs="+", default=[2, 16], help="b; r = a + b")
    p.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    p.add_argument("--profile", action="store_true", help="print the time of our form by torch operation instead")
    args = p.parse_args()
    timing = common.timing(args)
    grid = list(product(args.cases, args.shared, args.specific, args.widths))
    if args.profile:
        for point in grid:
            profile(*point)
        return
    rows = [measure(*point, **timing) for point in grid]
    common.report("generator", rows, args)


if __name__ == "__main__":
    main()
