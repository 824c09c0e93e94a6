"""Files that other processes see whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from genft.errors import ConfigError

#: Bytes of a task's or model's name that go into a file name, which may have 255 in all.
LONGEST_PART = 60


def name_part(text: str) -> str:
    """The beginning of ``text`` that fits into a file name beside other parts."""
    return text.encode()[:LONGEST_PART].decode(errors="ignore")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all, even if the machine stops in between.

    Raises:
        ConfigError: the file cannot be written, or ``path`` is something other than a file (a device, a folder).
    """
    target = path.resolve()  # a link stays a link, and what it points to is written
    if target.exists() and not target.is_file():
        raise ConfigError(f"{path}: is not a regular file, so nothing was written to it")
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
