"""Presets: hyper-parameters as data, each with its source. A preset is a difference from the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from genft.checked import Record, check, read_toml
from genft.errors import ConfigError, not_one_of


class MethodPreset(Record):
    """What a preset says about one method."""

    training: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)


class Preset(Record):
    """Training values for all methods, and per method its own."""

    name: str
    source: str
    training: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, MethodPreset] = Field(default_factory=dict)


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def list_presets() -> list[str]:
    return list(_shipped())


def load_preset(name: str) -> Preset:
    """The preset called ``name``, or the one in the TOML file of that path."""
    path = Path(name) if name.endswith(".toml") else _shipped().get(name)
    if path is None:
        raise ConfigError(not_one_of("preset", name, _shipped()) + "; a file of your own ends in .toml")
    return check(Preset, read_toml(path), str(path))
