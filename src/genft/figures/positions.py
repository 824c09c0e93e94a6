"""Short names for the weights of a model: the role of a weight within its layer, and the layer's number."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Position(NamedTuple):
    """The position of a weight: its role within its layer ("query"), and the layer's number."""

    target: str
    layer: int


def vector_site(name: str) -> tuple[str, str]:
    """``"<site>.<symbol>"``, AVF's name for a vector → (site, symbol)."""
    site, _, symbol = name.rpartition(".")
    return site, symbol


def name_positions(sites: Iterable[str]) -> dict[str, Position]:
    """A short name for each site within its layer, and the layer's number, which is the first number in its path.

    ``"bert.encoder.layer.3.attention.self.query"`` → ``("query", 3)``. A name keeps as many parts of the path as are
    needed to tell it from the others; in models with several lists of layers it also keeps the list's name.
    """
    split: dict[str, tuple[str, int, str]] = {}
    for site in dict.fromkeys(sites):
        path, _, piece = site.removesuffix("]").partition("[")
        numbered = re.fullmatch(r"(.*?)\.(\d+)\.(.+)", path)
        stack, number, rest = (numbered[1], int(numbered[2]), numbered[3]) if numbered else ("", 0, path)
        rest = rest.removesuffix(".dense")  # uninformative, and models like BERT have three in a layer
        split[site] = (stack, number, f"{rest}.{piece}" if piece else rest)
    several = len({stack for stack, _, _ in split.values()}) > 1
    full = {site: f"{stack}.{rest}" if several and stack else rest for site, (stack, _, rest) in split.items()}
    short = {name: _shortest(name, set(full.values())) for name in set(full.values())}
    return {site: Position(short[name], split[site][1]) for site, name in full.items()}


def _shortest(name: str, names: set[str]) -> str:
    """The shortest run of last parts of a dotted name that no other name ends with."""
    parts = name.split(".")
    for n in range(1, len(parts)):
        ending = ".".join(parts[-n:])
        if sum(other == ending or other.endswith(f".{ending}") for other in names) == 1:
            return ending
    return name
