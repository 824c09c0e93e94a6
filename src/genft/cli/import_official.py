"""``genft import-official``: convert an adapter saved by the GenFT authors' own code."""

from __future__ import annotations

from pathlib import Path

from genft.adapters.official import import_official as make_ours
from genft.cli.declare import argument, option, takes_options
from genft.cli.merge import MergeOptions
from genft.cli.options import JsonOptions
from genft.cli.request import existing_folder
from genft.cli.screen import print_json, screen
from genft.models.parameters import count_parameters
from genft.runs.quiet import be_quiet


class ImportOptions(MergeOptions):
    official: Path = argument("A folder saved by the authors' code.", metavar="FOLDER")
    pretrained: str = option(
        "The model that the adapter was trained on: a Hub id, a packaged name, or a folder.",
        names=("--base",),
        metavar="MODEL",
    )


@takes_options
def import_official(options: ImportOptions, output: JsonOptions) -> None:
    """Convert an adapter of the GenFT authors' own code into one of this package.

    Their package is also called genft, but its files differ. The result computes exactly what theirs does; a setting
    without an exact counterpart is refused by name. Text adapters consist of adapter_config.json and a file of tensors,
    image adapters of best_model.pt and args.yaml.

        genft import-official THEIRS --base FacebookAI/roberta-base --out ours
    """
    be_quiet()
    adapted = make_ours(existing_folder(options.official), options.pretrained, options.out)
    counts = count_parameters(adapted, adapted.active_peft_config.modules_to_save or ())
    class_name = type(adapted.get_base_model()).__name__
    if output.as_json:
        print_json({"out": str(options.out), "model": class_name, "adapter": counts.adapter, "head": counts.head})
        return
    console = screen()
    console.print(
        f"{class_name}: {counts.adapter:,} adapter parameters and {counts.head:,} head parameters, unchanged."
    )
    console.print(f"Adapter saved to {options.out}", soft_wrap=True, markup=False)
