"""The order of examples: random batches of similar lengths for training, longest first for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler, Subset
from transformers.trainer_pt_utils import get_length_grouped_indices

from genft.data import encode
from genft.data.encode import Encoded
from genft.families.metrics import Array


class LengthGrouped(Sampler[int]):
    """A new random order for every epoch, in which the examples of a batch have similar lengths."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before every epoch, also after resuming: the order depends only on seed and epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def longest_first(dataset: Encoded) -> tuple[Subset[Any], Array]:
    """(the examples by decreasing length, which wastes the least padding; the order of their indices)."""
    order = encode.longest_first(dataset.lengths)
    return Subset(dataset, order), np.asarray(order)
