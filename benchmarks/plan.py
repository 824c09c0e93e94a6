"""The plan's choices compared with the fastest form as measured: what a wrong choice costs.

    python benchmarks/plan.py --threads 1 --clock cpu

For each weight, rank and number of tokens, it times a forward and backward pass of every form of one low-rank layer;
"regret" is how much longer the chosen form takes than the fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import common
from genft.ops import plan
from genft.ops.lowrank import low_rank_linear

FORMS: tuple[plan.Form, ...] = ("factored", "materialised", "weight", "beside")
WEIGHTS = [(384, 384), (768, 768), (3072, 768), (768, 3072)]


def layer(form: plan.Form, x: Tensor, w0: Tensor, left: Tensor, right: Tensor) -> Tensor:
    if form in ("factored", "materialised"):
        return low_rank_linear(x, w0, None, [(0, len(w0))], [(left, right)], form=form)
    if form == "weight":
        return F.linear(x, torch.addmm(w0, left, right.T))
    return F.linear(x, w0) + F.linear(x, left @ right.T)


def measure(size: tuple[int, int], rank: int, tokens: int, **timing: Any) -> dict[str, Any]:
    (o, i), k = size, rank
    x, w0, grad = torch.randn(tokens, i, requires_grad=True), torch.randn(o, i), torch.randn(tokens, o)
    left, right = torch.randn(o, k, requires_grad=True), torch.randn(i, k, requires_grad=True)

    def step(form: plan.Form) -> Callable[[], object]:
        return lambda: torch.autograd.grad(layer(form, x, w0, left, right), (x, left, right), grad)

    seconds = common.seconds({form: step(form) for form in FORMS}, **timing)
    chosen = plan.choose(plan.Shape(o=o, i=i, tokens=tokens, rank=k, training=True, exact_sum=True))
    best = min(FORMS, key=lambda form: seconds[form])
    return {
        "weight": f"{o}×{i}",
        "rank": k,
        "tokens": tokens,
        **{f"{form} ms": 1e3 * seconds[form] for form in FORMS},
        "chosen": chosen,
        "best": best,
        "regret": f"{seconds[chosen] / seconds[best] - 1:.1%}",
    }


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--tokens", type=int, nargs="+", default=[64, 512, 2048])
    p.add_argument("--ranks", type=int, nargs="+", default=[8, 34, 128])
    args = p.parse_args()
    timing = common.timing(args)
    rows = [measure(*point, **timing) for point in product(WEIGHTS, args.ranks, args.tokens)]
    common.report("plan", rows, args)
    regrets = sorted(float(row["regret"].rstrip("%")) for row in rows)
    print(f"regret: median {regrets[len(regrets) // 2]:.1f} %, mean {sum(regrets) / len(regrets):.1f} %, "
          f"largest {regrets[-1]:.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
