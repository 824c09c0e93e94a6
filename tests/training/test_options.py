"""The options of training: what they change, and what they leave as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, TrainerControl, TrainerState, TrainingArguments

from genft import load_adapter
from genft.data import task_from_path
from genft.errors import ConfigError
from genft.families.class_weights import class_weights, weighted_loss
from genft.families.metrics import METRICS
from genft.presets import load_preset
from genft.runs.measured import Result
from genft.runs.request import build_spec
from genft.runs.settings import Training
from genft.runs.store import Store
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run
from genft.training.schedule import EarlyStopping

QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.01}


def prepared(reviews: Path, model: Path, method: str = "genft", **training: Any) -> PreparedRun:
    request = build_spec(
        task_from_path(reviews), str(model), load_preset("none"), method=method, training={**QUICK, **training}
    )
    return prepare(request.spec, method=request.method)


def finished(out: Path, reviews: Path, model: Path, **options: Any) -> Result:
    return run(prepared(reviews, model, **options), Store(out).open())


def losses(result: Result) -> list[float]:
    return [entry["train_loss"] for entry in result.history.epochs]


def test_keys_of_earlier_results_stay() -> None:
    usual = Training().for_key()
    assert {"early_stopping", "class_weights", "grad_accumulation", "quantise"}.isdisjoint(usual)
    assert usual["precision"] == "float32"
    assert Training(grad_accumulation=2).for_key() == usual | {"grad_accumulation": 2}


def test_a_batch_in_parts_gives_the_same_steps(reviews: Path, bert: Path, tmp_path: Path) -> None:
    whole = finished(tmp_path / "a", reviews, bert)
    parts = finished(tmp_path / "b", reviews, bert, grad_accumulation=4)
    assert whole.history.steps == parts.history.steps
    assert whole.key != parts.key
    # dropout draws other masks, so only the size of the loss is compared; without the division it would be 4 times it
    assert losses(parts) == pytest.approx(losses(whole), rel=0.15)
    weighted = finished(tmp_path / "c", reviews, bert, grad_accumulation=4, class_weights="balanced")
    assert losses(weighted) == pytest.approx(losses(whole), rel=0.15)


def test_checkpointing_changes_no_number(reviews: Path, bert: Path, tmp_path: Path) -> None:
    plain = finished(tmp_path / "a", reviews, bert)
    kept = finished(tmp_path / "b", reviews, bert, gradient_checkpointing=True)
    assert losses(kept) == pytest.approx(losses(plain), rel=1e-5)


def test_early_stopping_counts_evaluations_in_the_log() -> None:
    arguments = TrainingArguments("unused", use_cpu=True)

    def stops(scores: list[float], patience: int, metric: str = "accuracy") -> bool:
        state, control = TrainerState(), TrainerControl()
        state.log_history = [{"loss": 1.0}, *({f"eval_{metric}": score} for score in scores)]
        EarlyStopping(patience, METRICS[metric]).on_evaluate(arguments, state, control)
        return control.should_training_stop

    assert not stops([0.5, 0.4], 2)
    assert stops([0.5, 0.5, 0.4], 2)
    assert not stops([0.5, 0.4, 0.6], 2)
    assert stops([0.5, 0.6], 1, "answer_loss")  # lower is better


def test_a_run_stops_early(reviews: Path, bert: Path, tmp_path: Path) -> None:
    result = finished(tmp_path, reviews, bert, epochs=40, early_stopping=1, learning_rate=1e-7, head_learning_rate=1e-7)
    assert len(result.history.epochs) == result.history.best_epoch + 1 < 40


def test_weights_of_classes() -> None:
    assert class_weights("none", ("a", "b")) is None
    assert class_weights("balanced", ("a", "b"), [0, 0, 0, 1]) == pytest.approx([4 / 6, 2])
    assert class_weights("b=2.5", ("a", "b")) == [1, 2.5]
    assert class_weights("x=y=2", ("x=y", "b")) == [2, 1]
    logits, labels = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    nll = -logits.log_softmax(1)[torch.arange(5), labels]
    expected = (nll * torch.tensor([1.0, 3.0])[labels]).sum()
    assert weighted_loss([1, 3], 0)({"logits": logits}, labels) == pytest.approx(expected.item() / 5)
    assert weighted_loss([1, 3], 0)({"logits": logits}, labels, 10) == pytest.approx(expected.item() / 10)


def test_weights_change_what_is_learned(reviews: Path, bert: Path, tmp_path: Path) -> None:
    result = finished(tmp_path, reviews, bert, method="linear", class_weights="bad=0,good=1", epochs=8)
    assert result.scores.constant  # only "good" counts, so that nothing else is predicted


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"class_weights": "evenly"}, "class_weights: 'evenly' is not CLASS=NUMBER; allowed: none, balanced"),
        ({"class_weights": "god=2"}, "class_weights: 'god' is no class; allowed: bad, good; nearest: 'good'"),
        ({"class_weights": "good=-1"}, "is not CLASS=NUMBER"),
        ({"grad_accumulation": 3}, "batch_size: 8 examples cannot be shared equally by 3 parts"),
        ({"precision": "fp16"}, "precision: fp16 needs a CUDA GPU"),
        ({"quantise": "4bit", "method": "full"}, "quantise: 'full' trains weights of the base"),
    ],
)
def test_refused_before_any_work(training: dict[str, Any], message: str, reviews: Path, bert: Path) -> None:
    if "fp16" in message and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=message):
        prepared(reviews, bert, **training)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_base(bits: str, reviews: Path, bert: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = BertConfig.from_pretrained(bert, hidden_size=64, intermediate_size=128)  # its kernels need such widths
    wide = Path(shutil.copytree(bert, tmp_path / "wide"))
    BertModel(config).save_pretrained(wide)
    result = finished(tmp_path, reviews, wide, quantise=bits, epochs=1)
    trained = load_adapter(str(tmp_path / result.adapter))
    kinds = {type(m).__name__ for m in trained.model.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    assert trained.saved.quantise == bits
    predicted = trained.predict([("good film",), ("bad film",)])
    assert np.isfinite(predicted.numpy()).all()
