"""The factors of GenFT under a configuration: their names, how they are shared, and how they are initialised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from genft.api.method import Factor, Factors, Init, Site
from genft.methods.genft_config import GenFTConfig
from genft.ops import generator
from genft.ops.initial import linear_, linear_bias_, orthonormal_

PAPER_INITS: dict[str, Init] = {
    "kaiming_uniform": linear_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "normal": partial(nn.init.normal_, std=0.01),
    "zeros": nn.init.zeros_,
}
SHARED_INIT: Init = partial(nn.init.trunc_normal_, std=0.02)
#: (letter, d) → singular vectors (d, a) that shared factors are initialised with.
Directions = Mapping[tuple[str, int], Tensor]


@dataclass(frozen=True)
class Stage:
    """The names of the factors of one stage at one site; None for factors that the configuration does not use.

    Attributes:
        letter: "u" for the row stage, "v" for the column stage.
        d: the width that the stage mixes, i or o.
        is_last: whether its output is ΔW.
        shared: names of the shared parts of P and Q.
        pair: names of A and B.
        biases: names of the biases after P and after Q.
    """

    letter: str
    d: int
    is_last: bool
    shared: tuple[str, str] | None
    pair: tuple[str, str] | None
    biases: tuple[str, str] | None

    def read(self, f: Factors, p_scale: float = 1.0, q_scale: float = 1.0) -> generator.Stage:
        """P and Q, the shared columns first (Eq. 4 and 6), times their scales."""
        p, q = (
            _joined(columns)
            for columns in ([f[names[end]] for names in (self.shared, self.pair) if names] for end in (0, 1))
        )
        biases = [f[name] for name in self.biases or ()]
        return generator.Stage(p if p_scale == 1 else p_scale * p, q if q_scale == 1 else q_scale * q, *biases)


def _joined(columns: list[Tensor]) -> Tensor:
    """Columns side by side; what all weights share is repeated beside columns that are stacked by weight."""
    if len(columns) == 1:
        return columns[0]
    first = max((part.shape[:-2] for part in columns), key=len)
    return torch.cat([part.expand(*first, *part.shape[-2:]) for part in columns], dim=-1)


def stages(c: GenFTConfig, o: int, i: int) -> list[Stage]:
    """The stages for a weight (o, i), in the order of computation."""
    widths = [("u", "row", i)] * c.row_stage + [("v", "col", o)] * c.col_stage
    used = []
    for letter, name, d in widths:
        shared = (letter, letter) if c.factors == "tied" else (f"{letter}_in", f"{letter}_out")
        pair = ("a", "b") if _reuses_pair(c, o, i) else (f"a_{name}", f"b_{name}")
        used.append(
            Stage(
                letter,
                d,
                is_last=letter == widths[-1][0],
                shared=shared if c.shared_dim else None,
                pair=pair if c.specific_dim else None,
                biases=(f"{letter}_in_bias", f"{letter}_out_bias") if c.factor_bias else None,
            )
        )
    return used


def factors(c: GenFTConfig, site: Site, directions: Directions) -> dict[str, Factor]:
    """The factors of one site. Shared factors are keyed by dimension (and by role if tied), specific ones by weight or
    layer."""
    o, i, a, b = site.out_features, site.in_features, c.shared_dim, c.specific_dim
    if not c.is_generated:
        widths = {"a": i, "b": o}
        return {
            name: Factor((d, b), initial(c, name, directions, zero=name == "b"), _owner(c, name, d, site))
            for name, d in widths.items()
        }
    result: dict[str, Factor] = {}
    for stage in stages(c, o, i):
        d = stage.d
        for end, name in zip(("in", "out"), stage.shared or (), strict=False):
            key = f"{name}_{d}_{site.role}" if c.factors == "tied" else f"{name}_{d}"
            init = initial(c, f"{stage.letter}_{end}", directions, zero=end == "out" and stage.is_last)
            result[name] = Factor((d, a), init, key)
        for symbol, name in zip("ab", stage.pair or (), strict=False):
            # a B used by both stages is also an output factor of the last one, so it starts at zero
            init = initial(c, symbol, directions, zero=symbol == "b" and (stage.is_last or _may_share_b(c, site)))
            owner = _owner(c, name if _has_own_pairs(c) else symbol, d, site)
            result.setdefault(name, Factor((d, b), init, owner))
        if stage.biases:
            inner, outer = stage.biases
            last = stage.is_last and c.init_weights is True
            start = nn.init.zeros_ if last else partial(linear_bias_, fan_in=a or b)
            result[inner] = Factor((a + b,), partial(linear_bias_, fan_in=d), f"{inner}_{d}")
            result[outer] = Factor((d,), start, f"{outer}_{d}")
    return result


def initial(c: GenFTConfig, name: str, directions: Directions, *, zero: bool) -> Init:
    """The initialisation of the factor ``a``, ``b``, ``u_in``, …; ``zero``: it is an output factor of the last stage,
    which the identity start sets to zero."""
    if c.init_weights == "paper":
        init = PAPER_INITS[c.init_a if name == "a" else c.init_b]
        if name not in ("a", "b"):
            init = linear_ if c.init_shared == "linear" else SHARED_INIT
        # in the authors' code input weights are (r, d), and some initialisations depend on the number of columns
        transposed = name.endswith("_in") or (name == "a" and c.form == "official")
        return partial(_transposed, init) if transposed else init
    if zero and c.init_weights is True:
        return nn.init.zeros_
    if c.init_shared == "svd" and name not in ("a", "b"):
        return partial(_along, name[0], directions, c.start_norm)
    return partial(orthonormal_, gain=c.start_norm)


def _transposed(init: Init, t: Tensor) -> None:
    init(t.T)


def _along(letter: str, directions: Directions, gain: float, t: Tensor) -> None:
    start = directions.get((letter, len(t)))
    if t.is_meta or start is None or start.shape != t.shape:
        orthonormal_(t, gain=gain)
    else:
        t.copy_(gain * start)


def _has_own_pairs(c: GenFTConfig) -> bool:
    """Whether each stage needs its own pair: at the identity start without shared factors, one pair for both stages
    would never train, because B = 0 in the column stage would also be B = 0 in the row stage."""
    return c.init_weights is True and c.shared_dim == 0


def _reuses_pair(c: GenFTConfig, o: int, i: int) -> bool:
    """Whether both stages use one pair, A' = A and B' = B, as in the paper; possible if W0 is square."""
    return c.row_stage and c.col_stage and o == i and not _has_own_pairs(c)


def _may_share_b(c: GenFTConfig, site: Site) -> bool:
    """Whether a row stage's B may also be the last stage's B, here or in another weight of the layer."""
    by_layer = c.specific_scope == "layer" and not _has_own_pairs(c)
    return by_layer or _reuses_pair(c, site.out_features, site.in_features)


def _owner(c: GenFTConfig, name: str, d: int, site: Site) -> str | None:
    """The sharing key of a specific factor: with scope "layer", weights with the same parent module share the pair of
    each width."""
    return None if c.specific_scope == "module" else f"{name}_{d}@{site.layer.replace('.', '/')}"
