"""Encodes examples as model inputs: texts as tokens, images as pixels. Training and prediction share this code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genft.data.images import read_image
from genft.data.limits import available_memory
from genft.data.preprocessing import Preprocessing
from genft.errors import ConfigError
from genft.ops.threads import torch_threads

Item = dict[str, Any]

#: The texts of a batch are padded to a multiple of this many tokens.
PAD_TO = 8

#: The shorter side that an image is resized to before cropping, relative to the model's size: FGVC's 256 for 224.
_CROP_FROM = 256 / 224
#: The fraction of free memory that resized images may take.
_CACHE_SHARE = 1 / 4


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The order of examples by decreasing length, which wastes the least padding; equal ones stay in their order."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


class Encoded(Dataset[Item]):
    """Base class of encoded texts and images.

    Attributes:
        labels: the targets, or None if the examples have none.
        label_type: makes a target: ``int`` for a class number, ``float`` for a value, ``list`` for one value per class.
        lengths: the length of each input: the tokens of a text; 1 for images, which all have the same size.
        notes: sentences about what was cut off, with counts.
    """

    lengths: list[int]
    notes: tuple[str, ...] = ()

    def __init__(self, labels: Sequence[Any] | None, label_type: Callable[[Any], Any]) -> None:
        self.labels = labels
        self.label_type = label_type

    def __len__(self) -> int:
        return len(self.lengths)

    def with_label(self, item: Item, index: int) -> Item:
        return item if self.labels is None else {**item, "labels": self.label_type(self.labels[index])}


class TextDataset(Encoded):
    """Tokens of texts or text pairs, truncated to ``max_length``; padding happens per batch."""

    def __init__(
        self,
        inputs: Sequence[tuple[str, ...]],
        labels: Sequence[Any] | None,
        tokenizer: Any,
        preprocessing: Preprocessing,
        label_type: Callable[[Any], Any] = int,
    ) -> None:
        super().__init__(labels, label_type)
        columns = [list(column) for column in zip(*inputs, strict=True)]
        if len(columns) > 2:
            raise ConfigError(f"text columns: received {len(columns)}; a model reads one text or two")
        self.tokens = tokenizer(*columns, truncation=True, max_length=preprocessing.max_length)
        self.lengths = [len(ids) for ids in self.tokens["input_ids"]]

    def __getitem__(self, index: int) -> Item:
        return self.with_label({key: values[index] for key, values in self.tokens.items()}, index)


class ImageDataset(Encoded):
    """Pixels (3, size, size), float32, normalised.

    Images are resized to a square or, with ``preprocessing.crop``, to a shorter side of 256/224 of the size and then
    cropped. The images of a batch are decoded in parallel.

    Args:
        augment: "randaug", or "crop" for a random crop and flip instead of the centre crop; "none" for evaluation.
        several_passes: whether to cache resized images as bytes, as far as free memory allows.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[str, ...]],
        labels: Sequence[float] | None,
        preprocessing: Preprocessing,
        label_type: type[int] | type[float] = int,
        augment: str = "none",
        several_passes: bool = False,
    ) -> None:
        from torchvision.transforms import v2

        super().__init__(labels, label_type)
        self.paths = [Path(path) for (path,) in inputs]
        self.lengths = [1] * len(self.paths)
        size = preprocessing.image_size or 224
        mode = v2.InterpolationMode(preprocessing.interpolation)
        steps: list[Any] = [v2.Resize(round(size * _CROP_FROM) if preprocessing.crop else (size, size), mode)]
        if preprocessing.crop and augment != "crop":
            steps.append(v2.CenterCrop(size))
        self.resize = v2.Compose([*steps, v2.PILToTensor()])
        self.augment = _augmentation(augment, size)
        self.normalise = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocessing.mean, preprocessing.std)]
        )
        self.cache: dict[int, Tensor] = {}
        self.room = int(_CACHE_SHARE * available_memory()) if several_passes else 0
        self.pool = torch_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Item]:
        """A batch, as DataLoader requests it; random numbers are drawn in order, so they depend only on the seed."""
        items = []
        for index, pixels in zip(indices, self.pool.map(self.pixels, indices), strict=True):
            if index not in self.cache and pixels.nbytes <= self.room:
                self.cache[index] = pixels
                self.room -= pixels.nbytes
            items.append(self.with_label({"pixel_values": self.normalise(self.augment(pixels))}, index))
        return items

    def pixels(self, index: int) -> Tensor:
        """The resized image, (3, height, width), uint8."""
        pixels = self.cache.get(index)
        return self.resize(read_image(self.paths[index])) if pixels is None else pixels


def _augmentation(name: str, size: int) -> Callable[[Tensor], Tensor]:
    """A random transformation of a uint8 image."""
    from torchvision.transforms import v2

    if name == "none":
        return v2.Identity()
    if name == "crop":
        return v2.Compose([v2.RandomCrop(size), v2.RandomHorizontalFlip()])
    from timm.data.auto_augment import rand_augment_transform

    grey = {"translate_const": int(0.45 * size), "img_mean": (124, 116, 104)}  # ImageNet's mean fills uncovered pixels
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.ToPILImage(),
            rand_augment_transform("rand-m9-mstd0.5-inc1", grey),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.PILToTensor(),
        ]
    )


def encode(
    inputs: Sequence[tuple[str, ...]],
    labels: Sequence[float] | None,
    preprocessing: Preprocessing,
    tokenizer: Any,
    label_type: type[int] | type[float] = int,
    *,
    augment: str = "none",
    several_passes: bool = False,
) -> Encoded:
    """A data set of texts or images, encoded as ``preprocessing`` specifies.

    Args:
        inputs: the texts of each example, or the path of its image.
        labels: the class number or value of each example, or None if there are no labels.
        preprocessing: how examples become the model's input.
        tokenizer: the model's tokenizer, used for texts.
        label_type: the type of a label in a batch.
        augment, several_passes: for images; see :class:`ImageDataset`.
    """
    if preprocessing.kind == "text":
        return TextDataset(inputs, labels, tokenizer, preprocessing, label_type)
    return ImageDataset(inputs, labels, preprocessing, label_type, augment, several_passes)
