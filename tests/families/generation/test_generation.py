"""The family of tasks that generate text, from a user's file to a saved adapter that answers prompts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from typer.testing import CliRunner

from genft import ConfigError, DataError, load_adapter
from genft.cli import app
from genft.data import Split, Task, TaskData, read
from genft.families.own_data import own_task
from genft.families.registry import get_family
from genft.models.source import find_model
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.settings import Training
from genft.runs.store import Store, answers
from genft.training.prepared import prepare
from genft.training.run import run_once


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with one of four words, which decides the answer, among words that do not."""
    draw = random.Random(0)
    rows = []
    for i in range(240):
        others = [f"w{draw.randrange(4, 20)}" for _ in range(draw.randrange(1, 4))]
        rows.append({"prompt": f"Question: {' '.join(others)} w{i % 4} Answer:", "response": f"is {i % 4}"})
    return save(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"w{i} w{i // 4}"}, {"role": "assistant", "content": f"is {i % 4}"}]}
        for i in range(16)
    ]
    return save(tmp_path_factory.mktemp("data") / "chats.jsonl", rows)


def trained(data: Path, model: Path, out: Path, method: str = "full", **changes: Any) -> tuple[Any, Any]:
    """(the result, the loaded adapter)."""
    task = own_task(data)
    training = {"epochs": 16, "batch_size": 8, "learning_rate": 0.02, "schedule": "linear"}
    task = task.model_copy(update={"max_length": 48, "training": {}, **changes})
    spec = build_spec(task, str(model), Preset(name="none", source=""), method=method, training=training).spec
    result = run_once(prepare(spec), Store(out).open())
    return result, load_adapter(out / result.adapter)


@pytest.mark.parametrize("model", ["decoder", "encoder_decoder"])
def test_answers_are_learned_generated_and_scored(
    model: str, pairs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    result, adapter = trained(pairs, request.getfixturevalue(model), tmp_path, metric="exact_match")
    assert result.scores.metric == "exact_match"
    assert result.history.selected_by == "answer_loss"
    assert result.scores.value > 0.8
    assert result.scores.metrics.keys() == {"answer_loss", "perplexity", "exact_match"}
    losses = [epoch["answer_loss"] for epoch in result.history.epochs]
    assert result.history.best_epoch == 1 + int(np.argmin(losses))
    predicted, target = answers(result)
    assert predicted.shape == (len(target), 2)
    side = "left" if model == "decoder" else "right"
    texts = adapter.predict(["Question: w5 w1 Answer:", "Question: w6 w2 Answer:"])
    assert texts == ["is 1", "is 2"]
    assert adapter.predict(["Question: w5 w1 Answer:"], max_new_tokens=1) == ["is"]
    assert (adapter.tokenizer.padding_side, adapter.tokenizer.pad_token) == (side, "[PAD]")
    with pytest.raises(ConfigError, match=r"options: unknown key 'temprature'.*nearest: 'temperature'"):
        adapter.predict(["w1"], temprature=1.0)


def test_a_chat_is_learned_with_its_template_and_answered(chats: Path, decoder: Path, tmp_path: Path) -> None:
    result, adapter = trained(chats, decoder, tmp_path, method="genft")
    assert (result.scores.metric, result.history.selected_by) == ("answer_loss", None)
    (text,) = adapter.predict(["w1 w2"])
    as_messages = json.dumps([{"role": "user", "content": "w1 w2"}])
    assert adapter.predict([as_messages]) == [text]
    config = json.loads((tmp_path / result.adapter / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("CAUSAL_LM", None)
    card = (tmp_path / result.adapter / "README.md").read_text()
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "AutoPeftModelForCausalLM.from_pretrained" in card
    assert 'trained.predict(["a prompt"])' in card


def test_texts_without_answers_are_learned_as_a_whole(decoder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "texts.jsonl", [{"text": f"w{i} w{(i + 1) % 20} w{(i + 2) % 20}"} for i in range(20)])
    task = own_task(path, family="generation")
    assert (task.text_columns, task.label_column, task.metric) == (("text",), "", "perplexity")
    data = read(task)
    family = get_family(data.task)
    loaded = family.load(find_model(str(decoder)))
    item = family.encode(data.splits["train"], loaded)[0]
    assert item["labels"] == item["input_ids"]
    with pytest.raises(ConfigError, match=r"metric: 'bleu' compares answers, and the texts of texts have none"):
        get_family(data.task.model_copy(update={"metric": "bleu"})).check(Training())


def test_the_family_follows_from_columns_that_leave_no_doubt(pairs: Path, reviews: Path, tmp_path: Path) -> None:
    assert own_task(pairs).family == "generation"
    assert own_task(pairs, family="classification").family == "classification"
    assert own_task(pairs, text_columns=["prompt"], label_column="response").family == "classification"
    assert own_task(reviews).family == "classification"
    questions = save(tmp_path / "questions.jsonl", [{"question": "q", "answer": "a", "why": "b"}] * 2)
    assert own_task(questions).family == "classification"
    task = own_task(questions, family="generation", prompting={"template": "{question} ({why})"})
    assert (task.text_columns, task.label_column) == (("question", "why"), "answer")
    with pytest.raises(ConfigError, match="template: column: 'wy' is missing"):
        own_task(questions, family="generation", prompting={"template": "{wy}"})
    unknown = save(tmp_path / "unknown.jsonl", [{"a": "q", "b": "a"}])
    with pytest.raises(DataError, match="the columns a, b are none of the usual names of prompts and answers"):
        own_task(unknown, family="generation")
    task = own_task(unknown, family="generation", text_columns=["a"], label_column="b")
    assert (task.text_columns, task.label_column, task.metric) == (("a",), "b", "answer_loss")


def test_missing_splits_are_held_out_with_copies_together(pairs: Path) -> None:
    data: TaskData = read(own_task(pairs))
    assert {name: len(split) for name, split in data.splits.items()}.keys() == {"train", "validation", "test"}
    prompts = [{text for (text,) in split.inputs} for split in data.splits.values()]
    assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
    assert data.notes[0] == "generation: prompts from the column 'prompt'; answers from 'response'"


def test_all_answers_of_a_prompt_count_as_right(decoder: Path) -> None:
    task = Task(name="t", kind="text", family="generation", reader="", label_column="answer", metric="exact_match")
    family = get_family(task)
    loaded = family.load(find_model(str(decoder)))
    split = Split((("w1",), ("w1",), ("w2",)), (("a",), ("b", "c"), ("d",)))
    losses = np.array([[2.0, 2], [3.0, 2], [1.0, 2]])
    judged = family.judge(split, loaded, loaded.model, Training(eval_batch_size=2), lambda data: (losses, losses))
    assert judged.predicted.shape == (2, 2)  # two different prompts
    assert judged.scores["answer_loss"] == 1.0


def test_other_families_refuse_what_is_for_generated_text(reviews: Path, bert: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(reviews), "-m", str(bert), "--chat", "--out", str(tmp_path)])
    assert "chat: only for tasks that generate text, not for reviews" in str(done.exception) + done.output


def test_commands_train_explain_and_predict(pairs: Path, decoder: Path, tmp_path: Path) -> None:
    def run(*words: object) -> str:
        done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    options = (pairs, "-m", decoder, "--max-length", 32, "--max-new-tokens", 4, "--metric", "exact_match")
    values = json.loads(run("explain", *options, "--json"))["Run"]
    assert (values["family"]["value"], values["selects"]["value"]) == ("generation", "answer_loss")
    out = tmp_path / "runs"
    shown = run("train", *options, "--epochs", 1, "--method", "lora", "--out", out)
    assert "answers to prompts" in shown
    assert "answer_loss" in shown
    (folder,) = (out / "adapters").iterdir()
    rows = json.loads(run("predict", folder, "--input", pairs, "--json", "--max-new-tokens", 2))
    assert rows[0].keys() == {"prompt", "response", "generated", "asked"}
    assert all(len(row["generated"].split()) <= 2 for row in rows)
    run("predict", folder, "--input", pairs, "--output", tmp_path / "out.csv", "--temperature", 1)
    assert (tmp_path / "out.csv").read_text().startswith("prompt,response,generated,asked\n")
    merged = tmp_path / "merged"
    run("merge", folder, "--out", merged)
    assert type(hf.AutoModelForCausalLM.from_pretrained(merged)).__name__ == "LlamaForCausalLM"
    assert "exact_match" in run("report", out)
