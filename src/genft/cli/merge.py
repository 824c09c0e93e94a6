"""``genft merge``: make an adapter usable in programs that know neither genft nor peft."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from genft.adapters import merge as merge_into_base
from genft.adapters.folder import check_new, new_folder
from genft.adapters.merge import save_merged
from genft.adapters.output_change import output_change, outputs
from genft.adapters.saved import open_adapter
from genft.cli.declare import Options, option, takes_options
from genft.cli.handing_over import change_in_words, probe_inputs
from genft.cli.options import InputOptions, JsonOptions, OpenOptions
from genft.cli.request import existing_folder
from genft.cli.screen import print_json, screen
from genft.runs.quiet import be_quiet


class MergeOptions(Options):
    out: Path = option("The folder to write; it must be new.")


@takes_options
def merge(adapter: OpenOptions, inputs: InputOptions, options: MergeOptions, output: JsonOptions) -> None:
    """Fold an adapter into its base model.

    The result is a plain model folder that transformers loads on its own. The outputs before and after merging are
    compared on --input, or on random inputs.

        genft merge runs/adapters/NAME --out merged
    """
    be_quiet()
    check_new(options.out)
    opened = open_adapter(existing_folder(adapter.adapter), adapter.base, adapter.num_labels)
    name, batches = probe_inputs(opened, inputs.input)
    before = outputs(opened.model, batches)
    model = merge_into_base(opened.model)
    change = output_change(name, before, outputs(model, batches))
    with new_folder(options.out) as folder:
        save_merged(folder, model, opened)
    if output.as_json:
        print_json({"out": str(options.out), "model": type(model).__name__, "change": dataclasses.asdict(change)})
        return
    console = screen()
    console.print(change_in_words(change))
    console.print(f"{type(model).__name__}, without any adapter, saved to {options.out}", soft_wrap=True, markup=False)
