"""Data sets of the Hugging Face Hub that no task describes, by name: ``owner/name``, or ``owner/name:config``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from genft.data.tables import TABLES
from genft.data.task import SplitName
from genft.errors import ConfigError, DataError, not_one_of
from genft.hub import fetch_data

#: The first word of a file's name, by split.
_SPLITS: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def is_hub_name(word: str) -> bool:
    """Whether ``word`` has the form of a data set's name and does not look like a path: no folder here begins it."""
    return (
        _NAME.fullmatch(word) is not None
        and not Path(word).parent.exists()
        and Path(word).suffix.lower() not in TABLES
        and not word.startswith(".")
    )


def hub_files(name: str) -> dict[SplitName, Path]:
    """The file of every split of a data set, in the local cache; a pattern if the split has several.

    A single file whose name names no split is the training split.

    Raises:
        ConfigError: the data set cannot be fetched, or has several configurations and none is named.
        DataError: it has no table for training.
    """
    repo, _, config = name.partition(":")
    endings = [f"*{ending}" for ending in TABLES]
    folder = fetch_data(repo, [*endings, *(f"**/{ending}" for ending in endings)])
    tables = sorted(path for path in folder.rglob("*") if path.suffix.lower() in TABLES and _split(path))
    if not tables:
        alone = sorted(path for path in folder.rglob("*") if path.suffix.lower() in TABLES)
        if len(alone) != 1:
            found = ", ".join(str(path.relative_to(folder)) for path in alone) or "none"
            raise DataError(f"{name}: no file is named after a split; its tables: {found}")
        return {"train": alone[0]}
    by_config: dict[str, dict[SplitName, list[Path]]] = {}
    for path in tables:
        split = _split(path)
        assert split is not None
        by_config.setdefault(str(path.parent.relative_to(folder)), {}).setdefault(split, []).append(path)
    if config and config not in by_config:
        raise ConfigError(not_one_of(f"{repo}: configuration", config, by_config))
    if not config and len(by_config) > 1:
        raise ConfigError(f"{repo}: has several configurations; name one, as in {repo}:{next(iter(by_config))}; "
                          f"allowed: {', '.join(by_config)}")  # fmt: skip
    splits = by_config[config or next(iter(by_config))]
    if "train" not in splits:
        raise DataError(f"{name}: no file is named after the training split")
    return {split: paths[0] if len(paths) == 1 else _pattern(paths) for split, paths in splits.items()}


def _split(path: Path) -> SplitName | None:
    word = re.split(r"[-_.]", path.name.lower())[0]
    return next((split for split, words in _SPLITS.items() if word in words), None)


def _pattern(paths: list[Path]) -> Path:
    """The pattern of the parts of one split, such as ``train-*.parquet``."""
    word = re.split(r"[-_.]", paths[0].name)[0]
    return paths[0].with_name(f"{word}*{paths[0].suffix}")
