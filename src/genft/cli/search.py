"""``genft search``: search hyper-parameters for a task on its validation data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from genft.cli.checks import DataCheckOptions, check_tasks_first
from genft.cli.declare import Options, option, takes_options
from genft.cli.device import DeviceOptions
from genft.cli.options import OutputOptions
from genft.cli.progress import RunBar
from genft.cli.request import RunOptions, build_request, run_alone
from genft.cli.screen import print_json, screen
from genft.errors import ConfigError
from genft.report.style import count, duration, table
from genft.runs.measured import Result
from genft.runs.quiet import be_quiet
from genft.runs.store import Store
from genft.sweeps.search import Search, open_search

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class SearchOptions(Options):
    panel = "Search"
    trials: int = option("Total number of trials, including those of earlier calls.", 30, ge=1)
    time: str | None = option(
        "Start no new trial after this time, such as 90s, 30m or 2h.", None, metavar="TIME", shown_default="no limit"
    )
    storage: str | None = option(
        "Optuna storage URL, such as postgresql://…, for several machines to share one search.",
        None,
        shown_default="a file in --out",
    )


@takes_options
def search(
    run: RunOptions, checks: DataCheckOptions, options: SearchOptions, device: DeviceOptions, output: OutputOptions
) -> None:
    """Search hyper-parameters for a task, on its validation data.

    Optuna's TPE sampler searches the preset's spaces and prunes trials, using the selection split alone. Values that
    you set yourself stay fixed. The reporting split is read once, by the winner, which is saved as a preset. Run the
    same command again to continue; run it several times at once to share the work.

        genft search bbc-news -m minilm-l6 --method genft --trials 40 --time 2h
    """
    run_alone("search")
    be_quiet()
    device.use()
    console, seconds = screen(output.as_json), None if options.time is None else _seconds(options.time)
    request = build_request(run)
    store = Store(output.out).open()
    opened = open_search(request, output.out, options.storage)
    metric = opened.prepared.family.selects.name
    console.print(
        f"[bold]{opened.study.study_name}[/]: {', '.join(opened.spaces)} for {metric} on the selection split of "
        f"{opened.prepared.data.task.name} (protocol {opened.prepared.spec.protocol}); {len(opened.finished)} of "
        f"{options.trials} trials are finished\n",
        soft_wrap=True,
    )
    if not checks.no_check and len(opened.finished) < options.trials:
        check_tasks_first(console, [opened.prepared])
    opened.run(options.trials, seconds, lambda trial: _line(console, trial, metric))
    with RunBar(console, "winner", metric) as bar:
        result, path = opened.conclude(store, bar.watch)
    if output.as_json:
        print_json(_data(opened, result, path))
    else:
        _conclude(console, opened, result, path)


def _seconds(text: str) -> float:
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if parts is None:
        raise ConfigError(f"--time: received {text!r}; allowed: a number with s, m or h, such as 90s, 30m, 2h")
    return float(parts[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[parts[2]]


def _line(console: Console, trial: FrozenTrial, metric: str) -> None:
    if trial.state.name == "COMPLETE":
        outcome = f"{metric} {trial.value:.4f} in {duration(trial.user_attrs['seconds'])}"
    elif trial.state.name == "PRUNED":
        last = trial.last_step or 0
        outcome = f"stopped after epoch {trial.last_step}, {metric} {trial.intermediate_values[last]:.4f}"
    else:
        outcome = f"failed: {escape(trial.user_attrs.get('error', ''))}"
    console.print(f"{trial.number + 1:>4}  {outcome}  [dim]{escape(_words(trial.params))}[/]", soft_wrap=True)


def _words(params: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())


def _data(opened: Search, result: Result, path: Path) -> dict[str, Any]:
    ranked = [
        {"number": t.number, "selecting_score": t.value, "parameters": t.params, **t.user_attrs} for t in opened.ranked
    ]
    return {
        "study": opened.study.study_name,
        "trials": {
            state: sum(t.state.name == state for t in opened.finished) for state in ("COMPLETE", "PRUNED", "FAIL")
        },
        "ranked": ranked,
        "importance": opened.importances(),
        "winner": result.model_dump(mode="json", exclude={"predictions", "targets"}),
        "preset": str(path),
    }


def _conclude(console: Console, opened: Search, result: Result, path: Path) -> None:
    scores = result.scores
    metric = opened.prepared.family.selects
    _show_ranked(console, opened, metric.name)
    if importances := opened.importances():
        shares = ", ".join(f"{name} {share:.0%}" for name, share in importances.items() if share >= 0.005)
        console.print(f"Importance, as a share of the differences between complete trials: {shares}", soft_wrap=True)
    else:
        console.print("Importance unknown: too few complete trials, or all of them equally good.")
    if len(opened.ranked) > 1:
        best, second = opened.ranked[:2]
        first, other = (t.user_attrs for t in (best, second))
        console.print(
            f"The runner-up: {metric.name} {'lower' if metric.higher_is_better else 'higher'} by "
            f"{abs((best.value or 0) - (second.value or 0)):.4f} on the selecting "
            f"split, with {other['adapter_parameters'] / first['adapter_parameters']:.2f} times the parameters "
            f"and {other['seconds'] / first['seconds']:.2f} times the time of a run.",
            soft_wrap=True,
        )
    low, high = scores.interval
    console.print(
        f"\n{scores.metric} [bold]{scores.value:.4f}[/] (95 % interval {low:.4f} to {high:.4f}) on the reporting "
        "split, read once, by the winner; its score on the selection split is optimistic, being the best of many.",
        soft_wrap=True,
    )
    console.print(f"Winner saved as a preset: --preset {path}", soft_wrap=True, markup=False)


def _show_ranked(console: Console, opened: Search, metric: str) -> None:
    numbers = ("trial", metric, "adapter", "time")
    shown = table(*numbers, "values", right=numbers)
    for trial in opened.ranked[:5]:
        attrs = trial.user_attrs
        shown.add_row(
            str(trial.number + 1),
            f"{trial.value:.4f}",
            count(attrs["adapter_parameters"]),
            duration(attrs["seconds"]),
            escape(_words(trial.params)),
        )
    console.print(shown)
