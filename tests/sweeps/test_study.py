"""`genft study`: which runs a study asks for, what it makes of them, and that it repeats none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from typer.testing import Result as Called

from genft import ConfigError
from genft.cli import app
from genft.data import load_task
from genft.figures.studies import STUDY_FIGURES
from genft.figures.style import style
from genft.methods import METHODS
from genft.models.parameters import Counts
from genft.presets import Preset, load_preset
from genft.runs.measured import Result, Scores
from genft.sweeps.matrix import Entry
from genft.sweeps.studies import STUDIES, Measured, Variant, get_study, study_matrices

STUDY = load_preset("study")


def entries(name: str, preset: Preset = STUDY, task: str = "bbc-news", **said: Any) -> dict[str, dict[str, Any]]:
    """Label of every entry → its settings."""
    common = {"seeds": (0,), "model": "x", "preset": preset}
    ((matrix, variants),) = study_matrices(
        get_study(name), [load_task(task)], said.pop("grid", {}), said.pop("settings", {}), **common
    )
    assert [v.entry for v in variants] == list(matrix.entries)
    return {e.label: dict(e.settings) for e in matrix.entries}


def test_ablation_takes_away_one_part_at_a_time() -> None:
    assert entries("ablation", settings={"dropout": 0.1}) == {
        "genft[dropout=0.1]": {"dropout": 0.1},
        "genft[dropout=0.1,shared_dim=0,specific_dim=2]": {"dropout": 0.1, "shared_dim": 0, "specific_dim": 2},
        "genft[dropout=0.1,specific_dim=0,shared_dim=24]": {"dropout": 0.1, "specific_dim": 0, "shared_dim": 24},
        "genft[dropout=0.1,row_stage=false]": {"dropout": 0.1, "row_stage": False},
        "genft[dropout=0.1,col_stage=false]": {"dropout": 0.1, "col_stage": False},
    }


def test_a_part_that_is_alone_gets_eight_columns() -> None:
    """As in the paper: where a dimension is 0 in the preset, it becomes 8 when the other part is taken away."""
    without = entries("ablation", settings={"specific_dim": 0})
    assert "genft[specific_dim=8,shared_dim=0]" in without


def test_the_preset_of_a_task_decides_what_is_left() -> None:
    found = entries("ablation", load_preset("paper"), "mrpc")
    assert "genft[shared_dim=0,specific_dim=2]" in found
    assert "genft[specific_dim=0,shared_dim=32]" in found


def test_grids() -> None:
    found = entries("ratio-scaling", grid={"w0_ratio": (0.1, 1.0), "scaling": (0.5,)})
    assert list(found.values()) == [{"w0_ratio": 0.1, "scaling": 0.5}, {"w0_ratio": 1.0, "scaling": 0.5}]
    assert len(entries("ratio-scaling")) == 36
    assert entries("shared-dim", grid={"shared_dim": (4.0, 8.0)}) == {
        "genft[shared_dim=4]": {"shared_dim": 4},
        "genft[shared_dim=8]": {"shared_dim": 8},
    }
    with pytest.raises(ConfigError, match=r"grid: 'sclaing' is not an axis of 'ratio-scaling'; .*nearest: 'scaling'"):
        entries("ratio-scaling", grid={"sclaing": (1.0,)})
    with pytest.raises(ConfigError, match="grid: shared_dim takes whole numbers"):
        entries("shared-dim", grid={"shared_dim": (4.0, 4.5)})
    with pytest.raises(ConfigError, match="the study 'ablation' has no axes"):
        entries("ablation", grid={"scaling": (1.0,)})


def test_equal_ranks_and_equal_scale() -> None:
    assert entries("rank", grid={"rank": (2.0, 16.0)}) == {
        "lora[r=2,lora_alpha=2]": {"r": 2, "lora_alpha": 2},  # b = 2 leaves nothing to share at rank 2
        "genft[scope=qv,shared_dim=14,specific_dim=2]": {"scope": "qv", "shared_dim": 14, "specific_dim": 2},
        "lora[r=16,lora_alpha=16]": {"r": 16, "lora_alpha": 16},
    }


# ---------------------------------------------------------------- figures


def measured(score: float, *, task: str = "t", seeds: int = 2, name: str = "GenFT", **place: float) -> Measured:
    results = [
        Result.model_construct(
            seed=s, scores=Scores.model_construct(value=score + 0.01 * s), counts=Counts.model_construct(adapter=100)
        )
        for s in range(seeds)
    ]
    return Measured("", task, "accuracy", Variant(name, Entry("e", METHODS["genft"]), place), tuple(results))


def test_the_best_of_a_grid_is_framed() -> None:
    scores = {(0.1, 0.5): 0.7, (1.0, 0.5): 0.9, (0.1, 1.0): 0.8, (1.0, 1.0): math.nan}
    found = [
        measured(s, w0_ratio=r, scaling=c) if s == s else measured(0, seeds=0, w0_ratio=r, scaling=c)
        for (r, c), s in scores.items()
    ]
    with style():
        ((ending, figure),) = STUDY_FIGURES["ratio-scaling"](found)
    axes = figure.axes[0]
    assert ending == "-t"
    table = np.asarray(axes.images[0].get_array().filled(np.nan))
    assert table[0] == pytest.approx([0.705, 0.905])  # scaling 0.5; means over two seeds
    assert np.isnan(table[1, 1])
    (frame,) = (p for p in axes.patches if p.get_linewidth() == 2)
    assert (frame.get_x(), frame.get_y()) == (0.5, -0.5)


def test_every_study_draws_what_it_measures() -> None:
    for study in STUDIES.values():
        settings = {"genft": {"shared_dim": 8, "specific_dim": 1, "w0_ratio": 1.0, "scaling": 1.0}}
        settings["lora"] = {"r": 8, "lora_alpha": 8}
        variants = study.variants(study.axes, settings.__getitem__)
        found = [measured(0.5 + 0.01 * n, task=t, name=v.name, **v.place) for t in "ab" for n, v in enumerate(variants)]
        found += [measured(0, seeds=0, task="b", name=variants[0].name, **variants[0].place)]  # every run failed
        with style():
            drawn = list(STUDY_FIGURES[study.name](found))
        assert drawn
        assert all(figure.axes for _, figure in drawn)


def test_published_numbers_stand_beside_ours() -> None:
    variant = Variant("w/o shared", Entry("e", METHODS["genft"]), published="genft_no_shared")
    assert Measured("vtab1k", "cifar100", "accuracy", variant, ()).printed == pytest.approx(0.666)
    assert Measured("", "reviews", "accuracy", variant, ()).printed is None


# ---------------------------------------------------------------- the command


def study(*words: object) -> Called:
    return CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, ["study", *map(str, words)])


def test_the_command_runs_draws_and_repeats_nothing(reviews: Path, bert: Path, tmp_path: Path) -> None:
    task = tmp_path / "mine.toml"
    task.write_text(
        f'name = "mine"\nkind = "text"\nreader = "files"\nclasses = ["good", "bad"]\n[files]\ntrain = "{reviews}"\n'
    )
    words = ("shared-dim", task, "-m", bert, "--out", tmp_path, "--seeds", 0, "--epochs", 1, "--batch-size", 32)
    planned = study(*words, "--grid", "shared_dim=2,4", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "2 runs on" in planned.stdout
    result = study(*words, "--grid", "shared_dim=2,4", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [m["shared_dim"] for m in found["measured"]] == [2, 4]
    assert found["measured"][0]["parameters"] < found["measured"][1]["parameters"]
    (figure,) = found["figures"]
    assert Path(figure).stat().st_size > 5000
    again = study(*words, "--grid", "shared_dim=2,4")
    assert ", 2 finished" in again.stdout
    assert len(list((tmp_path / "results").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ablaton", "bbc-news"), "study: 'ablaton' is not known; allowed: ablation, ratio-scaling, shared-dim, rank"),
        (("rank", "bbc-news", "--grid", "rank"), "--grid rank: must be AXIS=VALUES"),
        (("rank", "bbc-news", "--grid", "rank=four"), "--grid rank: 'four' is not a list of numbers"),
        (("rank", "bbc-news", "--grid", "dim=4"), "grid: 'dim' is not an axis of 'rank'; allowed: rank"),
        (("rank", "bbc-news", "--format", "bmp"), "format: 'bmp' is not known"),
    ],
)
def test_mistakes_are_one_sentence(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = study(*words, "-m", "x", "--out", tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
