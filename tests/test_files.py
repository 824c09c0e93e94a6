"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genft import ConfigError
from genft.files import write_atomically


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
