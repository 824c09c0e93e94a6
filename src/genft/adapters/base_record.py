"""What a saved adapter records about its whole base: a hash of every frozen weight, and one of the tokenizer.

Every method of genft checks the weights that it adapts, whichever way peft loads it (``bridge/base_check.py``). This
record covers the rest, such as the embeddings, and adapters of peft's own methods; ``genft.load_adapter`` and the
commands compare it. Each weight is hashed in float32 and rounded to bfloat16 and float16, so that the same model stored
in another precision is recognised without a tolerance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from pydantic import ValidationError
from torch import Tensor, nn

from genft.adapters.folder import BASE_FILE
from genft.errors import AdapterFileError, BaseMismatchError
from genft.ops.threads import torch_threads
from genft.records import Record

#: Bytes per hash; each weight has three hashes.
_DIGEST = 8
_PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
#: Texts whose tokens characterise a tokenizer.
_PROBES = ("The quick brown fox isn't slow.", "naïve ÉTÉ 2,718 東京 \U0001f98a", " two  spaces\tand a tab\n")


class BaseRecord(Record):
    """Hashes of a base model's frozen weights by name: as it is, rounded to bfloat16, rounded to float16."""

    weights: dict[str, tuple[str, ...]]

    @property
    def fingerprint(self) -> str:
        """One hash of all weights, unrounded."""
        exact = {name: digests[:1] for name, digests in self.weights.items()}
        return hashlib.blake2b(json.dumps(exact, sort_keys=True).encode(), digest_size=16).hexdigest()

    def write(self, folder: Path) -> None:
        (folder / BASE_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_base_record(folder: Path) -> BaseRecord | None:
    """The record in a saved adapter, or None if there is none (genft 0.1, and models trained in full).

    Raises:
        AdapterFileError: the file is damaged.
    """
    path = folder / BASE_FILE
    if not path.is_file():
        return None
    try:
        return BaseRecord.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as e:
        raise AdapterFileError(f"{path}: is damaged ({str(e).splitlines()[0]})") from None


def take_base_record(model: nn.Module) -> BaseRecord | None:
    """Record the base that ``model`` was trained on: its frozen weights, without those of an adapter.

    None if no weight is frozen, or if weights are sharded over several processes. A method that starts by changing its
    targets (PiSSA) no longer has their original values, so they are left out; so are quantised weights, which
    bitsandbytes packs in another order once they have been used.
    """
    changed = {name.partition(".lora_")[0] for name in getattr(model, "initial_adapter", None) or ()}
    changed = {path.removeprefix("base_model.model.") for path in changed}
    frozen = {
        name: p
        for name, p in base_parameters(model)
        if not p.requires_grad and p.is_floating_point() and name.rpartition(".")[0] not in changed
    }
    if not frozen or any(type(p.data) is not Tensor for p in frozen.values()):
        return None
    return BaseRecord(weights=_hash_all(frozen))


def base_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the base, under the names that they have without an adapter."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    wrappers = tuple(
        f"{path}." for path, m in base.named_modules() if isinstance(m, BaseTunerLayer | ModulesToSaveWrapper)
    )
    for name, parameter in base.named_parameters():
        owner = max((w for w in wrappers if name.startswith(w)), key=len, default=None)
        if owner is None:
            yield name, parameter
        elif name.startswith(f"{owner}base_layer."):
            yield owner.removesuffix(".") + name.removeprefix(f"{owner}base_layer"), parameter


def check_base(record: BaseRecord | None, fingerprint: str | None, model: nn.Module, base: str) -> None:
    """Compare a base that has just been loaded, and has no adapter yet, with the one of training.

    Args:
        record: the hashes by name, or None if the adapter has none.
        fingerprint: the single hash in genft_task.json, or None if there is none.
        model: the base with its head.
        base: the adapter's name for the base.

    Raises:
        AdapterFileError: the two files of the adapter do not belong together.
        BaseMismatchError: naming the first weight that differs.
    """
    if record is None and fingerprint is None:
        return
    if record is None or record.fingerprint != fingerprint:
        raise AdapterFileError(f"{BASE_FILE}: does not belong to this adapter; copy the whole folder of the adapter")
    parameters = dict(base_parameters(model))
    present = {name: parameters[name] for name in record.weights if name in parameters}
    hashes = _hash_all(present)
    for name, digests in record.weights.items():
        if name not in hashes:
            problem = f"has no weight {name}"
        elif not any(a == b for a, b in zip(digests, hashes[name], strict=False)):
            problem = f"has other values in {name}"
        else:
            continue
        raise BaseMismatchError(
            f"adapter: it was trained on {base} and this base model {problem}; load the base model of training, or "
            "pass another on purpose inside `with genft.allow_other_base():`"
        )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """One hash of a tokenizer's behaviour: its vocabulary, its special tokens, and the tokens of a few texts."""
    tokens = [tokenizer(text)["input_ids"] for text in _PROBES]
    pair = tokenizer(*_PROBES[:2])["input_ids"]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    behaviour = [sorted(tokenizer.get_vocab().items()), special, tokens, pair]
    return hashlib.blake2b(json.dumps(behaviour).encode(), digest_size=16).hexdigest()


def _hash_all(tensors: dict[str, Tensor]) -> dict[str, tuple[str, ...]]:
    with torch_threads() as pool:  # hashing releases the interpreter's lock
        return dict(zip(tensors, pool.map(_hashes, tensors.values()), strict=True))


def _hashes(tensor: Tensor) -> tuple[str, ...]:
    raw = tensor.detach().cpu().reshape(-1)
    forms = [raw.to(dtype) for dtype in _PRECISIONS] if raw.is_floating_point() else [raw]
    return tuple(_digest(form.contiguous().view(torch.uint8)) for form in forms)


def _digest(data: Tensor) -> str:
    return hashlib.blake2b(data.numpy().data, digest_size=_DIGEST).hexdigest()
