"""genft evaluate: a saved adapter scored on labelled rows."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from command_line import call, ok
from genft import load_adapter


def train(out: Path, *words: object) -> Path:
    done = json.loads(ok("train", *words, "--out", out, "--epochs", 1, "--batch-size", 8, "--json"))
    return out / done["adapter"]


def test_classes(reviews: Path, bert: Path, tmp_path: Path) -> None:
    adapter = train(tmp_path, reviews, "-m", bert)
    file = tmp_path / "scored.csv"
    found = json.loads(ok("evaluate", adapter, "--input", reviews, "--json", "--show-errors", 3, "-o", file))
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    with reviews.open(encoding="utf-8") as source:
        assert [row["label"] for row in rows] == [row["label"] for row in csv.DictReader(source)]
    labels, predicted = ([row[name] for row in rows] for name in ("label", "predicted"))
    assert found["examples"] == len(rows) == 60
    assert found["value"] == pytest.approx(np.mean([a == b for a, b in zip(labels, predicted, strict=True)]))
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert found["confusion"] == confusion_matrix(labels, predicted).tolist()
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, zero_division=np.nan)
    for k, of_class in enumerate(found["classes"]):
        for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
            assert of_class[name] == pytest.approx(expected[k]) or np.isnan(expected[k])
    wrong = [row for row in rows if row["label"] != row["predicted"]]
    worst = sorted(float(row[f"probability of {row['label']}"]) for row in wrong)[:3]
    shown = [error[f"probability of {error['label']}"] for error in found["errors"]]
    assert shown == pytest.approx(worst)
    text = ok("evaluate", adapter, "--input", reviews, "--show-errors", 1)
    assert "95 % interval" in text
    assert "label \\ predicted" in text
    assert "--bare: without the adapter this model has no trained head" in call(
        "evaluate", adapter, "--input", reviews, "--bare"
    ).stderr.replace("\n", " ")


def test_a_metric_of_choice_and_a_label_that_is_no_class(reviews: Path, bert: Path, tmp_path: Path) -> None:
    adapter = train(tmp_path, reviews, "-m", bert)
    found = json.loads(ok("evaluate", adapter, "-i", reviews, "--json", "--metric", "macro_f1", "--limit-eval", 8))
    assert (found["metric"], found["examples"]) == ("macro_f1", 8)
    table = tmp_path / "new.csv"
    table.write_text("text,label\n" + "good film,great\n" * 12)
    assert "'great'" in call("evaluate", adapter, "--input", table).stderr
    assert "bbc-news has the classes" in call("evaluate", adapter, "--input", "bbc-news").stderr


def test_numbers(tmp_path: Path, bert: Path) -> None:
    table = tmp_path / "prices.csv"
    table.write_text("text,label\n" + "".join(f"w{k % 9} film,{k % 9}\n" for k in range(40)))
    adapter = train(tmp_path, table, "-m", bert, "--regression")
    found = json.loads(ok("evaluate", adapter, "--input", table, "--json", "--show-errors", 2))
    assert found["metric"] == "pearson"
    assert found["classes"] == []
    trained = load_adapter(str(adapter))
    values = trained.predict([(f"w{k % 9} film",) for k in range(40)])[:, 0].numpy()
    targets = np.arange(40) % 9
    assert found["value"] == pytest.approx(np.corrcoef(values, targets)[0, 1], abs=1e-4)
    worst = found["errors"][0]
    assert abs(worst["value"] - worst["label"]) == pytest.approx(np.abs(values - targets).max(), abs=1e-4)


def test_images(images: Path, timm_vit: Path, tmp_path: Path) -> None:
    adapter = train(tmp_path, images, "-m", timm_vit)
    found = json.loads(ok("evaluate", adapter, "--input", images, "--json"))
    assert found["examples"] == sum(1 for _ in images.rglob("*.png"))


def test_generated_text_with_and_without_the_adapter(decoder: Path, tmp_path: Path) -> None:
    table = tmp_path / "qa.jsonl"
    table.write_text(
        "".join(json.dumps({"prompt": f"w{k % 5} is", "completion": f"w{k % 5}"}) + "\n" for k in range(30))
    )
    adapter = train(tmp_path, table, "-m", decoder, "--max-new-tokens", 3, "--learning-rate", 0.05)
    words = ("evaluate", adapter, "--input", table, "--json", "--show-errors", 1)
    adapted, bare = (json.loads(ok(*words, *more)) for more in ((), ("--bare",)))
    assert adapted["metric"] == "answer_loss"
    assert adapted["value"] != bare["value"]
    assert set(bare["errors"][0]) >= {"prompt", "label", "generated"}
    other = tmp_path / "wiki.jsonl"
    other.write_text("".join(json.dumps({"text": f"w{k % 7} w{k % 11} film"}) + "\n" for k in range(12)))
    assert json.loads(ok(*words))["forgetting"] is None
    forgotten = json.loads(ok(*words, "--forgetting", other))["forgetting"]
    assert (forgotten["metric"], forgotten["examples"]) == ("answer_loss", 12)
    untouched = train(
        tmp_path / "other",
        other,
        "-m",
        decoder,
        "--family",
        "generation",
        "--method",
        "genft",
        "--learning-rate",
        1e-12,
    )
    of_the_base = json.loads(ok("evaluate", untouched, "--input", other, "--json"))
    assert forgotten["base"] == pytest.approx(of_the_base["scores"]["answer_loss"], rel=1e-4)
    assert abs(forgotten["adapted"] - forgotten["base"]) > 1e-3
    assert "forgetting " in ok(*words[:4], "--forgetting", other)
