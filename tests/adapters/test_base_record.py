"""A saved adapter knows its whole base and its tokenizer, whatever method it is of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from genft import AdapterFileError, BaseMismatchError, allow_other_base, load_adapter
from genft.adapters.base_record import read_base_record, take_base_record
from genft.adapters.folder import BASE_FILE, TASK_FILE
from genft.data import task_from_path
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.training.prepared import prepare
from genft.training.run import run
from saved_models import WORDS

TEXTS = [("w1 good w2",), ("bad w3 w4 w5",)]
EMBEDDINGS = "embeddings.word_embeddings.weight"


def trained(method: str, reviews: Path, bert: Path, out: Path) -> Path:
    training = {"epochs": 1, "batch_size": 16}
    preset = Preset(name="none", source="")
    spec = build_spec(task_from_path(reviews), str(bert), preset, training=training, method=method).spec
    store = Store(out).open()
    run(prepare(spec), store)
    (folder,) = (out / "adapters").iterdir()
    return folder


@pytest.fixture(scope="module", params=["genft", "lora", "linear", "pissa", "prompt_tuning"])
def adapter(
    request: pytest.FixtureRequest, reviews: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return trained(request.param, reviews, bert, tmp_path_factory.mktemp("out"))


def edited(bert: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(bert, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_other_embeddings_are_refused(adapter: Path, bert: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[EMBEDDINGS][5, 3] += 0.01

    other = edited(bert, tmp_path / "other", change)
    with pytest.raises(BaseMismatchError, match=rf"this base model has other values in bert\.{EMBEDDINGS}"):
        load_adapter(adapter, base=str(other))
    with allow_other_base():
        load_adapter(adapter, base=str(other))


def test_the_same_base_saved_again_and_in_another_precision(adapter: Path, bert: Path, tmp_path: Path) -> None:
    """Rounded weights that are loaded as float32 are other weights to the methods of genft, which start from them."""
    trained = load_adapter(adapter)
    expected = trained.predict(TEXTS)
    precisions = [(torch.float32, 1e-6), (torch.bfloat16, 5e-2), (torch.float16, 1e-2)]
    for dtype, tolerance in precisions[:1] if trained.saved.method == "genft" else precisions:
        folder = shutil.copytree(bert, tmp_path / str(dtype))
        hf.BertModel.from_pretrained(bert, dtype=dtype).save_pretrained(folder, max_shard_size="5KB")
        (folder / "model.safetensors").unlink()
        outputs = load_adapter(adapter, base=str(folder)).predict(TEXTS)
        torch.testing.assert_close(outputs, expected, atol=tolerance, rtol=0)


def test_a_base_without_one_of_the_weights_is_refused(reviews: Path, bert: Path, tmp_path: Path) -> None:
    adapter = trained("linear", reviews, bert, tmp_path / "out")
    other = shutil.copytree(bert, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(BaseMismatchError, match=r"this base model has no weight bert\.encoder\.layer\.1\."):
        load_adapter(adapter, base=str(other))


def test_the_record_and_the_task_belong_together(adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    record = json.loads((folder / BASE_FILE).read_text())
    record["weights"][f"bert.{EMBEDDINGS}"] = ["0" * 16] * 3
    (folder / BASE_FILE).write_text(json.dumps(record))
    with pytest.raises(AdapterFileError, match=f"{BASE_FILE}: does not belong to this adapter"):
        load_adapter(folder)
    (folder / BASE_FILE).write_text("{")
    with pytest.raises(AdapterFileError, match=f"{BASE_FILE}: is damaged"):
        load_adapter(folder)
    (folder / BASE_FILE).unlink()
    with pytest.raises(AdapterFileError, match=f"{BASE_FILE}: does not belong to this adapter"):
        load_adapter(folder)


def test_an_adapter_of_before_has_no_record_and_loads(adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    (folder / BASE_FILE).unlink()
    task = json.loads((folder / TASK_FILE).read_text())
    del task["base_fingerprint"], task["tokenizer_fingerprint"]
    (folder / TASK_FILE).write_text(json.dumps(task))
    torch.testing.assert_close(load_adapter(folder).predict(TEXTS), load_adapter(adapter).predict(TEXTS))


def test_what_is_recorded_are_the_frozen_weights(adapter: Path, bert: Path) -> None:
    record = read_base_record(adapter)
    assert record is not None
    weights = {f"bert.{name}" for name in load_file(bert / "model.safetensors")}
    method = json.loads((adapter / TASK_FILE).read_text())["method"]
    changed = {name for name in weights if name.endswith(("query.weight", "value.weight")) and method == "pissa"}
    biases = {name.replace(".weight", ".bias") for name in changed}  # left out with their weight
    assert set(record.weights) == weights - changed - biases


def test_a_model_that_is_trained_whole_has_no_record(reviews: Path, bert: Path, tmp_path: Path) -> None:
    folder = trained("full", reviews, bert, tmp_path)
    assert read_base_record(folder) is None
    assert load_adapter(folder)
    tensors = load_file(folder / "model.safetensors")
    name = f"bert.{EMBEDDINGS}"
    save_file({k: v for k, v in tensors.items() if k != name}, folder / "model.safetensors")
    with pytest.raises(AdapterFileError, match=rf"has no values for {name}; it is incomplete"):
        load_adapter(folder)


def test_shards_are_not_recorded() -> None:
    class Shard(torch.Tensor):
        pass

    model = torch.nn.Linear(2, 2)
    model.weight = torch.nn.Parameter(torch.ones(2, 2).as_subclass(Shard), requires_grad=False)
    assert take_base_record(model) is None


# -------------------------------------------------------------------- the tokenizer


def other_tokenizer(folder: Path) -> None:
    """Two words exchanged, which changes no size."""
    text = (folder / "tokenizer.json").read_text()
    good, bad = (f'"{word}": {WORDS.index(word)}' for word in ("good", "bad"))
    exchanged = text.replace(good, '"good": -1').replace(bad, f'"bad": {WORDS.index("good")}')
    exchanged = exchanged.replace('"good": -1', f'"good": {WORDS.index("bad")}')
    assert exchanged != text
    (folder / "tokenizer.json").write_text(exchanged)


def test_predictions_use_the_tokenizer_of_training(reviews: Path, bert: Path, tmp_path: Path) -> None:
    base = shutil.copytree(bert, tmp_path / "base")
    adapter = trained("lora", reviews, base, tmp_path / "out")
    expected = load_adapter(adapter).predict(TEXTS)
    other_tokenizer(base)
    torch.testing.assert_close(load_adapter(adapter).predict(TEXTS), expected)
    for file in adapter.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(
        BaseMismatchError, match=r"the tokenizer of .* is not the one used in training, and .* has none"
    ):
        load_adapter(adapter)


def test_an_exchanged_tokenizer_in_the_folder_is_refused(reviews: Path, bert: Path, tmp_path: Path) -> None:
    adapter = trained("linear", reviews, bert, tmp_path)
    other_tokenizer(adapter)
    with pytest.raises(AdapterFileError, match="its tokenizer is not the one used in training"):
        load_adapter(adapter)
    (adapter / "tokenizer.json").write_text("{")
    with pytest.raises(AdapterFileError, match="its tokenizer cannot be read"):
        load_adapter(adapter)
