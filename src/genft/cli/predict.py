"""``genft predict``: apply a saved adapter to new rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from genft.adapters.saved import family_of, load
from genft.adapters.task_file import SavedTask, read_task
from genft.cli.declare import option, takes_options
from genft.cli.device import DeviceOptions
from genft.cli.options import InputOptions, JsonOptions, NewTokensOptions, ReadingOptions, SavedOptions
from genft.cli.request import existing_folder
from genft.cli.screen import print_json, screen
from genft.data.check import unreadable_images
from genft.data.image_folders import scan
from genft.data.tables import read_table
from genft.errors import ConfigError, DataError
from genft.files import check_writable, write_atomically
from genft.report.style import table
from genft.runs.quiet import be_quiet

_SHOWN = 20

Row = dict[str, Any]


class PredictionOptions(NewTokensOptions):
    output: Path | None = option(
        "The .csv file to write all rows and their predictions to.",
        None,
        names=("--output", "-o"),
        metavar="FILE",
        shown_default="INPUT.predicted.csv here; none with --json",
    )
    temperature: float | None = option(
        "Generated text: 0 takes the most likely token, above it tokens are drawn.", None, shown_default="0", ge=0
    )
    top_p: float | None = option(
        "Generated text: draw from the most likely tokens with this total probability.", None, shown_default="1", ge=0
    )
    top_k: int | None = option(
        "Generated text: draw from this many most likely tokens.", None, shown_default="all", ge=0
    )
    beams: int | None = option("Generated text: the number of beams of a beam search.", None, shown_default="1", ge=1)
    repetition_penalty: float | None = option(
        "Generated text: above 1, tokens that occur already become less likely.", None, shown_default="1", ge=0
    )
    seed: int | None = option("Generated text: seed of the drawn tokens.", None, shown_default="0", ge=0)

    @property
    def given(self) -> dict[str, Any]:
        """The options of predicting that the user gave."""
        return self.model_dump(exclude_none=True, exclude={"output"})


@takes_options
def predict(
    adapter: SavedOptions,
    inputs: InputOptions,
    reading: ReadingOptions,
    written: PredictionOptions,
    device: DeviceOptions,
    output: JsonOptions,
) -> None:
    """Predict new rows or images with a saved adapter.

    Writes every row with its prediction and the probability of every class, and shows the first rows.

        genft predict runs/adapters/NAME --input new.csv --output predicted.csv
    """
    be_quiet()
    device.use()
    folder = existing_folder(adapter.adapter)
    if inputs.input is None:
        raise ConfigError("--input: is missing; give a file with rows, an image or a folder of images")
    file = written.output or (None if output.as_json else Path(f"{inputs.input.stem}.predicted.csv"))
    if file:
        check_writable(file)
        if file.resolve() == inputs.input.resolve():
            raise ConfigError(f"--output: {file} is the input, which would be replaced; name another file")
    saved = read_task(folder)
    console = screen(output.as_json)
    rows, texts = read_inputs(inputs.input, saved, reading)
    unreadable = unreadable_images([Path(image) for (image,) in texts]) if saved.kind == "image" else {}
    if unreadable:
        rows, texts = _without(unreadable, rows, texts)
        for problem in list(unreadable.values())[:_SHOWN]:
            console.print(f"[red]left out[/] {escape(problem)}", soft_wrap=True)
    trained = load(adapter.adapter, adapter.base)
    family = trained.family
    outputs = trained.predict(texts, **written.given)
    answers = [dict(family.answer(of_row)) for of_row in outputs]
    if file:
        columns = [family.columns(of_row, text) for of_row, text in zip(outputs, texts, strict=True)]
        write_rows(
            file, _with_answers(rows, [{**answer, **more} for answer, more in zip(answers, columns, strict=True)])
        )
    if output.as_json:
        details = [family.details(of_row, text) for of_row, text in zip(outputs, texts, strict=True)]
        print_json(_with_answers(rows, [{**answer, **more} for answer, more in zip(answers, details, strict=True)]))
    if not output.as_json:
        _show(console, answers, texts)
    if file:
        which = f"{len(rows):,} of {len(rows) + len(unreadable):,}" if unreadable else f"All {len(rows):,}"
        saved_rows = "The row with its prediction" if which == "All 1" else f"{which} rows with their predictions"
        console.print(f"{saved_rows} saved to {file}", soft_wrap=True, markup=False)
    if unreadable:
        console.print(f"{len(unreadable):,} of {len(rows) + len(unreadable):,} images could not be read")
        raise typer.Exit(1)


def read_inputs(path: Path, saved: SavedTask, reading: ReadingOptions) -> tuple[list[Row], list[tuple[str, ...]]]:
    """Return (the rows as read, the model's inputs)."""
    if saved.kind == "image":
        images = [path]
        if path.is_dir():
            scanned = scan(path)
            images = scanned.images
            _tell(scanned.notes(str(path)))
        if not images or not path.exists():
            raise DataError(f"{path}: " + ("has no images" if path.exists() else "does not exist"))
        return [{"image": str(image)} for image in images], [(str(image),) for image in images]
    family = family_of(saved)
    file = family.read(read_table(path, reading.encoding))
    _tell(file.notes)
    return file.rows, family.inputs(file, reading.text_column or saved.text_columns)


def _tell(notes: Sequence[str]) -> None:
    """What a reader decided or left out."""
    for note in notes:
        screen(True).print(f"[yellow]![/] {escape(note)}", soft_wrap=True)


def _without(
    unreadable: Mapping[Path, str], rows: Sequence[Row], inputs: Sequence[tuple[str, ...]]
) -> tuple[list[Row], list[tuple[str, ...]]]:
    """What is left without the images that cannot be read.

    Raises:
        DataError: nothing is left.
    """
    kept = [k for k, (image,) in enumerate(inputs) if Path(image) not in unreadable]
    if not kept:
        more = f" (and {len(unreadable) - 1:,} more)" if len(unreadable) > 1 else ""
        raise DataError(f"{next(iter(unreadable.values()))}{more}; no image can be read")
    return [rows[k] for k in kept], [inputs[k] for k in kept]


def _show(console: Console, answers: Sequence[Row], inputs: Sequence[tuple[str, ...]]) -> None:
    shown = table(*answers[0], "input", right=("probability", "value"))
    half = console.width // 2
    cells = [[_cell(value, half) for value in answer.values()] for answer in answers[:_SHOWN]]
    room = console.width - 16 - sum(max(map(len, column)) for column in zip(*cells, strict=True))
    for row, texts in zip(cells, inputs, strict=False):
        text = " ".join(" | ".join(texts).split())
        shown.add_row(*map(escape, row), escape(text if len(text) <= room else f"{text[: max(room, 20)]}…"))
    console.print(shown)
    rows = "1 row" if len(answers) == 1 else f"{len(answers):,} rows"
    console.print(f"\nThe first {_SHOWN} of {rows}." if len(answers) > _SHOWN else f"\n{rows}.")


def _cell(value: Any, most: int) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


def _with_answers(rows: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return every row with its answer; an answer never replaces a column of the user's."""
    taken = {key for row in rows for key in row}
    return [
        {**row, **{f"{k} (predicted)" if k in taken else k: v for k, v in answer.items()}}
        for row, answer in zip(rows, answers, strict=True)
    ]
