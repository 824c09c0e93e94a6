"""What some of peft's methods need from a training run, which peft leaves to the user."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig, PeftModel
from peft.tuners.lora.config import CordaConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_FAMILIES
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genft.api.recipe import Examples, Recipe
from genft.errors import ConfigError
from genft.models.architectures import DEFAULT_TARGETS, linear_names, unmatched
from genft.models.weights import FrozenWeight


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def _default_targets(model: PreTrainedModel) -> dict[str, Any]:
    """Query and value, if they are known for this family."""
    known = DEFAULT_TARGETS.get(model.config.model_type)
    return {"target_modules": known} if known else {}


# -------------------------------------------------------------------- LoRA+


@dataclass
class LoraPlusConfig(LoraConfig):
    """LoRA's configuration with the ratio of learning rates. The ratio only affects training, so it is not saved."""

    loraplus_lr_ratio: float = field(
        default=16.0,
        metadata={"help": "λ: the learning rate of B is λ times that of A, which is the run's learning rate."},
    )

    def to_dict(self) -> dict[str, Any]:
        return _without(super().to_dict(), "loraplus_lr_ratio")


class LoraPlus(Recipe):
    def learning_rate(self, config: LoraPlusConfig, name: str) -> float:
        return config.loraplus_lr_ratio if ".lora_B." in name else 1.0


# -------------------------------------------------------------------- CorDA


@dataclass
class CordaLoraConfig(LoraConfig):
    """LoRA's configuration, initialised from weights decomposed with the covariance of their inputs.

    The initialisation is not saved: a saved adapter is a LoRA adapter of the pretrained base model.
    """

    corda_method: str = field(
        default="ipm",
        metadata={"help": "ipm: train the directions that the data use most; kpm: those that they use least."},
    )
    calibration_examples: int = field(
        default=256, metadata={"help": "Number of training examples for the covariance of each weight's inputs."}
    )

    def __post_init__(self) -> None:
        self.init_lora_weights = "corda"
        self.corda_config = CordaConfig(corda_method=self.corda_method)  # type: ignore[arg-type]
        super().__post_init__()
        if self.corda_method not in ("ipm", "kpm"):
            raise ConfigError(f"corda_method: received {self.corda_method!r}; allowed: ipm, kpm")

    def to_dict(self) -> dict[str, Any]:
        return _without(super().to_dict(), "corda_method", "calibration_examples", "corda_config")


class Corda(Recipe):
    def settings(self, model: PreTrainedModel, steps: int, image_size: int | None = None) -> dict[str, Any]:
        """LoRA's targets, because peft reads the configuration before it fills in its own defaults."""
        return _default_targets(model)

    def prepare(self, model: PreTrainedModel, config: CordaLoraConfig, examples: Examples) -> None:
        from peft.tuners.lora.corda import preprocess_corda  # here, because it imports attrs: a fifth of genft's import

        def run_model() -> None:
            for inputs in examples(config.calibration_examples):
                model(**inputs)

        preprocess_corda(model, config, run_model)


# -------------------------------------------------------------------- AdaLoRA

#: The fractions of all steps, at the beginning and at the end, during which ranks do not change: the means over the
#: eight GLUE tasks of the paper's Table 8.
ADALORA_FIRST, ADALORA_LAST = 0.13, 0.48


class AdaLora(Recipe):
    def settings(self, model: PreTrainedModel, steps: int, image_size: int | None = None) -> dict[str, Any]:
        """The rank schedule, and LoRA's targets, because peft's own for AdaLoRA differ from family to family."""
        schedule = {"total_step": steps, "tinit": int(ADALORA_FIRST * steps), "tfinal": int(ADALORA_LAST * steps)}
        return schedule | _default_targets(model)

    def prepare(self, model: PreTrainedModel, config: Any, examples: Examples) -> None:
        if config.init_r <= config.target_r:
            raise ConfigError(
                f"init_r: received {config.init_r}; allowed: more than target_r, which is {config.target_r}"
            )

    def callbacks(self, model: Any) -> list[TrainerCallback]:
        if type(model) is PeftModel:  # without a task type its forward pass bypasses the tuner's regulariser
            model.forward = model.base_model.forward  # type: ignore[method-assign]
        return [AllocateRanks(model)]


class AllocateRanks(TrainerCallback):
    """Calls AdaLoRA's ``update_and_allocate`` after every optimizer step; for any ``transformers.Trainer``.

    Pruned singular values stay in the model as zeros. peft would remove them from what it saves, and then a checkpoint
    of one step would not fit the model of another. The smoothed importance is stored in the optimizer's parameter
    group, and so in its state, for resuming. Under DDP, all processes have the same gradients, so they prune
    identically.
    """

    KEY = "genft_adalora"
    SMOOTHED = ("exp_avg_ipt", "exp_avg_unc")

    def __init__(self, model: Any) -> None:
        self.tuner = model.base_model
        self.config = model.peft_config[model.active_adapter]
        #: Which singular values remain, by the name of their parameter.
        self.pattern: dict[str, list[bool]] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.pattern = {
            name: (p != 0).view(-1).tolist()
            for name, p in self.tuner.model.named_parameters()
            if f".lora_E.{self.tuner.trainable_adapter_name}" in name
        }
        allocator = self.tuner.rankallocator
        for kind, values in kwargs["optimizer"].param_groups[0].get(self.KEY, {}).items():
            for name, value in values.items():
                getattr(allocator, kind)[name] = value.to(args.device)
                allocator.ipt[name] = value  # peft only checks whether it exists

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The only configuration that is modified in training: peft's allocator reads and writes rank_pattern there, and
        # peft's saving would prune the adapter by it. So it is removed again after every step.
        self.config.rank_pattern = self.pattern
        self.tuner.update_and_allocate(state.global_step)
        self.pattern, self.config.rank_pattern = self.config.rank_pattern, None
        smoothed = {kind: dict(getattr(self.tuner.rankallocator, kind)) for kind in self.SMOOTHED}
        kwargs["optimizer"].param_groups[0][self.KEY] = smoothed


# -------------------------------------------------------------------- settings that follow from the model


class VBLora(Recipe):
    LONGEST = 256  # in the paper, on widths 768 and 1024
    LOGITS = 10.0  # the paper's learning rates: 1e-2 for logits, 1e-3 for the bank

    def learning_rate(self, config: Any, name: str) -> float:
        return self.LOGITS if ".vblora_logits_" in name else 1.0

    def settings(self, model: PreTrainedModel, steps: int, image_size: int | None = None) -> dict[str, Any]:
        """The longest vector length up to 256 that divides the sides of every weight in a block."""
        in_layers = [name for name in linear_names(model) if re.search(r"\.\d+\.", name)]
        weights = [FrozenWeight.of(model.get_submodule(name)) for name in in_layers]
        common = math.gcd(*(n for w0 in weights for n in w0.shape))
        return {"vector_length": max(n for n in range(1, self.LONGEST + 1) if common % n == 0)}


class IA3(Recipe):
    KEYS_VALUES = ("key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "k", "v", "qkv", "Wqkv", "qkv_proj")
    MLP_OUTPUTS = ("output.dense", "fc2", "lin2", "ffn_output", "mlp.Wo", "down_proj")

    def settings(self, model: PreTrainedModel, steps: int, image_size: int | None = None) -> dict[str, Any]:
        """Keys, values and the inputs of the MLP's second weight, for families that peft's table lacks."""
        if model.config.model_type in IA3_FAMILIES:
            return {}
        keys_values, outputs = (self._present(model, names) for names in (self.KEYS_VALUES, self.MLP_OUTPUTS))
        return {"target_modules": keys_values + outputs, "feedforward_modules": outputs} if keys_values else {}

    @staticmethod
    def _present(model: PreTrainedModel, names: tuple[str, ...]) -> list[str]:
        missing = unmatched(names, model)
        return [name for name in names if name not in missing]
