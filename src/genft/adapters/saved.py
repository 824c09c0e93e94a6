"""Save and load the adapter folder of a run, which contains all that a user with the same base model needs.

adapter_config.json, adapter_model.safetensors    peft's files (model.safetensors if no adapter was used)
genft_task.json                                   task, labels, preprocessing, base, score
genft_base.json                                   hashes of the base's frozen weights
genft_run.toml                                    the options that repeat the run
tokenizer files (text), README.md                 the tokenizer; the model card with the code to load it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from genft.adapters.base_record import check_base, read_base_record, take_base_record, tokenizer_fingerprint
from genft.adapters.card import adapter_card
from genft.adapters.checks import check_files, check_names, check_shapes, check_sizes, one_sentence, read_tensors
from genft.adapters.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASELINE_WEIGHTS, RUN_FILE, TASK_FILE, new_folder
from genft.adapters.task_file import SavedTask, read_task
from genft.api.card import AUTO_CLASSES
from genft.bridge.adapter_file import current_key
from genft.bridge.base_check import take_base
from genft.bridge.fingerprint import other_base_allowed
from genft.bridge.patterns import check_patterns
from genft.bridge.tuner import BridgeTuner
from genft.data import Task
from genft.errors import AdapterFileError, BaseMismatchError, ConfigError, DataError, GenFTError, first_line
from genft.families.family import Family
from genft.families.registry import get_family
from genft.models.load import LoadedModel
from genft.models.parameters import trained_state
from genft.models.prefixes import accept_prefix
from genft.models.source import ModelSource, find_model

_ELSEWHERE = "; if you have this model elsewhere, pass its location with --base (base= in Python)"


@dataclass(frozen=True)
class Opened:
    """An adapter on its base model, loaded from a folder written by genft or peft.

    Attributes:
        folder: the folder of the adapter.
        model: the adapted model, in evaluation mode.
        tokenizer: the tokenizer, or None for images or if there is none.
        saved: genft's record of the task, or None for a folder written by peft alone.
    """

    folder: Path
    model: nn.Module
    tokenizer: Any
    saved: SavedTask | None

    @property
    def base(self) -> PreTrainedModel:
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return cast(PreTrainedModel, base)


@dataclass(frozen=True)
class Trained(Opened):
    """An adapter trained by genft, on its base and ready to predict.

    Attributes:
        loaded: the base model, with the tokenizer and the preprocessing of training.
    """

    saved: SavedTask
    loaded: LoadedModel

    @cached_property
    def family(self) -> Family:
        """The family of the adapter's task."""
        return family_of(self.saved)

    def predict(self, inputs: Sequence[str | tuple[str, ...]], batch_size: int = 64, **options: Any) -> Any:
        """One output per input, in the order of ``inputs``.

        Probabilities (n, classes), or values (n, 1) in a regression, float32; for a task that generates text, a list
        of the generated texts; for answers in texts, a list of their texts, places and probabilities.

        Args:
            inputs: texts, tuples of two texts if the task has pairs or questions with contexts, or paths of images.
            batch_size: the number of inputs per forward pass.
            options: how text is generated: ``max_new_tokens``, and the settings of
                :class:`genft.families.generation.Sampling`.

        Raises:
            DataError: one text instead of a list, or an input with a different number of texts than in training.
            GenFTError: outputs that are NaN or infinite.
            ConfigError: an option that this task does not have.
        """
        tuples = self._as_tuples(inputs)
        preprocessing = self.saved.preprocessing
        outputs = self.family.predict(self.model, self.tokenizer, preprocessing, tuples, batch_size, options)
        if isinstance(outputs, torch.Tensor):
            _refuse_nan(outputs)
        return outputs

    def _as_tuples(self, inputs: Sequence[str | tuple[str, ...]]) -> list[tuple[str, ...]]:
        if isinstance(inputs, str):
            raise DataError("inputs: received one text; give a list of texts")
        tuples = [(item,) if isinstance(item, str) else tuple(item) for item in inputs]
        columns = self.family.input_names
        for number, texts in enumerate(tuples):
            if len(texts) != len(columns):
                raise DataError(f"inputs[{number}]: has {len(texts)} values; allowed: {', '.join(columns)}")
        return tuples


def _refuse_nan(outputs: torch.Tensor) -> None:
    bad = (~outputs.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise GenFTError(
            f"the model's outputs for {len(bad):,} of {len(outputs):,} inputs (first: input {bad[0] + 1}) are NaN or "
            "infinite, which is no prediction; the adapter or its base holds values that are too large"
        )


# -------------------------------------------------------------------- save


def save(
    folder: Path,
    model: nn.Module,
    loaded: LoadedModel,
    task: Task,
    method: str,
    protocol: str,
    score: float,
    run_file: str | None = None,
) -> int:
    """Write the folder atomically; an older one of the same name is replaced.

    Args:
        folder: the folder to write.
        model: the base model with the method attached and trained.
        loaded: the base model.
        task: what was learned, with its classes.
        method, protocol: their names.
        score: the task's metric on the reporting split.
        run_file: the options that repeat the run, or None if none can.

    Returns:
        The size of its weight file in bytes.

    Raises:
        ConfigError: the folder cannot be written.
    """
    is_peft = isinstance(model, PeftModel)
    record = take_base_record(model)
    saved = _describe(loaded, task, method, protocol, score, record.fingerprint if record else None)
    with new_folder(folder, replace=True) as temporary:
        weights = temporary / (ADAPTER_WEIGHTS if is_peft else BASELINE_WEIGHTS)
        if isinstance(model, PeftModel):
            save_adapter(temporary, model)
        else:
            save_file({k: v.contiguous().cpu() for k, v in trained_state(model).items()}, weights, {"format": "pt"})
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(temporary)
        if record is not None:
            record.write(temporary)
        saved.write(temporary)
        if run_file is not None:
            (temporary / RUN_FILE).write_text(run_file, encoding="utf-8")
        adapter_card(saved, get_family(task).words, is_peft=is_peft).write(temporary)
        return weights.stat().st_size


def _describe(
    loaded: LoadedModel, task: Task, method: str, protocol: str, score: float, base_fingerprint: str | None
) -> SavedTask:
    return SavedTask(
        genft_version=version("genft"),
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
        quantise=loaded.quantise,
        licence=task.licence,
        source=task.source,
        family=task.family,
        task_type=loaded.task_type,
        prompting=task.prompting,
        answering=task.answering,
        base_fingerprint=base_fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint(loaded.tokenizer) if loaded.tokenizer is not None else None,
    )


def save_adapter(folder: Path, model: PeftModel) -> None:
    """Save the adapter as peft does; one that starts by changing W0 (PiSSA) is saved as LoRA of twice the rank on the
    unchanged W0."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    initial = getattr(model, "initial_adapter", None)
    if initial is None:
        return
    file, weights = folder / ADAPTER_CONFIG, load_file(folder / ADAPTER_WEIGHTS)
    for name, start in initial.items():  # W0 − B₀A₀ + BA = W0 + [B −B₀] [A; A₀]
        if ".lora_A." in name:
            weights[name] = torch.cat([weights[name], start.cpu()], dim=0)
        elif ".lora_B." in name:
            weights[name] = torch.cat([weights[name], -start.cpu()], dim=1)
    config = json.loads(file.read_text(encoding="utf-8"))
    scale = 2**0.5 if config["use_rslora"] else 2  # keeps alpha / r, or alpha / √r, unchanged
    config |= {"init_lora_weights": True, "r": 2 * config["r"], "lora_alpha": scale * config["lora_alpha"]}
    config["rank_pattern"] = {name: 2 * rank for name, rank in (config["rank_pattern"] or {}).items()}
    config["alpha_pattern"] = {name: scale * alpha for name, alpha in (config["alpha_pattern"] or {}).items()}
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    save_file(weights, folder / ADAPTER_WEIGHTS, {"format": "pt"})


def save_preprocessing(folder: Path, opened: Opened) -> None:
    """Save the preprocessing of the model's inputs: the tokenizer, or the image processor."""
    if opened.tokenizer is not None:
        opened.tokenizer.save_pretrained(folder)
    if opened.saved is not None and opened.saved.kind == "image":
        p = opened.saved.preprocessing
        side = cast(int, p.image_size)  # always set for images
        transformers.ViTImageProcessor(
            size={"height": side, "width": side},
            resample=3 if p.interpolation == "bicubic" else 2,
            image_mean=list(p.mean),
            image_std=list(p.std),
        ).save_pretrained(folder)


# -------------------------------------------------------------------- open


def load(folder: str | Path, base: str | None = None) -> Trained:
    """Load a folder written by :func:`save` onto its base model, for prediction.

    Args:
        folder: the saved adapter.
        base: another location of the same base model; by default the one that the adapter names.

    Raises:
        AdapterFileError: a file is missing or damaged.
        BaseMismatchError: the base is not the model that the adapter was trained on.
        ConfigError: the base cannot be found.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AdapterFileError(f"{folder}: is not a folder with a saved adapter")
    check_files(folder)
    saved = read_task(folder)
    loaded = family_of(saved).load(
        _find_base(saved, base), image_size=saved.preprocessing.image_size, quantise=saved.quantise
    )
    if not other_base_allowed():
        check_base(read_base_record(folder), saved.base_fingerprint, loaded.model, saved.base)
    tokenizer = _tokenizer(folder, saved, loaded.tokenizer)
    if (folder / ADAPTER_CONFIG).exists():
        model: nn.Module = _attach(folder, loaded.model, saved.base)
    else:
        model = _fill_in(folder / BASELINE_WEIGHTS, loaded, saved)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    loaded = replace(loaded, tokenizer=tokenizer, preprocessing=saved.preprocessing)
    return Trained(folder, model.eval().to(device), tokenizer, saved, loaded)


def open_adapter(folder: Path, base: str | None = None, num_labels: int | None = None) -> Opened:
    """Load a folder written by ``genft train`` or by peft's ``save_pretrained``.

    Args:
        folder: the saved adapter.
        base: the location of the base model, if it differs from the one in the adapter.
        num_labels: the number of outputs of the head, for a peft folder with a classification head, which does not
            record it.

    Raises:
        AdapterFileError: a file is missing or damaged, or does not name its base model.
        BaseMismatchError: the base is not the model that the adapter was trained on.
        ConfigError: the base cannot be found.
    """
    if (folder / TASK_FILE).is_file():
        return load(folder, base)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise AdapterFileError(f"{folder}: is not a folder with a saved adapter")
    check_files(folder)
    config = PeftConfig.from_pretrained(str(folder))
    name = base or config.base_model_name_or_path
    if not name:
        raise AdapterFileError(f"{folder}: does not name its base model; pass --base")
    source = find_model(name)
    model = _plain_base(folder, config, source, num_labels)
    hint = "; pass --num-labels, the number of outputs of its head" if num_labels is None else ""
    adapted = _attach(folder, model, name, hint, embeddings=True)
    folders = [p for p in (folder, source.folder) if (p / "tokenizer_config.json").is_file()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[0]) if folders else None
    return Opened(folder, adapted.eval(), tokenizer, None)


def _find_base(saved: SavedTask, base: str | None) -> ModelSource:
    if saved.base_is_local and not base and not Path(saved.base).expanduser().is_dir():
        # never look up a folder's name on the Hub: another model may have the same name
        raise ConfigError(f"model: the folder {saved.base} does not exist{_ELSEWHERE}")
    try:
        return find_model(base or saved.base)
    except ConfigError as e:
        raise ConfigError(f"{e}{'' if base else _ELSEWHERE}") from None


def family_of(saved: SavedTask) -> Family:
    """The family of a saved adapter's task."""
    return get_family(_task(saved))


def _task(saved: SavedTask) -> Task:
    return Task(
        name=saved.task,
        kind=saved.preprocessing.kind,
        family=saved.family,
        reader="",
        text_columns=saved.text_columns,
        label_column=saved.label_column,
        metric=saved.metric,
        prompting=saved.prompting,
        answering=saved.answering,
        classes=saved.classes,
        regression=saved.regression,
        max_length=saved.preprocessing.max_length or 128,
    )


def _tokenizer(folder: Path, saved: SavedTask, base_tokenizer: Any) -> Any:
    """The tokenizer used in training, from the adapter's folder; the base's own may have been replaced since."""
    if base_tokenizer is None:
        return None
    in_folder = (folder / "tokenizer_config.json").is_file()
    if in_folder:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        except Exception as e:  # the tokenizers library raises plain exceptions
            raise AdapterFileError(f"{folder}: its tokenizer cannot be read: {first_line(e)}") from None
    else:
        tokenizer = base_tokenizer
    expected = saved.tokenizer_fingerprint
    if expected is None or other_base_allowed() or tokenizer_fingerprint(tokenizer) == expected:
        return tokenizer
    if in_folder:
        raise AdapterFileError(f"{folder}: its tokenizer is not the one used in training; copy the whole folder")
    raise BaseMismatchError(
        f"adapter: the tokenizer of {saved.base} is not the one used in training, and {folder} has none; load the base "
        "model of training, or pass another on purpose inside `with genft.allow_other_base():`"
    )


def _attach(folder: Path, base: PreTrainedModel, name: str, hint: str = "", *, embeddings: bool = False) -> PeftModel:
    """Check the files of the adapter in ``folder`` and attach it to its base.

    Args:
        base: the base model.
        name: the adapter's name for the base.
        hint: an addition to the message about tensors of other sizes.
        embeddings: whether the file may contain the base's embeddings, which peft saves if they were resized.
    """
    file = folder / ADAPTER_WEIGHTS
    tensors = read_tensors(file)
    with one_sentence(folder, name, hint):
        check_sizes(folder, tensors)
        config = PeftConfig.from_pretrained(str(folder))
        check_patterns(vars(config), [path for path, _ in base.named_modules()])
        if config.peft_type == PeftType.PREFIX_TUNING:
            accept_prefix(base)
        model = PeftModel.from_pretrained(base, str(folder))
        values = get_peft_model_state_dict(model, save_embedding_layers=False)
        allowed = set(values)
        if isinstance(model.base_model, BridgeTuner):
            take_base(values, model.base_model.prefix)
        if embeddings:
            allowed |= get_peft_model_state_dict(model, save_embedding_layers=True).keys()
    check_names(file, [current_key(name) for name in tensors], needed=values.keys(), allowed=allowed)
    return model


def _fill_in(file: Path, loaded: LoadedModel, saved: SavedTask) -> nn.Module:
    """The base with the weights that a baseline trained: its head, or everything."""
    tensors = read_tensors(file)
    known = dict(loaded.model.named_parameters())
    head = tuple(f"{name}." for name in loaded.trained_in_full)
    needed = [name for name in known if saved.method == "full" or name.startswith(head)]
    pooler = tuple(f"{name}." for name in loaded.untrained)  # genft 0.1 left it frozen, and out of the file
    frozen = [name for name in needed if name.startswith(pooler)] if pooler else []
    check_shapes(file, tensors, known, saved.base)
    check_names(file, tensors, needed=sorted(set(needed) - set(frozen)), allowed=frozen)
    loaded.model.load_state_dict(tensors, strict=False)
    return loaded.model


def _plain_base(folder: Path, config: PeftConfig, source: ModelSource, num_labels: int | None) -> PreTrainedModel:
    """The base model of a folder written by peft alone, of the class required by its task type."""
    class_name = AUTO_CLASSES.get(str(config.task_type)) or (config.auto_mapping or {}).get("base_model_class", "")
    auto = getattr(transformers, class_name, None)
    if auto is None:
        raise AdapterFileError(f"{folder}: does not state the class of its base model (task_type)")
    head = {} if num_labels is None else {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    model: PreTrainedModel = auto.from_pretrained(source.folder, dtype="auto", **head)
    model.config._name_or_path = model.name_or_path = source.base_id
    return model
