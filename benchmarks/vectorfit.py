"""A training step of one transformer block's six linear layers with VectorFit, in each form, compared with the
published form, LoRA and the frozen base.

    python benchmarks/vectorfit.py

For each width and number of tokens: milliseconds of a forward and backward pass, FLOPs in units of T d² (the frozen
base: 48), bytes kept beyond the base's weights, bytes kept for the backward pass, and the largest difference between
the initial and the pretrained outputs. Timings are taken after the singular values have moved.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import common
from genft import VectorFitConfig
from genft.bridge.weight.layer import WeightLayer

VECTORFIT: dict[str, dict[str, Any]] = {
    "auto": {},
    "factored": {"plan": "factored"},
    "materialised": {"plan": "materialised"},
    "exact=False": {"exact": False},
    "lean": {"lean": True},
}


class Block(nn.Module):
    """q, k, v, attention output, MLP up and down, without the operations between them."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(self.o(self.q(x) + self.k(x) + self.v(x)))))


class Published(nn.Module):
    """U (σ ∘ Vᵀx) + b, as the paper writes it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, bias = linear.weight.detach(), linear.bias
        u, sigma, vh = torch.linalg.svd(weight.float(), full_matrices=False)
        self.register_buffer("u", u.to(weight.dtype))
        self.register_buffer("v", vh.T.to(weight.dtype).contiguous())
        self.sigma, self.bias = nn.Parameter(sigma), None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear((x @ self.v) * self.sigma, self.u, self.bias)


def model(case: str, d: int) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential()
    layers.add_module("0", Block(d).requires_grad_(False))
    base = nn.ModuleDict({"layers": layers})
    base.forward = layers.forward
    if case == "frozen base":
        return base
    if case == "published":
        block = base.get_submodule("layers.0")
        for name, linear in list(block.named_children()):
            setattr(block, name, Published(linear))
        return base
    if case == "LoRA r=8":
        return get_peft_model(base, LoraConfig(r=8, target_modules=["q", "k", "v", "o", "up", "down"]))
    return get_peft_model(base, VectorFitConfig(avf=False, **VECTORFIT[case]))


def constants(m: nn.Module) -> int:
    """Bytes of frozen tensors that a method keeps beyond the base's weights."""
    kept = [layer.vectorfit_constants["default"].tensors for layer in m.modules() if isinstance(layer, WeightLayer)]
    published = sum(b.nbytes for b in m.buffers())
    return published + sum(t.nbytes for tensors in kept for t in tensors.values())


def measure(d: int, tokens: int, cases: list[str], **timing: Any) -> list[dict[str, Any]]:
    x, grad = torch.randn(tokens, d), torch.randn(tokens, d)
    models = {case: model(case, d) for case in cases}
    with torch.no_grad():
        start = model("frozen base", d)(x)
        apart = {case: float((m(x) - start).abs().max()) for case, m in models.items()}
        for name, p in (named for m in models.values() for named in m.named_parameters()):
            if "sigma_bias" in name:  # timings are of trained values
                p.normal_(std=1e-3)

    def step(case: str) -> None:
        models[case](x.clone().requires_grad_()).backward(grad)

    flops, kept = {}, {}
    for case, m in models.items():
        with FlopCounterMode(display=False) as counter:
            step(case)
        flops[case] = counter.get_total_flops() / (tokens * d * d)
        known = [*m.parameters(), *m.buffers(), x]
        for layer in m.modules():
            if isinstance(layer, WeightLayer):
                known += layer.vectorfit_constants["default"].tensors.values()
        kept[case] = common.kept_bytes(lambda m=m: m(x.requires_grad_()), known)
    x.requires_grad_(False)
    seconds = common.seconds({case: lambda case=case: step(case) for case in cases}, **timing)
    return [
        {
            "d": d,
            "tokens": tokens,
            "form": case,
            "ms": 1e3 * seconds[case],
            "of published": seconds[case] / seconds["published"],
            "FLOPs / T d²": flops[case],
            "constants MB": constants(models[case]) / 1e6,
            "for backward MB": kept[case] / 1e6,
            "start off by": f"{apart[case]:.1e}" if apart[case] else "0",
        }
        for case in cases
    ]


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--widths", type=int, nargs="+", default=[384, 768])
    p.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 2048, 4096])
    p.add_argument("--cases", nargs="+", default=["frozen base", "LoRA r=8", "published", *VECTORFIT])
    args = p.parse_args()
    timing = common.timing(args)
    rows = [row for d, t in product(args.widths, args.tokens) for row in measure(d, t, args.cases, **timing)]
    common.report("vectorfit", rows, args)


if __name__ == "__main__":
    main()
