"""Trackers get what happens, and change neither the key nor the result."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from genft import ConfigError
from genft.cli import app
from genft.runs.store import Store
from genft.training import trackers
from genft.training.trackers import check_trackers


def test_tensorboard_sees_every_epoch(reviews: Path, bert: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    words = ["train", str(reviews), "--model", str(bert), "--method", "linear", "--epochs", "2"]
    plain = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "a")])
    assert plain.exit_code == 0, plain.output
    watched = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "b"), "--report-to", "tensorboard"])
    assert watched.exit_code == 0, watched.output
    (without,), (result,) = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert (result.key, result.predictions) == (without.key, without.predictions)
    assert not (tmp_path / "a" / "logs").exists()
    seen = events.EventAccumulator(str(tmp_path / "b" / "logs" / result.label)).Reload()
    scores = [event.value for event in seen.Scalars("eval/accuracy")]
    assert scores == pytest.approx([epoch["accuracy"] for epoch in result.history.epochs])
    assert {"train/loss", "train/learning_rate"} <= set(seen.Tags()["scalars"])


def test_a_tracker_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else object())
    assert check_trackers(["tensorboard", "mlflow", "tensorboard"]) == ("tensorboard", "mlflow")
    with pytest.raises(ConfigError) as error:
        check_trackers(["wandb", "tensorbord"])
    assert error.value.problems == [
        "--report-to: 'tensorbord' is not known; allowed: tensorboard, mlflow, wandb, trackio; nearest: 'tensorboard'",
        "--report-to wandb: is not installed: pip install wandb",
    ]
