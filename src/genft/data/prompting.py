"""How a row of a table becomes a prompt, and which of a text's tokens are learned: part of a generation task."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator

from genft.errors import ConfigError
from genft.records import Record

# Stanford Alpaca's (github.com/tatsu-lab/stanford_alpaca), which instruction data with these columns usually use
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
#: Named templates. The second text is used for rows whose last column is empty.
TEMPLATES = {"alpaca": (_WITH_INPUT, _WITHOUT_INPUT), "alpaca-no-input": (_WITHOUT_INPUT, _WITHOUT_INPUT)}


class Prompting(Record):
    """How prompts are written and answered; saved with every adapter that generates text."""

    template: str = Field(
        default="", description="the prompt with columns in braces, or alpaca; empty: the prompt's columns as they are"
    )
    chat: bool = Field(default=False, description="prompts are written with the tokenizer's chat template")
    system: str = Field(default="", description="the system message of chats that have none")
    max_new_tokens: int = Field(default=128, ge=1, description="the most tokens of a generated answer")
    extract: Literal["", "last-number"] = Field(
        default="", description="what of an answer is compared by exact_match: all of it, or its last-number"
    )
    learn_prompts: bool = Field(default=False, description="whether the prompt's tokens count in the loss too")

    @field_validator("template")
    @classmethod
    def _is_readable(cls, template: str) -> str:
        fields(template)
        return template

    def write(self, row: Mapping[str, str], columns: Sequence[str]) -> str:
        """The prompt of a row.

        Args:
            row: its values by column.
            columns: the prompt's columns; without a template their values are joined by empty lines.
        """
        if not self.template:
            return "\n\n".join(row[column] for column in columns if row[column])
        complete, without_last = TEMPLATES.get(self.template, (self.template, self.template))
        last = columns[-1] if columns else ""
        return (complete if row.get(last, "") else without_last).format_map(row)


def fields(template: str) -> tuple[str, ...]:
    """The columns that a template names, in order.

    Raises:
        ConfigError: it is no template: an unknown name, or braces that do not close.
    """
    if template and "{" not in template and template not in TEMPLATES:
        raise ConfigError(
            f"{template!r} names no column in braces, as {{question}} does; named templates: {', '.join(TEMPLATES)}"
        )
    try:
        parsed = list(string.Formatter().parse(TEMPLATES.get(template, (template,))[0]))
    except ValueError as e:
        raise ConfigError(f"{e}; write {{{{ for a brace that is part of the text") from None
    names = [name for _, name, _, _ in parsed if name is not None]
    if odd := [name for name in names if not name.replace("_", "a").replace(" ", "a").isalnum()]:
        raise ConfigError(f"{{{odd[0]}}} is not the name of a column; write {{{{ for a brace in the text")
    return tuple(dict.fromkeys(names))
