"""The store: whole files or none, and results that come back as they were."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genft import ConfigError, DataError
from genft.models.parameters import Counts
from genft.report.style import count, duration, size
from genft.report.terminal import comparison
from genft.runs.measured import ComparedRun, Cost, Failure, History, Provenance, Result, Scores
from genft.runs.store import Store, pack, unpack

#: A result as genft 0.1 wrote it, before results were nested.
FLAT: dict[str, Any] = {
    "key": "k",
    "label": "x",
    "spec": {"limit_train": None, "limit_eval": None},
    "task": "t",
    "model": "m",
    "method": "genft",
    "seed": 0,
    "protocol": "holdout",
    "metric": "accuracy",
    "score": 0.9,
    "metrics": {"accuracy": 0.9},
    "interval": (0.85, 0.94),
    "examples": {"train": 1, "select": 1, "report": 1},
    "epochs": [{"epoch": 1.0, "accuracy": 0.9}],
    "best_epoch": 1,
    "steps": 1,
    "resumed_at": 0,
    "adapter_parameters": 67_584,
    "head_parameters": 1_925,
    "total_parameters": 22_784_650,
    "seconds_per_step": 0.25,
    "seconds": 40.0,
    "peak_memory_bytes": 1_460_285_440,
    "peak_memory_of": "process",
    "adapter": "adapters/x",
    "adapter_bytes": 282_020,
    "predictions": pack(np.arange(3, dtype=np.uint16)),
    "targets": "",
    "model_fingerprint": "",
    "data_fingerprint": "",
    "device": "CPU",
    "versions": {},
    "started": "",
}


def result(key: str = "k", **changed: Any) -> Result:
    return Result.model_validate({**FLAT, "key": key, **changed})


def test_comparisons_of_the_former_short_name_are_the_same_comparisons(tmp_path: Path) -> None:
    """Two hashes with the same eight digits are unlikely, but not the same hash."""
    former = [
        {"matrix": matrix, "task": "t", "label": "genft", "seed": seed, "key": f"k{seed}"}
        for matrix, seed in (("01234567", 0), ("01234567", 1), ("89abcdef", 2))
    ]
    store = Store(tmp_path).open()
    (tmp_path / "bench.json").write_text(json.dumps({"cells": former}))
    store.add_compared([ComparedRun(matrix="0123456789abcdef", task="t", label="genft", seed=1, key="new")])
    assert [(run.matrix, run.seed, run.key) for run in store.compared()] == [
        ("0123456789abcdef", 0, "k0"),
        ("0123456789abcdef", 1, "new"),
        ("89abcdef", 2, "k2"),
    ]


def test_a_flat_result_is_read_as_a_nested_one(tmp_path: Path) -> None:
    """Stores of genft 0.1 hold flat results."""
    store = Store(tmp_path).open()
    store.path("k").write_text(json.dumps(FLAT))
    read = store.get("k")
    assert read is not None
    assert read.scores == Scores(metric="accuracy", value=0.9, metrics={"accuracy": 0.9}, interval=(0.85, 0.94))
    assert read.history == History(epochs=[{"epoch": 1.0, "accuracy": 0.9}], best_epoch=1, steps=1, resumed_at=0)
    assert read.counts == Counts(adapter=67_584, head=1_925, total=22_784_650)
    assert read.cost == Cost(
        seconds=40.0,
        seconds_per_step=0.25,
        peak_memory_bytes=1_460_285_440,
        peak_memory_of="process",
        adapter_bytes=282_020,
    )
    assert read.provenance == Provenance(
        model_fingerprint="", data_fingerprint="", device="CPU", versions={}, started=""
    )
    store.put(read)
    assert store.get("k") == read
    assert "score" not in json.loads(store.path("k").read_text())


@pytest.mark.parametrize("broken", [{"score": None}, {"unknown": 1}, {"seconds": "long"}])
def test_a_flat_result_that_is_wrong_is_refused(broken: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path).open()
    store.path("k").write_text(json.dumps(FLAT | broken))
    with pytest.raises(DataError, match="is not a result of this version"):
        store.get("k")


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path).open()
    store.put(result("a"))
    store.put(result("b", score=0.8))
    assert store.get("a") == result("a")
    assert store.get("c") is None
    assert [r.scores.value for r in store] == [0.9, 0.8]
    assert sorted(p.name for p in store.results.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": "a"}', b"\xff"])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path).open()
    store.path("a").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: is not a result of this version .*delete it"):
        store.get("a")


@pytest.mark.parametrize("array", [np.arange(1000, dtype=np.uint16), np.linspace(-1, 1, 7, dtype=np.float32)])
def test_arrays_as_text(array: Any) -> None:
    assert np.array_equal(unpack(pack(array)), array)
    assert unpack(pack(array)).dtype == array.dtype


def _put_often(out: Path, n: int) -> None:
    for i in range(n):
        Store(out).put(result("shared", score=i / n))


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    """Two processes write one key while this one reads it."""
    store = Store(tmp_path).open()
    store.put(result("shared"))
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_put_often, args=(tmp_path, 100)) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert store.get("shared") is not None
        reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads > 0
    assert [p.name for p in store.results.iterdir()] == ["shared.json"]


def test_the_comparison_fits_80_columns_and_is_sorted() -> None:
    from rich.console import Console

    console = Console(width=80)
    with console.capture() as shown:
        console.print(
            comparison([result(method="linear", score=0.7), result(method="adaptformer", adapter_bytes=90_800_000)])
        )
    lines = shown.get().splitlines()
    assert [line.split()[0] for line in lines if "." in line] == ["adaptformer", "linear"]
    (best,) = (line.split() for line in lines if "adaptformer" in line)
    assert best == ["adaptformer", "0.900", "0.850–0.940", "67,584", "1,925", "0.250", "1.46", "GB", "90,800,000"]


def test_numbers_for_people() -> None:
    assert [size(n) for n in (12, 282_020, 3_400_000, 1_460_285_440)] == ["12 B", "282 kB", "3.4 MB", "1.46 GB"]
    assert [count(n) for n in (67_584, 22_713_216)] == ["67,584", "22.71 M"]
    assert [duration(s) for s in (8, 89, 100, 7500)] == ["8 s", "89 s", "2 min", "2 h 5 min"]


def test_a_failure_beside_a_result_is_forgotten(tmp_path: Path) -> None:
    """Of two processes, the one that failed may write after the one that went well."""
    store = Store(tmp_path).open()
    store.put(result("a"))
    for key in "ab":
        store.fail(Failure(key=key, task="t", method="genft", seed=0, error="it went wrong", spec={}))
    assert [failure.key for failure in store.failed()] == ["b"]


def test_one_run_ends_while_another_makes_its_checkpoints(tmp_path: Path) -> None:
    """A thousand tiny runs, two at a time, met it: one removed the folder that the other was about to write into."""
    store = Store(tmp_path)
    store.checkpoints("a").mkdir(parents=True)
    store.drop_checkpoints("a")
    store.checkpoints("b").mkdir()


def test_a_failure_that_cannot_be_noted_is_a_sentence(tmp_path: Path) -> None:
    store = Store(tmp_path).open()
    (tmp_path / "failures").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match="failures: the folder cannot be created"):
        store.fail(Failure(key="k", task="t", method="genft", seed=0, error="it went wrong", spec={}))
