"""The files of a saved adapter, and atomic writing of folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError

from genft.errors import ConfigError

ADAPTER_CONFIG = CONFIG_NAME
ADAPTER_WEIGHTS = SAFETENSORS_WEIGHTS_NAME
#: The weights that a baseline trained (a head, or everything); there is no adapter then.
BASELINE_WEIGHTS = "model.safetensors"
#: genft's records of the task (``task_file.py``) and of the base model (``base_record.py``).
TASK_FILE = "genft_task.json"
BASE_FILE = "genft_base.json"
#: The options that repeat the run, for ``genft train --config``.
RUN_FILE = "genft_run.toml"


@contextmanager
def new_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` if the block succeeds, and is deleted otherwise.

    Args:
        out: the folder to write; its parents are created.
        replace: whether to replace an existing ``out``. Only for a folder that one process writes at a time, because
            leftovers of killed processes next to it are deleted.

    Raises:
        ConfigError: ``out`` is not empty and must not be replaced, or it cannot be written.
    """
    out = out.absolute()
    if not replace:
        check_new(out)
    temporary, old = (out.with_name(f".{out.name}.{os.getpid()}.{suffix}") for suffix in ("partial", "old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if replace:
            _remove_leftovers(out)
        temporary.mkdir()
        yield temporary
        _swap(temporary, out, old)
    except (OSError, SafetensorError) as e:
        raise ConfigError(f"{out}: cannot be written ({getattr(e, 'strerror', None) or e})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _swap(new: Path, out: Path, old: Path) -> None:
    if out.exists():
        os.replace(out, old)
    try:
        os.replace(new, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise


def check_new(out: Path) -> None:
    """Refuse a path that exists, unless it is an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is not an empty folder; nothing was changed")


def _remove_leftovers(out: Path) -> None:
    for path in out.parent.iterdir():
        if path.name.startswith(f".{out.name}.") and path.suffix in (".partial", ".old"):
            shutil.rmtree(path, ignore_errors=True)
