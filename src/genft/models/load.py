"""Loading a base model with a head, and with its tokenizer or image preprocessing.

Modules that are missing from the checkpoint are detected here, because they must be trained and saved in full together
with any adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from genft.data.preprocessing import Kind, Preprocessing
from genft.errors import ConfigError, first_line
from genft.models.source import ModelSource


@dataclass(frozen=True)
class Head:
    """The head that a family of tasks adds to a backbone.

    Attributes:
        auto_class: the name of the transformers class that adds it.
        reads: the kind of the model's input.
        config: settings of the model's configuration: labels, problem type.
        task_type: peft's name for the task, or None if it has none.
        purpose: a phrase for messages: ``"classify texts"``.
        padding_side: where texts are padded when the model is used; None: as its tokenizer does.
        new: whether it is trained and saved in full; False for a language model's, which the checkpoint has.
    """

    auto_class: str
    reads: Kind
    config: Mapping[str, Any]
    task_type: str | None
    purpose: str
    new: bool = True
    padding_side: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model with a head for a task.

    Attributes:
        model: the transformers model.
        tokenizer: the tokenizer of a model that reads texts, otherwise None.
        preprocessing: how its input is prepared.
        head: paths of the head's modules: always trained and saved in full.
        fresh: paths of other modules missing from the checkpoint (in some, BERT's pooler), treated like the head.
        untrained: the pooler of a model that sentence-transformers trained without it, treated like the head.
        notes: sentences about anything unusual.
        task_type: peft's name for the task, or None if it has none.
        quantise: how the base is quantised: 4bit, 8bit, or none.
    """

    source: ModelSource
    model: PreTrainedModel
    tokenizer: Any
    preprocessing: Preprocessing
    head: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    task_type: str | None = None
    quantise: str = "none"

    @property
    def trained_in_full(self) -> tuple[str, ...]:
        """Paths of the modules that are trained and saved in full together with any adapter that allows it."""
        return self.head + self.fresh + self.untrained


def load_model(
    source: ModelSource,
    head: Head,
    *,
    max_length: int = 128,
    image_size: int | None = None,
    drop_path: float = 0.0,
    imagenet: bool = False,
    crop: bool = False,
    quantise: str = "none",
) -> LoadedModel:
    """Load the model and add a head.

    Args:
        source: from :func:`genft.models.source.find_model`.
        head: the head to add to the backbone.
        max_length: the most tokens per text; the model may allow fewer.
        image_size: pixels per side, or None for the model's own.
        drop_path: the probability of skipping the last block; it rises linearly from the first.
        imagenet: resize images bilinearly and normalise them with ImageNet's mean, instead of the model's own.
        crop: see :class:`Preprocessing`.
        quantise: 4bit or 8bit to quantise all linear weights but the head's with bitsandbytes, or none.

    Raises:
        ConfigError: the model's files cannot be used with this head, or it has no drop path.
    """
    config = _config(source, head)
    _set_drop_path(config, drop_path, source)
    auto = getattr(transformers, head.auto_class)
    if type(config) not in auto._model_mapping:
        raise ConfigError(f"model: {source.name} ({config.model_type}) cannot {head.purpose} in transformers")
    model, missing = _load(auto, source, config, quantise)
    in_head = head_modules(model) if head.new else ()
    fresh, odd = _fresh(model, in_head, missing)
    untrained = tuple(name for name in poolers(model) if name not in fresh) if source.has_own_pooling else ()
    notes = [f"{', '.join(fresh)}: not in the checkpoint, so trained and saved like the head"] if fresh else []
    notes += [f"{', '.join(odd)}: not in the checkpoint, starts at random and is not trained"] if odd else []
    tokenizer = None
    if head.reads == "text":
        tokenizer = _tokenizer(source, model, head.padding_side)
        longest = min(max_length, tokenizer.model_max_length, positions(model))
        preprocessing = Preprocessing(kind="text", max_length=longest)
    else:
        preprocessing = _image_preprocessing(source, image_size, imagenet=imagenet, crop=crop)
    return LoadedModel(
        source,
        model,
        tokenizer,
        preprocessing,
        in_head,
        fresh,
        untrained,
        tuple(notes),
        task_type=head.task_type,
        quantise=quantise,
    )


def _load(auto: Any, source: ModelSource, config: Any, quantise: str) -> tuple[PreTrainedModel, set[str]]:
    """(the model, the names of its parameters that the checkpoint lacks)."""
    model, info = auto.from_pretrained(
        source.folder,
        **source.arguments,
        config=config,
        dtype="float32",
        **_quantisation(auto, config, quantise),
        ignore_mismatched_sizes=True,
        use_safetensors=True if any(source.folder.glob("*.safetensors")) else None,
        output_loading_info=True,
        key_mapping=_renamed_backbone(auto, config),
    )
    if source.gguf:
        _forget_quantisation(model)
    missing: set[str] = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    # peft and transformers copy this into what they save, so it must be valid on another machine
    model.config._name_or_path = source.base_id
    model.name_or_path = source.base_id
    return model, missing


def _renamed_backbone(auto: Any, config: Any) -> dict[str, str] | None:
    """How the backbone's weights are renamed for a class that calls it otherwise than checkpoints do.

    Llama's question answerer calls it ``transformer`` instead of ``model``, and would start at random.
    """
    if type(config) not in transformers.AutoModel._model_mapping:
        return None
    own, here = (mapping[type(config)] for mapping in (transformers.AutoModel._model_mapping, auto._model_mapping))
    names = [getattr(cls, "base_model_prefix", "") for cls in (own, here)]
    return {rf"^{names[0]}\.": f"{names[1]}."} if all(names) and names[0] != names[1] else None


def _quantisation(auto: Any, config: Any, quantise: str) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that quantise a model, all but the modules that may be trained in full."""
    if quantise == "none":
        return {}
    with torch.device("meta"):
        skeleton = auto.from_config(config)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=quantise == "4bit",
        load_in_8bit=quantise == "8bit",
        bnb_4bit_quant_type="nf4",
        llm_int8_skip_modules=[*head_modules(skeleton), *poolers(skeleton)],
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def _config(source: ModelSource, head: Head) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(source.folder, **source.arguments, **head.config)
    except (ValueError, OSError, KeyError) as e:
        raise ConfigError(f"model: {source.name}: its config.json cannot be used: {first_line(e)}") from None
    if config.model_type == "timm_wrapper":
        # lets a ViT accept images of another size than it was trained with
        accepts = "vit" in config.architecture or "deit" in config.architecture
        config.model_args = {**({"dynamic_img_size": True} if accepts else {}), **(config.model_args or {})}
    return config


def _forget_quantisation(model: PreTrainedModel) -> None:
    """A GGUF file is dequantised on load, but transformers still takes the model for a quantised one and refuses to
    train it."""
    for owner, name in (
        (model, "is_quantized"),
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if hasattr(owner, name):
            delattr(owner, name)


def _set_drop_path(config: Any, rate: float, source: ModelSource) -> None:
    if not rate:
        return
    if config.model_type == "timm_wrapper":
        config.model_args = {**(config.model_args or {}), "drop_path_rate": rate}
    elif hasattr(config, "drop_path_rate"):
        config.drop_path_rate = rate
    else:
        raise ConfigError(
            f"drop_path: {source.name} ({config.model_type}) has no drop path in transformers; use 0, or a timm model"
        )


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Modules with weights outside the backbone; in timm's models the classifier is inside it, and timm names it."""
    backbone = model.base_model_prefix
    if backbone == "timm_model":
        timm_model: Any = model.timm_model
        names = timm_model.pretrained_cfg.get("classifier") or timm_model.default_cfg["classifier"]
        return tuple(f"timm_model.{n}" for n in ([names] if isinstance(names, str) else names))
    inside = {
        parameter
        for n, child in model.named_children()
        if n == backbone or isinstance(child, PreTrainedModel)  # some question answerers hold encoder and decoder alone
        for parameter in child.parameters()
    }
    return tuple(n for n, child in model.named_children() if any(p not in inside for p in child.parameters()))


def poolers(model: PreTrainedModel) -> tuple[str, ...]:
    """The path of the backbone's pooler if it has weights: a layer on the first token's vector, below the head."""
    name = f"{model.base_model_prefix}.pooler"
    pooler = dict(model.named_modules()).get(name)
    return () if pooler is None or not list(pooler.parameters()) else (name,)


def _fresh(model: PreTrainedModel, head: tuple[str, ...], missing: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(modules whose own weights are all missing, other missing parameters), both outside the head."""
    outside = {key for key in missing if not key.startswith(tuple(f"{h}." for h in head))}
    parameters = {name for name, _ in model.named_parameters()}
    modules: list[str] = []
    odd: list[str] = []
    for key in sorted(outside & parameters):
        owner = key.rpartition(".")[0]
        own = {f"{owner}.{n}" for n, _ in model.get_submodule(owner).named_parameters()}
        (modules if own <= outside else odd).append(owner if own <= outside else key)
    return tuple(dict.fromkeys(modules)), tuple(odd)


def _tokenizer(source: ModelSource, model: PreTrainedModel, padding_side: str | None) -> Any:
    side = {"padding_side": padding_side} if padding_side else {}  # given here, it is also saved
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder, **source.arguments, **side)
    except (ValueError, OSError) as e:
        raise ConfigError(f"model: {source.name} has no usable tokenizer: {first_line(e)}") from None
    if tokenizer.pad_token is None:  # GPT-2 and other language models
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def positions(model: PreTrainedModel) -> int:
    """The most tokens that the model accepts; a large number if it has no table of positions."""
    size: int = getattr(model.config, "max_position_embeddings", None) or 10**6
    # these count positions from the padding index
    return size - 2 if model.config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else size


def _image_preprocessing(source: ModelSource, image_size: int | None, *, imagenet: bool, crop: bool) -> Preprocessing:
    """Size and normalisation from the model's own files: transformers' preprocessor, or timm's pretrained_cfg."""
    config = source.config
    values: dict[str, Any] = {}
    preprocessor = source.folder / "preprocessor_config.json"
    bicubic = False
    if timm := config.get("pretrained_cfg"):
        values = {"image_size": timm["input_size"][-1], "mean": timm["mean"], "std": timm["std"]}
        bicubic = timm.get("interpolation") == "bicubic"
    elif preprocessor.is_file():
        own = json.loads(preprocessor.read_text(encoding="utf-8"))
        size = own.get("crop_size") if own.get("do_center_crop") else own.get("size")
        size = size if isinstance(size, dict) else {"height": size}
        values["image_size"] = size.get("height") or size.get("shortest_edge")
        values |= {short: own[f"image_{short}"] for short in ("mean", "std") if own.get(f"image_{short}")}
        bicubic = own.get("resample") == 3
    values["image_size"] = image_size or values.get("image_size") or config.get("image_size") or 224
    if imagenet:  # the defaults of Preprocessing
        return Preprocessing(kind="image", image_size=values["image_size"], crop=crop)
    return Preprocessing(kind="image", interpolation="bicubic" if bicubic else "bilinear", crop=crop, **values)
