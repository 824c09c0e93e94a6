"""``genft list methods``, read from the catalogue, so that neither peft nor torch is imported."""

from __future__ import annotations

from rich.padding import Padding

from genft.catalogue import Listed, is_current, read_catalogue
from genft.cli.screen import print_json, screen

#: The groups in order, with their headings.
_GROUPS = {
    "paper": "In the tables of GenFT's paper",
    "relative": "Relatives: they start from W0, as GenFT does",
    "other": "Other methods, most of them peft's",
}
_ORDER = ("weight", "block", "peft", "baseline")


def show(as_json: bool) -> None:
    groups = list(_GROUPS)
    methods = sorted(_methods(), key=lambda method: (groups.index(method.group), _ORDER.index(method.family)))
    if as_json:
        print_json([method.model_dump(mode="json") for method in methods])
        return
    models = list(dict.fromkeys(model for method in methods for model in method.parameters))
    console = screen()
    console.print(_columns("method", "family", "from", "merges", models), style="bold")
    group = None
    for method in methods:
        if method.group != group:
            group = method.group
            console.print(f"\n{_GROUPS[group]}", style="underline")
        numbers = [_millions(method.parameters.get(model)) for model in models]
        merges = "yes" if method.mergeable else "-"
        line = _columns(f"[bold]{method.name}[/]", method.family, method.origin, merges, numbers)
        console.print(line, highlight=False)
        about = method.trains if method.paper == "-" else f"{method.trains} ({method.paper})"
        console.print(Padding(about, (0, 0, 0, 2)), style="dim")
    console.print(
        "\nweight, block: genft's own, as peft tuners; peft: peft's; baseline: no adapter. merges: can be folded into "
        "the base weights. Numbers: millions of trained parameters with the default settings, without the head.\n"
        "Any other method of peft: peft:NAME, for example peft:RANDLORA"
    )


def _methods() -> tuple[Listed, ...]:
    catalogue = read_catalogue()
    if not is_current(catalogue):  # a method was added after the catalogue was written: count, in seconds
        from genft.counts import make_catalogue

        catalogue = make_catalogue()
    return catalogue.methods


def _columns(name: str, family: str, origin: str, merges: str, numbers: list[str]) -> str:
    bold = len("[bold][/]") if name.startswith("[bold]") else 0
    return f"{name:<{17 + bold}}{family:<10}{origin:<14}{merges:<8}" + "".join(f"{n:>14}" for n in numbers)


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.3f}" if count < 10e6 else f"{count / 1e6:.1f}"
