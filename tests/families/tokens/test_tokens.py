"""The family of tags: entities in a file, learned, scored as a whole, and found again in texts."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from command_line import call, ok
from genft import ConfigError, load_adapter
from genft.data import Task, read
from genft.families.metrics import METRICS
from genft.families.registry import get_family
from genft.families.tokens.encoding import TaggedDataset
from genft.families.tokens.entities import Entity, entities, entity_counts, tag_counts
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.settings import Training
from genft.runs.store import Store
from genft.training.prepared import prepare
from genft.training.run import run_once


def sentences(path: Path, *, entities: bool = True, rows: int = 160) -> Path:
    """ "good" begins an entity of type G, which the word behind "bad" continues if "bad" follows it."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            words = [f"w{draw.randrange(20)}" for _ in range(6)]
            tags = ["O" if entities else "W"] * 6
            k = draw.randrange(4)
            words[k : k + 2], tags[k : k + 2] = ["good", "bad"], ["B-G", "I-G"] if entities else ["A", "B"]
            file.writelines(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
            file.write("\n")
    return path


def task_of(path: Path, **changes: Any) -> Task:
    values: dict[str, Any] = {
        "name": "named",
        "kind": "text",
        "family": "tokens",
        "reader": "tagged",
        "files": {"train": path},
        "text_columns": ("tokens",),
        "label_column": "tags",
        "metric": "entity_f1",
        "max_length": 32,
    }
    return Task(**values | changes)


def trained(task: Task, model: Path, out: Path) -> tuple[Any, Any]:
    values = {"epochs": 6, "batch_size": 8, "learning_rate": 0.003, "schedule": "constant"}
    spec = build_spec(task, str(model), Preset(name="none", source=""), method="full", training=values).spec
    result = run_once(prepare(spec), Store(out).open())
    return result, load_adapter(out / result.adapter)


def test_entities_are_those_of_conlleval() -> None:
    assert entities(["O", "B-A", "I-A", "I-B", "B-B", "O", "I-A"]) == [
        Entity("A", 1, 2), Entity("B", 3, 3), Entity("B", 4, 4), Entity("A", 6, 6),
    ]  # fmt: skip
    assert entities([]) == []
    # half of an entity, and one of another type, are wrong
    assert entity_counts(["B-A", "O", "B-B", "B-A"], ["B-A", "I-A", "B-A", "B-A"]) == (1, 3, 3)


def test_scores_are_those_of_seqeval() -> None:
    """On random tags, most of which continue entities that nobody began."""
    seqeval = pytest.importorskip("seqeval.metrics")
    draw = random.Random(0)
    scores = {
        "entity_f1": partial(seqeval.f1_score, zero_division=0),
        "entity_precision": partial(seqeval.precision_score, zero_division=0),
        "entity_recall": partial(seqeval.recall_score, zero_division=0),
        "tag_accuracy": seqeval.accuracy_score,
    }
    for _ in range(300):
        classes = ["O", *draw.sample(["B-A", "I-A", "B-B", "I-B", "B-A-B", "I-A-B"], draw.randint(1, 6))]
        sizes = [draw.randint(1, 8) for _ in range(draw.randint(1, 5))]
        predicted, true = ([draw.choices(classes, k=size) for size in sizes] for _ in range(2))
        for tags in predicted:
            assert [tuple(each) for each in entities(tags)] == seqeval.sequence_labeling.get_entities(tags)
        for name, score in scores.items():
            count = tag_counts if name == "tag_accuracy" else entity_counts
            counts = np.array([count(*pair) for pair in zip(predicted, true, strict=True)], dtype=float)
            assert METRICS[name].score(counts, np.zeros(len(counts))) == pytest.approx(
                score(true, predicted), abs=1e-12
            )


def test_entities_are_learned_scored_and_found_in_texts(bert: Path, tmp_path: Path) -> None:
    path = sentences(tmp_path / "named.conll")
    result, adapter = trained(task_of(path), bert, tmp_path / "runs")
    assert result.scores.value > 0.9
    assert result.scores.metrics.keys() == {"entity_f1", "entity_precision", "entity_recall", "tag_accuracy"}
    assert result.scores.interval[0] <= result.scores.value <= result.scores.interval[1]
    (found,) = adapter.predict([('w1 "good bad", w3 w4.',)])
    assert [(of["text"], of["type"], of["start"], of["end"]) for of in found] == [("good bad", "G", 4, 12)]
    assert 0.5 < found[0]["probability"] <= 1

    folder = str(tmp_path / "runs" / result.adapter)
    rows = tmp_path / "new.jsonl"
    rows.write_text(json.dumps({"text": "w1 good bad w3 w4 w5"}) + "\n")
    written = json.loads(ok("predict", folder, "--input", str(rows), "--json"))
    assert written[0]["found"] == "good bad (G, 3–11)"
    assert written[0]["entities"][0]["type"] == "G"
    scored = json.loads(ok("evaluate", folder, "--input", str(path), "--json"))
    assert scored["metric"] == "entity_f1"
    assert scored["value"] > 0.9
    assert call("data", "check", str(path)).exit_code == 0


def test_tags_without_entities_are_scored_by_word(bert: Path, tmp_path: Path) -> None:
    task = task_of(sentences(tmp_path / "tags.conll", entities=False))
    data = read(task)
    with pytest.raises(ConfigError, match="metric: 'entity_f1' needs entities, and there are none; allowed: tag_acc"):
        get_family(data.task).check(Training())
    result, adapter = trained(task.model_copy(update={"metric": "tag_accuracy"}), bert, tmp_path / "runs")
    assert result.scores.value > 0.9
    (found,) = adapter.predict([("w1 good bad",)])
    assert [of["tag"] for of in found] == ["W", "A", "B"]


def test_a_tag_is_on_the_first_token_of_its_word_and_lost_words_are_counted(bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    text = "w1 unknownword good"
    data = TaggedDataset([text], [["O", "B-G", "I-G"]], ("O", "B-G", "I-G"), tokenizer, 32)
    labels = [k for k in data[0]["labels"] if k != -100]
    assert labels == [0, 1, 2]
    assert data.of_words(0, data[0]["labels"], None) == [0, 1, 2]
    short = TaggedDataset([text], [["O", "B-G", "I-G"]], ("O", "B-G", "I-G"), tokenizer, 3)
    assert short.of_words(0, short[0]["labels"], 0)[1:] == [0, 0]
    assert short.notes[0].startswith("2 words of 1 sentence lie behind the first 3 tokens")


def test_settings_of_other_families_are_refused(tmp_path: Path) -> None:
    task = read(task_of(sentences(tmp_path / "named.conll"))).task
    for training in ({"class_weights": "balanced"}, {"augment": "randaug"}):
        with pytest.raises(ConfigError, match=next(iter(training))):
            get_family(task).check(Training(**training))
