"""Adapters and results that earlier releases wrote (tests/fixtures) load and mean what they meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import genft
from fixtures.base import BASES, logits, save_bert
from genft.runs.store import Store, unpack

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASES = ("v0.1",)
#: As in tests/fixtures/write.py.
TEXTS = [("w1 good w2",), ("bad w3 w4 w5",), ("w6 w7",)]
#: Logits are about 1; they were computed by another release of torch, perhaps on another processor.
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def expected(release: str) -> dict[str, Any]:
    return json.loads((FIXTURES / release / "expected.json").read_text())


def names(kind: str) -> list[tuple[str, str]]:
    return [(release, name) for release in RELEASES for name in expected(release)[kind]]


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("models") / "small-bert")


@pytest.mark.parametrize(("release", "name"), names("peft"))
def test_what_peft_saved_gives_the_recorded_logits(release: str, name: str) -> None:
    folder, record = FIXTURES / release / "peft" / name, expected(release)["peft"][name]
    base = BASES[record["base"]]()
    if record["base"] == "vit" and not hasattr(base.vit, "layers"):
        pytest.skip("this transformers has other names for ViT's modules, which were those of the adapter's base")
    before = logits(base, record["base"])
    model = PeftModel.from_pretrained(base, folder).eval()
    recorded = torch.tensor(record["logits"])
    torch.testing.assert_close(logits(model, record["base"]), recorded, **CLOSE)
    assert (recorded - before).abs().max() > 1e-2


@pytest.mark.parametrize(("release", "name"), names("runs"))
def test_what_a_run_saved_gives_the_recorded_predictions(release: str, name: str, small_bert: Path) -> None:
    trained = genft.load_adapter(FIXTURES / release / "out" / "adapters" / name, base=str(small_bert))
    assert trained.saved.classes == ("no", "yes")
    probabilities = torch.tensor(expected(release)["runs"][name]["probabilities"])
    torch.testing.assert_close(trained.predict(TEXTS), probabilities, **CLOSE)


@pytest.mark.parametrize("release", RELEASES)
def test_another_base_is_still_refused(release: str) -> None:
    base = BASES["bert"]()
    base.bert.encoder.layer[1].attention.self.value.weight.data[0, 0] += 0.5
    with pytest.raises(genft.BaseMismatchError, match=r"layer\.1\.attention\.self\.value"):
        PeftModel.from_pretrained(base, FIXTURES / release / "peft" / "genft")


@pytest.mark.parametrize("release", RELEASES)
def test_stored_results_are_read(release: str) -> None:
    store = Store(FIXTURES / release / "out")
    results = {result.method: result for result in store}
    assert set(results) == {"genft", "vectorfit", "lora", "linear"}
    assert all(result.scores.value == result.scores.metrics["accuracy"] for result in results.values())
    assert all(len(unpack(result.predictions)) == result.examples["report"] == 8 for result in results.values())
    assert (results["linear"].counts.adapter, results["linear"].counts.head) == (0, 34)
    assert {run.key for run in store.compared()} == {result.key for result in results.values()}
    (failure,) = store.failed()
    assert failure.method == "bitfit"
    assert "no linear weight matches 'absent'" in failure.error
