"""How questions about a text are answered with a part of it: part of a task of the family ``spans``."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from genft.records import Record


class Answering(Record):
    """How answers are found in contexts; saved with every adapter that finds them."""

    model_config = ConfigDict(allow_inf_nan=False)

    stride: int = Field(default=128, ge=0, description="tokens that neighbouring windows of a long context share")
    max_answer_tokens: int = Field(default=30, ge=1, description="the most tokens of an answer")
    unanswerable: bool = Field(default=False, description="whether some questions have no answer in their context")
    threshold: float = Field(
        default=0.0,
        description="a question gets no answer if that is more likely than the best one by more than this, in nats; "
        "chosen on the selecting split",
    )
