"""Fingerprints by which an adapter recognises its base: a small sketch and an exact checksum of every adapted weight.

The sketch is Ωₒᵀ W0 Ωᵢ (8 × 8, float32) with fixed ±1 matrices Ω, so it is linear in W0 and survives a change of
dtype or a quantisation with a small relative distance, while another layer's weight is almost as far away as
possible. Measured distances: bf16 up to 2.3e-3, int8 1.5e-2, 4-bit 0.16; another layer's weight 0.98 or more.

For equal dtypes the checksum decides, the sum of all rows read as whole numbers: a single changed bit changes it. What
cancels in it, such as rows that change places, moves the sketch. A hash of all bytes, which adapters of genft 0.1 have,
takes twenty times as long (768 × 768, float32: 2.6 ms instead of 0.12).
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genft.errors import BaseMismatchError
from genft.ops.sketch import sketch

#: The largest relative distance between two sketches of one weight, by the coarser precision of the two.
TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "float16": 5e-3, "bfloat16": 8e-3, "int8": 5e-2, "4bit": 0.35}
COARSEST = 0.35
#: Names of storage that is coarser than any float dtype.
QUANTISED = ("int8", "4bit")
#: Largest relative distance of an update from what it was when it was saved.
UPDATE_TOLERANCE = 1e-2

_allow_other_base: ContextVar[bool] = ContextVar("genft_allow_other_base", default=False)


@contextmanager
def allow_other_base() -> Iterator[None]:
    """Load an adapter onto a base model that is not the one it was trained on, on purpose.

    with genft.allow_other_base():
        model = PeftModel.from_pretrained(other_base, "adapter")
    """
    token = _allow_other_base.set(True)
    try:
        yield
    finally:
        _allow_other_base.reset(token)


def other_base_allowed() -> bool:
    return _allow_other_base.get()


def take(weight: Tensor, *, quantisation: str | None = None, hashed: bool = False) -> dict[str, Any]:
    """The fingerprint of one weight.

    Args:
        weight: W0 (o, i) in any float dtype (dequantised if the base is quantised).
        quantisation: the quantisation from which ``weight`` was dequantised, if any.
        hashed: with the hash of all bytes too, to compare it with a fingerprint of genft 0.1.
    """
    w = weight.detach()
    rows = _rows(w)
    taken = {
        "sketch": encode(sketch(w)),
        "dtype": quantisation or _name(w.dtype),
        "shape": list(w.shape),
        "checksum": _checksum(rows),
    }
    return taken | {"hash": _digest(rows)} if hashed else taken


def _rows(weight: Tensor) -> np.ndarray:
    """The bytes of the rows of a weight."""
    return weight.detach().contiguous().cpu().view(torch.uint8).numpy()


def _checksum(rows: np.ndarray) -> str:
    words = rows.view(np.uint64) if rows.shape[1] % 8 == 0 else rows
    return _digest(np.add.reduce(words, axis=0, dtype=np.uint64))


def _digest(data: np.ndarray) -> str:
    return hashlib.blake2b(data.data, digest_size=16).hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def fits(reference: Mapping[str, Any] | None, weight: Tensor) -> bool:
    """Whether a fingerprint still matches ``weight`` (o, i): by the checksum, or up to a change of dtype."""
    if reference is None or reference["shape"] != list(weight.shape):
        return False
    dtypes = (reference["dtype"], _name(weight.dtype))
    if dtypes[0] == dtypes[1] and "checksum" in reference:
        return reference["checksum"] == _checksum(_rows(weight))
    limit = max(TOLERANCE.get(dtype, COARSEST) for dtype in dtypes)
    return _apart(decode(reference["sketch"]), sketch(weight).cpu().float().flatten()) <= limit


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Relative Frobenius distance of two sketches."""
    return _apart(decode(a["sketch"]), decode(b["sketch"]))


def _apart(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / x.norm().clamp_min(1e-12))


def encode(values: Tensor) -> str:
    """A sketch as text: float32, little-endian, base64; a third of the size of JSON numbers."""
    numbers = values.detach().cpu().flatten().tolist()
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def decode(text: str) -> Tensor:
    raw = base64.b64decode(text)
    return torch.tensor(struct.unpack(f"<{len(raw) // 4}f", raw))


def to_tensor(taken: Mapping[str, Any]) -> Tensor:
    """A fingerprint as the bytes of its JSON, which an adapter file can hold."""
    return torch.frombuffer(bytearray(json.dumps(taken).encode()), dtype=torch.uint8)


def from_tensor(stored: Tensor) -> dict[str, Any] | None:
    """A fingerprint from an adapter file; None if it was edited, as scaling all tensors of a file does."""
    try:
        taken: dict[str, Any] = json.loads(bytes(stored.cpu().to(torch.uint8).flatten().tolist()))
        decode(taken["sketch"]), taken["dtype"], tuple(taken["shape"]), taken.get("checksum") or taken["hash"]
    except (ValueError, TypeError, KeyError, AttributeError, struct.error):
        return None
    return taken


def differs(expected: dict[str, Any], present: dict[str, Any]) -> str | None:
    """How ``present`` differs from ``expected``, as the end of a sentence, or None if it is the same weight."""
    if expected["shape"] != present["shape"]:
        return f"has shape {tuple(present['shape'])}, the adapter was trained on {tuple(expected['shape'])}"
    apart = distance(expected, present)
    if expected["dtype"] == present["dtype"] and _same_values(expected, present, apart):
        return None
    if expected["dtype"] == present["dtype"] and expected["dtype"] not in QUANTISED:
        return f"is another {present['dtype']} tensor (relative distance {apart:.2g})"
    limit = max(TOLERANCE.get(d, COARSEST) for d in (expected["dtype"], present["dtype"]))
    if apart > limit:
        return f"is {apart:.2g} away from the one the adapter was trained on (allowed {limit:.2g})"
    return None


def _same_values(expected: dict[str, Any], present: dict[str, Any], apart: float) -> bool:
    if "checksum" not in expected:  # genft 0.1
        return expected["hash"] == present["hash"]
    return expected["checksum"] == present["checksum"] and apart <= TOLERANCE["float32"]


def update_distance(expected: Tensor, present: Tensor) -> float:
    """Relative Frobenius distance of two sketches of one update."""
    return _apart(expected.cpu().float(), present.cpu().float())


def identity(tensors: Iterable[Tensor]) -> Tensor:
    """Eight whole numbers below 256, exact in every float dtype, that tell these tensors from others: a hash of the
    vectors, and of every 64th row of the matrices."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        rows = tensor.detach()[::64] if tensor.dim() > 1 else tensor.detach()
        digest.update(rows.float().cpu().contiguous().numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.float32)


def check(expected: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Compare the fingerprints of a loaded adapter with those of the model at hand.

    Raises:
        BaseMismatchError: naming the first weight that differs.
    """
    if other_base_allowed():
        return
    for name, reference in expected.items():
        if name not in present:
            continue
        if (difference := differs(reference, present[name])) is not None:
            raise BaseMismatchError(
                f"adapter: it was trained on another base model: {name} {difference}; load the base model it names, "
                "or pass it on purpose inside `with genft.allow_other_base():`"
            )
