"""``genft show``: draw what an adapter did to the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genft.cli.declare import option, takes_options
from genft.cli.options import FigureOptions, JsonOptions, OpenOptions
from genft.cli.request import existing_folder
from genft.cli.screen import print_json, screen
from genft.errors import ConfigError
from genft.figures import FIGURES, Subject, draw, read_subjects
from genft.report.style import table
from genft.runs.quiet import be_quiet


class ShowOptions(FigureOptions):
    against: Path | None = option(
        "Another adapter of the same base model, drawn next to the first on the same scales.", None, metavar="ADAPTER"
    )
    only: str | None = option(
        f"Draw only these figures: {', '.join(FIGURES)}.", None, metavar="NAMES", shown_default="all"
    )
    targets: str | None = option(
        "Weights of a layer to draw, by their names in the table.",
        None,
        metavar="NAMES",
        shown_default="all; for whole matrices query, value",
    )
    layers: str | None = option(
        "Layer numbers, such as 0,5,11.",
        None,
        metavar="NUMBERS",
        shown_default="all; for whole matrices the first, the middle and the last",
    )
    out: Path = option("The folder for the figures.", Path("figures"))


@takes_options
def show(adapter: OpenOptions, options: ShowOptions, output: JsonOptions) -> None:
    """Draw what training did to the weights.

    W0, ΔW, their rows and columns, spectra, norms, and how layers compare; for VectorFit also the change of the
    singular values and what adaptive vector freezing did.

        genft show runs/adapters/NAME --against runs/adapters/OTHER

        genft show runs/adapters/NAME --only spectra,norms --format svg
    """
    be_quiet()
    numbers = _numbers(options.layers)
    folders = [existing_folder(folder) for folder in (adapter.adapter, options.against) if folder]
    subjects = read_subjects(folders, adapter.base, adapter.num_labels)
    figures = draw(
        subjects,
        options.out,
        only=_words(options.only),
        targets=_words(options.targets),
        layers=numbers,
        format=options.format.removeprefix("."),
    )
    if output.as_json:
        files = {name: [str(path) for path in paths] for name, paths in figures.items()}
        print_json({"adapters": [_data(s) for s in subjects], "figures": files})
    else:
        _print(subjects, figures, options.out)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _numbers(text: str | None) -> list[int]:
    if wrong := [word for word in _words(text) if not word.isdecimal()]:
        raise ConfigError(f"--layers: received {wrong[0]!r}; allowed: layer numbers, such as 0,5,11")
    return [int(word) for word in _words(text)]


def _data(subject: Subject) -> dict[str, Any]:
    weights = [
        {
            "weight": u.site,
            "target": place.target,
            "layer": place.layer,
            "relative_norm": u.relative_norm,
            "effective_rank": u.effective_rank,
        }
        for place, u in subject.updates.items()
    ]
    return {"label": subject.label, "weights": weights}


def _print(subjects: list[Subject], figures: dict[str, list[Path]], out: Path) -> None:
    console = screen()
    right = ("weights", "‖ΔW‖/‖W0‖", "effective rank")
    shown = table("adapter", "target", "shape", *right, right=right)
    for subject in subjects:
        for n, target in enumerate(subject.targets()):
            updates = [u for place, u in subject.updates.items() if place.target == target]
            o, i = updates[0].w0.shape
            norms, ranks = [u.relative_norm for u in updates], [u.effective_rank for u in updates]
            shown.add_row(
                subject.label if n == 0 else "",
                target,
                f"{o} × {i}",
                str(len(updates)),
                f"{100 * min(norms):.2g}–{100 * max(norms):.2g} %",
                f"{min(ranks):.3g}–{max(ranks):.3g}",
            )
    console.print(shown)
    console.print("[dim]Ranges: smallest to largest over layers. Effective rank: exp of the spectrum's entropy.[/]\n")
    for name, paths in figures.items():
        console.print(f"{name:<10}{FIGURES[name].text}: {', '.join(path.name for path in paths)}", soft_wrap=True)
    console.print(f"Figures: {out}", soft_wrap=True, markup=False)
