"""How much a model's outputs change when its adapter is merged or converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from genft.adapters.saved import Trained
from genft.data.encode import encode

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class OutputChange:
    """The difference between a model's outputs before and after.

    Attributes:
        inputs: a description of the inputs.
        largest: the largest absolute change of a single output (a logit).
        relative: ‖after − before‖ / ‖before‖ over all outputs.
    """

    inputs: str
    largest: float
    relative: float


def output_change(inputs: str, before: Tensor, after: Tensor) -> OutputChange:
    difference = after - before
    return OutputChange(
        inputs, float(difference.abs().max()), float(difference.norm() / before.norm().clamp_min(1e-12))
    )


def outputs(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """All outputs of ``model`` in evaluation mode, float32, as one vector: logits, or hidden states without a head."""
    model.eval()
    vectors = []
    with torch.inference_mode():
        for batch in batches:
            result = model(**batch)
            vectors.append((result.logits if "logits" in result else result[0]).float().flatten())
    return torch.cat(vectors)


def random_batches(model: nn.Module, image_size: int | None = None, n: int = 4) -> list[Batch]:
    """``n`` inputs from a fixed seed: noise for an image model, token ids for a text model."""
    base = cast(Any, model)
    generator = torch.Generator().manual_seed(0)
    if base.main_input_name == "pixel_values":
        # transformers' models have their image size in the configuration, timm's in the patch embedding
        timm_size = next((m.img_size for m in base.modules() if getattr(m, "img_size", None)), 224)
        size = image_size or getattr(base.config, "image_size", None) or timm_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return [
            {"pixel_values": torch.randn(1, 3, height, width, generator=generator, dtype=torch.float32)}
            for _ in range(n)
        ]
    config = base.config.get_text_config()
    # RoBERTa counts positions from its padding index, 1
    length = min(32, getattr(config, "max_position_embeddings", None) or 32) - 2
    batches = []
    for _ in range(n):
        ids = torch.randint(config.vocab_size, (1, length), generator=generator)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        batches.append(batch | ({"decoder_input_ids": ids[:, :4]} if base.config.is_encoder_decoder else {}))
    return batches


def given_batches(trained: Trained, inputs: Sequence[tuple[str, ...]]) -> list[Batch]:
    """One batch per input, which is a tuple of texts or the path of an image, read as in training."""
    data = encode(inputs, None, trained.saved.preprocessing, trained.tokenizer)
    return [{k: torch.as_tensor(v)[None] for k, v in data[i].items()} for i in range(len(data))]
