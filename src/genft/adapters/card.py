"""The model cards that genft writes: for an adapter, its merged model, and its LoRA form.

Names of classes, tasks and models come from data and command lines. They are escaped as YAML in the front matter, as
Python literals in code, and as plain Markdown text elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from genft.adapters.folder import CARD
from genft.adapters.task_file import SavedTask
from genft.errors import visible

#: Characters that can start Markdown markup anywhere in a line.
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~$&])")


@dataclass(frozen=True)
class Card:
    """A README.md: its front matter, a title, and paragraphs of Markdown that are already escaped."""

    title: str
    base: str | None
    library: str
    paragraphs: Sequence[str]
    tags: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        front = ModelCardData(
            base_model=visible(self.base) if self.base else None,
            library_name=self.library,
            tags=list(self.tags) or None,
        )
        body = "\n\n".join((f"# {self.title}", *self.paragraphs))
        (folder / CARD).write_text(f"---\n{front.to_yaml()}\n---\n{body}\n", encoding="utf-8")


def markdown(text: str) -> str:
    """``text`` escaped as one line of Markdown that displays it literally."""
    return _MARKUP.sub(r"\\\1", visible(text))


def code(*lines: str) -> str:
    return "\n".join(("```python", *lines, "```"))


def subject(saved: SavedTask | None) -> str:
    """A title for the saved model: its method, base and task."""
    if saved is None:
        return "An adapter"
    return f"{markdown(saved.method)} on {markdown(saved.base)}, for {markdown(saved.task)}"


def outputs_as_code(labels: Sequence[str]) -> str:
    """The arguments of ``from_pretrained`` that set the head's outputs and their names."""
    names = ", ".join(map(_literal, labels))
    return f"num_labels={len(labels)}, id2label=dict(enumerate([{names}]))"


def adapter_card(saved: SavedTask, *, is_peft: bool) -> Card:
    """The card of a saved adapter or baseline: what it predicts, and the code that loads it."""
    meaning = "a number" if saved.regression else ", ".join(map(markdown, saved.classes))
    example = '("a text",)' if saved.kind == "text" else '("image.jpg",)'
    paragraphs = [
        f"{markdown(saved.metric)} {saved.score:.4f} (protocol {markdown(saved.protocol)}), "
        f"trained with genft {markdown(saved.genft_version)}.\n"
        f"Predicts, in this order: {meaning}.",
        "Install genft with `pip install genft`, then:",
        code(
            "from genft import load_adapter",
            "",
            'trained = load_adapter("THIS FOLDER")',
            f"trained.predict([{example}])  # {'values' if saved.regression else 'probabilities, in the order above'}",
        ),
    ]
    if saved.base_is_local:
        paragraphs.append("The base was a local folder on the machine of training: pass its location as `base=`.")
    if is_peft:
        auto, task = ("SequenceClassification", "text-classification")
        if saved.kind == "image":
            auto, task = ("ImageClassification", "image-classification")
        paragraphs += [
            "Even without genft's loader, `import genft` first: it registers the method with peft.",
            with_peft(f"AutoModelFor{auto}", saved.base, saved.classes or ("value",), "import genft"),
        ]
        if saved.kind == "text":
            paragraphs += [
                f'`pipeline({task!r}, model=model, tokenizer="THIS FOLDER")` then answers with these names.',
                "With peft in one line: `AutoPeftModelForSequenceClassification.from_pretrained("
                f'"THIS FOLDER", num_labels={saved.outputs})`.',
            ]
    return Card(subject(saved), saved.base, "peft" if is_peft else "transformers", paragraphs, ("genft",))


def merged_card(saved: SavedTask | None, base: str | None, class_name: str) -> Card:
    """The card of a plain model with the adapter folded in."""
    paragraphs = [
        f"The adapter is folded into the weights: a plain {class_name}.",
        code(f"from transformers import {class_name}", "", f'model = {class_name}.from_pretrained("THIS FOLDER")'),
    ]
    return Card(f"{subject(saved)}, merged", base, "transformers", paragraphs)


def lora_card(
    saved: SavedTask | None, base: str | None, class_name: str, labels: Sequence[str], worst_error: float | None
) -> Card:
    """The card of an adapter's LoRA form.

    Args:
        labels: names of the head's outputs; none for a model without such a head.
        worst_error: the largest relative error of one weight's update, or None if the conversion is exact.
    """
    how = "exactly" if worst_error is None else f"with relative errors of up to {worst_error:.1e} per weight"
    paragraphs = [f"Converted {how}.", with_peft(class_name, base or "", labels)]
    return Card(f"{subject(saved)}, as LoRA", base, "peft", paragraphs)


def with_peft(class_name: str, base: str, labels: Sequence[str], *imports: str) -> str:
    """The code that attaches the adapter to its base with peft."""
    head = f", {outputs_as_code(labels)}" if labels else ""
    return code(
        *imports,
        "from peft import PeftModel",
        f"from transformers import {class_name}",
        "",
        f"base = {class_name}.from_pretrained({_literal(base)}{head})",
        'model = PeftModel.from_pretrained(base, "THIS FOLDER")',
    )


def _literal(text: str) -> str:
    """A Python string literal in double quotes; it contains no backquotes that could end the code block."""
    inner = "".join(c if c.isprintable() and c not in '\\"`' else f"\\U{ord(c):08x}" for c in text)
    return f'"{inner}"'
