"""What `genft merge` and `genft to-lora` share: inputs to compare outputs on, and a sentence about the difference."""

from __future__ import annotations

from pathlib import Path

from genft.adapters.output_change import Batch, OutputChange, given_batches, random_batches
from genft.adapters.saved import Opened, Trained
from genft.cli.options import ReadingOptions
from genft.cli.predict import read_inputs
from genft.errors import ConfigError


def probe_inputs(opened: Opened, path: Path | None) -> tuple[str, list[Batch]]:
    """Return (a description of the inputs, the inputs)."""
    if path is None:
        batches = random_batches(opened.base, opened.saved.preprocessing.image_size if opened.saved else None)
        kind = "noise images" if "pixel_values" in batches[0] else "sequences of random token ids"
        return f"{len(batches)} {kind}", batches
    if not isinstance(opened, Trained):
        raise ConfigError("--input: only for an adapter saved by `genft train`, which records how inputs are read")
    inputs = read_inputs(path, opened.saved, ReadingOptions())[1]
    return f"the {len(inputs)} inputs of {path}", given_batches(opened, inputs)


def change_in_words(change: OutputChange) -> str:
    return (
        f"Outputs on {change.inputs}: relative change {change.relative:.1e}, "
        f"largest change of a single output {change.largest:.1e}"
    )
