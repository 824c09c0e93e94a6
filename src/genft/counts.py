"""The papers' parameter counts, recounted on the real architectures: apply the settings and add up the tensors.

Nothing here uses a formula such as GenFT's 4·d·a + 2·L·d·b: models are built from their configuration on the meta
device, without weights, and their trainable parameters are counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import peft
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from genft import catalogue, published
from genft.api.settings import parse_settings
from genft.catalogue import Catalogue, Listed
from genft.errors import ConfigError, not_one_of
from genft.methods import METHODS, MethodInfo
from genft.methods.genft import GenFTConfig
from genft.models.architectures import DEFAULT_TARGETS
from genft.models.load import head_modules
from genft.models.parameters import Counts, count_parameters
from genft.presets import Table, load_preset
from genft.training.attach import changes_base, make_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What the paper's ablations change (Table 4); a part that a preset leaves out gets 8 columns if it is the only one.
ABLATIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "genft": lambda s: {},
    "genft_no_shared": lambda s: {"shared_dim": 0, "specific_dim": s["specific_dim"] or 8},
    "genft_no_specific": lambda s: {"specific_dim": 0, "shared_dim": s["shared_dim"] or 8},
}
#: A number of optimizer steps, for methods whose settings ask for one; no count depends on it.
SOME_STEPS = 100
#: Ranks of Figure 2, and the layer-specific dim of its GenFT: the most frequent one in the paper's presets.
RANKS = (4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128)
FIGURE_SPECIFIC_DIM = 2


def vit_base(classes: int) -> PreTrainedModel:
    """timm's ``vit_base_patch16_224``, with fused qkv, as transformers wraps it."""
    skip = {"weight_init": "skip"}
    config = AutoConfig.for_model(
        "timm_wrapper", architecture="vit_base_patch16_224", num_labels=classes, model_args=skip
    )
    return AutoModelForImageClassification.from_config(config)


def vit_base_unfused(classes: int) -> PreTrainedModel:
    """transformers' ViT-B/16 (its configuration's defaults), with separate weights for q and v."""
    return AutoModelForImageClassification.from_config(AutoConfig.for_model("vit", num_labels=classes))


def roberta_base(classes: int) -> PreTrainedModel:
    """RoBERTa-base with transformers' classification head."""
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    config = AutoConfig.for_model("roberta", num_labels=classes, **sizes)
    return AutoModelForSequenceClassification.from_config(config)


@dataclass(frozen=True)
class Architecture:
    """The name of a model, and a function that builds it for a number of classes."""

    name: str
    build: Callable[[int], PreTrainedModel]


_VIT = Architecture("ViT-B/16 (timm vit_base_patch16_224)", vit_base)
ARCHITECTURES = {"vtab1k": _VIT, "fgvc": _VIT, "glue": Architecture("RoBERTa-base", roberta_base)}


#: Why text tasks have two counts.
BIASES = (
    "The authors' text code means to have no biases in its generator but has them: it takes the text 'none' for true. "
    "The printed numbers come out without these 2 (a + b) + 2 d; what was trained has them."
)


@dataclass(frozen=True)
class TaskCount:
    """One preset on its model: what the adapter trains, by ablation, and what the head has.

    ``with_biases`` is the adapter with the biases of the generator that the authors' text code trains; None for images,
    whose code has none.
    """

    task: str
    shared_dim: int
    specific_dim: int
    adapter: dict[str, int]
    head: int
    with_biases: int | None = None


@dataclass(frozen=True)
class SuiteCount:
    """A benchmark: its tasks, and for each ablation the mean over them next to what the paper prints, in millions.

    ``note`` states what the printed numbers leave out, or is empty.
    """

    benchmark: str
    architecture: str
    source: str
    tasks: tuple[TaskCount, ...]
    printed: dict[str, str]
    note: str = ""

    def mean(self, variant: str) -> float:
        return fmean(task.adapter[variant] for task in self.tasks)

    def counted(self, variant: str) -> str:
        """The mean as the paper prints it: millions, two decimals."""
        return f"{self.mean(variant) / 1e6:.2f}"


def count_suite(benchmark: str) -> SuiteCount:
    """Apply every preset of ``benchmark`` (vtab1k, fgvc or glue) to its model and count."""
    if benchmark not in ARCHITECTURES:
        raise ConfigError(not_one_of("suite", benchmark, ARCHITECTURES))
    table = paper_table(benchmark)
    classes = {
        row["task"]: int(row["classes"]) for row in published.read("benchmarks") if row["benchmark"] == benchmark
    }
    printed = printed_params(benchmark)
    architecture = ARCHITECTURES[benchmark]
    tasks = []
    for task in table.tasks:
        settings = {k: v for _, values in table.row(task) for k, v in values.settings.items()}
        biased = settings.get("factor_bias", False)
        plain = settings | {"factor_bias": False}
        counts = {
            name: count(architecture.build, classes[task], GenFTConfig(**plain | ABLATIONS[name](settings)))
            for name in printed
        }
        with_biases = count(architecture.build, classes[task], GenFTConfig(**settings)) if biased else None
        tasks.append(
            TaskCount(
                task,
                settings["shared_dim"],
                settings["specific_dim"],
                {name: c.adapter for name, c in counts.items()},
                counts["genft"].head,
                None if with_biases is None else with_biases.adapter,
            )
        )
    note = BIASES if any(task.with_biases for task in tasks) else ""
    return SuiteCount(benchmark, architecture.name, table.source, tuple(tasks), printed, note)


def count(build: Callable[[int], PreTrainedModel], classes: int, config: PeftConfig) -> Counts:
    """Count the parameters of ``build(classes)`` with ``config`` attached and its head trained, allocating none."""
    with torch.device("meta"):
        return _count(build(classes), config)


def _count(model: PreTrainedModel, config: PeftConfig) -> Counts:
    head = head_modules(model)
    if not config.is_prompt_learning:
        config = replace(cast(Any, config), modules_to_save=list(head))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about presets that train badly, which can still be counted
        return count_parameters(get_peft_model(model, config), head)


def count_method(
    info: MethodInfo, settings: Mapping[str, Any], build: Callable[[int], PreTrainedModel], classes: int = 2
) -> Counts:
    """Count the parameters of a method on ``build(classes)``, with the settings that registry and model prescribe."""
    with torch.device("meta"):
        model = build(classes)
        if info.config is None:
            head = head_modules(model)
            counted = count_parameters(model, head)
            return counted if info.name == "full" else counted.model_copy(update={"adapter": 0})
        follows = info.recipe.settings(model, SOME_STEPS)
        task_type = "SEQ_CLS" if model.main_input_name == "input_ids" else None
        config = make_config(info, {**info.defaults, **follows, **settings}, model, task_type)
        if changes_base(config):  # needs the values of W0, which are absent here; the tensors are LoRA's
            config = peft.LoraConfig(r=config.r, target_modules=config.target_modules)
        return _count(model, config)


@dataclass(frozen=True)
class MethodCount:
    """A method with the settings of a paper's comparison: what it trains, and the paper's number, in millions.

    Attributes:
        with_head: whether the printed number includes the head; columns of one table differ in this.
        note: why the two numbers differ, or what had to be inferred.
    """

    benchmark: str
    method: str
    settings: str
    count: Counts
    with_head: bool
    printed: str
    note: str

    @property
    def counted(self) -> str:
        """The count in millions, with as many decimals as printed."""
        number = self.count.adapter + self.with_head * self.count.head
        return f"{number / 1e6:.{len(self.printed.partition('.')[2])}f}"

    @property
    def agrees(self) -> bool:
        return self.counted == self.printed


def count_methods() -> list[MethodCount]:
    """The Params columns of GenFT's Tables 3 and 11 for the methods that genft has."""
    counted = []
    for row in published.read("parameters"):
        info, benchmark = METHODS[row["method"]], row["benchmark"]
        settings = parse_settings(info, row["settings"].split())
        printed_as = row["printed_as"] or row["method"]
        (printed,) = {r["params_millions"] for r in published.read(benchmark) if r["method"] == printed_as}
        counts = count_method(info, settings, ARCHITECTURES[benchmark].build)
        counted.append(
            MethodCount(benchmark, info.name, row["settings"], counts, row["with_head"] == "yes", printed, row["note"])
        )
    return counted


#: The architectures of ``genft list methods``: the kind of input, and the function that builds the model.
LISTED = {"ViT-B/16": ("image", vit_base), "RoBERTa-base": ("text", roberta_base)}


def make_catalogue() -> Catalogue:
    """The registry as ``genft list methods`` shows it, with what each method trains by default on :data:`LISTED`."""
    methods = (
        Listed(
            **{name: getattr(info, name) for name in Listed.model_fields if name != "parameters"},
            parameters={
                name: count_method(info, {}, build).adapter
                for name, (kind, build) in LISTED.items()
                if kind in info.kinds
            },
        )
        for info in METHODS.values()
    )
    return Catalogue(files=catalogue.method_files(), methods=tuple(methods))


def write_catalogue() -> None:
    """Rewrite the file that ``genft list methods`` reads; a test compares it with :func:`make_catalogue`."""
    catalogue.FILE.write_text(make_catalogue().model_dump_json(indent=1) + "\n", encoding="utf-8")


def paper_table(benchmark: str) -> Table:
    return next(t for t in load_preset("paper").tables if (t.method, t.benchmark) == ("genft", benchmark))


def printed_params(benchmark: str) -> dict[str, str]:
    """The Params columns of the paper for GenFT and its ablations on ``benchmark``, in millions."""
    rows = published.read(benchmark) + published.read("ablation")
    printed = {r["method"]: r["params_millions"] for r in rows if r["benchmark"] == benchmark}
    return {name: printed[name] for name in ABLATIONS if name in printed}


@dataclass(frozen=True)
class RankCurve:
    """Parameters for the q and v of ViT-B/16 (L = 12, d = 768) at each of :data:`RANKS`."""

    label: str
    ranks: tuple[int, ...]
    parameters: tuple[int, ...]


def rank_curves() -> list[RankCurve]:
    """Figure 2: LoRA's r against GenFT's a + b, the largest rank of ΔW without activations."""
    b = FIGURE_SPECIFIC_DIM
    curves: dict[str, Callable[[int], PeftConfig]] = {
        "LoRA": lambda rank: LoraConfig(r=rank, target_modules=DEFAULT_TARGETS["vit"]),
        f"GenFT, b = {b}": lambda rank: GenFTConfig(
            scope="qv", shared_dim=rank - b, specific_dim=b, specific_scope="layer"
        ),
    }
    return [
        RankCurve(label, RANKS, tuple(count(vit_base_unfused, 0, config(r)).adapter for r in RANKS))
        for label, config in curves.items()
    ]
