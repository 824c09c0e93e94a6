"""Dropout masks on the entries of a generated matrix, stored as one bit per entry.

Bit k of byte (q, c) of a packed mask tells whether entry (8 q + k, c) is kept. Packing along the rows
makes every step below a vectorised operation on whole rows, whatever the number of columns.

A mask is a function of (seed, stream, shape, p) alone: the same on every device, with any number of
threads. Its bits come from SplitMix64 (Steele, Lea & Flood 2014), a hash of a counter, so there is no
sequential drawing. A random word has 64 fair bits; n words give 64 bits that are each 1 with any
probability m / 2ⁿ, by one AND or OR per binary digit of m. So a mask costs n random bits per entry, and
no comparison and no packing.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

#: Binary digits of the probability of keeping an entry.
DIGITS = 10

_CHUNK = 1 << 15  # words hashed at once on a CPU: two buffers of 256 KB stay in a core's cache
_WORD = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _signed(v: int) -> int:
    v &= (1 << 64) - 1
    return v - (1 << 64) if v >> 63 else v


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


def keep_probability(p: float) -> float:
    """The exact probability of keeping an entry with dropout ``p``: 1 - p, rounded to a multiple of 2⁻¹⁰."""
    return _kept(p) / 2**DIGITS


def _kept(p: float) -> int:
    return max(1, round((1 - p) * 2**DIGITS))


def entry_mask(
    shape: tuple[int, int], p: float, seed: int | Tensor, device: torch.device, *, stream: int = 0
) -> UInt8[Tensor, "octets n"]:
    """A packed mask (⌈rows / 8⌉, columns) uint8 whose bits are 1 with probability ``keep_probability(p)``.

    Args:
        shape: rows and columns of the matrix to mask.
        p: probability of dropping an entry, 0 ≤ p < 1.
        seed: an int64, or a 0-dim tensor (best on the CPU) if a Python number would break a compiled graph.
        device: the device of the mask.
        stream: distinguishes masks with the same seed.
    """
    return _entry_mask(torch.as_tensor(seed), *shape, p, stream, device)


@torch.library.custom_op(
    "genft::entry_mask",
    mutates_args=(),
    schema="(Tensor seed, int rows, int columns, float p, int stream, Device device) -> Tensor",
)
def _entry_mask(seed: Tensor, rows: int, columns: int, p: float, stream: int, device: torch.device) -> Tensor:
    size = -(-rows // 8) * columns
    words = -(-size // 8)
    packed = torch.empty(words, dtype=torch.int64, device=device)
    kept = _kept(p)
    trailing = (kept & -kept).bit_length() - 1
    digits = DIGITS - trailing  # trailing zeros of a binary fraction need no digits
    if not digits:
        packed.fill_(-1)
    start = _hash(_hash(int(seed)) + stream)
    step = _CHUNK // DIGITS if device.type == "cpu" else words
    # word w of digit k is hash number k · words + w + 1 of the stream
    count = torch.arange(1, min(step, words) + 1, device=device)
    count = (count + words * torch.arange(digits, device=device)[:, None]).mul_(_GAMMA)
    x, scratch = torch.empty_like(count), torch.empty_like(count)
    for first in range(0, words if digits else 0, step):
        bits = packed[first : first + step]
        n = len(bits)
        fair = torch.add(count[:, :n], _signed(start + _GAMMA * first), out=x[:, :n])
        _hash_(fair, scratch[:, :n])
        bits.copy_(fair[0])
        for k in range(1, digits):
            (bits.bitwise_or_ if kept >> trailing + k & 1 else bits.bitwise_and_)(fair[k])
    return packed.view(torch.uint8)[:size].view(-1, columns)


@_entry_mask.register_fake
def _(seed: Tensor, rows: int, columns: int, p: float, stream: int, device: torch.device) -> Tensor:
    return torch.empty(-(-rows // 8), columns, dtype=torch.uint8, device=device)


def _hash_(x: Tensor, scratch: Tensor) -> None:
    """SplitMix64's finaliser, in place on int64 words; torch shifts in the sign bit, which is masked out again."""
    for shift, factor in _MIX:
        torch.bitwise_right_shift(x, shift, out=scratch)
        x.bitwise_xor_(scratch.bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            x.mul_(factor)


def _hash(v: int) -> int:
    for shift, factor in _MIX:
        v &= (1 << 64) - 1
        v = (v ^ v >> shift) * factor
    return _signed(v)


def spread(packed: Tensor, rows: slice, out: Tensor) -> Tensor:
    """Some rows of a packed mask as integers: all bits set if the entry is kept, else 0.

    Args:
        packed: the mask.
        rows: the rows to unpack; they start at a multiple of 8.
        out: memory for the result: at least the rows, rounded up to a multiple of 8, × columns, in the dtype of the
            matrix to mask. The integers have the same width.
    """
    word = _WORD[out.itemsize]
    top = 8 * out.itemsize - 1
    octets = packed[rows.start // 8 : -(-rows.stop // 8)].to(word)
    shifts = torch.arange(top, top - 8, -1, dtype=word, device=out.device)
    bits = out.view(word)[: 8 * len(octets)].view(-1, 8, packed.shape[1])
    # bit k of an octet moves to the sign of a word, and the sign fills the word
    torch.bitwise_left_shift(octets[:, None], shifts[:, None], out=bits)
    return bits.bitwise_right_shift_(top).view(-1, packed.shape[1])[: rows.stop - rows.start]


def zero_dropped_(x: Tensor, bits: Tensor) -> Tensor:
    """Set the dropped entries of ``x`` to zero in place; ``bits`` are its rows from :func:`spread`."""
    x.view(bits.dtype).bitwise_and_(bits)
    return x


def unpack(packed: UInt8[Tensor, "octets n"], rows: int) -> Bool[Tensor, "m n"]:
    """The mask (rows, columns) as booleans."""
    out = torch.empty(8 * len(packed), packed.shape[1], dtype=torch.int8, device=packed.device)
    return spread(packed, slice(0, rows), out) != 0
