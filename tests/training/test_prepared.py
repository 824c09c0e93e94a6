"""The key of a result: equal runs have equal keys, and what changes a model's input changes the key."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genft import ConfigError
from genft.data import task_from_path
from genft.presets import Preset
from genft.runs.measured import ComparedRun, Result
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run, run_once


def prepared(data: Path, model: Path, **run_values: Any) -> PreparedRun:
    training = {"epochs": 1, **run_values.pop("training", {})}
    spec = build_spec(
        task_from_path(data),
        str(model),
        Preset(name="none", source=""),
        training=training,
        method="linear",
        **run_values,
    ).spec
    return prepare(spec)


def edit_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    path.write_text(json.dumps(content))


def test_another_tokenizer_is_another_run(bert: Path, reviews: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bert, tmp_path / "bert")
    before = prepared(reviews, model)
    assert before.key == prepared(reviews, bert).key
    edit_tokenizer(model)
    after = prepared(reviews, model)
    assert after.key != before.key
    assert after.source.fingerprint == before.source.fingerprint


def test_another_preprocessor_is_another_run(timm_vit: Path, images: Path, tmp_path: Path) -> None:
    model = shutil.copytree(timm_vit, tmp_path / "vit")
    (model / "preprocessor_config.json").write_text('{"resample": 2}')
    before = prepared(images, model).key
    (model / "preprocessor_config.json").write_text('{"resample": 3}')
    assert prepared(images, model).key != before


def test_other_pixels_of_the_same_name_and_size_are_another_run(timm_vit: Path, images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "photos")
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            image.convert("RGB").save(path.with_suffix(".bmp"))
        path.unlink()
    before = prepared(folder, timm_vit)
    path = next(folder.rglob("*.bmp"))
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-3] + b"\1\2\3")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    after = prepared(folder, timm_vit)
    assert path.stat().st_size == status.st_size
    assert after.data.fingerprint == before.data.fingerprint
    assert after.key != before.key


@pytest.fixture
def former(bert: Path, reviews: Path, tmp_path: Path) -> tuple[PreparedRun, Store, Result]:
    """A result as a genft left it whose keys had no tokenizer in them."""
    planned, store = prepared(reviews, bert), Store(tmp_path).open()
    assert planned.former_key == planned.spec.key(planned.method, planned.source.fingerprint, planned.data.fingerprint)
    result = run(planned, store)
    assert result.provenance.input_fingerprint == planned.input_fingerprint
    content = json.loads(store.path(planned.key).read_text()) | {"key": planned.former_key}
    del content["provenance"]["input_fingerprint"]
    store.path(planned.key).unlink()
    store.path(planned.former_key).write_text(json.dumps(content))
    return planned, store, result


def test_former_results_are_found_and_get_their_key(former: tuple[PreparedRun, Store, Result]) -> None:
    planned, store, result = former
    store.add_compared([ComparedRun(matrix="m", task="reviews", label="linear", seed=0, key=planned.former_key)])
    found = run_once(planned, store)
    assert (found.predictions, found.adapter) == (result.predictions, result.adapter)
    assert found.key == planned.key
    assert found.provenance.input_fingerprint is None  # nobody recorded it
    assert store.keys() == [planned.key]
    assert [run.key for run in store.compared()] == [planned.key]


def test_former_results_on_images_that_are_decoded_otherwise_today_are_not_taken(
    timm_vit: Path, images: Path, tmp_path: Path
) -> None:
    folder, store = shutil.copytree(images, tmp_path / "photos"), Store(tmp_path / "out").open()
    plain = prepared(folder, timm_vit)
    result = run(plain, store)

    def is_taken(planned: PreparedRun) -> bool:
        here = Store(tmp_path / planned.key).open()
        here.put(result.model_copy(update={"key": planned.former_key}))
        return planned.stored(here) is not None

    assert is_taken(plain)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "dark" / "00.png")
    assert not is_taken(prepared(folder, timm_vit))


def test_long_names_make_folders_that_file_systems_take(bert: Path, reviews: Path, tmp_path: Path) -> None:
    data = tmp_path / f"{'n' * 240}.csv"
    shutil.copy(reviews, data)
    planned = prepared(data, bert)
    assert len(planned.name.encode()) < 220
    assert prepared(shutil.copy(reviews, tmp_path / f"{'東' * 80}.csv"), bert).name.startswith("東" * 20 + "-")
    result = run(planned, Store(tmp_path).open())
    assert (tmp_path / result.adapter / "genft_task.json").is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 2**32}, "seed: .*less than 4294967296"),
        ({"training": {"learning_rate": float("inf")}}, "learning_rate: should be a finite number"),
        ({"training": {"max_grad_norm": float("nan")}}, "max_grad_norm: should be a finite number"),
        ({"training": {"image_size": 100_000}}, "image_size: .*less than or equal to 4096"),
    ],
)
def test_values_beyond_all_use_are_refused(bert: Path, reviews: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(reviews, bert, **values)


def test_copies_held_together_are_another_run(bert: Path, reviews: Path, tmp_path: Path) -> None:
    """The tenth that selects was drawn without regard to copies; a result of then is not one of now."""
    copied = tmp_path / "copied.csv"
    header, *lines = reviews.read_text().splitlines(keepends=True)
    copied.write_text(header + "".join(lines) * 2)
    assert prepared(reviews, bert, protocol="validation").former_key is not None
    assert prepared(copied, bert, protocol="holdout").former_key is not None
    assert prepared(copied, bert, protocol="validation").former_key is None
