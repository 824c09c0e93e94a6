"""How time and memory of a training step grow with width, layers and tokens: exponents and a figure.

    python benchmarks/growth.py --threads 1 --clock cpu

A stack of linear layers in Llama's shapes stands in for the model. Each curve varies one size; its exponent is the
slope of a straight line through its points on logarithmic axes. "Added" is what the method adds to the frozen base:
time per step, and bytes kept for the backward pass.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import common
from genft import GenFTConfig
from genft.figures.style import style

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "growth.svg"
GRID = {"d": [256, 384, 512, 768, 1024], "layers": [1, 2, 4, 8], "tokens": [128, 256, 512, 1024]}
USUAL = {"d": 512, "layers": 2, "tokens": 256}
ALL = ["q", "k", "v", "o", "up", "down"]
CASES: dict[str, Any] = {
    "frozen base": None,
    "LoRA r=8": lambda: LoraConfig(r=8, target_modules=["q", "v"]),
    "LoRA r=1, all": lambda: LoraConfig(r=1, target_modules=ALL),
    "GenFT default": lambda: GenFTConfig(target_modules=ALL),
    "GenFT q, v": lambda: GenFTConfig(target_modules=["q", "v"], shared_dim=32),
    "GenFT nonlinear": lambda: GenFTConfig(
        form="paper", target_modules=["q", "v"], shared_dim=32, act_row="leaky_relu", act_col="leaky_relu"
    ),
}


class Layer(nn.Module):
    """The six weights of a block, applied in sequence; q and v are among them."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.o(self.q(x) * self.k(x) + self.v(x)))))


def model(case: str, d: int, layers: int) -> nn.Module:
    torch.manual_seed(0)
    base = nn.Sequential(*(Layer(d) for _ in range(layers))).requires_grad_(False)
    return base if CASES[case] is None else get_peft_model(base, CASES[case]())


def measure(varied: str, size: int, **timing: Any) -> list[dict[str, Any]]:
    sizes = {**USUAL, varied: size}
    d, layers, tokens = sizes["d"], sizes["layers"], sizes["tokens"]
    x, grad = torch.randn(tokens, d, requires_grad=True), torch.randn(tokens, d)
    models = {case: model(case, d, layers) for case in CASES}
    seconds = common.seconds({case: lambda m=m: m(x).backward(grad) for case, m in models.items()}, **timing)
    kept = {case: common.kept_bytes(lambda m=m: m(x), [*m.parameters(), x]) for case, m in models.items()}
    return [
        {
            "varied": varied,
            "size": size,
            "method": case,
            "ms": 1e3 * seconds[case],
            "added ms": 1e3 * (seconds[case] - seconds["frozen base"]),
            "kept MB": kept[case] / 1e6,
        }
        for case in CASES
    ]


def slope(points: list[tuple[float, float]]) -> float:
    """The least-squares slope of log y over log x."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mx, my = (sum(v) / len(logs) for v in zip(*logs, strict=True))
    return sum((x - mx) * (y - my) for x, y in logs) / sum((x - mx) ** 2 for x, _ in logs)


def main() -> None:
    p = common.parser(__doc__)
    args = p.parse_args()
    timing = common.timing(args)
    rows = [row for varied, sizes in GRID.items() for size in sizes for row in measure(varied, size, **timing)]
    common.report("growth", rows, args)
    with style():
        exponents = draw(rows)
    print(common.table(exponents))


def draw(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the figure; return the exponents in it."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), sharex="col", layout="constrained")
    exponents = []
    for column, (varied, sizes) in enumerate(GRID.items()):
        for case in CASES:
            mine = [row for row in rows if row["varied"] == varied and row["method"] == case]
            slopes = {"method": case, "in": varied}
            for line, what in enumerate(("ms", "kept MB")):
                points = [(row["size"], row[what]) for row in mine]
                slopes[what] = slope(points)
                axes[line, column].loglog(*zip(*points, strict=True), "o-", label=f"{case} ({slopes[what]:.2f})")
            exponents.append(slopes)
        for line, what in enumerate(("ms", "kept MB")):
            ax = axes[line, column]
            ax.set(ylabel=what, xlabel=varied)
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.yaxis.set_major_formatter("{x:g}")
            ax.minorticks_off()
            ax.set_yticks(
                [n for n in (3, 5, 10, 20, 30, 50, 100, 200, 300) if ax.get_ylim()[0] <= n <= ax.get_ylim()[1]]
            )
            ax.legend(fontsize=7)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    return exponents


if __name__ == "__main__":
    main()
