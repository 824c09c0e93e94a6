"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genft import ConfigError, DataError
from genft.files import check_writable, read_regular, write_atomically


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"a\.json: cannot be written \(No space left on device\)"):
        write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "target.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    write_atomically(tmp_path / "link.json", b"new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "target.json").read_text() == "new"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_files_are_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")
    before = path.stat().st_mode
    with pytest.raises(ConfigError, match="a: is not a regular file, so nothing was written to it"):
        write_atomically(path, b"new")
    assert path.stat().st_mode == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_name_of_255_letters(tmp_path: Path) -> None:
    """The temporary file beside it must not have a longer name."""
    write_atomically(tmp_path / ("x" * 255), b"new")
    assert [len(p.name) for p in tmp_path.iterdir()] == [255]


def test_what_cannot_be_written_is_known_before_any_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.csv")
    with pytest.raises(ConfigError, match="not a regular file"):
        check_writable(tmp_path)
    with pytest.raises(ConfigError, match=r"a\.csv: cannot be written, because the folder .*nowhere does not exist"):
        check_writable(tmp_path / "nowhere" / "a.csv")


def test_a_pipe_is_said_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(DataError) as e:
        read_regular(tmp_path / "a")
    assert (
        str(e.value) == f"{tmp_path / 'a'}: is a pipe or a device, not a regular file; save its content to a file first"
    )
