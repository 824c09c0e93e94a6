"""Many runs: what is asked for, in which order, and what is left after an interruption."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genft import ConfigError, TrainingError
from genft.data import read, task_from_path
from genft.methods import METHODS
from genft.presets import Preset
from genft.runs.measured import Result
from genft.runs.store import Store
from genft.sweeps import schedule as schedules
from genft.sweeps.matrix import Entry, Matrix, parse_entries, spell_out
from genft.sweeps.schedule import Schedule, beyond_the_edge
from genft.training.callbacks import Progress
from genft.training.prepared import PreparedRun
from genft.training.run import run

PRESET = Preset(name="none", source="")
TRAINING = {"epochs": 1, "batch_size": 16}


def test_entries_are_methods_with_settings() -> None:
    assert parse_entries("genft, vectorfit[train_bias=false,avf=false],lora[r=4]") == (
        Entry("genft", METHODS["genft"]),
        Entry("vectorfit[train_bias=false,avf=false]", METHODS["vectorfit"], {"train_bias": False, "avf": False}),
        Entry("lora[r=4]", METHODS["lora"], {"r": 4}),
    )


def test_one_word_for_the_methods_of_the_papers_table() -> None:
    spelled, _ = spell_out("svft,paper", {"glue"})
    names = spelled.split(",")
    assert names[:3] == ["svft", "full", "houlsby"]  # GLUE's "Adapter" is Houlsby's
    assert {"corda", "propetl_prefix", "propulsion", "genft"} < set(names)
    assert "vpt_deep" not in names
    for suite in ("vtab1k", "fgvc"):
        spelled, absent = spell_out("paper", {suite})
        here = [entry.method for entry in parse_entries(spelled)]
        assert {"vpt_deep", "vfpt", "adapter"} < {info.name for info in here}
        assert all(info.group == "paper" and "image" in info.kinds for info in here)
        assert not set(absent) & set(METHODS)
    assert spell_out("lora[r=4]", ()) == ("lora[r=4]", ())
    for suites in ({"glue", "fgvc"}, {"support"}, {""}):
        with pytest.raises(ConfigError, match="allowed: the tasks of one of glue, vtab1k, fgvc"):
            spell_out("paper", suites)


def test_entries_report_all_their_problems() -> None:
    with pytest.raises(ConfigError) as e:
        parse_entries("genfd,lora[rank=4],vectorfit[avf=perhaps],lora[r=4")
    assert len(e.value.problems) == 4
    assert "nearest: 'genft'" in e.value.problems[0]
    assert "--set rank" in e.value.problems[1]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({1e-3: 0.1, 3e-3: 0.3, 1e-2: 0.2}, []),
        ({1e-3: 0.1, 3e-3: 0.2, 1e-2: 0.3}, [3e-2]),
        ({1e-3: 0.3, 3e-3: 0.2, 1e-2: 0.1}, [3e-4]),
        ({1e-3: 0.3, 3e-3: 0.3, 1e-2: 0.1}, []),  # as good inside as at the edge
        ({1e-3: 0.3, 3e-3: 0.2, 1e-2: -math.inf}, [3e-4]),
        ({1e-3: -math.inf, 3e-3: -math.inf}, []),
        ({1e-3: 0.3}, []),
    ],
)
def test_a_grid_goes_on_beyond_the_edge_where_the_best_is(found: dict[float, float], expected: list[float]) -> None:
    assert beyond_the_edge(found) == expected


class Runs:
    """Does the runs in this process; some raise, or are interrupted."""

    def __init__(self, fails: Callable[[PreparedRun], bool] = lambda _: False, stop_after: int | None = None) -> None:
        self.fails, self.stop_after, self.done = fails, stop_after, []  # type: ignore[var-annotated]

    def __call__(
        self, next_plan: Callable[[], PreparedRun | None], out: Path, *_: Any
    ) -> Iterator[tuple[PreparedRun, Any]]:
        while (plan := next_plan()) is not None:
            if self.stop_after is not None and len(self.done) == self.stop_after:
                raise KeyboardInterrupt
            self.done.append((plan.spec.method, plan.spec.seed, plan.spec.training.learning_rate))
            yield plan, TrainingError("it went wrong") if self.fails(plan) else run(plan, Store(out).open())


def schedule(data: Path, model: Path, out: Path, **changed: Any) -> Schedule:
    task = task_from_path(data)
    values: dict[str, Any] = {
        "tasks": (task,), "entries": parse_entries("linear,bitfit"), "seeds": (0, 1), "model": str(model),
        "preset": PRESET, "training": TRAINING,
    }  # fmt: skip
    return Schedule(Matrix(**values | changed), Store(out).open(), {task.name: read(task)})


def test_an_interrupted_matrix_goes_on_and_repeats_nothing(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = Runs(stop_after=3), Runs(), Runs()
    monkeypatch.setattr(schedules, "run_side_by_side", first)
    with pytest.raises(KeyboardInterrupt):
        list(schedule(reviews, bert, tmp_path).run())
    monkeypatch.setattr(schedules, "run_side_by_side", second)
    planned = schedule(reviews, bert, tmp_path)
    assert (planned.planned, len(planned.outcomes)) == (4, 3)
    assert planned.seconds_left() > 0
    list(planned.run())
    assert (len(first.done), len(second.done)) == (3, 1)
    assert set(first.done + second.done) == {(m, s, 1e-3) for m in ("linear", "bitfit") for s in (0, 1)}
    cells = Store(tmp_path).compared()
    assert [(c.label, c.seed) for c in cells] == [("linear", 0), ("linear", 1), ("bitfit", 0), ("bitfit", 1)]
    assert all(Store(tmp_path).get(c.key).method == c.label for c in cells)
    monkeypatch.setattr(schedules, "run_side_by_side", third)
    list(schedule(reviews, bert, tmp_path).run())
    assert not third.done
    assert Store(tmp_path).compared() == cells


def test_the_rate_is_chosen_on_the_selecting_split_of_the_first_seed(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {1e-3: 0.2, 3e-3: 0.9, 1e-2: 0.95, 3e-2: 0.5}
    monkeypatch.setattr(schedules, "selecting_score", lambda r: scores[r.spec["training"]["learning_rate"]])
    runs = Runs()
    monkeypatch.setattr(schedules, "run_side_by_side", runs)
    planned = schedule(reviews, bert, tmp_path, entries=parse_entries("bitfit"), seeds=(5, 6), grid=(1e-3, 3e-3, 1e-2))
    list(planned.run())
    assert runs.done == [("bitfit", 5, rate) for rate in (1e-3, 3e-3, 1e-2, 3e-2)] + [("bitfit", 6, 1e-2)]
    compared = [Store(tmp_path).get(c.key) for c in Store(tmp_path).compared()]
    assert [(r.seed, r.spec["training"]["learning_rate"]) for r in compared] == [(5, 1e-2), (6, 1e-2)]


def test_a_grid_does_not_go_below_the_last_rate_of_the_schedule(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {1e-3: 0.9, 3e-3: 0.2}
    monkeypatch.setattr(schedules, "selecting_score", lambda r: scores[r.spec["training"]["learning_rate"]])
    runs = Runs()
    monkeypatch.setattr(schedules, "run_side_by_side", runs)
    training = {**TRAINING, "last_learning_rate": 1e-3}
    only = {"entries": parse_entries("bitfit"), "seeds": (0,), "training": training}
    list(schedule(reviews, bert, tmp_path, grid=(1e-3, 3e-3), **only).run())
    assert runs.done == [("bitfit", 0, 1e-3), ("bitfit", 0, 3e-3)]
    with pytest.raises(ConfigError, match=r"last_learning_rate: 0\.001 is above the learning rate"):
        schedule(reviews, bert, tmp_path, grid=(1e-4, 3e-3), **only)


def test_a_failed_run_is_noted_the_others_go_on_and_it_is_tried_again(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "run_side_by_side", Runs(fails=lambda p: p.spec.method == "linear"))
    planned = schedule(reviews, bert, tmp_path)
    list(planned.run())
    assert [(p.spec.method, str(e)) for p, e in planned.failures] == [("linear", "it went wrong")] * 2
    assert [(f.method, f.error) for f in Store(tmp_path).failed()] == [("linear", "it went wrong")] * 2
    again = Runs()
    monkeypatch.setattr(schedules, "run_side_by_side", again)
    list(schedule(reviews, bert, tmp_path).run())
    assert {method for method, *_ in again.done} == {"linear"}
    assert Store(tmp_path).failed() == []


def test_two_processes_at_once(reviews: Path, bert: Path, tmp_path: Path) -> None:
    planned = schedule(reviews, bert, tmp_path, entries=parse_entries("linear"))
    events = [event for _, event in planned.run(jobs=2)]
    assert sum(isinstance(e, Result) for e in events) == 2
    assert any(isinstance(e, Progress) for e in events)
