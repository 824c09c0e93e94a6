"""W0 and ΔW of every adapted weight, read from saved adapters of genft's methods and of peft's own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from genft.adapters.saved import open_adapter
from genft.bridge.layer import AdapterLayer
from genft.bridge.weight.layer import WeightLayer
from genft.errors import AdapterFileError, ConfigError, TargetError, first_line
from genft.figures.positions import Position, name_positions, vector_site
from genft.methods.vector_freezing import HISTORY_FILE
from genft.models.architectures import DEFAULT_SLICES, fused_layout
from genft.models.weights import FrozenWeight, has_linear_weight, unwrap
from genft.records import Record

#: Singular values below this fraction of the largest one are rounding errors.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class WeightUpdate:
    """One adapted weight, or row slice of a fused one.

    Attributes:
        site: ``"encoder.layer.0.attention.self.query"``, ``"blocks.0.attn.qkv[q]"``.
        w0: the pretrained weight (o, i).
        delta: ΔW (o, i).
        sigma: VectorFit: the pretrained singular values (min(o, i),), largest first.
        shift: VectorFit: the trained change of the singular values.
    """

    site: str
    w0: Tensor
    delta: Tensor
    sigma: Tensor | None = None
    shift: Tensor | None = None

    @cached_property
    def relative_norm(self) -> float:
        """‖ΔW‖ / ‖W0‖ (Frobenius)."""
        return float(self.delta.norm() / self.w0.norm())

    @cached_property
    def spectrum(self) -> Tensor:
        """Singular values of ΔW above rounding error, largest first, float64."""
        values = torch.linalg.svdvals(self.delta.double())
        return values[values > NEGLIGIBLE * values[0]]

    @cached_property
    def effective_rank(self) -> float:
        """exp of the entropy of the singular values' shares in their sum (Roy and Vetterli, 2007); 0 for ΔW = 0."""
        share = self.spectrum / self.spectrum.sum()
        return float(torch.special.entr(share).sum().exp()) if len(share) else 0.0


class Freezing(Record):
    """One freezing event of AVF: the optimizer steps before it, the vectors it froze, and every vector's training
    strength."""

    step: int
    frozen: tuple[str, ...]
    strength: tuple[float, ...]


class FreezingHistory(Record):
    """What adaptive vector freezing recorded (``methods/vector_freezing.py``): the names of the vectors, and every
    freezing."""

    vectors: tuple[str, ...]
    events: tuple[Freezing, ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """An adapter to show.

    Attributes:
        label: its name in figures.
        updates: by position, in the order of the model.
        history: what adaptive vector freezing recorded, if it was used.
        positions: the positions of all sites that ``history`` names.
    """

    label: str
    updates: dict[Position, WeightUpdate]
    history: FreezingHistory | None = None
    positions: dict[str, Position] = dataclasses.field(default_factory=dict)

    def targets(self) -> list[str]:
        return list(dict.fromkeys(position.target for position in self.updates))

    def layers(self) -> list[int]:
        return sorted({position.layer for position in self.updates})


def read_subjects(folders: Iterable[Path], base: str | None = None, num_labels: int | None = None) -> list[Subject]:
    """Read adapters of one base model, to show together.

    Raises:
        ConfigError: an adapter has no ΔW, or they belong to different base models.
    """
    folders = list(folders)
    read = [_read(folder, base, num_labels) for folder in folders]
    labels = [label for label, _, _ in read]
    if len(set(labels)) < len(labels):
        labels = [folder.resolve().name for folder in folders]
    _share_base(folders, [updates for _, updates, _ in read])
    frozen = [vector_site(name)[0] for _, _, history in read if history for name in history.vectors]
    positions = name_positions([*(u.site for _, updates, _ in read for u in updates), *frozen])
    return [
        Subject(label, {positions[u.site]: u for u in updates}, history, positions)
        for label, (_, updates, history) in zip(labels, read, strict=True)
    ]


def read_subject(folder: Path, base: str | None = None, num_labels: int | None = None) -> Subject:
    """Read one adapter, as :func:`read_subjects` reads several."""
    return read_subjects([folder], base, num_labels)[0]


def _read(
    folder: Path, base: str | None, num_labels: int | None
) -> tuple[str, list[WeightUpdate], FreezingHistory | None]:
    opened = open_adapter(folder, base, num_labels)
    if not isinstance(opened.model, PeftModel):
        raise ConfigError(f"{folder}: holds a model's own weights and not an adapter, so there is no ΔW to show")
    kind = str(opened.model.active_peft_config.peft_type.value).lower()
    label = opened.saved.method if opened.saved else kind
    if opened.model.active_peft_config.is_prompt_learning:
        raise ConfigError(f"{folder}: {label} learns a prompt and changes no weight, so there is no ΔW to show")
    updates = list(weight_updates(opened.model))
    if not updates:
        raise ConfigError(f"{folder}: {label} changes no linear weight here, so there is no ΔW to show")
    return label, updates, _history(folder)


def _history(folder: Path) -> FreezingHistory | None:
    path = folder / HISTORY_FILE
    try:
        history = FreezingHistory.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise AdapterFileError(f"{path}: is damaged ({first_line(e)})") from None
    if any(len(event.strength) != len(history.vectors) for event in history.events):
        raise AdapterFileError(f"{path}: is damaged (an event does not hold one strength per vector)")
    return history


@torch.no_grad()
def weight_updates(model: PeftModel, adapter_name: str = "default") -> Iterator[WeightUpdate]:
    """Every weight that the adapter changes, in the order of the model; fused ones are split into q, k and v if their
    layout is known."""
    base = model.get_base_model()
    for path, layer in base.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        module = unwrap(layer)  # type: ignore[arg-type]
        if isinstance(layer, WeightLayer):
            yield from _genft_updates(layer, adapter_name)
        elif not isinstance(layer, AdapterLayer) and has_linear_weight(module):
            delta = _peft_delta(layer, adapter_name)
            if delta is not None:
                frozen = FrozenWeight.of(module)
                w0, delta = frozen.weight, frozen.in_own_layout(delta)
                for name, rows in _slices(path, module, base).items():
                    yield WeightUpdate(f"{path}[{name}]" if name else path, w0[rows].float(), delta[rows].float())


def _genft_updates(layer: WeightLayer, adapter_name: str) -> Iterator[WeightUpdate]:
    if adapter_name not in layer.attachments or not layer.frozen.is_linear:
        return
    w0 = layer.frozen_weight()
    for site in layer.attachments[adapter_name].sites:
        delta = layer.delta(adapter_name, site, w0)
        if delta is not None:
            f = layer.factors(adapter_name, site)
            rows = w0[site.start : site.stop]
            yield WeightUpdate(str(site), rows.float(), delta.float(), f.get("sigma"), f.get("sigma_bias"))


def _peft_delta(layer: BaseTunerLayer, adapter_name: str) -> Tensor | None:
    """ΔW in the layout of the stored weight, or None if this adapter is not on this layer.

    An adapter that does more than add a matrix (DoRA, (IA)³) is merged in a copy, which is compared with the original.
    """
    own: Any = layer
    if not any(adapter_name in getattr(own, name) for name in own.adapter_layer_names):
        return None
    if isinstance(layer, LoraLayer) and adapter_name not in layer.lora_variant:
        delta: Tensor = own.get_delta_weight(adapter_name)
        return delta
    merged = copy.deepcopy(own)
    try:
        merged.merge(adapter_names=[adapter_name])
    except (NotImplementedError, ValueError, AttributeError) as e:
        raise ConfigError(f"{type(own).__name__}: its change of the weight cannot be computed: {e}") from None
    return merged.get_base_layer().weight.detach() - own.get_base_layer().weight.detach()


def _slices(path: str, module: nn.Module, model: nn.Module) -> dict[str | None, slice]:
    """The rows of each named slice: q, k and v of a fused weight; otherwise all rows under the name None."""
    family = getattr(getattr(model, "config", None), "model_type", "")
    if path.rpartition(".")[2] in DEFAULT_SLICES.get(family, {}):
        try:
            layout = fused_layout(path, module, model, *FrozenWeight.of(module).shape)
            return {name: slice(start, stop) for name, (start, stop) in layout.items()}
        except TargetError:
            pass
    return {None: slice(None)}


def _share_base(folders: list[Path], read: list[list[WeightUpdate]]) -> None:
    """Refuse adapters of different base models."""
    known = {u.site: u.w0 for u in read[0]}
    for folder, updates in zip(folders[1:], read[1:], strict=True):
        for u in updates:
            w0 = known.get(u.site)
            if w0 is not None and not (w0.shape == u.w0.shape and torch.equal(w0, u.w0)):
                raise ConfigError(
                    f"{folder}: {u.site} of its base model differs from that of {folders[0]}; "
                    "adapters can be shown together only if they have the same base model"
                )
