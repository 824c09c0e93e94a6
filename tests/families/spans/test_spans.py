"""The family of answers in texts, from a file of questions to a saved adapter that answers them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from command_line import call, ok
from genft import ConfigError, load_adapter
from genft.data import Task, read
from genft.data.answering import Answering
from genft.data.questions import Answer
from genft.families.registry import get_family
from genft.families.spans.scores import f1
from genft.families.spans.windows import WindowDataset, Windower
from genft.models.source import find_model
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.settings import Training
from genft.runs.store import Store, answers
from genft.training.prepared import prepare
from genft.training.run import run_once


def questions(path: Path, *, unanswerable: bool = False, long: bool = False, rows: int = 240) -> Path:
    """Contexts with "good" and "bad" among other words; a question names the one that answers it. Some contexts are
    longer than a window of 32 tokens, and some lack the answer."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            asked = ("good", "bad")[i % 2]
            words = [f"w{draw.randrange(20)}" for _ in range(45 if long and i % 3 == 0 else 8)]
            none = unanswerable and i % 4 == 0
            for word in {"good", "bad"} - ({asked} if none else set()):
                words.insert(draw.randrange(len(words) + 1), word)
            context = " ".join(words)
            start = f" {context} ".find(f" {asked} ")
            given = {"text": [], "answer_start": []} if none else {"text": [asked], "answer_start": [start]}
            file.write(json.dumps({"question": asked, "context": context, "answers": given}) + "\n")
    return path


def task_of(path: Path, **changes: Any) -> Task:
    values: dict[str, Any] = {
        "name": "asked",
        "kind": "text",
        "family": "spans",
        "reader": "questions",
        "files": {"train": path},
        "text_columns": ("question", "context"),
        "label_column": "answers",
        "metric": "squad_f1",
        "max_length": 32,
    }
    return Task(**values | changes)


def trained(task: Task, model: Path, out: Path, method: str = "full", **training: Any) -> tuple[Any, Any]:
    """(the result, the loaded adapter)."""
    values = {"epochs": 12, "batch_size": 8, "learning_rate": 0.003, "schedule": "constant"} | training
    spec = build_spec(task, str(model), Preset(name="none", source=""), method=method, training=values).spec
    result = run_once(prepare(spec), Store(out).open())
    return result, load_adapter(out / result.adapter)


def test_answers_are_learned_scored_and_found_again(bert: Path, tmp_path: Path) -> None:
    path = questions(tmp_path / "asked.jsonl", long=True)
    result, adapter = trained(task_of(path), bert, tmp_path / "runs")
    assert result.scores.metric == "squad_f1"
    assert result.history.selected_by is None
    assert result.scores.metrics.keys() == {"squad_f1", "squad_exact_match"}
    assert result.scores.value > 0.9
    predicted, target = answers(result)
    assert predicted.shape == (len(target), 2)
    assert predicted[:, 0].mean() == pytest.approx(result.scores.value)
    data = read(task_of(path))
    test = data.splits["test"]
    outputs = adapter.predict(test.inputs)
    pairs = zip(outputs, test.labels, strict=True)
    scores = [f1(of["answer"], [text for text, _ in right]) for of, right in pairs]
    assert np.mean(scores) == pytest.approx(result.scores.value)
    for (_, context), of in zip(test.inputs, outputs, strict=True):
        assert context[of["start"] : of["end"]] == of["answer"]
        assert 0 < of["probability"] <= 1
    assert result.history.steps == 12 * -(-_windows(data, bert) // 8)  # windows, not questions, make up a batch


def _windows(data: Any, model: Path) -> int:
    family = get_family(data.task)
    encoded = family.encode(data.splits["train"], family.load(find_model(str(model))))
    assert len(encoded) > len(data.splits["train"])
    return len(encoded)


def test_questions_without_an_answer_get_none_from_a_threshold_on_the_selecting_split(
    bert: Path, tmp_path: Path
) -> None:
    task = task_of(questions(tmp_path / "asked.jsonl", unanswerable=True))
    result, adapter = trained(task, bert, tmp_path / "runs", epochs=4)
    metrics = result.scores.metrics
    assert metrics.keys() == {
        "squad_f1",
        "squad_exact_match",
        "squad_f1 (answerable)",
        "squad_exact_match (answerable)",
        "squad_exact_match (unanswerable)",
    }
    data = read(task)
    none = [not label for label in data.splits["test"].labels]
    share = np.mean(none)
    parts = (1 - share) * metrics["squad_f1 (answerable)"] + share * metrics["squad_exact_match (unanswerable)"]
    assert parts == pytest.approx(metrics["squad_f1"])
    family, loaded = adapter.family, adapter.loaded
    answering = family.task.answering
    assert answering.unanswerable
    assert answering.threshold != 0.0
    # the threshold is the best one for the split that selected the epoch, and the one that is used
    select = data.splits["validation"]
    found = family.encode(select, loaded)
    outputs = _kept(family, loaded, adapter.model, found)
    decided = family.decided(select, loaded, lambda data: (outputs, outputs))
    assert decided.task.answering.threshold == pytest.approx(answering.threshold, abs=1e-3)
    margins = [of.margin for of in found.put_together(outputs)]
    given = adapter.predict(select.inputs)
    assert [of["answer"] == "" for of in given] == [margin > answering.threshold for margin in margins]
    unanswered = next(of for of in given if not of["answer"])
    assert (unanswered["start"], unanswered["end"]) == (None, None)
    assert 0 < unanswered["probability"] <= 1


def _kept(family: Any, loaded: Any, model: Any, data: Any) -> Any:
    batch = family.collator(loaded)([data[i] for i in range(len(data))])
    with torch.no_grad():
        _, outputs = family.run(model, batch)
    return family.kept_outputs(outputs, batch["labels"]).numpy()


@pytest.mark.parametrize(
    ("changes", "training", "message"),
    [
        ({"metric": "accuracy"}, {}, r"metric: 'accuracy' cannot score answers in texts; allowed: squad_f1, squad_ex"),
        ({"text_columns": ("question",)}, {}, r"text columns: question; a question and a context are needed"),
        ({}, {"class_weights": "balanced"}, r"class_weights: applies to classes, and this task finds answers in texts"),
        ({}, {"augment": "crop"}, r"augment: applies to images"),
        ({"prompting": {"chat": True}}, {}, r"chat: only for tasks that generate text, not for asked"),
    ],
)
def test_what_does_not_suit_the_task_is_refused(
    changes: dict[str, Any], training: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        get_family(task_of(tmp_path / "x.jsonl", **changes)).check(Training(**training))


def test_commands_recognise_train_predict_evaluate_and_export(bert: Path, tmp_path: Path) -> None:
    path = questions(tmp_path / "asked.jsonl", rows=60)
    out = tmp_path / "runs"
    options = ("-m", bert, "--max-length", 24, "--stride", 5, "--max-answer-tokens", 2, "--epochs", 1)
    shown = ok("train", path, *options, "--method", "lora", "--out", out)
    assert "asked: answers in a text; 44 train, 4 validation, 12 test" in shown
    assert "squad_f1" in shown
    (folder,) = (out / "adapters").iterdir()
    repeats = (folder / "genft_run.toml").read_text()
    assert 'family = "spans"' in repeats
    assert "stride = 5\nmax_answer_tokens = 2\n" in repeats
    assert "already finished" in call("train", "--config", folder / "genft_run.toml", "--out", out).output
    squad = tmp_path / "new.json"
    paragraph = {"context": "w1 bad w2 good", "qas": [{"id": "a", "question": "good", "answers": []}]}
    squad.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    (row,) = json.loads(ok("predict", folder, "--input", squad, "--json"))
    assert row.keys() == {"id", "question", "answers", "context", "answer", "start", "end", "probability"}
    assert row["context"][row["start"] : row["end"]] == row["answer"]
    ok("predict", folder, "--input", squad, "--output", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("id,question,answers,context,answer,start,end,probability\n")
    scored = json.loads(ok("evaluate", folder, "--input", path, "--metric", "squad_exact_match", "--json"))
    assert (scored["metric"], scored["examples"]) == ("squad_exact_match", 60)
    ok("merge", folder, "--out", tmp_path / "merged")
    assert type(hf.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "merged")).__name__.startswith("Bert")
    card = (folder / "README.md").read_text()
    assert "AutoPeftModelForQuestionAnswering.from_pretrained" in card
    assert 'trained.predict([("a question", "its context")])' in card
    assert "asked" in ok("report", out)


@pytest.mark.parametrize(("model", "weight"), [("decoder", "layers.0.mlp.up_proj"), ("encoder_decoder", "shared")])
def test_decoders_and_encoder_decoders_keep_their_weights(
    model: str, weight: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """transformers calls Llama's backbone otherwise under this head, and gives T5's no name of its own."""
    folder = request.getfixturevalue(model)
    family = get_family(task_of(tmp_path / "asked.jsonl"))
    loaded = family.load(find_model(str(folder)))
    assert loaded.trained_in_full == ("qa_outputs",)
    known = hf.AutoModel.from_pretrained(folder).get_submodule(weight).weight
    found = [m.weight for name, m in loaded.model.named_modules() if name.endswith(weight)]
    assert len(found) == 1
    assert torch.equal(found[0], known)
    data = WindowDataset([("w1", "w2 w3 w4")], [[Answer("w3", 3)]], Windower(loaded.tokenizer, 32, Answering()))
    batch = family.collator(loaded)([data[0]])
    loss, outputs = family.run(loaded.model, batch)
    assert torch.isfinite(loss)
    (found_answer,) = data.put_together(family.kept_outputs(outputs, batch["labels"]).detach().numpy())
    assert found_answer.text
    assert found_answer.text in "w2 w3 w4"
