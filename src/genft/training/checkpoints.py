"""Checkpoints that hold only the trained tensors, and the search for the one from which a run resumes."""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from genft.errors import TrainingError, first_line
from genft.models.parameters import trained_state
from genft.training import ranks
from genft.training.callbacks import StopOnNaN


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``, the same in all processes; incomplete and damaged ones are removed."""
    return ranks.share(_newest(folder) if ranks.is_first() else None)


def step_of(checkpoint: Path | None) -> int:
    """The optimizer step of a checkpoint, or 0 if there is none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _newest(folder: Path) -> Path | None:
    for path in sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=step_of, reverse=True):
        try:  # Trainer writes this file last
            state = json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
            continue
        best = state.get("best_model_checkpoint") if isinstance(state, dict) else None
        damaged = _damaged_file(path)
        if damaged is None and best and (folder / Path(best).name).is_dir():  # a better one may have replaced it
            damaged = _damaged_file(folder / Path(best).name)
        if damaged is None:
            return path
        warnings.warn(
            f"{damaged}: is damaged or missing, so the run resumes from before {path.name}, or from its start",
            stacklevel=2,
        )
        shutil.rmtree(path)
    return None


def _damaged_file(checkpoint: Path) -> Path | None:
    """The first file of a checkpoint that cannot be read or is missing; None if all is well.

    What torch writes is a zip archive, whose checksums cover all of it; of safetensors the header and the length are
    checked.
    """
    for file in sorted(checkpoint.iterdir()):
        try:
            if file.suffix in (".pt", ".pth"):
                with zipfile.ZipFile(file) as archive:
                    if archive.testzip() is not None:
                        return file
            elif file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
        except (OSError, zipfile.BadZipFile, SafetensorError):
            return file
    if not any(checkpoint.glob("*.safetensors")):
        return checkpoint / SAFE_WEIGHTS_NAME
    missing = (checkpoint / name for name in (OPTIMIZER_NAME, SCHEDULER_NAME))
    return next((file for file in missing if not file.is_file()), None)


class SmallCheckpoints(Trainer):
    """``Trainer`` whose checkpoints hold only the trained tensors; if one cannot be written, the run ends."""

    def __init__(self, **kwargs: Any) -> None:
        self.stop_on_nan = StopOnNaN()
        super().__init__(**kwargs)
        self.add_callback(self.stop_on_nan)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, SafetensorError, RuntimeError) as e:  # torch.save raises a RuntimeError
            folder = Path(self.args.output_dir or "")
            shutil.rmtree(folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", ignore_errors=True)
            why = getattr(e, "strerror", None) or first_line(e, type(e).__name__)
            raise TrainingError(
                f"{folder}: the checkpoint of step {self.state.global_step} cannot be written ({why}); "
                f"{self.stop_on_nan.kept}"
            ) from None

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # every process writes one, and trainer_state.json marks them as complete

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save only the trained tensors; otherwise, peft would ask the Hub about the base's vocabulary."""
        model: Any = self.model
        folder = output_dir or str(self.args.output_dir)
        os.makedirs(folder, exist_ok=True)
        if self._trains_prompt:
            save_file(trained_state(model), os.path.join(folder, SAFE_WEIGHTS_NAME))
        elif isinstance(model, PeftModel):
            model.save_pretrained(folder, save_embedding_layers=False)
        else:
            model.save_pretrained(folder, state_dict=trained_state(model))

    @property
    def _trains_prompt(self) -> bool:
        """Whether a prompt is trained; peft saves its encoder's output, not the encoder, and could not resume."""
        return isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._trains_prompt:
            trained: Any = model or self.model
            trained.load_state_dict(load_file(os.path.join(resume_from_checkpoint, SAFE_WEIGHTS_NAME)), strict=False)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is not None and not Path(best).is_dir():
            folder = Path(self.args.output_dir or "")
            shutil.rmtree(folder, ignore_errors=True)
            raise TrainingError(
                f"{folder}: the checkpoint of the best epoch, {Path(best).name}, was deleted during the run; run the "
                "same command again to train from the start"
            )
        if self._trains_prompt and best is not None:
            self._load_from_checkpoint(best)
        else:
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Do not warn: frozen weights are missing from our checkpoints on purpose."""
