"""The arguments of ``transformers.Trainer`` for a run."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import TrainingArguments

from genft.families.metrics import Metric
from genft.runs.settings import Training
from genft.training import ranks


def training_arguments(
    training: Training, metric: Metric, seed: int, folder: Path, *, evaluates: bool, name: str, max_steps: int = -1
) -> TrainingArguments:
    """Arguments for one evaluation, checkpoint and log entry per epoch.

    Args:
        training: hyper-parameters.
        metric: chooses the best epoch.
        seed: seeds the order of the examples, dropout and augmentation.
        folder: for checkpoints.
        evaluates: whether there is a selection split.
        name: the run's name in trackers.
        max_steps: the step to stop after, or -1 to train all epochs.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        run_name=name,
        num_train_epochs=training.epochs,
        max_steps=max_steps,
        per_device_train_batch_size=training.batch_size // (ranks.count() * training.grad_accumulation),
        gradient_accumulation_steps=training.grad_accumulation,
        gradient_checkpointing=training.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if training.gradient_checkpointing else None,
        per_device_eval_batch_size=training.eval_batch_size,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        label_smoothing_factor=training.label_smoothing,
        max_grad_norm=training.max_grad_norm,
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        use_cpu=not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true",
        seed=seed,
        data_seed=seed,
        eval_strategy="epoch" if evaluates else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        load_best_model_at_end=evaluates,
        metric_for_best_model=metric.name,
        greater_is_better=metric.higher_is_better,
        save_total_limit=2,  # the best and the last; with a limit of 1, Trainer deletes the last at the end
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        average_tokens_across_devices=False,  # the loss is a mean over examples, and every process has the same number
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # no nn.DataParallel over all visible GPUs: use torchrun for several
    return arguments
