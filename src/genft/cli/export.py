"""``genft merge`` and ``genft to-lora``: hand an adapter over to programs that do not know genft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genft.cli.screen import print_json, screen

if TYPE_CHECKING:
    from genft.adapters.lora import LoraAdapter
    from genft.adapters.output_change import Batch, OutputChange
    from genft.adapters.saved import Opened

Adapter = Annotated[Path, typer.Argument(help="A folder that `genft train`, or peft, has saved.")]
Out = Annotated[Path, typer.Option(help="A new folder.")]
Base = Annotated[str | None, typer.Option(help="The base model, if it is not where the adapter says.")]
Labels = Annotated[
    int | None,
    typer.Option("--num-labels", min=1, help="Outputs of the head; only for a folder that peft alone saved."),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input", "-i", help="Rows as in training, or images, to compare outputs on. \\[default: random inputs]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")]


def merge(
    adapter: Adapter,
    out: Out,
    base: Base = None,
    num_labels: Labels = None,
    input: Input = None,
    json: Json = False,
) -> None:
    """Fold an adapter into its base model: a plain model folder that transformers loads alone.

    genft merge runs/adapters/NAME --out merged
    """
    import dataclasses

    from genft.adapters import merge as merged_model
    from genft.adapters.folder import check_new, new_folder
    from genft.adapters.merge import save_merged
    from genft.adapters.output_change import output_change, outputs
    from genft.adapters.saved import open_adapter
    from genft.sweeps.processes import be_quiet

    be_quiet()
    check_new(out)
    opened = open_adapter(adapter, base, num_labels)
    name, batches = _inputs(opened, input)
    before = outputs(opened.model, batches)
    model = merged_model(opened.model)
    change = output_change(name, before, outputs(model, batches))
    with new_folder(out) as folder:
        save_merged(folder, model, opened)
    if json:
        print_json({"out": str(out), "model": type(model).__name__, "change": dataclasses.asdict(change)})
        return
    console = screen(False)
    console.print(_sentence(change))
    console.print(f"{type(model).__name__}, without any adapter: {out}", soft_wrap=True)


def to_lora(
    adapter: Adapter,
    out: Out,
    rank: Annotated[
        str,
        typer.Option(
            help="Highest rank of a weight. auto: exact where the update has low rank by construction, "
            "else as --energy 0.99."
        ),
    ] = "auto",
    energy: Annotated[
        float | None,
        typer.Option(help="The smallest rank per weight that keeps this share of the squared singular values."),
    ] = None,
    base: Base = None,
    num_labels: Labels = None,
    input: Input = None,
    json: Json = False,
) -> None:
    """Write an adapter as a standard LoRA adapter, for servers and libraries that do not know genft.

    Exact where every update has low rank by construction: GenFT with identity activations.

    Elsewhere the best approximation of the rank, with the error of every layer.

        genft to-lora runs/adapters/NAME --out lora --rank 16
    """
    import dataclasses

    from peft import PeftModel

    from genft.adapters import to_lora as as_lora
    from genft.adapters.folder import check_new, new_folder
    from genft.adapters.lora import save_lora
    from genft.adapters.output_change import output_change, outputs
    from genft.adapters.saved import open_adapter
    from genft.errors import ConfigError
    from genft.sweeps.processes import be_quiet

    be_quiet()
    if rank != "auto" and not rank.isdecimal():
        raise ConfigError(f"rank: received {rank!r}; allowed: auto, or a whole number")
    check_new(out)
    opened = open_adapter(adapter, base, num_labels)
    if not isinstance(opened.model, PeftModel):
        raise ConfigError(f"{adapter}: is not an adapter but a model's own weights; use `genft merge`")
    name, batches = _inputs(opened, input)
    before = outputs(opened.model, batches)
    lora = as_lora(opened.model, rank=None if rank == "auto" else int(rank), energy=energy)
    with new_folder(out) as folder:
        save_lora(folder, lora, opened)
        plain: Any = opened.model.unload()
        change = output_change(name, before, outputs(PeftModel.from_pretrained(plain, str(folder)), batches))
    if json:
        print_json(
            {
                "out": str(out),
                "exact": lora.exact,
                "rank": lora.config.r,
                "layers": [dataclasses.asdict(layer) for layer in lora.layers],
                "change": dataclasses.asdict(change),
                "notes": lora.notes,
            }
        )
    else:
        _show(lora, change, out)


def _inputs(opened: Opened, path: Path | None) -> tuple[str, list[Batch]]:
    """(what the inputs are, in words; the inputs)."""
    from genft.adapters.output_change import given_batches, random_batches
    from genft.adapters.saved import Trained
    from genft.errors import ConfigError

    if path is None:
        batches = random_batches(opened.base, opened.saved.preprocessing.image_size if opened.saved else None)
        what = "images of noise" if "pixel_values" in batches[0] else "sequences of random token ids"
        return f"{len(batches)} {what}", batches
    if not isinstance(opened, Trained):
        raise ConfigError("input: only for an adapter that `genft train` saved, which says how inputs are read")
    from genft.cli.predict import read_inputs

    inputs = read_inputs(path, opened.saved, None, "utf-8")[1]
    return f"the {len(inputs)} inputs of {path}", given_batches(opened, inputs)


def _sentence(change: OutputChange) -> str:
    return (
        f"Outputs on {change.inputs}: change by {change.relative:.1e} of their size, "
        f"the largest change of one is {change.largest:.1e}"
    )


def _show(lora: LoraAdapter, change: OutputChange, out: Path) -> None:
    from genft.report.terminal import table

    console = screen(False)
    shown = table("weight", "rank", "relative error", right=("rank", "relative error"))
    for layer in lora.layers:
        shown.add_row(layer.module, str(layer.rank), f"{layer.error:.1e}")
    console.print(shown)
    if lora.exact:
        console.print("Exact: every update has low rank by construction, and all of it is here.")
    else:
        worst = max(layer.error for layer in lora.layers)
        console.print(f"An approximation: a weight's update is off by up to {100 * worst:.2g} % (Frobenius norm).")
    console.print(_sentence(change))
    for note in lora.notes:
        console.print(note)
    console.print(f"The LoRA adapter: {out}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    app.command()(merge)
    app.command("to-lora")(to_lora)
