"""The folder that a run leaves behind, and how to use it again: enough for a stranger with the same base model.

adapter_config.json, adapter_model.safetensors    peft's own (model.safetensors where no adapter was used)
genft_task.json                                   task, labels, preprocessing, base, what was measured
tokenizer files, README.md                        for text; the model card with the code to load it
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from genft.bridge.tuner import LARGEST
from genft.data import Task
from genft.data.encode import Encoded, encode
from genft.errors import AdapterFileError, BaseMismatchError, ConfigError
from genft.models.load import LoadedModel, Preprocessing, find_model, load_model
from genft.models.parameters import trained_state
from genft.records import Record, check

TASK_FILE = "genft_task.json"
BASELINE_FILE = "model.safetensors"
#: Settings of peft's own methods that are a size of what loading allocates.
SIZES = {
    *("r", "rank", "init_r", "target_r", "n_frequency", "num_vectors", "vector_length"),
    *("num_virtual_tokens", "token_dim", "num_layers", "num_transformer_submodules"),
}


class SavedTask(Record):
    """The content of genft_task.json."""

    genft_version: str
    task: str
    kind: str
    text_columns: tuple[str, ...]
    label_column: str
    regression: bool
    classes: tuple[str, ...]
    metric: str
    base: str
    base_is_local: bool
    method: str
    preprocessing: Preprocessing
    score: float
    protocol: str


@dataclass(frozen=True)
class Trained:
    """A saved adapter, loaded on its base and ready to predict."""

    model: nn.Module
    tokenizer: Any
    saved: SavedTask

    def predict(self, inputs: list[tuple[str, ...]], batch_size: int = 64) -> torch.Tensor:
        """Probabilities (n, classes), or values (n, 1) in a regression, float32, in the order of ``inputs``."""
        data: Encoded = encode(inputs, None, self.saved.preprocessing, self.tokenizer)
        order = sorted(range(len(data)), key=lambda i: -data.lengths[i])
        device = next(self.model.parameters()).device
        found = []
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                items = [data[i] for i in order[start : start + batch_size]]
                if self.tokenizer is None:
                    batch = {"pixel_values": torch.stack([item["pixel_values"] for item in items])}
                else:
                    batch = self.tokenizer.pad(items, return_tensors="pt")
                found.append(self.model(**{k: v.to(device) for k, v in batch.items()}).logits.float().cpu())
        outputs = torch.cat(found)[torch.tensor(order).argsort()]
        return outputs if self.saved.regression else outputs.softmax(dim=1)


def save(
    folder: Path, model: nn.Module, loaded: LoadedModel, task: Task, method: str, protocol: str, score: float
) -> int:
    """Write the folder, whole or not at all; returns the bytes of its weight file."""
    from genft import __version__

    saved = SavedTask(
        genft_version=__version__,
        task=task.name,
        kind=task.kind,
        text_columns=task.text_columns if task.kind == "text" else (),
        label_column=task.label_column,
        regression=task.regression,
        classes=task.classes,
        metric=task.metric,
        base=loaded.source.base_id,
        base_is_local=Path(loaded.source.base_id).expanduser().is_dir(),
        method=method,
        preprocessing=loaded.preprocessing,
        score=score,
        protocol=protocol,
    )
    temporary, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old"))
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed: only one at a time is at a run
    try:
        temporary.mkdir(parents=True)
        if isinstance(model, PeftModel):
            _save_adapter(temporary, model)
            weights = temporary / "adapter_model.safetensors"
        else:
            weights = temporary / BASELINE_FILE
            save_file({k: v.contiguous().cpu() for k, v in trained_state(model).items()}, weights, {"format": "pt"})
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(temporary)
        (temporary / TASK_FILE).write_text(saved.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_card(saved, isinstance(model, PeftModel)), encoding="utf-8")
        size = weights.stat().st_size
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ConfigError(f"{folder}: cannot be written ({getattr(e, 'strerror', None) or e})") from None
    return size


def _save_adapter(folder: Path, model: PeftModel) -> None:
    """As peft saves it; one that starts by changing W0 (PiSSA) as LoRA of the unchanged W0, of twice the rank."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    initial = getattr(model, "initial_adapter", None)
    if initial is None:
        return
    file, weights = folder / CONFIG_NAME, load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    for name, start in initial.items():  # W0 − B₀A₀ + BA = W0 + [B −B₀] [A; A₀]
        if ".lora_A." in name:
            weights[name] = torch.cat([weights[name], start.cpu()], dim=0)
        elif ".lora_B." in name:
            weights[name] = torch.cat([weights[name], -start.cpu()], dim=1)
    config = json.loads(file.read_text(encoding="utf-8"))
    scale = 2**0.5 if config["use_rslora"] else 2  # with which alpha / r, or alpha / √r, stays as it is
    config |= {"init_lora_weights": True, "r": 2 * config["r"], "lora_alpha": scale * config["lora_alpha"]}
    config["rank_pattern"] = {name: 2 * rank for name, rank in (config["rank_pattern"] or {}).items()}
    config["alpha_pattern"] = {name: scale * alpha for name, alpha in (config["alpha_pattern"] or {}).items()}
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})


def load(folder: str | Path, base: str | None = None) -> Trained:
    """Load a saved adapter on its base model, for prediction.

    Args:
        folder: what :func:`save` wrote.
        base: another place of the same base model; by default the one that the adapter names.

    Raises:
        AdapterFileError: a file is missing or damaged.
        BaseMismatchError: the base is not the model that the adapter was trained on.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AdapterFileError(f"{folder}: is not a folder with a saved adapter")
    saved = read_task(folder)
    task = Task(
        name=saved.task,
        kind=saved.preprocessing.kind,
        reader="",
        classes=saved.classes,
        regression=saved.regression,
        max_length=saved.preprocessing.max_length or 128,
    )
    if saved.base_is_local and not base and not Path(saved.base).expanduser().is_dir():
        # never look a folder's name up on the Hub: another model may have it
        raise ConfigError(
            f"model: the folder {saved.base} does not exist; if you have this model elsewhere, "
            "say where with --base (base= in Python)"
        )
    try:
        source = find_model(base or saved.base)
    except ConfigError as e:
        hint = "" if base else "; if you have this model elsewhere, say where with --base (base= in Python)"
        raise ConfigError(f"{e}{hint}") from None
    loaded = load_model(source, task, saved.preprocessing.image_size)
    weights = folder / ("adapter_model.safetensors" if (folder / "adapter_config.json").exists() else BASELINE_FILE)
    if not weights.is_file():
        raise AdapterFileError(f"{weights}: is missing")
    try:
        if weights.name == BASELINE_FILE:
            state = load_file(weights)
            known = dict(loaded.model.named_parameters())
            if wrong := [k for k, v in state.items() if k not in known or known[k].shape != v.shape]:
                raise AdapterFileError(f"{weights}: {wrong[0]} does not fit the base model {saved.base}")
            whole = [k for k in known if k.startswith(tuple(f"{name}." for name in loaded.trained_in_full))]
            if missing := [k for k in whole if k not in state]:
                raise AdapterFileError(f"{weights}: has no values for {missing[0]}; it is incomplete")
            loaded.model.load_state_dict(state, strict=False)
            model: nn.Module = loaded.model
        else:
            if not (state := load_file(weights)):
                raise AdapterFileError(f"{weights}: holds no tensor; it is incomplete")
            _check_sizes(folder / CONFIG_NAME, state)
            model = PeftModel.from_pretrained(loaded.model, str(folder))
            if missing := sorted(get_peft_model_state_dict(model, save_embedding_layers=False).keys() - state.keys()):
                raise AdapterFileError(f"{weights}: has no values for {missing[0]}; it is incomplete")
        if broken := [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
            raise AdapterFileError(f"{weights}: {broken[0]} holds NaN or infinite values; it is damaged")
    except (AdapterFileError, BaseMismatchError, ConfigError):
        raise
    except SafetensorError as e:
        raise AdapterFileError(f"{weights}: is damaged or incomplete ({e})") from None
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError) as e:
        raise AdapterFileError(f"{folder}: cannot be loaded on {saved.base}: {str(e).splitlines()[0]}") from None
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return Trained(model.eval().to(device), loaded.tokenizer, saved)


def _check_sizes(file: Path, state: dict[str, torch.Tensor]) -> None:
    """Raises AdapterFileError for a rank that no saved weight has; our own tuners know it, peft's would allocate it."""
    most = max([LARGEST, *(size for tensor in state.values() for size in tensor.shape)])
    for name, value in json.loads(file.read_text(encoding="utf-8")).items():
        for size in value.values() if isinstance(value, dict) and name.endswith("_pattern") else [value]:
            if name.removesuffix("_pattern") in SIZES and isinstance(size, int | float) and size > most:
                raise AdapterFileError(f"{file}: {name} holds {size}; nothing in the saved weights is so large")


def read_task(folder: Path) -> SavedTask:
    path = folder / TASK_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise AdapterFileError(
            f"{path}: is missing, so the labels are unknown; load an adapter that genft did not save with "
            "peft.PeftModel.from_pretrained"
        ) from None
    except ValueError as e:
        raise AdapterFileError(f"{path}: is damaged ({e})") from None
    try:
        return check(SavedTask, values, str(path))
    except ConfigError as e:
        raise AdapterFileError(str(e)) from None


def _card(saved: SavedTask, is_peft: bool) -> str:
    """The model card: what this is and the lines that load it."""
    classes = "number" if saved.regression else ", ".join(saved.classes)
    example = '("a text",)' if saved.kind == "text" else '("image.jpg",)'
    local = "\nThe base was a folder on the machine of training: give its place with `base=`.\n"
    card = f"""---
base_model: {saved.base}
library_name: {"peft" if is_peft else "transformers"}
tags: [genft]
---
# {saved.method} on {saved.base}, for {saved.task}

{saved.metric} {saved.score:.4f} (protocol {saved.protocol}), trained with genft {saved.genft_version}.
Predicts, in this order: {classes}.

```python
from genft import load_adapter

trained = load_adapter("THIS FOLDER")
trained.predict([{example}])  # {"values" if saved.regression else "probabilities, in the order above"}
```
{local if saved.base_is_local else ""}"""
    if not is_peft:
        return card
    outputs = len(saved.classes) or 1
    auto = "AutoModelForSequenceClassification" if saved.kind == "text" else "AutoModelForImageClassification"
    short = f"""
With peft in one line: `AutoPeftModelForSequenceClassification.from_pretrained("THIS FOLDER", num_labels={outputs})`.
"""
    return f"""{card}
Without genft's loader, `import genft` still comes first: it makes the method known to peft.

```python
import genft
from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained("{saved.base}", num_labels={outputs})
model = PeftModel.from_pretrained(base, "THIS FOLDER")
```
{short if saved.kind == "text" else ""}"""
