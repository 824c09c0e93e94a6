"""`genft search`: what is tried, that only the winner reads the reporting split, and that a search can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from typer.testing import Result as Called

from genft import ConfigError, TrainingError
from genft.api.settings import setting_types
from genft.cli import app
from genft.data import task_from_path
from genft.methods import METHODS, get_method
from genft.models.parameters import Counts
from genft.presets import Preset, Space, Values, load_preset
from genft.records import check
from genft.runs.measured import Cost, Result, Scores
from genft.runs.request import Request, build_spec
from genft.runs.settings import Training
from genft.runs.store import Store
from genft.training.callbacks import Inferred, Progress
from genft.training.prepared import PreparedRun

optuna = pytest.importorskip("optuna", reason="the search extra is not installed: pip install 'genft[search]'")
from genft.sweeps import search as searching  # noqa: E402
from genft.sweeps.search import Search, open_search, searched, suggest  # noqa: E402

SPACES = {
    "learning_rate": Space(low=1e-4, high=1e-1, log=True),
    "shared_dim": Space(low=1, high=8),
    "act_row": Space(choices=("identity", "tanh")),
}


def request(data: Path, model: Path, spaces: dict[str, Space] | None = None, **said: Any) -> Request:
    values = Values(search=SPACES if spaces is None else spaces)
    preset = Preset(name="mine", source="", training={"epochs": 4, "batch_size": 32}, methods={"genft": values})
    return build_spec(task_from_path(data), str(model), preset, method="genft", **said)


class Runs:
    """Stands for :func:`genft.training.run.run`: a score that is known, by the values of the run."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.plans: list[PreparedRun] = []
        self.interrupt_at = interrupt_at

    def __call__(self, plan: PreparedRun, store: Store, watch: Any) -> Result:
        self.plans.append(plan)
        if len(self.plans) == self.interrupt_at:
            raise KeyboardInterrupt
        spec = plan.spec
        if spec.settings.get("shared_dim") == 7:
            raise TrainingError("the loss is not a number")
        watch(_inferred(spec.settings.get("shared_dim", 32)))
        score = 0.5 + 0.05 * spec.settings.get("shared_dim", 0) / 8 + min(spec.training.learning_rate, 0.01)
        for epoch in range(1, spec.training.epochs + 1):
            watch(Progress("evaluate", 1, 1, {"epoch": float(epoch), "accuracy": score * epoch / 4}))
        return Result.model_construct(
            key=plan.key,
            task="reviews",
            scores=Scores(metric="accuracy", value=score, metrics={"accuracy": score}, interval=(0.4, 0.6)),
            cost=Cost.model_construct(seconds=1.0),
        )


def _inferred(shared_dim: int) -> Inferred:
    counts = Counts(adapter=100 * shared_dim, head=34, total=10_000)
    return Inferred({}, {}, ("classifier",), counts, None, "cpu", ())  # type: ignore[arg-type]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(searching, "run", made)
    return made


def go(found: Search, trials: int) -> list[Any]:
    seen: list[Any] = []
    found.run(trials, None, seen.append)
    return seen


def test_only_the_winner_reads_the_reporting_split(runs: Runs, reviews: Path, bert: Path, tmp_path: Path) -> None:
    found = open_search(request(reviews, bert), tmp_path)
    go(found, 6)
    assert all(plan.roles.report is plan.roles.select for plan in runs.plans)
    assert all(plan.roles.retrain is None for plan in runs.plans)
    found.conclude(Store(tmp_path).open(), lambda _: None)
    assert runs.plans[-1].roles.report is not runs.plans[-1].roles.select
    assert runs.plans[-1].spec == found.spec(found.ranked[0].params)


def test_values_come_from_the_spaces_and_the_first_is_the_start(
    runs: Runs, reviews: Path, bert: Path, tmp_path: Path
) -> None:
    found = open_search(request(reviews, bert, settings={"specific_dim": 1}), tmp_path)
    go(found, 8)
    for plan in runs.plans:
        assert 1e-4 <= plan.spec.training.learning_rate <= 1e-1
        assert 1 <= plan.spec.settings["shared_dim"] <= 8
        assert plan.spec.settings["act_row"] in ("identity", "tanh")
        assert plan.spec.settings["specific_dim"] == 1
    first = runs.plans[0].spec
    assert (first.training.learning_rate, first.settings["act_row"]) == (Training().learning_rate, "identity")


def test_a_search_goes_on(reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = Runs(interrupt_at=3)
    monkeypatch.setattr(searching, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(open_search(request(reviews, bert), tmp_path), 5)
    resumed = Runs()
    monkeypatch.setattr(searching, "run", resumed)
    found = open_search(request(reviews, bert), tmp_path)
    assert len(found.finished) == 2
    go(found, 5)
    assert len(resumed.plans) == 3
    assert resumed.plans[0].spec == stopped.plans[2].spec  # the one that was interrupted is done again
    assert go(open_search(request(reviews, bert), tmp_path), 5) == []
    other = open_search(request(reviews, bert, {"shared_dim": Space(choices=(1, 2))}), tmp_path)
    assert other.finished == []  # another space is another search


def test_bad_trials_stop_early_and_broken_ones_are_noted(runs: Runs, reviews: Path, bert: Path, tmp_path: Path) -> None:
    found = open_search(request(reviews, bert, {"shared_dim": Space(low=1, high=7)}), tmp_path)
    for n in (7, 6, 6, 6, 6, 6, 1):
        found.study.enqueue_trial({"shared_dim": n})
    seen = go(found, 8)[1:]  # the first is the start
    assert [t.state.name for t in seen] == ["FAIL", *["COMPLETE"] * 5, "PRUNED"]
    assert seen[0].user_attrs["error"] == "the loss is not a number"
    assert seen[-1].last_step == 1  # a quarter of four epochs
    assert found.ranked[0].params == {"shared_dim": 6}


def test_the_winner_is_a_preset_that_gives_the_same_run(runs: Runs, reviews: Path, bert: Path, tmp_path: Path) -> None:
    asked = request(reviews, bert, settings={"target_modules": ["query"], "dropout": 0.1})
    found = open_search(asked, tmp_path)
    go(found, 7)
    _, path = found.conclude(Store(tmp_path).open(), lambda _: None)
    again = build_spec(task_from_path(reviews), str(bert), load_preset(str(path)), method="genft").spec
    assert again == found.spec(found.ranked[0].params)
    assert set(found.importances()) == set(SPACES)


def test_the_winner_is_written_where_the_trials_lie_elsewhere(
    runs: Runs, reviews: Path, bert: Path, tmp_path: Path
) -> None:
    found = open_search(request(reviews, bert), tmp_path, f"sqlite:///{tmp_path / 'trials.db'}")
    go(found, 1)
    _, path = found.conclude(Store(tmp_path / "runs").open(), lambda _: None)
    assert path.is_file()


def test_nothing_completed_is_said(runs: Runs, reviews: Path, bert: Path, tmp_path: Path) -> None:
    found = open_search(request(reviews, bert), tmp_path)
    found.run(3, 0.0, lambda _: None)
    assert runs.plans == []
    with pytest.raises(ConfigError, match="no trial was completed"):
        found.conclude(Store(tmp_path).open(), lambda _: None)


def test_what_the_user_says_is_not_searched(reviews: Path, bert: Path) -> None:
    assert set(searched(request(reviews, bert, settings={"shared_dim": 4}))) == {"learning_rate", "act_row"}
    assert "learning_rate" not in searched(request(reviews, bert, training={"learning_rate": 1e-3}))
    with pytest.raises(ConfigError, match="you have set every value that the preset searches"):
        searched(request(reviews, bert, {"shared_dim": Space(choices=(1, 2))}, settings={"shared_dim": 4}))


def test_conditions() -> None:
    spaces = {"mode": Space(choices=("a", "b")), "of_b": Space(low=0.0, high=1.0, when={"mode": "b"})}

    def values(mode: str) -> set[str]:
        return set(suggest(optuna.trial.FixedTrial({"mode": mode, "of_b": 0.5}), spaces, {}))

    assert (values("a"), values("b")) == ({"mode"}, {"mode", "of_b"})
    assert suggest(optuna.trial.FixedTrial({"of_b": 0.5}), {"of_b": spaces["of_b"]}, {"mode": "b"}) == {"of_b": 0.5}


def test_spaces_that_make_no_sense_are_refused(reviews: Path, bert: Path) -> None:
    for wrong in ({}, {"low": 1}, {"low": 2, "high": 1}, {"choices": [1], "low": 1, "high": 2}):
        with pytest.raises(ConfigError):
            check(Space, wrong, "search")
    with pytest.raises(ConfigError, match="nearest: 'shared_dim'"):
        searched(request(reviews, bert, {"shred_dim": Space(choices=(1, 2))}))
    with pytest.raises(ConfigError, match=r"act_row: when: 'shared_dm' is not searched"):
        searched(request(reviews, bert, {**SPACES, "act_row": Space(choices=("tanh",), when={"shared_dm": 1})}))


@pytest.mark.parametrize("method", [m for m in METHODS if load_preset("default").spaces(m)])
def test_shipped_spaces_are_of_the_method_and_hold_its_start(method: str, reviews: Path, bert: Path) -> None:
    asked = build_spec(task_from_path(reviews), str(bert), load_preset("default"), method=method)
    spaces = searched(asked)
    known = {**setting_types(get_method(method)), **Training.model_fields}
    assert set(spaces) <= set(known)
    start = {**{k: v.value for k, v in asked.settings.items()}, **{k: v.value for k, v in asked.training.items()}}
    searched_there = {n: s for n, s in spaces.items() if all(start[other] == v for other, v in s.when.items())}
    outside = {name: start[name] for name, space in searched_there.items() if not space.holds(start[name])}
    assert outside == {}


# ---------------------------------------------------------------- the command


def command(*words: object) -> Called:
    return CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, ["search", *map(str, words)])


def test_the_command_for_real(reviews: Path, bert: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text(
        'name = "mine"\nsource = ""\n[training]\nepochs = 1\nbatch_size = 32\n'
        "[methods.genft.search]\nshared_dim = { choices = [2, 4] }\n"
    )
    words = (reviews, "-m", bert, "--preset", preset, "--out", tmp_path / "runs", "--trials", 2)
    result = command(*words)
    assert result.exit_code == 0, result.stderr
    assert "0 of 2 trials are finished" in result.stdout
    assert "The runner-up: accuracy lower by" in result.stdout
    found = json.loads(command(*words, "--json").stdout)
    assert found["trials"]["COMPLETE"] == 2
    assert found["winner"]["spec"]["settings"] == found["ranked"][0]["parameters"]
    assert len(list((tmp_path / "runs" / "results").glob("*.json"))) == 1
    assert Path(found["preset"]).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--time", "soon"), "--time: received 'soon'; allowed: a number with s, m or h"),
        (("--method", "linear", "--set", "x=1"), "the method 'linear' has no settings"),
        (("--storage", "nosuch://x"), "--storage nosuch://x: "),
    ],
)
def test_mistakes_are_one_sentence(
    words: tuple[str, ...], message: str, reviews: Path, bert: Path, tmp_path: Path
) -> None:
    result = command(reviews, "-m", bert, "--out", tmp_path, *words)
    assert result.exit_code == 2, result.stdout
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
