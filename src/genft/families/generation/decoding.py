"""Generates answers in batches: prompts of similar length, padded on the left, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from transformers import GenerationConfig

from genft.data.encode import longest_first
from genft.families.generation.encoding import IGNORED, Writer
from genft.models.load import positions
from genft.records import Record

#: What of a checkpoint's own generation settings is kept; how to search and how long is the task's business.
_KEPT = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")


class Sampling(Record):
    """How tokens are chosen; greedily by default."""

    model_config = ConfigDict(allow_inf_nan=False)

    temperature: float = Field(default=0.0, ge=0, description="0 takes the most likely token; above, tokens are drawn")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="draw from the most likely tokens with this total probability"
    )
    top_k: int = Field(default=0, ge=0, description="draw from this many most likely tokens; 0: from all")
    beams: int = Field(default=1, ge=1, description="the number of beams of a beam search")
    repetition_penalty: float = Field(
        default=1.0, gt=0, description="above 1, tokens that occur already are less likely"
    )
    seed: int = Field(default=0, ge=0, description="seed of the drawn tokens")


GREEDY = Sampling()


def generate(
    model: Any,
    writer: Writer,
    prompts: Sequence[str],
    sampling: Sampling = GREEDY,
    *,
    batch_size: int = 16,
) -> list[str]:
    """The model's answers to prompts, in their order, without special tokens and outer spaces.

    Args:
        model: the model, possibly adapted; it is left in evaluation mode.
        writer: writes prompts as its tokens.
        prompts: as they are in the data.
        sampling: how tokens are chosen.
        batch_size: prompts per batch.
    """
    model.eval()
    device = next(model.parameters()).device
    ids = [writer.prompt(text) for text in prompts]
    order = longest_first([len(of_text) for of_text in ids])
    config = _config(model, writer, sampling)
    answers = [""] * len(ids)
    if sampling.temperature:
        torch.manual_seed(sampling.seed)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = writer.tokenizer.pad(
            {"input_ids": [ids[k] for k in rows]}, padding_side="left", return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            output = model.generate(**batch, generation_config=config)
        new = output if writer.encoder_decoder else output[:, batch["input_ids"].shape[1] :]
        for k, text in zip(rows, writer.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            answers[k] = text.strip()
    return answers


def _config(model: Any, writer: Writer, sampling: Sampling) -> GenerationConfig:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = base.generation_config
    stops = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    drawn: dict[str, Any] = {}
    if sampling.temperature:
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return GenerationConfig(
        **{name: getattr(own, name, None) for name in _KEPT},
        eos_token_id=sorted({*writer.stops, *stops} - {None}) or None,
        pad_token_id=writer.tokenizer.pad_token_id,
        max_new_tokens=min(writer.new_tokens, positions(base) - 1),
        do_sample=bool(sampling.temperature),
        num_beams=sampling.beams,
        repetition_penalty=sampling.repetition_penalty,
        **drawn,
    )


def answer_losses(logits: Tensor, labels: Tensor, *, encoder_decoder: bool) -> Tensor:
    """(the summed loss of each example's learned tokens in nats, their number), (batch, 2), float32.

    Args:
        logits: (batch, tokens, vocabulary); a soft prompt may have put further positions in front.
        labels: (batch, tokens).
        encoder_decoder: whether logits and labels are aligned; in a decoder, a token's logits predict the next one.
    """
    logits = logits[:, -labels.shape[1] :]
    if not encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = [
        nn.functional.cross_entropy(of_text.float(), target, ignore_index=IGNORED, reduction="sum")
        for of_text, target in zip(logits, labels, strict=True)  # one by one: float32 logits of a batch are large
    ]
    return torch.stack([torch.stack(losses), (labels != IGNORED).sum(dim=1).to(losses[0].dtype)], dim=1)
