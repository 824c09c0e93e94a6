"""Folders: opening a saved adapter, and writing what was made of it, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from peft import PeftConfig, PeftModel
from torch import nn

from genft.adapters import saved as artifact
from genft.adapters.lora import LoraAdapter
from genft.adapters.saved import SavedTask
from genft.errors import AdapterFileError, ConfigError
from genft.models.source import find_model

#: The transformers class of a base model by peft's task type.
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}


@dataclass(frozen=True)
class Opened:
    """An adapter on its base model, from a folder that genft or peft wrote.

    Attributes:
        model: in evaluation.
        tokenizer: None for images, or where none was saved.
        saved: what genft recorded about the task; None for a folder that peft alone wrote.
    """

    model: nn.Module
    tokenizer: Any
    saved: SavedTask | None

    @property
    def base(self) -> nn.Module:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model


def open_adapter(folder: Path, base: str | None = None, num_labels: int | None = None) -> Opened:
    """Load what ``genft train``, or peft's ``save_pretrained``, has written.

    Args:
        base: where the base model is, if not where the adapter says.
        num_labels: outputs of the head, for a folder of peft's with a classification head (it does not say).
    """
    if (folder / artifact.TASK_FILE).is_file():
        trained = artifact.load(folder, base)
        return Opened(trained.model, trained.tokenizer, trained.saved)
    if not (folder / "adapter_config.json").is_file():
        raise AdapterFileError(f"{folder}: is not a folder with a saved adapter")
    config = PeftConfig.from_pretrained(str(folder))
    name = base or config.base_model_name_or_path
    if not name:
        raise AdapterFileError(f"{folder}: does not name its base model; pass --base")
    source = find_model(name)
    class_name = AUTO_CLASSES.get(str(config.task_type)) or (config.auto_mapping or {}).get("base_model_class", "")
    auto = getattr(transformers, class_name, None)
    if auto is None:
        raise AdapterFileError(f"{folder}: does not say of which class its base model is (task_type)")
    head = {} if num_labels is None else {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    model = auto.from_pretrained(source.folder, dtype="auto", **head)
    model.config._name_or_path = model.name_or_path = source.base_id
    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
    except RuntimeError as e:
        sizes = "size mismatch" in str(e) and num_labels is None
        hint = "; pass --num-labels, the outputs of its head" if sizes else ""
        raise AdapterFileError(f"{folder}: does not fit {name}{hint}: {str(e).splitlines()[-1].strip()}") from None
    tokenizer = None
    for place in (folder, source.folder):
        if (place / "tokenizer_config.json").is_file():
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            break
    return Opened(adapted.eval(), tokenizer, None)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block ends well, and is gone otherwise.

    Raises:
        ConfigError: ``out`` has something in it, or cannot be written.
    """
    out = out.absolute()
    check_new(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if out.exists():
            out.rmdir()
        temporary.replace(out)
    except OSError as e:
        raise ConfigError(f"{out}: cannot be written ({e.strerror})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(out: Path) -> None:
    """Refuse a folder that has something in it."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is not an empty folder; nothing was changed")


def save_preprocessing(folder: Path, opened: Opened) -> None:
    """What turns an example into the model's input: the tokenizer, or the image processor."""
    if opened.tokenizer is not None:
        opened.tokenizer.save_pretrained(folder)
    if opened.saved is not None and opened.saved.kind == "image":
        p = opened.saved.preprocessing
        side = p.image_size
        assert side is not None
        transformers.ViTImageProcessor(
            size={"height": side, "width": side},
            resample=3 if p.interpolation == "bicubic" else 2,
            image_mean=list(p.mean),
            image_std=list(p.std),
        ).save_pretrained(folder)


def save_merged(folder: Path, model: transformers.PreTrainedModel, opened: Opened) -> None:
    """A plain model folder, with its card."""
    model.save_pretrained(folder)
    save_preprocessing(folder, opened)
    name = type(model).__name__
    text = f"The adapter is folded into the weights: a plain {name}."
    code = f"""from transformers import {name}

model = {name}.from_pretrained("THIS FOLDER")"""
    _save_card(folder, model.config._name_or_path, "transformers", _subject(opened) + ", merged", text, code)


def save_lora(folder: Path, lora: LoraAdapter, opened: Opened) -> None:
    """A folder for peft, and for ``genft predict`` where the adapter came from ``genft train``."""
    lora.save(folder)
    save_preprocessing(folder, opened)
    if opened.saved is not None:
        record = opened.saved.model_copy(update={"method": "lora"})
        (folder / artifact.TASK_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    worst = max(layer.error for layer in lora.layers)
    text = f"Converted {'exactly' if lora.exact else f'with relative errors of up to {worst:.1e} per weight'}."
    base, name = lora.config.base_model_name_or_path, type(opened.base).__name__
    labels = f", num_labels={len(opened.saved.classes) or 1}" if opened.saved is not None else ""
    code = f"""from peft import PeftModel
from transformers import {name}

base = {name}.from_pretrained("{base}"{labels})
model = PeftModel.from_pretrained(base, "THIS FOLDER")"""
    _save_card(folder, base, "peft", _subject(opened) + ", as LoRA", text, code)


def _subject(opened: Opened) -> str:
    saved = opened.saved
    return f"{saved.method} on {saved.base}, for {saved.task}" if saved is not None else "An adapter"


def _save_card(folder: Path, base: str | None, library: str, title: str, text: str, code: str) -> None:
    front = f"base_model: {base}\n" if base else ""
    (folder / "README.md").write_text(
        f"---\n{front}library_name: {library}\n---\n# {title}\n\n{text}\n\n```python\n{code}\n```\n", encoding="utf-8"
    )
