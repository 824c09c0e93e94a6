"""Data sets of the Hub by name: their splits, their parts, class names, configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genft import ConfigError, DataError
from genft.data import hub_sets, read, task_from_path
from genft.data.hub_sets import hub_files, is_hub_name
from genft.data.parquet import read_parquet

Write = Callable[[str, dict[str, list[object]]], None]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files of the Hub's copy, the only data set there is."""
    features = {"stars": {"names": ["bad", "good"], "_type": "ClassLabel"}}

    def write(name: str, columns: dict[str, list[object]]) -> None:
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        written = json.dumps({"info": {"features": features}})
        pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": written}), path)

    monkeypatch.setattr(hub_sets, "fetch_data", lambda repo, patterns: tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    return write


def rows(n: int, start: int = 0) -> dict[str, list[object]]:
    return {"review": [f"text {k}" for k in range(start, start + n)], "stars": [k % 2 for k in range(n)]}


def test_a_data_set_with_parts_and_class_names(hub: Write) -> None:
    hub("data/train-00000-of-00002.parquet", rows(20))
    hub("data/train-00001-of-00002.parquet", rows(10, 20))
    hub("data/test-00000-of-00001.parquet", rows(6, 30))
    task = task_from_path(Path("owner/reviews"))
    assert (task.name, task.hub, task.text_columns, task.label_column) == (
        "reviews", "owner/reviews", ("review",), "stars",
    )  # fmt: skip
    data = read(task)
    assert data.task.classes == ("bad", "good")
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 30
    assert len(data.splits["test"]) == 6
    assert "columns: 'review' for the text, 'stars' for the label" in data.notes


def test_examples_without_a_label_are_named(hub: Write) -> None:
    hub("train.parquet", {"review": ["a", "b"], "stars": [1, -1]})
    assert [row["stars"] for row in read_parquet(Path("copy/train.parquet"))] == ["good", None]
    with pytest.raises(DataError, match=r"train.parquet: row 2: "):
        read(task_from_path(Path("owner/reviews")))


def test_configurations_are_chosen_by_name(hub: Write) -> None:
    hub("plain/train.parquet", rows(20))
    hub("other/train.parquet", rows(20))
    with pytest.raises(
        ConfigError, match=r"owner/reviews: has several configurations; .* owner/reviews:other; allowed: other, plain"
    ):
        hub_files("owner/reviews")
    assert hub_files("owner/reviews:plain")["train"].parent.name == "plain"
    with pytest.raises(ConfigError, match=r"configuration.*plian.*nearest: 'plain'"):
        hub_files("owner/reviews:plian")


def test_one_file_is_for_training_and_several_need_names(hub: Write) -> None:
    hub("reviews.parquet", rows(20))
    assert hub_files("owner/reviews")["train"].name == "reviews.parquet"
    hub("more.parquet", rows(20))
    with pytest.raises(DataError, match=r"no file is named after a split; its tables: more.parquet, reviews.parquet"):
        hub_files("owner/reviews")


def test_paths_are_not_names(hub: Write, tmp_path: Path) -> None:
    assert is_hub_name("owner/reviews")
    assert is_hub_name("owner/reviews:plain")
    assert not is_hub_name("owner/reviews.csv")
    assert not is_hub_name("reviews")
    (tmp_path / "mine").mkdir()
    assert not is_hub_name("mine/reviews")  # the folder exists, so the file is missing


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"train.parquet: is not a Parquet file"):
        read_parquet(tmp_path / "train.parquet")
