"""Model cards: what they say runs, and names from data cannot become markup, terminal escapes or code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import pipeline

from genft import load_adapter
from genft.adapters.card import adapter_card, lora_card, merged_card
from genft.adapters.lora import save_lora, to_lora
from genft.adapters.saved import open_adapter
from genft.adapters.task_file import SavedTask
from genft.api.card import CARD
from genft.data import Task, task_from_path
from genft.data.preprocessing import Preprocessing
from genft.families.classification import Classification
from genft.families.family import Words
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.training.prepared import prepare
from genft.training.run import run

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "two\nlines\r\n# heading",
    "](javascript:alert(1)) [x",
    "<script>alert(1)</script>",
    '"]))\nimport os; os.system("x") #',
    "```\n# out of the block",
    "`tick` *bold* _under_ ~~no~~ | cell |",
    "---\nlicense: mit",
    "\u202eright to left",
    "\ud800",
    "plain",
]


def task(**changed: Any) -> SavedTask:
    values: dict[str, Any] = {
        "genft_version": "1",
        "task": "t",
        "kind": "text",
        "text_columns": ("text",),
        "label_column": "label",
        "regression": False,
        "classes": ("no", "yes"),
        "metric": "accuracy",
        "base": "a/base",
        "base_is_local": False,
        "method": "genft",
        "preprocessing": Preprocessing(kind="text", max_length=8),
        "score": 0.5,
        "protocol": "holdout",
    }
    return SavedTask(**(values | changed))


def words(saved: SavedTask) -> Words:
    return Classification(Task(name="t", kind="text", reader="", classes=saved.classes)).words


def parts(folder: Path) -> tuple[dict[str, Any], str, list[str]]:
    """(the front matter, the prose, the blocks of code)."""
    text = (folder / CARD).read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    blocks = re.findall(r"^```python\n(.*?)^```$", body, re.M | re.S)
    prose = re.sub(r"^```python\n.*?^```$", "", body, flags=re.M | re.S)
    return yaml.safe_load(front), prose, blocks


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", ["classes", "task", "method", "base", "protocol", "metric", "licence", "source"])
def test_names_from_data_stay_text(field: str, name: str, tmp_path: Path) -> None:
    saved = task(**{field: ("no", name) if field == "classes" else name})
    labels = saved.classes
    for card in (
        adapter_card(saved, words(saved), is_peft=True),
        merged_card(saved, saved.base, "BertForSequenceClassification"),
        lora_card(saved, saved.base, "BertForSequenceClassification", labels, None),
    ):
        card.write(tmp_path)
        front, prose, blocks = parts(tmp_path)
        assert front.keys() <= {"base_model", "library_name", "tags"}
        text = (tmp_path / CARD).read_text(encoding="utf-8")
        assert all(c.isprintable() or c == "\n" for c in text)
        assert not re.search(r"(?<!\\)[<\[|]", prose.replace("[genft]", ""))
        assert len(re.findall(r"^\s*#", prose, re.M)) == 1  # the title
        assert text.split("---\n", 2)[2].count("```") == 2 * len(blocks)
        for block in blocks:
            compile(block, CARD, "exec")
            assert "\nimport os" not in block
            if "id2label" in block:
                (names,) = re.findall(r"enumerate\((\[.*\])\)\)", block)
                assert eval(names) == list(labels)


def test_every_card_has_the_score_the_protocol_and_the_licence_of_the_data(tmp_path: Path) -> None:
    saved = task(licence="CC BY 4.0", source="A and B, 2020")
    for card in (
        adapter_card(saved, words(saved), is_peft=True),
        merged_card(saved, saved.base, "BertForSequenceClassification"),
        lora_card(saved, saved.base, "BertForSequenceClassification", saved.classes, 0.1),
    ):
        card.write(tmp_path)
        prose = parts(tmp_path)[1]
        assert "accuracy 0.5000 (protocol holdout)" in prose
        assert "Licence of the data: CC BY 4.0.\nSource of the data: A and B, 2020." in prose
    adapter_card(task(), words(task()), is_peft=True).write(tmp_path)
    assert "of the data" not in parts(tmp_path)[1]  # a user's own data state none


def test_the_front_matter_names_base_and_library(tmp_path: Path) -> None:
    adapter_card(task(), words(task()), is_peft=True).write(tmp_path)
    assert parts(tmp_path)[0] == {"base_model": "a/base", "library_name": "peft", "tags": ["genft"]}
    lora_card(None, None, "LlamaForCausalLM", [], 0.125).write(tmp_path)
    front, prose, _ = parts(tmp_path)
    assert front == {"library_name": "peft"}
    assert "# An adapter, as LoRA" in prose
    assert "relative errors of up to 1.2e-01 per weight" in prose


@pytest.fixture(scope="module")
def adapter(reviews: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    preset = Preset(name="none", source="")
    training = {"epochs": 1, "batch_size": 16}
    run(prepare(build_spec(task_from_path(reviews), str(bert), preset, training=training).spec), Store(out).open())
    (folder,) = (out / "adapters").iterdir()
    return folder


@pytest.mark.parametrize("form", ["adapter", "lora"])
def test_the_lines_of_the_card_give_the_predictions_with_names(form: str, adapter: Path, tmp_path: Path) -> None:
    """The block with peft, run as it stands, answers with the labels of training in a pipeline."""
    ours = load_adapter(adapter)
    probabilities = ours.predict([("w1 good w2",)])[0]
    folder = adapter
    if form == "lora":
        folder = tmp_path
        opened = open_adapter(adapter)
        save_lora(folder, to_lora(opened.model), opened)
    block = parts(folder)[2][-1]
    names: dict[str, Any] = {}
    exec(block.replace("THIS FOLDER", str(folder)), names)
    model = names["model"].eval()
    assert model.config.id2label == {0: "bad", 1: "good"}
    answer = pipeline("text-classification", model=model, tokenizer=str(folder))("w1 good w2")[0]
    assert answer["label"] == ours.saved.classes[int(probabilities.argmax())]
    assert answer["score"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert torch.isfinite(probabilities).all()


def test_a_saved_adapter_keeps_what_its_task_says_of_the_data(reviews: Path, bert: Path, tmp_path: Path) -> None:
    task = task_from_path(reviews).model_copy(update={"licence": "CC0", "source": "made for this test"})
    preset = Preset(name="none", source="")
    run(prepare(build_spec(task, str(bert), preset, training={"epochs": 1}).spec), Store(tmp_path).open())
    (folder,) = (tmp_path / "adapters").iterdir()
    assert "Licence of the data: CC0.\nSource of the data: made for this test." in parts(folder)[1]
