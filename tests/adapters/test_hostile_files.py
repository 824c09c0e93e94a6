"""Adapters from strangers, whatever their files hold: a sentence within a second, and nothing is written."""

import contextlib
import json
import os
import shutil
import struct
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genft import AdapterFileError, ConfigError, GenFTError
from genft.adapters import saved as artifact
from genft.data import find_tasks, task_from_path
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.training.prepared import prepare
from genft.training.run import run

WEIGHTS = "adapter_model.safetensors"
FEW = settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
#: Anything that JSON can hold; sizes that a machine could just about allocate are no test of a reader.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.sampled_from([10**13, 2**70])
    | st.floats()
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=["genft", "vectorfit", "lora"])
def good(request: pytest.FixtureRequest, reviews: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    training = {"epochs": 1, "batch_size": 16}
    preset = Preset(name="none", source="")
    spec = build_spec(task_from_path(reviews), str(bert), preset, training=training, method=request.param).spec
    result = run(prepare(spec), Store(out).open())
    return out / result.adapter


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "adapter"))


def loads_or_says(folder: Path) -> None:
    """Loads, or is one of our sentences; within a second, and the folder holds what it held."""
    before = {path.name: path.lstat().st_mtime_ns for path in folder.parent.rglob("*")}
    began = time.process_time()
    with contextlib.suppress(GenFTError):
        artifact.load(folder)
    assert time.process_time() - began < 1
    assert {path.name: path.lstat().st_mtime_ns for path in folder.parent.rglob("*")} == before


@FEW
@given(data=st.data())
def test_any_value_in_a_configuration(data: st.DataObject, folder: Path, good: Path) -> None:
    name = data.draw(st.sampled_from(["adapter_config.json", artifact.TASK_FILE]))
    content = json.loads((good / name).read_text())
    for key in data.draw(st.lists(st.sampled_from(sorted(content)), min_size=1, max_size=3, unique=True)):
        content[key] = data.draw(JSON)
    content |= data.draw(st.dictionaries(st.text(max_size=9), JSON, max_size=1))
    (folder / name).write_text(json.dumps(content))
    try:
        loads_or_says(folder)
    finally:
        shutil.copy(good / name, folder / name)


@pytest.mark.parametrize("value", [10**5, 10**7, 10**12])
def test_a_rank_beyond_all_use(value: int, folder: Path, good: Path) -> None:
    """It would take memory, and seconds, before the weights were found not to fit."""
    content = json.loads((good / "adapter_config.json").read_text())
    if "shared_dim" not in content:
        pytest.skip("the next test's, or without a rank")
    (folder / "adapter_config.json").write_text(json.dumps(content | {"shared_dim": value}))
    loads_or_says(folder)
    with pytest.raises(ConfigError, match=f"would be 16 × {value}, and a size above 4096 is useless there"):
        artifact.load(folder)


@pytest.mark.parametrize("setting", [{"r": 10**6}, {"r": 1e12}, {"rank_pattern": {"query": 10**6}}])
def test_a_rank_beyond_all_use_of_a_method_of_peft(setting: dict[str, Any], folder: Path, good: Path) -> None:
    content = json.loads((good / "adapter_config.json").read_text())
    if content["peft_type"] != "LORA":
        pytest.skip("not peft's own")
    (folder / "adapter_config.json").write_text(json.dumps(content | setting))
    loads_or_says(folder)
    with pytest.raises(AdapterFileError, match=f"{next(iter(setting))} holds 1.* nothing in .* is so large"):
        artifact.load(folder)


@FEW
@given(cut=st.floats(0, 1), at=st.floats(0, 0.999), byte=st.integers(0, 255))
def test_any_bytes_in_the_weights(cut: float, at: float, byte: int, folder: Path, good: Path) -> None:
    content = bytearray((good / WEIGHTS).read_bytes())
    content[int(at * len(content))] = byte
    (folder / WEIGHTS).write_bytes(content[: int(cut * len(content))] if byte % 2 else content)
    loads_or_says(folder)


@pytest.mark.parametrize("size", [2**63, 2**40, 10**8])
def test_a_huge_header(size: int, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", size) + b'{"a":' + b" " * 100)
    with pytest.raises(AdapterFileError, match="damaged or incomplete"):
        artifact.load(folder)


def test_nan_and_wrong_shapes(folder: Path, good: Path) -> None:
    state = load_file(good / WEIGHTS)
    name = next(k for k, v in state.items() if v.is_floating_point() and v.dim() and "sketch" not in k)
    for wrong in (torch.full_like(state[name], torch.nan), torch.zeros(3, 5, 7)):
        save_file({**state, name: wrong}, folder / WEIGHTS)
        with pytest.raises(GenFTError):
            artifact.load(folder)


@pytest.mark.parametrize(
    "name", ["base_model.model.bert.embeddings.LayerNorm.weight", "base_model.model.bert.pooler.dense.bias", "other"]
)
def test_tensors_that_are_not_the_adapters(name: str, folder: Path) -> None:
    """They would overwrite the base after it has been checked."""
    save_file({**load_file(folder / WEIGHTS), name: torch.zeros(16)}, folder / WEIGHTS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="adapter file: left out 1 of")
        with pytest.raises(AdapterFileError, match=f"holds {name}, which is not this adapter's and would overwrite"):
            artifact.load(folder)


def test_weights_of_the_base_in_a_head(reviews: Path, bert: Path, tmp_path: Path) -> None:
    spec = build_spec(
        task_from_path(reviews), str(bert), Preset(name="none", source=""), training={"epochs": 1}, method="linear"
    ).spec
    folder = tmp_path / run(prepare(spec), Store(tmp_path).open()).adapter
    file, name = folder / "model.safetensors", "bert.embeddings.LayerNorm.weight"
    save_file({**load_file(file), name: torch.zeros(16)}, file)
    with pytest.raises(AdapterFileError, match=f"holds {name}, which is not this adapter's and would overwrite"):
        artifact.load(folder)


def test_weights_without_a_tensor(folder: Path) -> None:
    save_file({}, folder / WEIGHTS)
    with pytest.raises(AdapterFileError, match="it is incomplete"):
        artifact.load(folder)


def test_a_task_file_with_everything_wrong(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'suite = "mine"\n[[tasks]]\nname = 3\nkind = "sound"\nreader = "psychic"\nregression = "perhaps"\n'
        'max_length = "long"\nlabel = 1\nprotocol = ["x"]\n'
    )
    with pytest.raises(ConfigError) as e:
        find_tasks(str(path), None)
    said = str(e.value)
    for field in ("name", "kind", "regression", "max_length", "label", "protocol"):
        assert field in said
    assert len(e.value.problems) >= 6


@FEW
@given(
    key=st.sampled_from(["name", "kind", "reader", "files", "classes", "metric", "training", "text_columns"]),
    value=JSON,
)
def test_any_value_in_a_task_file(key: str, value: Any, tmp_path: Path) -> None:
    values = {"name": '"x"', "kind": '"text"', "reader": '"files"', "files": '{ train = "x.csv" }', key: _toml(value)}
    path = tmp_path / "mine.toml"
    path.write_text('suite = "mine"\n[[tasks]]\n' + "".join(f"{k} = {v}\n" for k, v in values.items()))
    with contextlib.suppress(GenFTError):
        find_tasks(str(path), None)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


#: Parts of patterns; some of their combinations backtrack for longer than the universe has existed.
PARTS = st.sampled_from(
    ["a", ".", "\\d", "[a-z.]", "(a|a)", "(.*)", "(.+)+", "((.|\\w)*)*", "(?:x?)", "$", "\\", "(", "q!"]
)
PATTERN = st.lists(st.tuples(PARTS, st.sampled_from(["", "*", "+", "?", "{2,}", "{0,9}"])), min_size=1, max_size=9).map(
    lambda parts: "".join(part + repeat for part, repeat in parts)
)
SLOW = {"target_modules": "(.*)*(.*)*q!", "exclude_modules": "(([a-z.0-9_]+)+)+!"}


@settings(FEW, max_examples=15)
@given(setting=st.sampled_from(["target_modules", "exclude_modules"]), pattern=PATTERN)
def test_any_pattern_in_a_configuration(setting: str, pattern: str, folder: Path, good: Path) -> None:
    content = json.loads((good / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(content | {setting: pattern}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loads_or_says(folder)


@pytest.mark.parametrize("setting", SLOW)
def test_a_pattern_that_backtracks_without_end(setting: str, folder: Path, good: Path) -> None:
    content = json.loads((good / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(content | {setting: SLOW[setting]}))
    began = sum(os.times()[:4])
    with pytest.raises(ConfigError, match=rf"^{setting}: matching .* takes more than 1 second"):
        artifact.load(folder)
    assert sum(os.times()[:4]) - began < 2.5  # the process that tries it included


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "a" * 20_000])
def test_a_pattern_that_is_none(pattern: str, folder: Path, good: Path) -> None:
    content = json.loads((good / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(content | {"target_modules": pattern}))
    loads_or_says(folder)
    with pytest.raises(ConfigError, match=r"^target_modules: 'a?.*(is not a regular expression|allowed: 10000)"):
        artifact.load(folder)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS, artifact.TASK_FILE, "genft_base.json"])
def test_what_is_no_file(name: str, make: Any, folder: Path) -> None:
    """A FIFO would be waited for without end."""
    (folder / name).unlink()
    make(folder / name)
    loads_or_says(folder)


@FEW
@given(
    name=st.lists(
        st.sampled_from(["base_model", "model", "bert", "encoder", "genft_shared", "default", "..", "x", ""]),
        min_size=1,
        max_size=6,
    ).map(".".join),
    shape=st.lists(st.integers(0, 5), max_size=3),
)
def test_any_surplus_tensor(name: str, shape: list[int], folder: Path, good: Path) -> None:
    state = load_file(good / WEIGHTS)
    if name in state:
        return
    save_file({**state, name: torch.zeros(shape)}, folder / WEIGHTS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="adapter file: left out 1 of")
        with pytest.raises(GenFTError):
            artifact.load(folder)
    loads_or_says(folder)


def test_a_setting_that_needs_a_package_that_is_not_there(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    if config["peft_type"] != "LORA":
        pytest.skip("not peft's own")
    (folder / "adapter_config.json").write_text(json.dumps(config | {"megatron_config": {"tp": 2}}))
    with pytest.raises(AdapterFileError, match="cannot be loaded onto"):
        artifact.load(folder)
