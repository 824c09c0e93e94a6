"""Every family through the commands that come after training: bench and its report, search, merge, to-lora, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import ok
from genft.families.own_data import own_task
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.training.callbacks import Inferred, Progress
from genft.training.prepared import prepare
from genft.training.run import run


def chats(path: Path) -> Path:
    rows = ({"prompt": f"w{k % 20} good", "response": f"is {k % 4}"} for k in range(60))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labels(path: Path) -> Path:
    rows = ({"text": f"w{k % 20} good", "label": ["a", "b"][: k % 3]} for k in range(60))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def names(path: Path) -> Path:
    path.write_text("".join(f"w{k % 20}\tO\ngood\tB-G\nbad\t{'I-G' if k % 2 else 'O'}\n\n" for k in range(60)))
    return path


def questions(path: Path) -> Path:
    rows = (
        {"question": "w1", "context": f"w{k} good bad", "answers": {"text": ["good"], "answer_start": [len(f"w{k} ")]}}
        for k in range(60)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


#: Family → (name of its file, how it is written, model, reader, columns of the text, column of the answer, metric).
CASES: dict[str, tuple[str, Callable[[Path], Path], str, str, list[str], str, str]] = {
    "multilabel": ("a.jsonl", labels, "bert", "several", ["text"], "label", "micro_f1"),
    "tokens": ("a.conll", names, "bert", "tagged", ["tokens"], "tags", "entity_f1"),
    "spans": ("a.jsonl", questions, "bert", "questions", ["question", "context"], "answers", "squad_f1"),
    "generation": ("a.jsonl", chats, "decoder", "prompts", ["prompt"], "response", "answer_loss"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """(the family, a file of it, a model)."""
    file, write, model, *_ = CASES[request.param]
    return request.param, write(tmp_path / file), request.getfixturevalue(model)


def test_bench_and_report(case: tuple[str, Path, Path], tmp_path: Path) -> None:
    family, path, model = case
    *_, reader, texts, answer, metric = CASES[family]
    suite = tmp_path / "mine.toml"
    suite.write_text(
        f'suite = "mine"\n[[tasks]]\nname = "own"\nkind = "text"\nfamily = "{family}"\nreader = "{reader}"\n'
        f'files = {{ train = "{path.name}" }}\ntext_columns = {json.dumps(texts)}\nlabel_column = "{answer}"\n'
        f'metric = "{metric}"\nmax_length = 32\n'
    )
    out = tmp_path / "runs"
    words = ("bench", suite, "-m", model, "--methods", "genft,lora", "--seeds", "0", "--learning-rates", "1e-3,3e-3")
    ok(*words, "--epochs", 1, "--out", out)
    finished = sorted((out / "results").rglob("*.json"))
    assert len(finished) >= 4
    ok(*words, "--epochs", 1, "--out", out)
    assert sorted((out / "results").rglob("*.json")) == finished
    shown = ok("report", out)
    assert "own" in shown
    assert metric in shown or metric.replace("_", " ") in shown


def test_search(case: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, path, model = case
    ok("search", path, "-m", model, "--method", "genft", "--trials", 2, "--epochs", 1, "--out", tmp_path / "runs")
    assert list((tmp_path / "runs").rglob("*.toml"))


def test_merge_and_to_lora_change_no_output(case: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, path, model = case
    out = tmp_path / "runs"
    ok("train", path, "-m", model, "--method", "genft", "--set", "shared_dim=4", "--epochs", 1, "--out", out)
    (folder,) = (out / "adapters").iterdir()
    merged = json.loads(ok("merge", folder, "--out", tmp_path / "merged", "--json"))
    lora = json.loads(ok("to-lora", folder, "--out", tmp_path / "lora", "--rank", 4, "--json"))
    for change in (merged["change"], lora["change"]):
        assert change["largest"] < 1e-4
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_an_interrupted_run_ends_with_the_same_predictions(case: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, path, model = case
    training = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}
    spec = build_spec(
        own_task(path), str(model), Preset(name="none", source=""), method="genft", training=training
    ).spec
    planned = prepare(spec)
    uninterrupted = run(planned, Store(tmp_path / "whole").open())

    def interrupt(event: Progress | Inferred) -> None:  # in the second epoch, after the checkpoint of the first
        if isinstance(event, Progress) and event.phase == "train" and event.step > event.steps // 2 + 1:
            raise KeyboardInterrupt

    parts = Store(tmp_path / "parts").open()
    with pytest.raises(KeyboardInterrupt):
        run(planned, parts, interrupt)
    resumed = run(planned, parts)
    assert resumed.history.resumed_at > 0
    assert resumed.predictions == uninterrupted.predictions
    assert resumed.scores.value == uninterrupted.scores.value
