"""Examples as the model's input: tokens of texts, pixels of images. Used alike to train and to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from genft.errors import ConfigError, DataError

if TYPE_CHECKING:
    from genft.models import Preprocessing

Item = dict[str, Any]

# Resized images are kept as bytes while they fit: decoding costs more than training a small model.
_CACHE_BYTES = 1 << 30


class Encoded(Dataset[Item]):
    """What texts and images have in common.

    Attributes:
        labels: as given, or None where there are none.
        lengths: the size of each input: tokens of a text, 1 for images, which all have one size.
    """

    lengths: list[int]

    def __init__(self, labels: Sequence[float] | None, regression: bool) -> None:
        self.labels = labels
        self.label_type = float if regression else int

    def __len__(self) -> int:
        return len(self.lengths)

    def with_label(self, item: Item, index: int) -> Item:
        return item if self.labels is None else {**item, "labels": self.label_type(self.labels[index])}


class TextDataset(Encoded):
    """Tokens of texts or text pairs, cut to ``max_length``; padding is left to the batch."""

    def __init__(
        self,
        inputs: Sequence[tuple[str, ...]],
        labels: Sequence[float] | None,
        tokenizer: Any,
        preprocessing: Preprocessing,
        regression: bool = False,
    ) -> None:
        super().__init__(labels, regression)
        columns = [list(column) for column in zip(*inputs, strict=True)]
        if len(columns) > 2:
            raise ConfigError(f"text columns: a model reads one text or two, not {len(columns)}")
        self.tokens = tokenizer(*columns, truncation=True, max_length=preprocessing.max_length)
        self.lengths = [len(ids) for ids in self.tokens["input_ids"]]

    def __getitem__(self, index: int) -> Item:
        return self.with_label({key: values[index] for key, values in self.tokens.items()}, index)


class ImageDataset(Encoded):
    """Pixels (3, size, size), float32, resized to a square and normalised."""

    def __init__(
        self,
        inputs: Sequence[tuple[str, ...]],
        labels: Sequence[float] | None,
        preprocessing: Preprocessing,
        regression: bool = False,
    ) -> None:
        from torchvision.transforms import v2

        super().__init__(labels, regression)
        self.paths = [Path(path) for (path,) in inputs]
        size = preprocessing.image_size
        assert size is not None
        mode = v2.InterpolationMode(preprocessing.interpolation)
        self.resize = v2.Compose([v2.Resize((size, size), mode, antialias=True), v2.PILToTensor()])
        self.normalise = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocessing.mean, preprocessing.std)]
        )
        self.lengths = [1] * len(self.paths)
        self.cache: dict[int, torch.Tensor] = {}
        self.cacheable = _CACHE_BYTES // (3 * size * size)

    def __getitem__(self, index: int) -> Item:
        pixels = self.cache.get(index)
        if pixels is None:
            pixels = self.resize(read_image(self.paths[index]))
            if len(self.cache) < self.cacheable:
                self.cache[index] = pixels
        return self.with_label({"pixel_values": self.normalise(pixels)}, index)


def read_image(path: Path) -> Any:
    """The image as RGB; a file that is no image is one sentence."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as e:  # PIL raises many types for damaged files
        raise DataError(f"{path}: cannot be read as an image ({e})") from None


def encode(
    inputs: Sequence[tuple[str, ...]],
    labels: Sequence[float] | None,
    preprocessing: Preprocessing,
    tokenizer: Any,
    regression: bool = False,
) -> Encoded:
    """The data set that ``preprocessing`` asks for."""
    if preprocessing.kind == "text":
        return TextDataset(inputs, labels, tokenizer, preprocessing, regression)
    return ImageDataset(inputs, labels, preprocessing, regression)
