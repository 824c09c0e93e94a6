"""Folders of images as people have them: nothing becomes a class, or vanishes, without a word."""

from pathlib import Path

import pytest
from PIL import Image

from genft import DataError
from genft.data import TaskData, read, task_from_path
from genft.data.check import check_task
from genft.data.image_folders import is_image_folder, list_images


def fill(folder: Path, *names: str, start: int = 0, n: int = 12) -> Path:
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for k in range(n):
            Image.new("RGB", (8, 8), (start + k, 100 * c, 0)).save(folder / name / f"{k}.png")
    return folder


def load(path: Path) -> TaskData:
    return read(task_from_path(path))


@pytest.mark.parametrize(
    "names", [("Train", "Validation", "Test"), ("TRAINING", "dev", "testing"), ("train_set", "Val-Set", "tst")]
)
def test_splits_in_any_spelling(tmp_path: Path, names: tuple[str, ...]) -> None:
    for k, name in enumerate(names):
        fill(tmp_path / name, "cats", "dogs", start=20 * k)
    data = load(tmp_path)
    assert data.task.classes == ("cats", "dogs")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 24, "validation": 24, "test": 24}


def test_splits_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "Validation"):
        fill(tmp_path / name, "cats", "dogs")
    with pytest.raises(DataError, match="are both named for the validation split; keep one"):
        load(tmp_path)


def test_a_test_split_without_one_for_training_is_refused(tmp_path: Path) -> None:
    fill(fill(tmp_path, "cats", "dogs") / "Test", "cats", "dogs")
    with pytest.raises(DataError, match=r"has a folder Test, but no training folder"):
        load(tmp_path)


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    assert load(fill(tmp_path, "control", "test")).task.classes == ("control", "test")


def test_what_lies_beside_the_splits_is_told(tmp_path: Path) -> None:
    fill(fill(tmp_path, "extra", n=3) / "train", "cats", "dogs")
    assert f"{tmp_path}: 3 images outside the split folders left out: extra" in load(tmp_path).notes


def test_hidden_and_system_files_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "cats", "dogs", ".ipynb_checkpoints", "__MACOSX")
    (tmp_path / "cats" / "._3.png").write_bytes(b"\x00\x05\x16\x07 not a picture")
    data = load(tmp_path)
    assert data.task.classes == ("cats", "dogs")
    assert sum(map(len, data.splits.values())) == 24
    assert f"{tmp_path}: 25 hidden or system files left out" in data.notes


def test_a_class_of_files_that_cannot_be_read_does_not_vanish(tmp_path: Path) -> None:
    (fill(tmp_path, "cats", "dogs") / "birds").mkdir()
    for k in range(8):
        (tmp_path / "birds" / f"{k}.CR2").write_bytes(b"x")
    with pytest.raises(DataError, match=r"birds: none of its files is an image that can be read: 8 × \.cr2; convert"):
        load(tmp_path)


def test_single_files_and_folders_without_images_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "cats", "dogs")
    for path in ("cats/a.cr2", "cats/notes.txt", "dogs/b.cr2", "loose.png", "docs/readme.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    notes = load(tmp_path).notes
    assert f"{tmp_path}: 3 files left out: 2 × .cr2, 1 × .txt" in notes
    assert f"{tmp_path}: 1 image outside class folders left out" in notes
    assert f"{tmp_path / 'empty'}: the folder is left out: it has no files" in notes
    assert any("docs: the folder is left out: none of its files is an image" in note for note in notes)


def test_links_to_nothing_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "cats", "dogs")
    (tmp_path / "cats" / "x.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"x\.png: is a link to a file that does not exist"):
        load(tmp_path)
    checked = check_task(task_from_path(tmp_path), lambda *_: None)
    assert checked.faults == [f"{tmp_path / 'cats' / 'x.png'}: is a link to a file that does not exist"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    fill(tmp_path, "cats")
    (tmp_path / "cats" / "again").symlink_to(tmp_path)
    assert len(list_images(tmp_path)) == 12


def test_which_folders_hold_classes(tmp_path: Path) -> None:
    assert is_image_folder(fill(tmp_path / "a", "cats", "dogs"))
    fill(tmp_path / "b" / "train", "cats", "dogs")
    assert is_image_folder(tmp_path / "b")
    assert not is_image_folder(fill(tmp_path / "c" / "eurosat" / "images", "train800").parent.parent)
