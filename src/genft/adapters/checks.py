"""Checks of an adapter's files, which may come from a stranger or be incomplete."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from peft.utils import WEIGHTS_NAME, load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genft.adapters.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from genft.bridge.tuner import LARGEST
from genft.errors import AdapterFileError, GenFTError, first_line

#: Settings of peft's own methods that determine the size of allocations on loading.
SIZES = {
    *("r", "rank", "init_r", "target_r", "n_frequency", "num_vectors", "vector_length"),
    *("num_virtual_tokens", "token_dim", "num_layers", "num_transformer_submodules"),
}


def check_files(folder: Path) -> None:
    """Refuse a folder with something in it that is no file: opening a FIFO would wait without end."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise AdapterFileError(f"{path}: is not a regular file")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a weight file, all of them finite.

    Args:
        file: a safetensors file; if it is missing and peft has written a pickle next to it, the pickle is read without
            executing code from it.

    Raises:
        AdapterFileError: the file is missing, damaged, or without a tensor.
    """
    pickled = file.with_name(WEIGHTS_NAME)
    from_pickle = file.name == ADAPTER_WEIGHTS and not file.is_file() and pickled.is_file()
    if not file.is_file() and not from_pickle:
        raise AdapterFileError(f"{file}: is missing")
    file = pickled if from_pickle else file
    try:
        tensors = load_peft_weights(str(file.parent), device="cpu") if from_pickle else load_file(file)
    except SafetensorError as e:
        raise AdapterFileError(f"{file}: is damaged or incomplete ({e})") from None
    except Exception as e:  # a damaged pickle raises many types
        raise AdapterFileError(f"{file}: cannot be read ({first_line(e)})") from None
    if not tensors:
        raise AdapterFileError(f"{file}: contains no tensor; it is incomplete")
    broken = next((name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), None)
    if broken is not None:
        raise AdapterFileError(f"{file}: {broken} holds NaN or infinite values; it is damaged")
    return tensors


def check_names(file: Path, names: Collection[str], *, needed: Collection[str], allowed: Collection[str]) -> None:
    """Compare the names of a file's tensors with those of the adapter.

    Args:
        file: the file, for the message.
        names: the names of the file's tensors.
        needed: names that must be present.
        allowed: other names that may be present; any more would overwrite weights of the base.

    Raises:
        AdapterFileError: a tensor is missing or is not the adapter's; the message names the first one.
    """
    if missing := sorted(set(needed) - set(names)):
        raise AdapterFileError(f"{file}: has no values for {missing[0]}; it is incomplete")
    if surplus := sorted(set(names) - set(needed) - set(allowed)):
        more = f" (and {len(surplus) - 1} more)" if len(surplus) > 1 else ""
        raise AdapterFileError(
            f"{file}: holds {surplus[0]}{more}, which is not this adapter's and would overwrite the base model"
        )


def check_shapes(file: Path, tensors: Mapping[str, Tensor], known: Mapping[str, Tensor], base: str) -> None:
    """Refuse tensors whose names or shapes do not match the model."""
    for name, tensor in tensors.items():
        if name not in known or known[name].shape != tensor.shape:
            raise AdapterFileError(f"{file}: {name} does not fit the base model {base}")


def check_sizes(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a rank in adapter_config.json that no saved weight has, before peft allocates it.

    genft's own tuners check the sizes of their tensors themselves.
    """
    file = folder / ADAPTER_CONFIG
    largest = max([LARGEST, *(size for tensor in tensors.values() for size in tensor.shape)])
    for name, value in json.loads(file.read_text(encoding="utf-8")).items():
        for size in value.values() if isinstance(value, dict) and name.endswith("_pattern") else [value]:
            if name.removesuffix("_pattern") in SIZES and isinstance(size, int | float) and size > largest:
                raise AdapterFileError(f"{file}: {name} holds {size}; nothing in the saved weights is so large")


@contextmanager
def one_sentence(folder: Path, base: str, hint: str = "") -> Iterator[None]:
    """Turn errors from peft, transformers and torch while an adapter is attached to its base into one sentence."""
    try:
        yield
    except GenFTError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError, ImportError) as e:
        if "size mismatch" in str(e):
            raise AdapterFileError(f"{folder}: does not fit {base}{hint}: {str(e).splitlines()[-1].strip()}") from None
        raise AdapterFileError(f"{folder}: cannot be loaded onto {base}: {first_line(e)}") from None
