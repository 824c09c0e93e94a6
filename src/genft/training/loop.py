"""The training loop: ``transformers.Trainer``, with the few things that it leaves open.

Batches of texts of similar length, a learning rate of its own for the head, checkpoints that hold only what is
trained, and a stop when the loss is NaN.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, Subset
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from genft.api.recipe import Recipe
from genft.data.encode import Encoded
from genft.errors import TrainingError, first_line
from genft.families.metrics import Array, Metric
from genft.models.load import LoadedModel
from genft.models.parameters import is_head, trained_state
from genft.runs.spec import Training
from genft.training import ranks
from genft.training.callbacks import StopOnNaN, Stopwatch, Watch, Watcher
from genft.training.schedule import learning_rate


@dataclass(frozen=True)
class Fitted:
    """A trained model, at its best epoch.

    Attributes:
        trainer: for predictions with the trained model.
        epochs: per epoch what was measured on the selecting split, and the training loss.
        best_epoch: counted from 1.
        seconds_per_step: the median.
        steps: optimizer steps in all.
        resumed_at: the step from which an interrupted run went on; 0 for a run in one piece.
    """

    trainer: Loop
    epochs: list[dict[str, float]]
    best_epoch: int
    seconds_per_step: float
    steps: int
    resumed_at: int


def fit(
    loaded: LoadedModel,
    model: nn.Module,
    train: Encoded,
    select: Encoded | None,
    training: Training,
    *,
    recipe: Recipe,
    metric: Metric,
    seed: int,
    checkpoints: Path,
    watch: Watch,
    every: int = 1,
    stop_after: int | None = None,
    name: str = "",
    callbacks: Sequence[TrainerCallback] = (),
) -> Fitted:
    """Train ``model``; keep the epoch with the best ``metric`` on ``select``; go on from ``checkpoints`` if any.

    Args:
        select: evaluated after the last of ``every`` epochs, and after the last of all; None keeps the last epoch.
        stop_after: the epoch after which to stop, on the schedule of all epochs.
        name: of the run, for trackers.
        callbacks: of trackers.

    Raises:
        TrainingError: the loss became NaN, or the GPU is too small.
    """
    stopwatch = Stopwatch()
    steps_per_epoch = -(-len(train) // training.batch_size)
    arguments = _arguments(training, metric, seed, checkpoints, evaluates=select is not None)
    arguments.run_name = name
    if stop_after is not None:
        arguments.max_steps = stop_after * steps_per_epoch
    trainer = Loop(
        loaded,
        training,
        recipe,
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=None if select is None else _longest_first(select)[0],
        data_collator=_collator(loaded),
        compute_metrics=lambda outcome: {metric.name: metric.score(*decide(outcome))},
        preprocess_logits_for_metrics=lambda logits, _: logits[0] if isinstance(logits, tuple) else logits,
        callbacks=[Watcher(watch), stopwatch, *recipe.callbacks(model), EveryFew(every), *callbacks],
    )
    if not ranks.is_first():  # dropout of its own; the order of the examples has a generator of its own
        set_seed(seed + ranks.rank())
    last = ranks.share(last_checkpoint(checkpoints) if ranks.is_first() else None)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"out of GPU memory in step {trainer.state.global_step + 1} with batches of {training.batch_size}; "
            "try a smaller --batch-size, or --precision bf16"
        ) from None
    history = trainer.state.log_history
    epochs = [
        {"epoch": round(entry["epoch"]), metric.name: entry[f"eval_{metric.name}"], "loss": entry["eval_loss"]}
        for entry in history
        if f"eval_{metric.name}" in entry
    ]
    losses = {round(entry["epoch"]): entry["loss"] for entry in history if "loss" in entry}
    for entry in epochs:
        entry["train_loss"] = losses[int(entry["epoch"])]
    choose = max if metric.higher_is_better else min  # the first of equals, as Trainer keeps it
    best = choose(epochs, key=lambda entry: entry[metric.name], default=None)
    return Fitted(
        trainer,
        epochs,
        int(best["epoch"]) if best else stop_after or training.epochs,
        stopwatch.median,
        trainer.state.global_step,
        int(last.name.rpartition("-")[2]) if last else 0,
    )


class Loop(Trainer):
    """``Trainer`` with a head of its own learning rate and small checkpoints."""

    def __init__(self, loaded: LoadedModel, training: Training, recipe: Recipe, **kwargs: Any) -> None:
        self.head = loaded.trained_in_full
        self.training = training
        self.recipe = recipe
        self.stop_on_nan = StopOnNaN()
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.stop_on_nan)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW in groups by learning rate, decayed or not."""
        model = model or self.model
        assert model is not None
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
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
            )
        return self.optimizer

    def _rate(self, name: str) -> float:
        """The highest learning rate of the parameter ``name``."""
        if is_head(name, self.head):
            return self.training.head_learning_rate or self.training.learning_rate
        config = self.model.active_peft_config if isinstance(self.model, PeftModel) else None
        return self.training.learning_rate * self.recipe.learning_rate(config, name)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Of all epochs, also where training stops after some of them."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            assert optimizer is not None
            assert isinstance(self.train_dataset, Encoded)
            per_epoch = -(-len(self.train_dataset) // self.get_total_train_batch_size(self.args))

            def factor(highest: float) -> Callable[[int], float]:
                return lambda step: learning_rate(self.training, highest, step, per_epoch) / highest

            factors = [factor(group["lr"]) for group in optimizer.param_groups]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.stop_on_nan.check(self.accelerator.reduce(loss, "mean"), self.state, self.training.learning_rate)
        return loss

    def predict_arrays(self, dataset: Encoded) -> tuple[Array, Array]:
        """(logits (n, classes), labels (n,)), in the order of the data set."""
        longest_first, order = _longest_first(dataset)
        outcome = self.predict(longest_first)
        back = np.argsort(order)
        return np.asarray(outcome.predictions)[back], np.asarray(outcome.label_ids)[back]

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        data = train_dataset or self.train_dataset
        assert isinstance(data, Encoded)
        return LengthGrouped(data.lengths, self.training.batch_size, self.args.seed)

    @property
    def _train_batch_size(self) -> int:
        return self.args.train_batch_size

    @_train_batch_size.setter
    def _train_batch_size(self, size: int) -> None:
        """Trainer would take it from a checkpoint, which another number of processes may have written."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, SafetensorError, RuntimeError) as e:  # torch.save's is a RuntimeError
            folder = Path(self.args.output_dir or "")
            shutil.rmtree(folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", ignore_errors=True)
            why = getattr(e, "strerror", None) or first_line(e, type(e).__name__)
            raise TrainingError(
                f"{folder}: the checkpoint of step {self.state.global_step} cannot be written ({why}); "
                f"{self.stop_on_nan.kept}"
            ) from None

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # every process has one, and trainer_state.json makes them complete

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Only what is trained; peft would otherwise ask the Hub about the vocabulary of the base."""
        model: Any = self.model
        assert output_dir is not None
        os.makedirs(output_dir, exist_ok=True)
        if self._trains_prompt:
            save_file(trained_state(model), os.path.join(output_dir, SAFE_WEIGHTS_NAME))
        elif isinstance(model, PeftModel):
            model.save_pretrained(output_dir, save_embedding_layers=False)
        else:
            model.save_pretrained(output_dir, state_dict=trained_state(model))

    @property
    def _trains_prompt(self) -> bool:
        """peft saves the prompt that an encoder makes, not the encoder: training cannot go on from that."""
        return isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._trains_prompt:
            trained: Any = model or self.model
            trained.load_state_dict(load_file(os.path.join(resume_from_checkpoint, SAFE_WEIGHTS_NAME)), strict=False)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._trains_prompt:
            assert self.state.best_model_checkpoint is not None
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that are not trained are not in a checkpoint: nothing to warn about."""


class EveryFew(TrainerCallback):
    """Evaluates and saves after every ``every`` epochs, and after the last."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert state.epoch is not None
        if round(state.epoch) % self.every and state.global_step < state.max_steps:
            control.should_evaluate = control.should_save = False


class LengthGrouped(Sampler[int]):
    """A random order, drawn anew for every epoch, in which the examples of a batch have similar lengths."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before every epoch, also after a resume: the order depends on nothing but seed and epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def decide(outcome: EvalPrediction | tuple[Array, Array]) -> tuple[Array, Array]:
    """(predicted, target): the most likely class from logits (n, classes), or the value from (n, 1)."""
    logits, labels = outcome
    logits = np.asarray(logits)
    return (logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)), np.asarray(labels)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in ``folder``; what an interruption left half-written is removed."""
    found = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    for path in reversed(found):
        try:  # Trainer writes this file last
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return path
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(path)
    return None


def _longest_first(dataset: Encoded) -> tuple[Subset[Any], Array]:
    order = np.argsort([-n for n in dataset.lengths], kind="stable")
    return Subset(dataset, order.tolist()), order


def _collator(loaded: LoadedModel) -> Any:
    if loaded.tokenizer is None:
        return default_data_collator
    return DataCollatorWithPadding(loaded.tokenizer, pad_to_multiple_of=8)


def _arguments(training: Training, metric: Metric, seed: int, folder: Path, *, evaluates: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size // ranks.count(),
        per_device_eval_batch_size=training.eval_batch_size,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        label_smoothing_factor=training.label_smoothing,
        max_grad_norm=training.max_grad_norm,
        bf16=training.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),
        seed=seed,
        data_seed=seed,
        eval_strategy="epoch" if evaluates else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        load_best_model_at_end=evaluates,
        metric_for_best_model=metric.name,
        greater_is_better=metric.higher_is_better,
        save_total_limit=2,  # the best and the last; of one, Trainer deletes the last when it ends
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        average_tokens_across_devices=False,  # the loss is a mean over examples: each process has as many
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # not nn.DataParallel over all that it sees: torchrun is for that
    return arguments
