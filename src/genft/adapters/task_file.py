"""genft_task.json: a saved adapter's record of its task, its labels and its preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

from genft.adapters.folder import TASK_FILE
from genft.data.answering import Answering
from genft.data.preprocessing import Preprocessing
from genft.data.prompting import Prompting
from genft.errors import AdapterFileError, ConfigError
from genft.records import Record, check


class SavedTask(Record):
    """The content of genft_task.json.

    Attributes:
        classes: the labels, in the order of the model's outputs; empty in a regression.
        base: a Hub id, or the base's folder on the machine of training.
        score: ``metric`` on the reporting split of ``protocol``.
        licence, source: of the data, as the task states them; empty if it does not.
        base_fingerprint: one hash of all frozen weights of the base (``base_record.py``); None if nothing was frozen,
            and for adapters of genft 0.1.
        family: the family of the task.
        task_type: peft's name for the task; None if it has none, and for adapters of genft 0.1.
        prompting: how prompts are written, if it generates text.
        answering: how answers are found, if they are parts of a text.
        quantise: how the base was quantised: 4bit, 8bit, or none.
        tokenizer_fingerprint: one hash of the tokenizer's behaviour; None for images, and for adapters of genft 0.1.
    """

    genft_version: str
    task: str
    kind: str
    text_columns: tuple[str, ...]
    label_column: str
    regression: bool
    classes: tuple[str, ...]
    metric: str
    base: str
    base_is_local: bool
    method: str
    preprocessing: Preprocessing
    score: float
    protocol: str
    licence: str = ""
    source: str = ""
    family: str = "classification"
    task_type: str | None = None
    prompting: Prompting = Prompting()
    answering: Answering = Answering()
    base_fingerprint: str | None = None
    tokenizer_fingerprint: str | None = None
    quantise: str = "none"

    def write(self, folder: Path) -> None:
        (folder / TASK_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_task(folder: Path) -> SavedTask:
    """Read the task of a saved adapter.

    Raises:
        AdapterFileError: the file is missing or damaged; all problems at once.
    """
    path = folder / TASK_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise AdapterFileError(
            f"{path}: is missing, so the labels are unknown; to load an adapter that genft did not save, use "
            "peft.PeftModel.from_pretrained"
        ) from None
    except ValueError as e:
        raise AdapterFileError(f"{path}: is damaged ({e})") from None
    try:
        return check(SavedTask, values, str(path))
    except ConfigError as e:
        raise AdapterFileError(str(e)) from None
