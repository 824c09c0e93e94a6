"""``genft show``: what an adapter did to the weights, as figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genft.cli.screen import print_json, screen

if TYPE_CHECKING:
    from genft.figures import Subject

NAMES = "weights, profiles, spectra, rank, norms, cosine, sigma, freezing"


def show(
    adapter: Annotated[Path, typer.Argument(help="A folder that `genft train`, or peft, has saved.")],
    against: Annotated[
        Path | None, typer.Option(help="Another adapter of the same base model, shown beside it on the same scales.")
    ] = None,
    only: Annotated[str | None, typer.Option(help=f"Some of: {NAMES}. \\[default: all]", metavar="NAMES")] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Which weights of a layer, by the names in the table. \\[default: all; whole matrices: query, value]",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS", help="0,5,11. \\[default: all; of whole matrices the first, the middle and the last]"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the figures.")] = Path("figures"),
    format: Annotated[str, typer.Option(help="png, svg or pdf.")] = "png",
    base: Annotated[str | None, typer.Option(help="The base model, if it is not where the adapter says.")] = None,
    num_labels: Annotated[
        int | None,
        typer.Option("--num-labels", min=1, help="Outputs of the head; only for a folder that peft alone saved."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The numbers of every weight as JSON on stdout.")] = False,
) -> None:
    """Draw what training did to the weights: W0, ΔW, their rows and columns, spectra, norms, and how layers compare.

    For VectorFit also the change of the singular values and what adaptive vector freezing did.

        genft show runs/adapters/NAME --against runs/adapters/OTHER

        genft show runs/adapters/NAME --only spectra,norms --format svg
    """
    from genft.figures import draw, read_subjects
    from genft.sweeps.processes import be_quiet

    be_quiet()
    numbers = _numbers(layers)
    subjects = read_subjects([adapter, *([against] if against else [])], base, num_labels)
    figures = draw(
        subjects, out, only=_words(only), targets=_words(targets), layers=numbers, format=format.removeprefix(".")
    )
    if json:
        files = {name: [str(path) for path in paths] for name, paths in figures.items()}
        print_json({"adapters": [_data(s) for s in subjects], "figures": files})
        return
    _tell(subjects, figures, out)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _numbers(text: str | None) -> list[int]:
    from genft.errors import ConfigError

    if wrong := [word for word in _words(text) if not word.isdecimal()]:
        raise ConfigError(f"layers: received {wrong[0]!r}; allowed: numbers of layers, such as 0,5,11")
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


def _tell(subjects: list[Subject], figures: dict[str, list[Path]], out: Path) -> None:
    from genft.figures import FIGURES
    from genft.report.terminal import table

    console = screen(False)
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
    console.print(
        "[dim]From the smallest to the largest over layers. Effective rank: exp of the spectrum's entropy.[/]\n"
    )
    for name, paths in figures.items():
        console.print(f"{name:<10}{FIGURES[name].text}: {', '.join(path.name for path in paths)}", soft_wrap=True)
    console.print(f"Figures: {out}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    app.command()(show)
