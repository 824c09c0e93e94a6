"""Folders are replaced whole, and by one writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from genft import ConfigError
from genft.adapters.folder import new_folder


def write(out: Path, text: str) -> None:
    with new_folder(out, replace=True) as folder:
        (folder / "a").write_text(text)


def test_an_older_folder_is_replaced_or_kept_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    (out / "only in the old one").write_text("")

    def fails() -> None:
        with new_folder(out, replace=True) as folder:
            (folder / "a").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match=r"out: cannot be written \(No space left on device\)"):
        fails()
    assert {p.name for p in out.iterdir()} == {"a", "only in the old one"}
    assert (out / "a").read_text() == "old"
    write(out, "new")
    assert [p.name for p in out.iterdir()] == ["a"]
    assert (out / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (".out.4711.partial", ".out.4711.old", ".other.4711.partial", ".out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    write(tmp_path / "out", "new")
    assert {p.name for p in tmp_path.iterdir()} == {"out", ".other.4711.partial", ".out"}
