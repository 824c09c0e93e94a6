"""The settings that turn an example into a model's input."""

from __future__ import annotations

from typing import Literal

from genft.records import Record

Kind = Literal["text", "image"]


class Preprocessing(Record):
    """How texts or images become a model's input; saved with every adapter.

    Attributes:
        kind: what the model reads.
        max_length: the most tokens of a text; longer texts are truncated.
        image_size: pixels per side.
        mean, std: of the three channels, for normalisation.
        crop: whether images are resized to a larger size and then cropped to the centre.
    """

    kind: Kind
    max_length: int | None = None
    image_size: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: bool = False
