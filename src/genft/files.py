"""Atomic writes, and reads that refuse anything but regular files."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from pathlib import Path

from genft.errors import ConfigError, DataError

#: The most bytes of a task's or model's name in a file name, which may have 255 bytes in total.
LONGEST_PART = 60


def name_part(text: str) -> str:
    """The beginning of ``text`` that fits into a file name together with other parts."""
    return text.encode()[:LONGEST_PART].decode(errors="ignore")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that other processes see all of it or nothing, even if the machine crashes in between.

    Raises:
        ConfigError: the file cannot be written, or ``path`` is something other than a file (a device, a folder).
    """
    target = path.resolve()  # a link stays a link; its target is written
    check_writable(path)
    temporary = target.with_name(f".{uuid.uuid4().hex}.partial")  # two machines may have the same process ids
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"{path}: cannot be written ({e.strerror})") from None


def check_writable(path: Path) -> None:
    """Refuse, before any work, an output that could not be written.

    Raises:
        ConfigError: ``path`` is something other than a file (a device, a folder), or its folder is missing.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise ConfigError(f"{path}: is not a regular file, so nothing was written to it")
    if not target.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written, because the folder {target.parent} does not exist")


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file. Pipes and devices, which may never end, are refused without blocking.

    Args:
        path: the file.
        most: the largest size in bytes.

    Raises:
        DataError: it cannot be read, is not a regular file, or is too large.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{path}: is a pipe or a device, not a regular file; save its content to a file first")
            if most is not None and status.st_size > most:
                raise DataError(f"{path}: has {status.st_size:,} bytes; free memory allows at most {most:,}")
            return file.read()
    except DataError:
        raise
    except FileNotFoundError:
        missing = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise DataError(f"{path}: {missing}") from None
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        raise DataError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e})") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
