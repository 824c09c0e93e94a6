"""The start-up costs of genft: importing it, running short commands, and attaching, saving and loading an adapter.

    python benchmarks/startup.py --threads 1 --clock cpu

Commands are timed in processor time of a new process, next to that of ``import peft``, without which no adapter can be
attached. Adapters are timed on RoBERTa-base's shapes with random weights, next to peft's LoRA: on attention's four
weights for GenFT's default and VectorFit, on query and value for the others. VectorFit decomposes
every weight the first time; afterwards it reads the decompositions from disk, which is what is timed here (a warm-up
call fills the cache).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import common
import house
from genft import GenFTConfig, VectorFitConfig
from step import base_model

ALL = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
LORA, LORA_SAME = "LoRA r=8", "LoRA r=8, same weights"
COMMANDS = {
    "genft --help": ("--help",),
    "genft list methods": ("list", "methods"),
    "genft params glue": ("params", "glue"),
}
#: Case → (the case that it is compared with, its configuration).
CASES: dict[str, tuple[str, Callable[[], Any]]] = {
    LORA: (LORA, lambda: LoraConfig(r=8, target_modules=["query", "value"])),
    LORA_SAME: (LORA_SAME, lambda: LoraConfig(r=8, target_modules=ALL)),
    "GenFT default": (LORA_SAME, lambda: GenFTConfig()),
    "GenFT q, v": (LORA, lambda: GenFTConfig(scope="qv", shared_dim=32)),
    "GenFT nonlinear": (
        LORA,
        lambda: GenFTConfig(form="paper", scope="qv", shared_dim=32, act_row="leaky_relu", act_col="leaky_relu"),
    ),
    "VectorFit": (LORA_SAME, lambda: VectorFitConfig()),
}


def detached(model: PeftModel) -> nn.Module:
    return model.unload()


def row(what: str, seconds: float, beside: str, of: float) -> dict[str, Any]:
    return {"what": what, "seconds": seconds, "beside": beside, "ratio": seconds / of}


def of_commands() -> list[dict[str, Any]]:
    peft = house.processor_seconds("import peft")
    genft = house.processor_seconds("import genft", before="import peft")
    rows = [row("import genft, beyond peft", genft, "import peft", peft)]
    for name, words in COMMANDS.items():
        rows.append(row(name, house.processor_seconds(house.command(*words)), "import peft", peft))
    return rows


def of_adapters(args: argparse.Namespace) -> list[dict[str, Any]]:
    timing = common.timing(args)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GENFT_CACHE", folder)
        bases = {case: base_model("roberta", args.layers) for case in args.cases}
        models: dict[str, PeftModel] = {}

        def attach(case: str) -> None:
            bases[case] = detached(models.pop(case)) if case in models else bases[case]
            models[case] = get_peft_model(bases[case], CASES[case][1]())

        def save(case: str) -> None:
            models[case].save_pretrained(Path(folder) / case)

        def load(case: str) -> None:
            bases[case] = detached(models.pop(case))
            models[case] = PeftModel.from_pretrained(bases[case], Path(folder) / case)

        def merge(case: str) -> None:
            models[case].merge_adapter()
            models[case].unmerge_adapter()

        actions = {"attach": attach, "save": save, "load": load, "merge and unmerge": merge}
        seconds = {
            name: common.seconds({case: lambda case=case, do=do: do(case) for case in args.cases}, **timing)
            for name, do in actions.items()
        }
    return [
        row(f"{name}: {case}", of[case], CASES[case][0], of[CASES[case][0]])
        for name, of in seconds.items()
        for case in args.cases
    ]


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--layers", type=int, default=12)
    p.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    p.add_argument("--no-commands", action="store_true", help="time adapters only")
    args = p.parse_args()
    args.cases = list(dict.fromkeys([*(CASES[case][0] for case in args.cases), *args.cases]))
    commands = [] if args.no_commands else of_commands()
    with torch.no_grad():
        common.report("startup", commands + of_adapters(args), args)


if __name__ == "__main__":
    main()
