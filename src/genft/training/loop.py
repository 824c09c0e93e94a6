"""The training loop: ``transformers.Trainer`` with a few extensions.

It adds batches of texts of similar length, a separate learning rate for the head, a schedule over all epochs, and a
stop when the loss is NaN. Checkpoints are in ``checkpoints.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback

from genft.api.recipe import Recipe
from genft.data.encode import Encoded
from genft.errors import TrainingError
from genft.families.metrics import Array
from genft.models.parameters import is_head
from genft.runs.settings import Training
from genft.training.checkpoints import SmallCheckpoints, newest_checkpoint, step_of
from genft.training.samplers import LengthGrouped, longest_first
from genft.training.schedule import learning_rate


class Loop(SmallCheckpoints):
    """``Trainer`` with a separate learning rate for the head.

    Args:
        examples: the training examples.
        head: paths of the modules that are trained in full.
        training: hyper-parameters.
        recipe: what the method requires of training.
        kwargs: arguments of ``Trainer``.
    """

    def __init__(
        self, examples: Encoded, head: tuple[str, ...], training: Training, recipe: Recipe, **kwargs: Any
    ) -> None:
        self.examples, self.head, self.training, self.recipe = examples, head, training, recipe
        super().__init__(train_dataset=examples, **kwargs)
        self.remove_callback(PrinterCallback)
        if training.grad_accumulation > 1:  # several models accept the number of examples in a batch, and ignore it
            self.model_accepts_loss_kwargs = False

    def train_or_resume(self, folder: Path) -> int:
        """Train, from the newest checkpoint in ``folder`` if there is one; return the step of that checkpoint, or 0.

        Raises:
            TrainingError: the loss became NaN, a checkpoint cannot be written, or the GPU's memory is too small.
        """
        newest = newest_checkpoint(folder)
        try:
            self.train(resume_from_checkpoint=str(newest) if newest else None)
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"out of GPU memory in step {self.state.global_step + 1} with batches of {self.training.batch_size}; "
                "try --grad-accumulation 2 or more, --gradient-checkpointing, or --precision bf16"
            ) from None
        return step_of(newest)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with parameter groups by learning rate and weight decay, in one operation for each parameter.

        A run that resumes from a checkpoint continues as it was begun: torch stores the implementation with its state.
        """
        if self.optimizer is None:
            trained: Any = model or self.model
            decayed = set(self.get_decay_parameter_names(trained))
            groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
            for name, parameter in trained.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((self._rate(name), name in decayed), []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "lr": rate,
                        "weight_decay": self.training.weight_decay if decays else 0.0,
                    }
                    for (rate, decays), parameters in groups.items()
                ],
                lr=self.training.learning_rate,
                fused=has_fused_steps(trained) or None,
            )
        return self.optimizer

    def _rate(self, name: str) -> float:
        """The peak learning rate of the parameter ``name``."""
        if is_head(name, self.head):
            return self.training.head_learning_rate or self.training.learning_rate
        config = self.model.active_peft_config if isinstance(self.model, PeftModel) else None
        return self.training.learning_rate * self.recipe.learning_rate(config, name)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """A schedule over all epochs, even if training stops early."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer or self.create_optimizer()
            per_epoch = -(-len(self.examples) // self.get_total_train_batch_size(self.args))

            def factor(peak: float) -> Callable[[int], float]:
                return lambda step: learning_rate(self.training, peak, step, per_epoch) / peak

            factors = [factor(group["lr"]) for group in optimizer.param_groups]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """In training, the loss that the method wants; in evaluation, that of the outputs."""
        if return_outputs or not isinstance(self.model, PeftModel):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        once: Any = super().compute_loss

        def of_outputs() -> Tensor:
            # a copy of the inputs, because Trainer takes the labels out
            return once(model, dict(inputs), num_items_in_batch=num_items_in_batch)

        return self.recipe.loss(self.model, self.model.active_peft_config, of_outputs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.stop_on_nan.check(self.accelerator.reduce(loss, "mean"), self.state, self.training.learning_rate)
        return loss

    def predict_arrays(self, dataset: Encoded) -> tuple[Array, Array]:
        """(outputs (n, …), labels (n,)), in the order of the data set."""
        sorted_examples, order = longest_first(dataset)
        selecting, self.compute_metrics = self.compute_metrics, None  # which belongs to the examples that select
        outcome = self.predict(sorted_examples)
        self.compute_metrics = selecting
        if bad := int(np.isnan(outcome.predictions).reshape(len(order), -1).any(axis=1).sum()):
            raise TrainingError(
                f"the outputs for {bad:,} of {len(order):,} examples are NaN; {self.stop_on_nan.kept}; try a lower "
                f"learning rate (it was {self.training.learning_rate:g})"
            )
        back = np.argsort(order)
        return np.asarray(outcome.predictions)[back], np.asarray(outcome.label_ids)[back]

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        return LengthGrouped(self.examples.lengths, self.training.batch_size, self.args.seed)

    @property
    def _train_batch_size(self) -> int:
        return self.args.train_batch_size

    @_train_batch_size.setter
    def _train_batch_size(self, size: int) -> None:
        """Ignore the size from a checkpoint, which a different number of processes may have written."""


def has_fused_steps(model: nn.Module) -> bool:
    """Whether torch can update what is trained by one operation for each tensor; it does so by default nowhere, because
    results differ by rounding from those of separate operations."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return all(type(p) is nn.Parameter and p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)
