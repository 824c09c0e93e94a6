"""Numbers that papers print, one per row, each with its source."""

from __future__ import annotations

import csv
from pathlib import Path

from genft.errors import ConfigError, not_one_of


def read(name: str) -> list[dict[str, str]]:
    """The rows of ``name``.csv in this folder, as text: what a paper prints is not rounded or completed."""
    files = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.csv"))}
    if name not in files:
        raise ConfigError(not_one_of("published", name, files))
    with files[name].open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
