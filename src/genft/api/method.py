"""The interface of a method: two small protocols of pure mathematics.

A method file contains only formulas. Given *where* it works (a :class:`Site`), it declares *which tensors* it trains
there (:class:`Factor`) and computes with them. ``genft.bridge`` takes care of storage, devices, dtypes, saving,
merging, several adapters and the choice of a fast form. So every formula is a function of tensors that a test can
compare with its paper.

* :class:`WeightMethod` changes a weight: ΔW (o, i) and Δb (o,) from the frozen W0 and b0.
* :class:`BlockMethod` adds computations to the frozen ones inside a transformer block.

Shapes follow torch: a linear weight W0 is (o, i) = (out_features, in_features), an activation is (..., i).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from genft.api.config import AdapterConfig
from genft.ops.plan import Shape

Init = Callable[[Tensor], object]
Factors = Mapping[str, Tensor]
Base = Callable[..., Tensor]


@dataclass(frozen=True)
class Site:
    """One part of a model that a method adapts: a weight, a row slice of a fused weight, a bias, or a block.

    Attributes:
        module: path of the module in the base model, ``"encoder.layer.0.attention.self.query"``.
        out_features: o, the rows of W0 that belong to this site (the length of a bias; the width of a block).
        in_features: i, the columns of W0 (0 if the module has no linear weight).
        slice: name of the row slice (``"q"`` of a fused ``qkv``), or None for the whole weight.
        start: first row of the slice in the whole weight; the slice is rows ``start : start + out_features``.
        has_bias: whether the base module has a bias for these rows.
        index: position of this site among the sites of the adapter, in the order of the model.
    """

    module: str
    out_features: int
    in_features: int
    slice: str | None = None
    start: int = 0
    has_bias: bool = False
    index: int = 0

    @property
    def layer(self) -> str:
        """Path of the parent module, which q, k and v of one attention share."""
        return self.module.rpartition(".")[0]

    @property
    def role(self) -> str:
        """The weight's role within its layer: its leaf name, plus the slice of a fused weight."""
        leaf = self.module.rpartition(".")[2]
        return f"{leaf}_{self.slice}" if self.slice else leaf

    @property
    def stop(self) -> int:
        return self.start + self.out_features

    def __str__(self) -> str:
        return f"{self.module}[{self.slice}]" if self.slice else self.module


@dataclass(frozen=True)
class Factor:
    """One trained tensor that a site uses.

    Attributes:
        shape: its shape.
        init: initialises it in place.
        shared_as: None if the tensor belongs to this site alone; otherwise, all sites that give the same name here
            share one tensor, which is stored and saved once.
    """

    shape: tuple[int, ...]
    init: Init
    shared_as: str | None = None


@dataclass(frozen=True)
class BlockSite(Site):
    """A transformer block. ``out_features`` is the width of its residual stream.

    Attributes:
        norms: paths, inside the block, of the layer normalisations of its residual stream.
        first: whether this is the adapter's first block.
        last: whether this is the adapter's last block.
        head_width: width of the keys of one head of its attention; 0 if genft does not know the attention.
    """

    norms: tuple[str, ...] = ()
    first: bool = True
    last: bool = True
    head_width: int = 0


@dataclass(frozen=True)
class FrozenBlock:
    """What a block computes without adapters, for methods that send tokens of their own through it.

    Attributes:
        run: the whole block, (batch, tokens, width) → the same.
        norm: the normalisation before its attention, (..., width) → the same.
        attention: (queries, keys and values, mask) → its attention from one normalised list of tokens to another,
            projected; the mask (queries, keys) is True where a token is seen.
        positions: the model's position embeddings (tokens, width), or None.
        read_after_last: whether the second stream is also read after the last adapted block.
    """

    run: Callable[[Tensor], Tensor]
    norm: Callable[[Tensor], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor], Tensor]
    positions: Tensor | None
    read_after_last: bool = False


ConfigT = TypeVar("ConfigT", bound=AdapterConfig)
SiteT = TypeVar("SiteT", bound=Site)


class Method(ABC, Generic[ConfigT, SiteT]):
    """What both kinds of method have in common.

    Args:
        config: the method's configuration, which is only read: values derived from the base model or from training
            belong to the method (:meth:`WeightMethod.derived_settings`).
    """

    #: Whether some factors are shared between sites (``Factor.shared_as``).
    shares_factors: bool = False
    #: Advice in the warning that a factor never gets a gradient.
    advice_for_silent_factors: str = "choose another initialisation"

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def factors(self, site: SiteT) -> dict[str, Factor]:
        """The trained tensors of one site, by the symbol that the formulas use.

        Do not list a tensor that no formula uses under this configuration: it would never get a gradient (which breaks
        DDP) and would be saved needlessly.
        """

    def overrides(self, name: str) -> bool:
        """Whether this method overrides the function ``name``, whose default in the protocol does nothing."""
        kind = WeightMethod if isinstance(self, WeightMethod) else BlockMethod
        return getattr(type(self), name) is not getattr(kind, name)

    def check(self, sites: Sequence[SiteT]) -> list[str]:
        """One sentence for every problem of this configuration at these sites."""
        return []

    def attached(self, adapter_name: str, trained: Callable[[], dict[str, nn.Parameter]]) -> None:
        """Called once the adapter is attached; for anything that a method does besides its formulas.

        Args:
            adapter_name: peft's name of this adapter.
            trained: looks up the adapter's own tensors, ``"<site>.<symbol>"`` → parameter. Loading and casting
                replace parameters, so do not keep what it returns.
        """

    def before_forward(self) -> None:
        """Called before each forward pass of the model in training mode, except in compiled ones."""


class WeightMethod(Method[ConfigT, Site]):
    """ΔW and Δb of a linear weight, computed from the frozen W0 and a few trained factors."""

    #: Whether the method changes only biases, so that it can target any module that has one.
    bias_only: bool = False

    #: Whether normalisations and convolutions may be targeted too. Their weight W0 is (o, n) with a row per output
    #: channel (n = 1 in a normalisation), ``in_features`` of their site is 0, and nothing is derived from them.
    beyond_linear: bool = False

    #: Whether derived tensors are saved with the adapter.
    saves_derived: bool = False

    #: Whether derived tensors also follow a base weight that is trained together with the adapter and so changes in
    #: every step. Tensors that are costly to derive are renewed only if a frozen weight has changed.
    derives_every_step: bool = False

    #: Whether ΔW and Δb are linear in the trained tensors, so that weighted sums of adapters are exact.
    is_linear: bool = False

    def prepare(self, weights: Mapping[Site, Callable[[], Tensor]]) -> None:
        """Called with all frozen weights of the adapter before :meth:`derive` is called site by site and before factors
        are initialised, for work on several weights at once. Each function reads (and dequantises) its weight. Not
        called while weights are on the meta device."""

    def derived_settings(self) -> dict[str, Any]:
        """Values derived from the adapted weights or from training, by name. Values named like settings replace these
        in the saved configuration; the rest are for ``save_pretrained`` of the method's configuration."""
        return {}

    def derive(self, site: Site, w0: Tensor) -> dict[str, Tensor]:
        """Frozen tensors derived once from W0 (o, i), such as an SVD. They are stored next to the weight, passed on
        together with the factors, and derived again if W0 has changed."""
        return {}

    def sketch(self, w0: Callable[[], Tensor], f: Factors, left: Tensor, right: Tensor) -> Tensor | None:
        """leftᵀ ΔW right, for left (o, 8) and right (i, 8), if ΔW depends on derived tensors that another machine could
        compute differently; otherwise None. It is saved, and compared when the adapter is loaded. Not called while
        weights are on the meta device."""
        return None

    def delta_weight(self, w0: Tensor, f: Factors, *, dropout_seed: int | Tensor | None = None) -> Tensor | None:
        """ΔW (o, i).

        Args:
            w0: the frozen weight of the site, (o, i).
            f: the site's factors and derived tensors by name.
            dropout_seed: fixes the dropout masks on entries of the generated matrix (a 0-dim integer tensor while
                torch.compile traces); None means no dropout (evaluation, merging). Methods without such dropout
                ignore it.
        """
        return None

    def delta_bias(self, b0: Tensor | None, f: Factors) -> Tensor | None:
        """Δb (o,), or None if the method does not change biases."""
        return None

    def low_rank(self, w0: Tensor, f: Factors) -> tuple[Tensor, Tensor] | None:
        """(L, R) with ΔW = L Rᵀ, L (o, k) and R (i, k), if that holds by construction; otherwise None."""
        return None

    def low_rank_together(self, w0: Sequence[Tensor], f: Sequence[Factors]) -> tuple[Tensor, Tensor] | None:
        """:meth:`low_rank` of several weights of one shape at once, in fewer operations; or None if there is no such
        way. L is (n, o, k) and R (n, i, k); either may have no first dimension if it is the same for all n weights.
        Called with factors of one device and dtype, before a forward pass in training."""
        return None

    @property
    def plan(self) -> str:
        """The form of the forward pass that the user requests, a member of ``ops.plan.PLANS``."""
        return getattr(self.config, "plan", "auto")

    def linear(self, x: Tensor, base: Base, bias: Tensor | None, f: Factors, shape: Shape) -> Tensor | None:
        """(W0 + ΔW) x + b0 + Δb in the method's own form, or None to use a general form.

        Args:
            x: (..., i).
            base: the frozen module: ``base(x)`` is W0 x + b0 + Δb, and ``base(x, delta)`` is (W0 + delta) x + b0 + Δb.
            bias: b0 + Δb (o,), or None; it must receive a gradient too.
            f: the site's factors and derived tensors by name.
            shape: the sizes of this call, for the cost model.
        """
        return None

    @property
    def entry_dropout(self) -> float:
        """The probability of dropping an entry of a generated matrix in training."""
        return 0.0


class BlockMethod(Method[ConfigT, BlockSite]):
    """Computations inside a transformer block. A method overrides the hooks that it needs, at least one.

    ``f`` contains the site's factors by name; ``training`` is whether dropout is on.
    """

    def hooks(self) -> frozenset[str]:
        """Names of the hooks that this method uses under this configuration."""
        return frozenset(name for name in BLOCK_HOOKS if self.overrides(name))

    def beside_mlp(self, x: Tensor, f: Factors, *, training: bool) -> Tensor:
        """What is added to the MLP's output, from the residual stream x between attention and MLP, (..., width)."""
        raise NotImplementedError

    def after_attention(self, h: Tensor, f: Factors, *, training: bool) -> Tensor:
        """What is added to the attention's output h (..., width), before h itself is added to the residual stream."""
        raise NotImplementedError

    def after_mlp(self, h: Tensor, f: Factors, *, training: bool) -> Tensor:
        """What is added to the MLP's output h (..., width), before h itself is added to the residual stream."""
        raise NotImplementedError

    def beside_projection(self, part: str, x: Tensor, f: Factors, *, training: bool) -> Tensor | None:
        """What is added to the queries, keys or values, from the attention's input x (..., width), or None.

        Args:
            part: "q", "k" or "v".
        """
        raise NotImplementedError

    def norm_offset(self, site: BlockSite, norm: str, f: Factors) -> tuple[Tensor, Tensor] | None:
        """(Δγ, Δβ), each (width,), of the layer normalisation at ``norm``, a member of ``site.norms``."""
        raise NotImplementedError

    def prefix(self, f: Factors, *, training: bool) -> tuple[Tensor, Tensor]:
        """Keys and values (tokens, width) that every token of the block attends to as well."""
        raise NotImplementedError

    def prompts(self, x: Tensor, f: Factors, *, training: bool) -> Tensor | None:
        """Tokens to insert after the first token of the block's input x (batch, tokens, width), or None: (prompts,
        width), or (batch, prompts, width) if they differ between examples."""
        raise NotImplementedError

    def passing_prompts(self, site: BlockSite) -> int:
        """How many prompts of earlier blocks are among this block's input, after its first token."""
        return 0

    def spent_prompts(self, site: BlockSite) -> int:
        """The number of prompts to remove after this block."""
        return 0

    def second_stream(
        self, x: Tensor, p: Tensor | None, block: FrozenBlock, site: BlockSite, f: Factors, *, training: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """(what is added to the block's output, the second stream after the block).

        Args:
            x: the block's input (batch, tokens, width).
            p: a second stream that the method sends through the blocks beside the first, as this function returned
                it for the block before; None at the first adapted block. After the last one it is needed only if
                ``block.read_after_last``.
            block: the frozen block.
        """
        raise NotImplementedError

    def merges(self, site: BlockSite) -> bool:
        """Whether tokens are merged in this block (:meth:`merge`), between its attention and its MLP."""
        return False

    def merge(self, x: Tensor, keys: Tensor, f: Factors, *, training: bool) -> tuple[Tensor, Tensor]:
        """(fewer tokens, how many of the former tokens each of them stands for (batch, fewer)).

        In the adapted blocks that follow, the logarithms of these sizes are added to the scores of attention.

        Args:
            x: the residual stream between attention and MLP (batch, tokens, width).
            keys: the attention's keys (batch, heads, tokens, width of a head).
        """
        raise NotImplementedError


BLOCK_HOOKS = (
    "beside_mlp",
    "after_attention",
    "after_mlp",
    "beside_projection",
    "norm_offset",
    "prefix",
    "prompts",
    "second_stream",
    "merge",
)
