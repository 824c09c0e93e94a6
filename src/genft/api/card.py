"""The model card of a saved adapter: what it is, what to install, and the code that loads it.

Names of classes, tasks and models come from data and command lines, so they are escaped: as YAML in the front matter,
as Python literals in code, and as Markdown text elsewhere.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from genft.errors import first_line, visible

CARD = "README.md"
#: The transformers class of a base model by peft's task type.
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}

#: Characters that can start Markdown markup anywhere in a line.
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~$&])")
#: Delimit the section that genft inserts into an existing card.
_BEGIN, _END = "<!-- genft: how to load this adapter -->", "<!-- end of genft's part -->"
_OWN_PART = re.compile(rf"{_BEGIN}.*?{_END}", re.DOTALL)
#: The title of huggingface_hub's template when nobody has filled it in.
_BLANK = re.compile(r"\A\s*# Model Card for Model ID\s*$", re.MULTILINE)


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


def write_card(folder: Path, method: str, base: str | None, class_name: str) -> None:
    """Add instructions for loading the adapter to the card in ``folder``.

    A card that somebody has written keeps its text and gets this section in front; peft's empty template is replaced.

    Args:
        folder: the adapter's folder.
        method: the registered name of its method.
        base: the base model's name in the configuration.
        class_name: the base model's class in transformers.
    """
    title = f"{markdown(method)} adapter" + (f" on {markdown(base)}" if base else "")
    part = "\n\n".join((_BEGIN, *_how_to_load(method, base, class_name), _END))
    file = folder / CARD
    if not file.is_file():
        hub_id = None if base is None or Path(base).expanduser().is_dir() else base
        Card(title, hub_id, "peft", (part,), ("genft",)).write(folder)
        return
    try:
        if _is_complete(file.read_text(encoding="utf-8"), part):
            return  # saving a PeftModel comes here twice, and YAML is slow
        card = ModelCard.load(file)
        card.data.tags = sorted({*(card.data.tags or ()), "genft"})
        if _OWN_PART.search(card.text):
            card.text = _OWN_PART.sub(lambda _: part, card.text)
        elif _BLANK.search(card.text):
            card.text = f"# {title}\n\n{part}\n"
        else:
            card.text = f"{part}\n\n{card.text.lstrip()}"
        card.save(file)
    except Exception as e:  # front matter may be anything: PyYAML and huggingface_hub raise many types
        warnings.warn(f"{file}: left unchanged because its front matter cannot be read: {first_line(e)}", stacklevel=2)


def _is_complete(text: str, part: str) -> bool:
    front, _, _ = text.removeprefix("---\n").partition("\n---\n")
    return part in text and "- genft" in front.splitlines()


def _how_to_load(method: str, base: str | None, class_name: str) -> list[str]:
    paragraphs = [
        f"Trained with genft (method {markdown(method)}), an extension of peft. Install it with "
        "`pip install genft`, then:",
        with_peft(class_name, base or "THE BASE MODEL", (), "import genft  # makes the method known to peft"),
        f"Without `import genft`, peft raises `KeyError: '{method.upper()}'`. To use the adapter without genft, run "
        '`genft merge "THIS FOLDER" --out merged` on a machine that has genft, which writes a plain model; if the '
        "method allows, `genft to-lora` writes a LoRA adapter.",
    ]
    if class_name == "AutoModel":
        paragraphs.append("If the adapted model has another class than `AutoModel` returns, load that class instead.")
    if class_name.endswith("Classification"):
        paragraphs.append(
            "Pass the number of training labels to `from_pretrained` (`num_labels=`); the head is in the adapter."
        )
    if base and Path(base).expanduser().is_dir():
        paragraphs.append(
            "The base was a local folder on the training machine; pass its path on yours, or its name on the Hub."
        )
    return paragraphs


def markdown(text: str) -> str:
    """``text`` escaped so that Markdown renders it literally, on one line."""
    return _MARKUP.sub(r"\\\1", visible(text))


def code(*lines: str) -> str:
    return "\n".join(("```python", *lines, "```"))


def outputs_as_code(labels: Sequence[str]) -> str:
    """The arguments of ``from_pretrained`` that set the number and the names of a head's outputs."""
    names = ", ".join(map(_literal, labels))
    return f"num_labels={len(labels)}, id2label=dict(enumerate([{names}]))"


def with_peft(class_name: str, base: str, labels: Sequence[str], *imports: str) -> str:
    """The code that loads the adapter onto its base with peft."""
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
    """A Python string in double quotes, printable and without backquotes, which could end the code block."""
    inner = "".join(c if c.isprintable() and c not in '\\"`' else f"\\U{ord(c):08x}" for c in text)
    return f'"{inner}"'
