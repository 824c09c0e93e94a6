"""Imports adapters saved by the GenFT authors' own code, and converts them exactly into adapters of this package.

Their repository (xuguangning1218/GenFT) also contains a package called ``genft``, and a fork of peft that uses the same
``peft_type`` as ours, GENFT. There are two layouts:

    texts    adapter_config.json with ``generator_share_dim``; adapter_model.safetensors (or .bin) with
             ``….genft_individual_weight_a`` (b, d), ``…_b`` (d, b) for every weight, and the generator once or more:
             ``….genft_share_{1,2}_{a,b}.linear.{weight,bias}``, (a, d) for a, (d, a) for b
    images   best_model.pt, ``{"model": {name: tensor}, …}``, with args.yaml; a pair for every block of a ViT

Their computation is ``GenFTConfig(form="official")``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel, TaskType, get_peft_model
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForSequenceClassification

from genft.api.method import Site
from genft.bridge.weight.layer import WeightLayer
from genft.errors import AdapterFileError, ConfigError, first_line, not_one_of
from genft.methods.genft import GenFTConfig
from genft.methods.genft_config import PAPER_INITS, is_official
from genft.models.source import find_model

ADAPTER = "default"
ACTIVATIONS = {"relu": "relu", "leakyrelu": "leaky_relu", "gelu": "gelu", "tanh": "tanh"}
#: Their names for no activation.
_IDENTITY = ("none", "identity", "null", "")
INITS = {"zero": "zeros"}
#: Maps the parts of their generator to our factors.
SHARED = {"1_a": "u_in", "1_b": "u_out", "2_a": "v_in", "2_b": "v_out"}

_SHARED_KEY = re.compile(r"(?:^|.*\.)genft_share_([12]_[ab])\.linear\.(weight|bias)$")
_PAIR_KEY = re.compile(r"^(.*?)\.?genft_individual_weight_([ab])(?:\.default)?$")


@dataclass
class Published:
    """The content of an adapter saved by their code.

    Attributes:
        settings: the settings of our configuration.
        shared: the shared factors and biases, under our names.
        pairs: maps each location (module path, or block number) to (A, B), as they store them.
        rest: all other tensors by name, that is, the head.
        heads: the modules trained in full, as named in their configuration.
        task_type: peft's task type; None for images.
    """

    settings: dict[str, Any]
    shared: dict[str, Tensor]
    pairs: dict[str, tuple[Tensor, Tensor]]
    rest: dict[str, Tensor]
    heads: list[str]
    task_type: str | None


def import_official(folder: str | Path, base: str | Path | nn.Module, out: str | Path) -> PeftModel:
    """Write the adapter in ``folder`` to ``out`` as an adapter of this package.

    Args:
        folder: contains adapter_config.json (texts), or best_model.pt and args.yaml (images).
        base: the pretrained model that the adapter was trained on: a Hub id, a packaged name, a folder, or the model
            itself.
        out: the folder to write to; it must be empty or not exist.

    Returns:
        The base model with the adapter.

    Raises:
        AdapterFileError: the folder is not one of theirs, is damaged or incomplete, or does not fit the base.
        ConfigError: a setting has no exact counterpart here, or ``out`` is not empty.
    """
    source, target = Path(folder), Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"out: {target} already exists; choose a new folder")
    published = _read_images(source) if (source / "best_model.pt").exists() else _read_texts(source)
    model = base if isinstance(base, nn.Module) else _load(str(base), published)
    adapted = _attach(published, model)
    _fill(published, adapted, source)
    adapted.save_pretrained(str(target))
    return adapted.eval()


# -------------------------------------------------------------------- reading their files


def _read_texts(folder: Path) -> Published:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except OSError:
        raise AdapterFileError(f"{folder}: contains neither adapter_config.json nor best_model.pt") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise AdapterFileError(f"{folder / 'adapter_config.json'}: is not valid JSON") from None
    if not isinstance(config, dict) or not is_official(config):
        raise AdapterFileError(f"{folder}: is not an adapter of the GenFT authors' code (no generator_share_dim)")
    if config.get("bias", "none") != "none":
        raise ConfigError(f"bias: {config['bias']!r} trains the base's own biases as well, which cannot be imported")
    if config.get("fan_in_fan_out"):
        raise ConfigError("fan_in_fan_out: transposed weights (Conv1D) cannot be imported")
    shared, pairs, rest = _sorted_out(_tensors(folder), folder)
    settings = _settings(config, shared, config.get("drop", 0.0))
    settings |= {"ratio_power": 1, "transpose_delta": False, "specific_scope": "module", "init_shared": "linear"}
    targets = _names(config, "target_modules", folder)
    settings["target_modules"] = config["target_modules"] if targets else None
    task_type = config.get("task_type")
    if task_type not in (None, *(task.value for task in TaskType)):
        raise AdapterFileError(
            f"{folder / 'adapter_config.json'}: "
            + not_one_of("task_type", str(task_type), [task.value for task in TaskType])
        )
    if settings["shared_dim"] == 0 and settings["dropout"] > 0:
        raise ConfigError(
            f"drop: {settings['dropout']} without a generator (generator_share_dim 0) drops entries in evaluation too, "
            "so the adapter has no fixed function to import"
        )
    pairs = {path.removeprefix("base_model.model."): pair for path, pair in pairs.items()}
    rest = {name.removeprefix("base_model.model."): tensor for name, tensor in rest.items()}
    return Published(settings, shared, pairs, rest, _names(config, "modules_to_save", folder), task_type)


def _read_images(folder: Path) -> Published:
    try:
        arguments = yaml.safe_load((folder / "args.yaml").read_text(encoding="utf-8"))
    except OSError:
        raise AdapterFileError(f"{folder / 'args.yaml'}: is missing; it has the settings of best_model.pt") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise AdapterFileError(f"{folder / 'args.yaml'}: is not valid YAML") from None
    if not isinstance(arguments, dict) or "generator_share_dim" not in arguments:
        raise AdapterFileError(
            f"{folder / 'args.yaml'}: has no generator_share_dim, so it is not from the authors' code"
        )
    content = _load_pickle(folder / "best_model.pt")
    if not isinstance(content.get("model"), dict):
        raise AdapterFileError(f"{folder / 'best_model.pt'}: has no tensors under 'model'")
    shared, pairs, rest = _sorted_out(content["model"], folder)
    settings = _settings(arguments, shared, arguments.get("dpr", 0.0))
    settings |= {"ratio_power": 4, "transpose_delta": True, "specific_scope": "layer"}
    blocks = {path: re.fullmatch(r"blocks\.(\d+)\.attn", path) for path in pairs}
    if strange := next((path for path, match in blocks.items() if match is None), None):
        raise AdapterFileError(f"{folder / 'best_model.pt'}: {strange!r} is not a block of a ViT")
    numbered = {match.group(1): pairs[path] for path, match in blocks.items() if match}
    return Published(settings, shared, numbered, rest, ["head"], None)


def _settings(config: Mapping[str, Any], shared: Mapping[str, Tensor], dropout: float) -> dict[str, Any]:
    """Their settings under our names."""
    inner, outer = (_activation(config, f"{which}_activation") for which in ("inner", "outer"))
    init_a, init_b = (str(config.get(f"individual_init_{which}", "zero")) for which in "ab")
    starts = {name: INITS.get(init, init) for name, init in (("init_a", init_a), ("init_b", init_b))}
    return {
        "form": "official",
        "init_weights": "paper",
        "shared_dim": config["generator_share_dim"],
        "specific_dim": config.get("individual_features", 10),
        "act_inner": inner,
        "act_outer": outer,
        "w0_ratio": config.get("ratio_W0", 1.0),
        "scaling": config.get("scaling", 1.0),
        "dropout": dropout,
        "factor_bias": any(name.endswith("_bias") for name in shared),
        # how a trained factor was once initialised changes nothing
        **{name: init for name, init in starts.items() if init in PAPER_INITS},
    }


def _activation(config: Mapping[str, Any], key: str) -> str:
    """The activation under our name. As in their code, one of an unknown name is the identity, which is told."""
    name = str(config.get(key)).lower()
    if name not in ACTIVATIONS and name not in _IDENTITY:
        warnings.warn(
            f"{key}: {config[key]!r} is not a name that the authors' code knows, so it applies no activation, and "
            f"neither does the imported adapter; it knows {', '.join(ACTIVATIONS)}",
            stacklevel=2,
        )
    return ACTIVATIONS.get(name, "identity")


def _names(config: Mapping[str, Any], key: str, folder: Path) -> list[str]:
    """The list of names in a configuration; empty if there is none."""
    names = config.get(key) or []
    if isinstance(names, str):
        return [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AdapterFileError(f"{folder / 'adapter_config.json'}: {key} is {names!r}; a list of names is needed")
    return names


def _tensors(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if not safe.exists() and pickled.exists():
        return _load_pickle(pickled)
    try:
        return load_file(safe)
    except (OSError, SafetensorError) as e:
        raise AdapterFileError(f"{safe}: cannot be read ({first_line(e)})") from None


def _load_pickle(file: Path) -> dict[str, Any]:
    """Read a torch.save file of tensors and plain values; nothing in it is executed."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many types; its message about an unsafe file is the useful one
        raise AdapterFileError(f"{file}: cannot be read ({first_line(e)})") from None
    if not isinstance(content, dict):
        raise AdapterFileError(f"{file}: does not contain a dictionary of tensors")
    return content


def _sorted_out(
    tensors: Mapping[str, Tensor], folder: Path
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Split into (shared factors and biases under our names, pairs by path, all other tensors)."""
    shared: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _SHARED_KEY.match(name):
            part, kind = match.groups()
            ours = SHARED[part] + ("_bias" if kind == "bias" else "")
            value = tensor.T if kind == "weight" and part.endswith("a") else tensor
            if ours in shared and not torch.equal(
                shared[ours], value
            ):  # every layer may contain a copy of the one generator
                raise AdapterFileError(f"{folder}: {name} differs from another copy of the shared generator")
            shared[ours] = value
        elif match := _PAIR_KEY.match(name):
            halves.setdefault(match.group(1), {})[match.group(2)] = tensor
        else:
            rest[name] = tensor
    if half := next((path for path, pair in halves.items() if len(pair) < 2), None):
        raise AdapterFileError(f"{folder}: {half} has only one of genft_individual_weight_a and _b")
    return shared, {path: (pair["a"], pair["b"]) for path, pair in halves.items()}, rest


# -------------------------------------------------------------------- building our adapter


def _load(base: str, published: Published) -> nn.Module:
    """The base model, with a head of the same width as theirs."""
    source = find_model(base)
    model = _of_their_class(source.folder, base, published)
    model.config._name_or_path = model.name_or_path = source.base_id
    return model


def _of_their_class(folder: Path, base: str, published: Published) -> Any:
    if published.task_type == "CAUSAL_LM":
        return AutoModelForCausalLM.from_pretrained(folder)
    biases = [tensor for name, tensor in published.rest.items() if name.endswith(".bias")]
    if not biases:
        raise AdapterFileError(f"{base}: the adapter has no head, so its number of classes is not known")
    auto = AutoModelForImageClassification if published.task_type is None else AutoModelForSequenceClassification
    return auto.from_pretrained(folder, num_labels=len(biases[-1]), ignore_mismatched_sizes=True)


def _attach(published: Published, model: nn.Module) -> PeftModel:
    settings = dict(published.settings)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if published.task_type is None and "qkv" in names:
        settings["target_slices"] = {"qkv": ["q", "v"]}
    elif published.task_type is None:
        settings["scope"] = "qv"
    heads = [name for name in published.heads if name in names]
    return get_peft_model(model, GenFTConfig(task_type=published.task_type, modules_to_save=heads or None, **settings))  # type: ignore[arg-type]


@torch.no_grad()
def _fill(published: Published, adapted: PeftModel, folder: Path) -> None:
    layers: dict[str, list[tuple[WeightLayer, Site]]] = {}
    for path, module in adapted.get_base_model().named_modules():
        if isinstance(module, WeightLayer):
            for site in module.attachments[ADAPTER].sites:
                layers.setdefault(site.layer if published.task_type is None else path, []).append((module, site))
    if published.task_type is None:  # blocks are numbered in the order of the model
        layers = {str(number): sites for number, sites in enumerate(layers.values())}
    if published.settings["specific_dim"] and layers.keys() != published.pairs.keys():
        odd = sorted(layers.keys() ^ published.pairs.keys())[0]
        where = "the base has no such weight" if odd in published.pairs else "the file has no pair for it"
        raise AdapterFileError(f"{folder}: {odd}: {where}, so the adapter belongs to another base model")
    for key, sites in layers.items():
        a, b = published.pairs.get(key, (None, None))
        pair = {} if a is None or b is None else {"a": a.T, "b": b}
        for layer, site in sites:
            for name, factor in layer.factors(ADAPTER, site).items():
                value = {**published.shared, **pair}.get(name)
                if value is None or value.shape != factor.shape:
                    received = "nothing" if value is None else f"shape {tuple(value.shape)}"
                    needed = tuple(factor.shape)
                    raise AdapterFileError(
                        f"{folder}: factor {name!r} of {site} needs shape {needed}; received {received}"
                    )
                factor.copy_(value)
    _fill_heads(published, adapted, folder)


def _fill_heads(published: Published, adapted: PeftModel, folder: Path) -> None:
    """Copy all of their other tensors into the modules that are saved with the adapter."""
    left = dict(published.rest)
    for path, module in adapted.get_base_model().named_modules():
        if not isinstance(module, ModulesToSaveWrapper):
            continue
        for name, parameter in module.modules_to_save[ADAPTER].named_parameters():
            key = next((k for k in left if f".{path}.{name}".endswith(f".{k}")), None)
            if key is None:
                raise AdapterFileError(f"{folder}: has no values for {path}.{name}")
            if left[key].shape != parameter.shape:
                shapes = f"{tuple(left[key].shape)}; the base's is {tuple(parameter.shape)}"
                raise AdapterFileError(f"{folder}: {key} has shape {shapes}")
            parameter.copy_(left.pop(key))
    if left:
        raise AdapterFileError(f"{folder}: {next(iter(left))} has no counterpart in the base model")
