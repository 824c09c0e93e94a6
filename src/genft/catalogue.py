"""The methods as ``genft list methods`` shows them, cached in a file, so that the list needs neither peft nor torch.

The file is generated from the registry by ``genft.counts.write_catalogue``; a test compares the two.
"""

from __future__ import annotations

from pathlib import Path

from genft.records import Record

FILE = Path(__file__).with_suffix(".json")
METHODS_FOLDER = Path(__file__).with_name("methods")


class Listed(Record):
    """One method.

    Attributes:
        name, family, group, origin, mergeable, kinds, trains, paper: see :class:`genft.api.registry.MethodInfo`.
        parameters: model → number of parameters that the method trains there with its default settings, without the
            head; models whose inputs the method does not support are left out.
    """

    name: str
    family: str
    group: str
    origin: str
    mergeable: bool
    kinds: tuple[str, ...]
    trains: str
    paper: str
    parameters: dict[str, int]


class Catalogue(Record):
    """Every method, in the order of the registry, and the files that they came from."""

    files: tuple[str, ...]
    methods: tuple[Listed, ...]


def read_catalogue() -> Catalogue:
    return Catalogue.model_validate_json(FILE.read_bytes())


def is_current(catalogue: Catalogue) -> bool:
    """Whether the catalogue was generated from the present files of ``methods/``."""
    return catalogue.files == method_files()


def method_files() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in METHODS_FOLDER.glob("*.py")))
