"""Boards: what may stand in one table, and what is never averaged."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

import fake_store
from genft import ConfigError, DataError
from genft.families.metrics import METRICS
from genft.report.boards import Board
from genft.report.collect import read_boards
from genft.report.doubts import missing, mixed
from genft.report.significance import compare, paired_draws
from genft.runs.store import Store, pack, unpack

GLUE = {task: {"genft": 0.9, "lora": 0.8, "linear": 0.5} for task in ("cola", "rte", "stsb")}


def boards(store: Store, **chosen: Any) -> list[Board]:
    found, notes = read_boards(store, **chosen)
    assert notes == []
    return found


def only(store: Store, **chosen: Any) -> Board:
    (board,) = boards(store, **chosen)
    return board


def test_scores_means_and_ranks(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, GLUE)
    board = only(store)
    assert set(board.tasks) == set(board.common) == set(GLUE)
    by_seed = {(r.task, r.seed): r.scores.value for r in store if r.method == "lora"}
    of_rte = [by_seed["rte", seed] for seed in (0, 1, 2)]
    assert board.score("rte", "lora") == (pytest.approx(fmean(of_rte)), pytest.approx(stdev(of_rte)), 3)
    means = [fmean(by_seed[task, seed] for task in GLUE) for seed in (0, 1, 2)]
    assert board.mean("lora", board.common) == (pytest.approx(fmean(means)), pytest.approx(stdev(means)), 3)
    assert board.ranks("rte") == {"genft": 1, "lora": 2, "linear": 3}
    assert [board.mean_rank(label) for label in ("genft", "lora", "linear")] == [1, 2, 3]
    assert board.published("cola", "lora")[0].value == 60.09
    assert board.published("cola", "vectorfit" if "vectorfit" in board.labels else "linear") == ()


def test_equal_scores_share_a_rank(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"rte": {"genft": 0.8, "lora": 0.8, "linear": 0.1}}, seeds=(0,))
    first = next(r for r in store if r.method == "genft")
    same = next(r for r in store if r.method == "lora")
    store.put(same.model_copy(update={"scores": first.scores}))
    assert only(store).ranks("rte") == {"genft": 1.5, "lora": 1.5, "linear": 3}


def test_one_method_without_a_task_has_no_mean_and_costs_the_others_none(tmp_path: Path) -> None:
    fake_store.put(tmp_path, GLUE)
    board = only(fake_store.put(tmp_path, {"cola": {"full": 0.95}}))
    assert set(board.common) == set(GLUE)
    assert board.complete == ("genft", "linear", "lora")
    assert board.mean_rank("genft") == 1  # among those, though full is better on cola
    assert board.ranks("cola")["full"] == 1
    assert missing(board) == ["full is missing: rte, stsb"]


def test_means_are_over_common_tasks_where_most_methods_miss_one(tmp_path: Path) -> None:
    fake_store.put(tmp_path, GLUE)
    board = only(fake_store.put(tmp_path, {"mrpc": {"genft": 0.9}}))
    assert set(board.tasks) == {*GLUE, "mrpc"}
    assert set(board.common) == set(GLUE)
    assert set(board.complete) == {"genft", "lora", "linear"}


@pytest.mark.parametrize(
    "other",
    [
        {"model": "models/large"},
        {"limit_train": 100},
        {"limit_eval": 50},
        {"limit_select": 50},
        {"protocol": "validation-best"},
    ],
)
def test_what_is_not_comparable_stands_in_another_table(tmp_path: Path, other: dict[str, object]) -> None:
    fake_store.put(tmp_path, {"rte": {"lora": 0.8}})
    found = boards(fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, **other))  # type: ignore[arg-type]
    assert [len(board.runs["rte", "lora"]) for board in found] == [3, 3]
    assert len({(board.model, board.limits, board.protocol) for board in found}) == 2


def test_suites_are_apart(tmp_path: Path) -> None:
    tasks = {"rte": {"lora": 0.8}, "eurosat": {"lora": 0.9}}
    assert {board.suite for board in boards(fake_store.put(tmp_path, tasks))} == {"glue", "vtab1k"}


def test_several_settings_of_a_method_are_columns_of_their_own(tmp_path: Path) -> None:
    for rate in (0.001, 0.01):
        store = fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, training={"learning_rate": rate})
    store = fake_store.put(tmp_path, {"rte": {"linear": 0.5}})
    assert only(store).labels == ("linear", "lora[learning_rate=0.001]", "lora[learning_rate=0.01]")


def test_the_same_name_for_other_data_is_another_task(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, seeds=(0,))
    (run,) = store
    provenance = run.provenance.model_copy(update={"data_fingerprint": "0123456"})
    store.put(run.model_copy(update={"key": "other", "provenance": provenance}))
    assert set(only(store).tasks) == {"rte (data drte)", "rte (data 0123)"}


def test_only_what_a_bench_compares_is_shown_unless_all_is_asked_for(tmp_path: Path) -> None:
    fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, bench="b", training={"learning_rate": 0.01})
    store = fake_store.put(tmp_path, {"rte": {"lora": 0.7}}, seeds=(0,), training={"learning_rate": 0.001})
    assert only(store).labels == ("lora",)
    assert len(only(store).runs["rte", "lora"]) == 3
    assert len(only(store, everything=True).labels) == 2
    again = fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, bench="c", epochs=9)
    assert len(boards(again)) == 2  # two comparisons are never mixed


def test_benches_share_a_board_where_that_is_asked_for_and_the_later_one_counts(tmp_path: Path) -> None:
    fake_store.put(tmp_path, {"rte": {"lora": 0.8, "full": 0.5}}, bench="b")
    store = fake_store.put(tmp_path, {"rte": {"full": 0.7}}, seeds=(0,), bench="c", epochs=9)
    (board,) = boards(store, together=True)
    assert board.labels == ("lora", "full")
    runs = board.runs["rte", "full"]
    assert [(run.seed, run.scores.value > 0.6) for run in runs] == [(0, True)]  # not three of two benches


def test_methods_can_be_chosen_and_are_checked(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, GLUE)
    assert only(store, methods=["lora", "genft"]).labels == ("genft", "lora")
    with pytest.raises(ConfigError, match=r"--methods: 'lorra' has no result.*nearest: 'lora'"):
        boards(store, methods=["lorra"])
    with pytest.raises(DataError, match="holds no results"):
        boards(Store(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="--against: 'full'"):
        compare(only(store), "full")


def test_differences_are_paired_by_seed_and_example(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"cola": {"genft": 0.9, "lora": 0.85, "linear": 0.5}})
    fake_store.put(tmp_path, {"cola": {"full": 0.95}}, seeds=(1,))
    board = only(store)
    found = compare(board, "lora")
    runs = {(r.method, r.seed): r for r in store}

    def matthews(method: str, seed: int) -> float:
        run = runs[method, seed]
        return METRICS["matthews"].score(unpack(run.predictions), unpack(run.targets))

    wanted = fmean(matthews("linear", seed) - matthews("lora", seed) for seed in (0, 1, 2))
    linear = found.tasks["cola", "linear"]
    assert linear.difference.value == pytest.approx(wanted)
    assert linear.real
    assert linear.difference.high < 0
    full = found.tasks["cola", "full"].difference
    assert (full.seeds, full.value) == (1, pytest.approx(matthews("full", 1) - matthews("lora", 1)))
    assert compare(board, "lora") == found
    assert board.reference() == "genft"  # not full, which has fewer seeds


def test_the_difference_of_means_is_the_mean_of_the_differences(tmp_path: Path) -> None:
    board = only(fake_store.put(tmp_path, GLUE))
    found = compare(board, "genft")
    assert set(found.means) == {"lora", "linear"}
    values = [found.tasks[task, "lora"].difference for task in GLUE]
    mean = found.means["lora"].difference
    assert mean.value == pytest.approx(fmean(d.value for d in values))
    widths = [d.high - d.low for d in values]
    assert mean.high - mean.low == pytest.approx(np.sqrt(np.sum(np.square(widths))) / 3, rel=0.1)  # independent tasks


def test_other_examples_cannot_be_compared(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"rte": {"genft": 0.9, "lora": 0.8}}, seeds=(0,))
    run = next(r for r in store if r.method == "lora")
    store.put(run.model_copy(update={"targets": pack(1 - unpack(run.targets))}))
    (board,) = boards(store)
    pair = [(board.runs["rte", "genft"][0], board.runs["rte", "lora"][0])]
    with pytest.raises(DataError, match="were not evaluated on the same examples"):
        paired_draws("rte", pair)
    found = compare(board)  # the report says so, and goes on
    assert found.tasks == {}
    (note,) = found.notes
    assert note.startswith("not compared: rte: ")
    assert note.endswith("were not evaluated on the same examples")


def test_seeds_of_different_settings_are_said(tmp_path: Path) -> None:
    """Of two benches in one folder, with different grids and not the same seeds."""
    fake_store.put(tmp_path, {"cola": {"lora": 0.8, "genft": 0.8}}, bench="m", training={"learning_rate": 1e-3})
    store = fake_store.put(tmp_path, {"cola": {"lora": 0.9}}, bench="m", seeds=(0,), training={"learning_rate": 1e-2})
    (board,) = boards(store)
    (sentence,) = mixed(board)
    assert sentence.startswith("lora on cola mixes seeds with different learning_rate: ")
