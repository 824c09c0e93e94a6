"""Seconds to attach to a 12-layer base model, to save, load and merge, compared with peft's LoRA.

    python benchmarks/startup.py --threads 1 --clock cpu

The model has RoBERTa-base's shapes and random weights. VectorFit decomposes every weight once and later reads the
decompositions from disk; this reading is what is timed here (the first, untimed call fills the cache).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import common
from genft import GenFTConfig, VectorFitConfig
from step import base_model

CASES: dict[str, Callable[[], Any]] = {
    "LoRA r=8": lambda: LoraConfig(r=8, target_modules=["query", "value"]),
    "GenFT default": lambda: GenFTConfig(),
    "GenFT q, v": lambda: GenFTConfig(scope="qv", shared_dim=32),
    "GenFT nonlinear": lambda: GenFTConfig(scope="qv", shared_dim=32, act_row="leaky_relu", act_col="leaky_relu"),
    "VectorFit": lambda: VectorFitConfig(scope="attention"),
}


def detached(model: PeftModel) -> nn.Module:
    return model.unload()


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--layers", type=int, default=12)
    p.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    args = p.parse_args()
    timing = common.timing(args)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GENFT_CACHE", folder)
        bases = {case: base_model("roberta", args.layers) for case in args.cases}
        models: dict[str, PeftModel] = {}

        def attach(case: str) -> None:
            bases[case] = detached(models.pop(case)) if case in models else bases[case]
            models[case] = get_peft_model(bases[case], CASES[case]())

        def save(case: str) -> None:
            models[case].save_pretrained(Path(folder) / case)

        def load(case: str) -> None:
            bases[case] = detached(models.pop(case))
            models[case] = PeftModel.from_pretrained(bases[case], Path(folder) / case)

        def merge(case: str) -> None:
            models[case].merge_adapter()
            models[case].unmerge_adapter()

        actions = {"attach": attach, "save": save, "load": load, "merge and unmerge": merge}
        taken = {
            name: common.seconds({case: lambda case=case, do=do: do(case) for case in args.cases}, **timing)
            for name, do in actions.items()
        }
        rows = [{"method": case, **{f"{name} s": taken[name][case] for name in actions}} for case in args.cases]
    common.report("startup", rows, args)


if __name__ == "__main__":
    with torch.no_grad():
        main()
