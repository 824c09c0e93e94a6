"""The base class of methods that train in the basis of W0's singular vectors: W0 = U diag(σ) Vᵀ (``ops/svd.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from genft.api.method import ConfigT, Site, WeightMethod
from genft.ops import svd as svd_cache


class SingularMethod(WeightMethod[ConfigT]):
    """A method that derives U, σ and V from W0. All weights of an adapter are decomposed at once and cached on disk."""

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        self._prepared: dict[Site, svd_cache.SVD] = {}

    @property
    def saves_derived(self) -> bool:  # type: ignore[override]
        return getattr(self.config, "save_bases", False)

    def prepare(self, weights: Mapping[Site, Callable[[], Tensor]]) -> None:
        self._prepared = svd_cache.decompose(weights)

    def decomposition(self, site: Site, w0: Tensor) -> svd_cache.SVD:
        """U (o, k), σ (k,) and V (i, k) of a site's W0 (o, i), k = min(o, i); on the meta device, only shapes."""
        if w0.is_meta:
            k = min(w0.shape)
            return svd_cache.SVD(w0.new_empty(w0.shape[0], k), w0.new_empty(k), w0.new_empty(w0.shape[1], k))
        return self._prepared.pop(site) if site in self._prepared else svd_cache.compute(str(site), w0)
