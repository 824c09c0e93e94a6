"""Limits on reading untrusted data files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from genft.errors import DataError
from genft.files import read_regular

#: The most characters in one text. Tokenizers take about 200 bytes of memory per character, even if they truncate it.
LONGEST_TEXT = 1_000_000

#: A table takes several times its size on disk; a file above this fraction of the free memory is refused.
_FILE_SHARE = 1 / 8


def read_data_file(path: Path) -> bytes:
    """The content of a data file.

    Raises:
        DataError: it cannot be read, is a pipe or a device, or is too large for the memory.
    """
    return read_regular(path, int(_FILE_SHARE * available_memory()))


def decode_utf8(path: Path, raw: bytes) -> str:
    """``raw`` as text, without a byte-order mark.

    Raises:
        DataError: naming the line with the first byte that is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise DataError(f"{path}: line {line}: byte 0x{raw[e.start]:02x} is not valid UTF-8") from None


def available_memory() -> int:
    """Bytes of memory that this process may still use; a container's limit is respected."""
    free = int(psutil.virtual_memory().available)
    limits = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        free = min(free, int((limits / "memory.max").read_text()) - int((limits / "memory.current").read_text()))
    return free
