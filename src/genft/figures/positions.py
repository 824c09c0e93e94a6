"""Short names for weights within a model: what a weight is within its layer, and the number of the layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Position(NamedTuple):
    """Where a weight is: what it is within its layer ("query"), and the number of the layer."""

    target: str
    layer: int


def vector_site(name: str) -> tuple[str, str]:
    """``"<site>.<symbol>"``, as AVF names a vector → (site, symbol)."""
    site, _, symbol = name.rpartition(".")
    return site, symbol


def name_positions(sites: Iterable[str]) -> dict[str, Position]:
    """A short name for each site within its layer, and the layer's number, the first one in its path.

    ``"bert.encoder.layer.3.attention.self.query"`` → ``("query", 3)``. A name keeps as many parts of the path as
    it takes to tell it from the others; in models with several lists of layers it keeps the list's name, too.
    """
    split: dict[str, tuple[str, int, str]] = {}
    for site in dict.fromkeys(sites):
        path, _, piece = site.removesuffix("]").partition("[")
        numbered = re.fullmatch(r"(.*?)\.(\d+)\.(.+)", path)
        stack, number, rest = (numbered[1], int(numbered[2]), numbered[3]) if numbered else ("", 0, path)
        rest = rest.removesuffix(".dense")  # says nothing, and models like BERT have three in a layer
        split[site] = (stack, number, f"{rest}.{piece}" if piece else rest)
    several = len({stack for stack, _, _ in split.values()}) > 1
    full = {site: f"{stack}.{rest}" if several and stack else rest for site, (stack, _, rest) in split.items()}
    short = {name: _shortest(name, set(full.values())) for name in set(full.values())}
    return {site: Position(short[name], split[site][1]) for site, name in full.items()}


def _shortest(name: str, names: set[str]) -> str:
    """The last parts of a dotted name, as few as no other name ends with."""
    parts = name.split(".")
    for n in range(1, len(parts)):
        ending = ".".join(parts[-n:])
        if sum(other == ending or other.endswith(f".{ending}") for other in names) == 1:
            return ending
    return name
