"""``genft to-lora``: make an adapter usable in programs that know LoRA but not genft."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from peft import PeftModel

from genft.adapters import to_lora as as_lora
from genft.adapters.folder import check_new, new_folder
from genft.adapters.lora import save_lora
from genft.adapters.lora_adapter import READERS, LoraAdapter, check_program
from genft.adapters.output_change import OutputChange, output_change, outputs
from genft.adapters.saved import open_adapter
from genft.cli.declare import option, takes_options
from genft.cli.handing_over import change_in_words, probe_inputs
from genft.cli.merge import MergeOptions
from genft.cli.options import InputOptions, JsonOptions, OpenOptions
from genft.cli.request import existing_folder
from genft.cli.screen import print_json, screen
from genft.errors import ConfigError
from genft.report.style import table
from genft.runs.quiet import be_quiet


class LoraOptions(MergeOptions):
    program: str = option(
        f"What will load it: {', '.join(READERS)}. What the program would drop or misread is refused.",
        "peft",
        names=("--for",),
    )
    rank: str = option(
        "Maximum rank per weight. auto: exact if the update is low-rank by construction, else like --energy 0.99.",
        "auto",
    )
    energy: float | None = option(
        "Use the smallest rank per weight that keeps this share of the squared singular values.", None
    )


@takes_options
def to_lora(adapter: OpenOptions, inputs: InputOptions, options: LoraOptions, output: JsonOptions) -> None:
    """Write an adapter as a standard LoRA adapter.

    For servers and libraries that do not know genft. The conversion is exact if every update is low-rank by
    construction, as with GenFT's identity activations; otherwise it is the best approximation of the given rank, and
    the error of every layer is shown. The outputs before and after are compared on --input, or on random inputs.

        genft to-lora runs/adapters/NAME --out lora --rank 16

        genft to-lora runs/adapters/NAME --out lora --for vllm
    """
    be_quiet()
    if options.rank != "auto" and not options.rank.isdecimal():
        raise ConfigError(f"--rank: received {options.rank!r}; allowed: auto, or a whole number")
    check_program(options.program)
    check_new(options.out)
    opened = open_adapter(existing_folder(adapter.adapter), adapter.base, adapter.num_labels)
    if not isinstance(opened.model, PeftModel):
        raise ConfigError(f"{adapter.adapter}: is not an adapter but a model's own weights; use `genft merge`")
    name, batches = probe_inputs(opened, inputs.input)
    before = outputs(opened.model, batches)
    rank = None if options.rank == "auto" else int(options.rank)
    lora = as_lora(opened.model, rank=rank, energy=options.energy, program=options.program)
    with new_folder(options.out) as folder:
        save_lora(folder, lora, opened)
        plain: Any = opened.model.unload()
        change = output_change(name, before, outputs(PeftModel.from_pretrained(plain, str(folder)), batches))
    if output.as_json:
        print_json(_data(lora, change, options.out))
    else:
        _show(lora, change, options.out)


def _data(lora: LoraAdapter, change: OutputChange, out: Path) -> dict[str, Any]:
    return {
        "out": str(out),
        "for": lora.program,
        "exact": lora.exact,
        "rank": lora.config.r,
        "layers": [dataclasses.asdict(layer) for layer in lora.layers],
        "change": dataclasses.asdict(change),
        "notes": lora.notes,
    }


def _show(lora: LoraAdapter, change: OutputChange, out: Path) -> None:
    console = screen()
    shown = table("weight", "rank", "relative error", right=("rank", "relative error"))
    for layer in lora.layers:
        shown.add_row(layer.module, str(layer.rank), f"{layer.error:.1e}")
    console.print(shown)
    if lora.exact:
        console.print("Exact: every update is low-rank by construction and is represented in full.")
    else:
        worst = max(layer.error for layer in lora.layers)
        console.print(f"An approximation: a weight's update is off by up to {100 * worst:.2g} % (Frobenius norm).")
    console.print(change_in_words(change))
    for note in lora.notes:
        console.print(note)
    console.print(f"LoRA adapter saved to {out}", soft_wrap=True, markup=False)
