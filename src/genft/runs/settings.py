"""The hyper-parameters of training, common to all methods; the settings of a method are in genft.api.settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from genft.records import Record

#: Fields that came after the first keys of results.
_LATER = ("early_stopping", "class_weights", "grad_accumulation", "gradient_checkpointing", "quantise")


class Training(Record):
    """Hyper-parameters of training that every method has."""

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: int = Field(default=10, ge=1, description="passes over the training examples")
    batch_size: int = Field(default=16, ge=1, description="examples per optimizer step")
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        description="peak learning rate of the adapter",
        json_schema_extra={"shown_default": "the preset's for the method, else 0.001"},
    )
    head_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="learning rate of the head, or none for the adapter's",
        json_schema_extra={"shown_default": "the preset's: 0.005 in the default preset, else the adapter's"},
    )
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of AdamW; biases and norms have none")
    schedule: Literal["linear", "cosine", "constant", "timm-cosine"] = Field(
        default="linear",
        description="how the rate decays after the warm-up: linear, cosine, constant, or timm-cosine, which changes "
        "once per epoch as the V-PETL recipe does",
    )
    warmup: float = Field(
        default=0.06, ge=0, lt=1, description="fraction of all steps during which the learning rate rises"
    )
    first_learning_rate: float = Field(default=0.0, ge=0, description="learning rate at the start of the warm-up")
    last_learning_rate: float = Field(default=0.0, ge=0, description="learning rate at the end of the decay")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="label smoothing of the cross-entropy")
    drop_path: float = Field(
        default=0.0, ge=0, lt=1, description="probability of skipping the last block; it rises with depth"
    )
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="gradients are clipped to this norm; 0 switches clipping off"
    )
    eval_batch_size: int = Field(default=64, ge=1, description="examples per forward pass in evaluation")
    image_size: int | None = Field(
        default=None, ge=8, le=4096, description="pixels per side; by default the model's own"
    )
    augment: Literal["none", "randaug", "crop"] = Field(
        default="none",
        description="augmentation of training images: none, randaug (timm's, with colour jitter and flip), or crop "
        "(FGVC's random crop and flip; evaluation then takes the centre)",
    )
    normalise: Literal["model", "imagenet"] = Field(
        default="model",
        description="how images are resized and scaled: model (as in its pretraining) or imagenet (VTAB's: bilinear, "
        "ImageNet's mean)",
    )
    precision: Literal["float32", "bf16", "fp16"] = Field(
        default="float32",
        description="number format of training: float32, or bf16 or fp16 for mixed precision (fp16 only on a GPU)",
    )
    early_stopping: int | None = Field(
        default=None,
        ge=1,
        description="stop after this many evaluations in a row without a better score on the selection split; the "
        "learning rate still follows all epochs",
    )
    class_weights: str = Field(
        default="none",
        description="weights of the classes in the loss: none, balanced (inversely to their frequency in the training "
        "examples), or numbers such as good=1,bad=2.5",
    )
    grad_accumulation: int = Field(
        default=1,
        ge=1,
        description="process every batch in this many parts, which takes less memory; batch_size is still the number "
        "of examples per optimizer step",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations twice instead of keeping them, which takes less memory"
    )
    quantise: Literal["none", "4bit", "8bit"] = Field(
        default="none", description="load the frozen base in 4bit or 8bit, with bitsandbytes; or none"
    )

    def for_key(self) -> dict[str, Any]:
        """The values that name a result; those that came later are left out while they have their defaults."""
        values = self.model_dump(mode="json")
        usual = {name: type(self).model_fields[name].default for name in _LATER}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}

    @model_validator(mode="after")
    def _decays(self) -> Training:
        for name in ("first_learning_rate", "last_learning_rate"):
            if getattr(self, name) > self.learning_rate:
                raise ValueError(f"{name}: {getattr(self, name):g} is above the learning rate, {self.learning_rate:g}")
        return self
