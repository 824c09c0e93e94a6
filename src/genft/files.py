"""Atomic file writes."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from genft.errors import ConfigError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all, even if the machine stops in between.

    Raises:
        ConfigError: the file cannot be written, or ``path`` is something other than a file (a device, a folder).
    """
    target = path.resolve()  # a link stays a link; the file that it points to is written
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
