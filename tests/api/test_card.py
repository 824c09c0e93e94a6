"""The card of a saved adapter says how to load it, whoever saves it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from huggingface_hub import ModelCard
from peft import PeftModel, get_peft_model

from families import FAMILIES
from genft import METHODS, GenFTConfig
from genft.api.card import CARD

BERT = FAMILIES["bert"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    BERT.build().save_pretrained(folder)
    return folder


def fresh(base: Path) -> Any:
    return hf.AutoModelForSequenceClassification.from_pretrained(base)


def by_peft(base: Path, folder: Path) -> Any:
    model = get_peft_model(fresh(base), GenFTConfig(init_weights=False, task_type="SEQ_CLS"))
    model.save_pretrained(folder)
    return model


def by_transformers(base: Path, folder: Path) -> Any:
    model = fresh(base)
    model.add_adapter(GenFTConfig(init_weights=False, base_model_name_or_path=str(base)))
    model.save_pretrained(folder)
    return model


def by_trainer(base: Path, folder: Path) -> Any:
    """With the card that a Trainer makes before it pushes to the Hub."""
    model = get_peft_model(fresh(base), GenFTConfig(init_weights=False, task_type="SEQ_CLS"))
    trainer = hf.Trainer(model, hf.TrainingArguments(str(folder), report_to=[], use_cpu=True))
    trainer.save_model()
    trainer.create_model_card()
    assert "Training procedure" in (folder / CARD).read_text(encoding="utf-8")
    return model


DOORS = [by_peft, by_transformers, by_trainer]


@pytest.mark.parametrize("save", DOORS, ids=lambda door: door.__name__)
def test_the_card_says_genft_the_import_the_base_and_the_method(
    save: Callable[[Path, Path], Any], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.21.0")
    model = save(base, tmp_path).eval()
    card = ModelCard.load(tmp_path / CARD)
    assert "genft" in card.data.tags
    assert card.data.library_name == "peft"
    assert "method genft" in card.text
    assert "`pip install genft`" in card.text
    assert "More Information Needed" not in card.text.partition("<!-- end")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", card.text, re.M | re.S)
    assert "import genft" in block
    assert str(base) in block
    if save is by_transformers:  # which saves neither the task nor the class of the model
        assert "another class than `AutoModel` returns" in card.text
        block = block.replace("AutoModel", "AutoModelForSequenceClassification")
    names: dict[str, Any] = {}
    exec(block.replace("THIS FOLDER", str(tmp_path)), names)
    batch = BERT.batch()
    with torch.no_grad():
        assert torch.equal(names["model"].eval()(**batch).logits, model(**batch).logits)


def test_what_a_colleague_without_genft_meets_is_on_the_card(base: Path, tmp_path: Path) -> None:
    by_peft(base, tmp_path)
    text = (tmp_path / CARD).read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    lines = [line for line in block.splitlines() if not line.startswith("import genft")]
    script = "\n".join(lines).replace("THIS FOLDER", str(tmp_path))
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] in re.search(r"peft raises `(.*?)`", text)[1]  # type: ignore[index]


def test_somebody_s_own_card_keeps_its_text(base: Path, tmp_path: Path) -> None:
    own = "---\nlicense: mit\ntags:\n- mine\n---\n# My adapter\n\nTrained on tickets.\n"
    (tmp_path / CARD).write_text(own, encoding="utf-8")
    model = by_peft(base, tmp_path)
    once = (tmp_path / CARD).read_text(encoding="utf-8")
    model.save_pretrained(tmp_path)
    assert (tmp_path / CARD).read_text(encoding="utf-8") == once
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.license == "mit"
    assert "genft" in card.data.tags
    assert "# My adapter\n\nTrained on tickets." in card.text
    assert card.text.count("pip install genft") == 1


def test_a_card_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("---\ntags: [\n---\n# Mine\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="left unchanged because its front matter cannot be read"):
        GenFTConfig().save_pretrained(str(tmp_path))
    assert (tmp_path / CARD).read_text(encoding="utf-8") == "---\ntags: [\n---\n# Mine\n"
    assert GenFTConfig.from_pretrained(tmp_path) == GenFTConfig()


def test_every_adapter_of_a_model_has_its_card(base: Path, tmp_path: Path) -> None:
    model = by_peft(base, tmp_path)
    model.add_adapter("second", GenFTConfig(task_type="SEQ_CLS"))
    model.save_pretrained(tmp_path)
    for folder in (tmp_path, tmp_path / "second"):
        assert "method genft" in (folder / CARD).read_text(encoding="utf-8")
    assert PeftModel.from_pretrained(fresh(base), tmp_path / "second").active_peft_config.method == "genft"


@pytest.mark.parametrize("name", [n for n, info in METHODS.items() if info.method is not None])
def test_every_method_names_itself(name: str, tmp_path: Path) -> None:
    METHODS[name].config(base_model_name_or_path="org/base", task_type="CAUSAL_LM").save_pretrained(str(tmp_path))
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.base_model == "org/base"
    assert f"method {name}" in card.text.replace("\\", "")
    assert f"KeyError: '{name.upper()}'" in card.text
    assert 'AutoModelForCausalLM.from_pretrained("org/base")' in card.text
