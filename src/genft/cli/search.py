"""``genft search``: find hyper-parameters for a task, on validation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from genft.cli.options import run_alone, takes_a_run
from genft.cli.screen import RunBar, print_json, screen
from genft.runs.spec import Request

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from genft.runs.store import Result
    from genft.sweeps.search import Search

_SEARCH = "Search"


@takes_a_run
def search(
    request: Request,
    trials: Annotated[
        int, typer.Option(min=1, help="In all, those of earlier calls included.", rich_help_panel=_SEARCH)
    ] = 30,
    time: Annotated[
        str | None,
        typer.Option(help="Begin no trial after 90s, 30m or 2h. \\[default: no limit]", rich_help_panel=_SEARCH),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="A URL of Optuna's, such as postgresql://…, to share one search between machines. "
            "\\[default: a file in --out]",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results go.", rich_help_panel="Output")] = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.", rich_help_panel="Output")] = False,
) -> None:
    """Find hyper-parameters: TPE over the spaces of the preset, with pruning, on the split that selects.

    What you say is fixed, the rest of the preset's space is searched. The reporting split is read once, by the winner,
    which is written as a preset. Call it again to go on; call it several times at once to share the work.

        genft search bbc-news -m minilm-l6 --method genft --trials 40 --time 2h
    """
    from genft.runs.store import Store
    from genft.sweeps.processes import be_quiet
    from genft.sweeps.search import open_search

    run_alone("search")
    be_quiet()
    console, seconds = screen(json), None if time is None else _seconds(time)
    store = Store(out).open()
    found = open_search(request, out, storage)
    metric = found.plan.data.task.metric
    console.print(
        f"[bold]{found.study.study_name}[/]: {', '.join(found.spaces)} for {metric} on the selecting split of "
        f"{found.plan.data.task.name} (protocol {found.plan.spec.protocol}); {len(found.finished)} of {trials} trials "
        "are finished\n",
        soft_wrap=True,
    )
    found.run(trials, seconds, lambda trial: _line(console, trial, metric))
    with RunBar(console, "winner", metric) as bar:
        result, path = found.conclude(store, bar.watch)
    if json:
        print_json(_data(found, result, path))
    else:
        _conclude(console, found, result, path)


def _seconds(text: str) -> float:
    from genft.errors import ConfigError

    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if parts is None:
        raise ConfigError(f"--time: received {text!r}; allowed: a number with s, m or h, such as 90s, 30m, 2h")
    return float(parts[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[parts[2]]


def _line(console: Console, trial: FrozenTrial, metric: str) -> None:
    from genft.report.terminal import duration

    if trial.state.name == "COMPLETE":
        what = f"{metric} {trial.value:.4f} in {duration(trial.user_attrs['seconds'])}"
    elif trial.state.name == "PRUNED":
        what = f"stopped after epoch {trial.last_step}, {metric} {trial.intermediate_values[trial.last_step or 0]:.4f}"
    else:
        what = f"failed: {escape(trial.user_attrs.get('error', ''))}"
    console.print(f"{trial.number + 1:>4}  {what}  [dim]{escape(_words(trial.params))}[/]", soft_wrap=True)


def _words(params: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())


def _data(found: Search, result: Result, path: Path) -> dict[str, Any]:
    ranked = [
        {"number": t.number, "selecting_score": t.value, "parameters": t.params, **t.user_attrs} for t in found.ranked
    ]
    return {
        "study": found.study.study_name,
        "trials": {
            state: sum(t.state.name == state for t in found.finished) for state in ("COMPLETE", "PRUNED", "FAIL")
        },
        "ranked": ranked,
        "importance": found.importances(),
        "winner": result.model_dump(mode="json", exclude={"predictions", "targets"}),
        "preset": str(path),
    }


def _conclude(console: Console, found: Search, result: Result, path: Path) -> None:
    from genft.report.terminal import count, duration, table

    scores = result.scores
    shown = table(
        "trial", scores.metric, "adapter", "time", "values", right=("trial", scores.metric, "adapter", "time")
    )
    for t in found.ranked[:5]:
        attrs = t.user_attrs
        row = (
            f"{t.value:.4f}",
            count(attrs["adapter_parameters"]),
            duration(attrs["seconds"]),
            escape(_words(t.params)),
        )
        shown.add_row(str(t.number + 1), *row)
    console.print(shown)
    if importances := found.importances():
        shares = ", ".join(f"{name} {share:.0%}" for name, share in importances.items() if share >= 0.005)
        console.print(f"What mattered, of the differences between complete trials: {shares}", soft_wrap=True)
    else:
        console.print("What mattered: too few complete trials, or all equally good.")
    if len(found.ranked) > 1:
        best, second = found.ranked[:2]
        ours, other = (t.user_attrs for t in (best, second))
        console.print(
            f"The runner-up: {scores.metric} lower by {(best.value or 0) - (second.value or 0):.4f} on the selecting "
            f"split, with {other['adapter_parameters'] / ours['adapter_parameters']:.2f} times the parameters and "
            f"{other['seconds'] / ours['seconds']:.2f} times the time of a run.",
            soft_wrap=True,
        )
    low, high = scores.interval
    console.print(
        f"\n{scores.metric} [bold]{scores.value:.4f}[/] (95 % interval {low:.4f} to {high:.4f}) on the reporting "
        "split, read once, by the winner; on the selecting split the winner is too good, as the best of many.",
        soft_wrap=True,
    )
    console.print(f"The winner as a preset: --preset {path}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    app.command()(search)
