"""``genft predict``: a saved adapter on new rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from genft.cli.screen import print_json, screen

if TYPE_CHECKING:
    from genft.adapters.saved import SavedTask

_SHOWN = 20


def predict(
    adapter: Annotated[Path, typer.Argument(help="The folder that `genft train` saved.")],
    input: Annotated[
        Path,
        typer.Option("--input", "-i", help="Rows as in training (.csv, .tsv, .jsonl, .json), or a folder of images."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all rows with their prediction to this .csv.")
    ] = None,
    text_column: Annotated[
        list[str] | None, typer.Option(help="Columns with the text, if named otherwise than in training.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The base model, if it is not where the adapter says.")] = None,
    encoding: Annotated[str, typer.Option(help="Of text files.")] = "utf-8",
    json: Annotated[bool, typer.Option("--json", help="All predictions as JSON on stdout.")] = False,
) -> None:
    """Predict new rows, or images, with a saved adapter.

    genft predict runs/adapters/NAME --input new.csv --output predicted.csv
    """
    from genft.adapters.saved import load, read_task
    from genft.report.terminal import table
    from genft.sweeps.processes import be_quiet

    be_quiet()
    rows, inputs = read_inputs(input, read_task(adapter), text_column, encoding)
    trained = load(adapter, base)
    answers = [_answer(trained.saved, p) for p in trained.predict(inputs).tolist()]
    if output:
        _write(output, rows, answers)
    if json:
        print_json(_beside(rows, answers))
        return
    console = screen(False)
    shown = table(*answers[0], "input", right=("probability", "value"))
    cells = [[f"{v:.3f}" if isinstance(v, float) else v for v in answer.values()] for answer in answers[:_SHOWN]]
    room = console.width - 16 - sum(max(map(len, column)) for column in zip(*cells, strict=True))
    for row, texts in zip(cells, inputs, strict=False):
        text = " ".join(" | ".join(texts).split())
        shown.add_row(*map(escape, row), escape(text if len(text) <= room else f"{text[: max(room, 20)]}…"))
    console.print(shown)
    if len(rows) > _SHOWN and not output:
        console.print(f"… {len(rows) - _SHOWN:,} more rows: --output FILE.csv or --json has them all")
    if output:
        console.print(f"{len(rows):,} rows with their predictions: {output}", soft_wrap=True)


def read_inputs(
    path: Path, saved: SavedTask, text_columns: list[str] | None, encoding: str
) -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
    """(the rows as they are, the model's inputs)."""
    from genft.data.files import list_images, read_table
    from genft.errors import DataError

    if saved.kind == "image":
        images = list_images(path) if path.is_dir() else [path]
        if not images or not path.exists():
            raise DataError(f"{path}: " + ("has no images" if path.exists() else "does not exist"))
        return [{"image": str(p)} for p in images], [(str(p),) for p in images]
    table = read_table(path, encoding)
    columns = [table.column(name) for name in text_columns or saved.text_columns]
    return table.rows, list(zip(*columns, strict=True))


def _answer(saved: SavedTask, outputs: list[float]) -> dict[str, Any]:
    if saved.regression:
        return {"value": outputs[0]}
    best = max(range(len(outputs)), key=outputs.__getitem__)
    return {"predicted": saved.classes[best], "probability": outputs[best]}


def _write(path: Path, rows: list[dict[str, Any]], answers: list[dict[str, Any]]) -> None:
    from genft.files import write_atomically

    merged = _beside(rows, answers)
    columns = list(dict.fromkeys(key for row in merged for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(merged)
    write_atomically(path, text.getvalue().encode("utf-8"))


def _beside(rows: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every row with its answer; an answer never replaces a column that the user has."""
    taken = {key for row in rows for key in row}
    return [
        {**row, **{f"{k} (predicted)" if k in taken else k: v for k, v in answer.items()}}
        for row, answer in zip(rows, answers, strict=True)
    ]


def register(app: typer.Typer) -> None:
    app.command()(predict)
