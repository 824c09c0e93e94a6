"""Dropout masks on the entries of a generated matrix, kept as one bit per entry.

Bit k of byte (q, c) of a packed mask says whether entry (8 q + k, c) is kept. Packing along the rows
makes every step below a vectorised operation on whole rows, whatever the number of columns.

A mask is a function of (seed, stream, shape, p) alone: the same on every device, with any number of
threads. Its bits come from SplitMix64 (Steele, Lea & Flood 2014), a hash of a counter, so nothing is
drawn one after the other. A random word has 64 fair bits; n words make 64 bits that are each 1 with any
probability m / 2ⁿ, by one AND or OR per binary digit of m. So a mask costs n random bits per entry, and
no comparison and no packing.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Binary digits of the probability of keeping an entry.
DIGITS = 10

_CHUNK = 1 << 15  # words hashed at once: two buffers of 256 KB stay in a core's cache
_WORD = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _signed(v: int) -> int:
    v &= (1 << 64) - 1
    return v - (1 << 64) if v >> 63 else v


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


def keep_probability(p: float) -> float:
    """The exact probability of keeping an entry under dropout ``p``: 1 - p, to a multiple of 2⁻¹⁰."""
    return _kept(p) / 2**DIGITS


def _kept(p: float) -> int:
    return max(1, round((1 - p) * 2**DIGITS))


def entry_mask(
    shape: tuple[int, int], p: float, seed: int | Tensor, device: torch.device, *, stream: int = 0
) -> Tensor:
    """A packed mask (⌈rows / 8⌉, columns) uint8 whose bits are 1 with probability ``keep_probability(p)``.

    Args:
        shape: rows and columns of the matrix to mask.
        p: probability of dropping an entry, 0 ≤ p < 1.
        seed: an int64; a 0-dim tensor (best on the CPU) where a Python number would break a compiled graph.
        device: where the mask is made.
        stream: tells apart the masks that share a seed.
    """
    return _entry_mask(torch.as_tensor(seed), *shape, p, stream, device)


@torch.library.custom_op("genft::entry_mask", mutates_args=())
def _entry_mask(seed: Tensor, rows: int, columns: int, p: float, stream: int, device: torch.device) -> Tensor:
    size = -(-rows // 8) * columns
    words = -(-size // 8)
    packed = torch.empty(words, dtype=torch.int64, device=device)
    kept = _kept(p)
    if kept == 2**DIGITS:
        packed.fill_(-1)
    start = _hash(_hash(int(seed)) + stream)
    zeros = (kept & -kept).bit_length() - 1  # trailing zeros of m / 2ⁿ need no digits
    counter = torch.arange(min(words, _CHUNK), device=device).mul_(_GAMMA)
    x, scratch = torch.empty_like(counter), torch.empty_like(counter)
    for first in range(0, words, _CHUNK):
        bits = packed[first : first + _CHUNK]
        n = len(bits)
        for digit in range(zeros, DIGITS):
            torch.add(counter[:n], _signed(start + _GAMMA * (digit * words + first)), out=x[:n])
            fair = _hash_(x[:n], scratch[:n])
            if digit == zeros:
                bits.copy_(fair)
            elif kept >> digit & 1:
                bits.bitwise_or_(fair)
            else:
                bits.bitwise_and_(fair)
    return packed.view(torch.uint8)[:size].view(-1, columns)


@_entry_mask.register_fake
def _(seed: Tensor, rows: int, columns: int, p: float, stream: int, device: torch.device) -> Tensor:
    return torch.empty(-(-rows // 8), columns, dtype=torch.uint8, device=device)


def _hash_(x: Tensor, scratch: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place on int64 words; torch shifts in the sign, which is cut off again."""
    for shift, factor in _MIX:
        torch.bitwise_right_shift(x, shift, out=scratch)
        x.bitwise_xor_(scratch.bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            x.mul_(factor)
    return x


def _hash(v: int) -> int:
    for shift, factor in _MIX:
        v &= (1 << 64) - 1
        v = (v ^ v >> shift) * factor
    return _signed(v)


def spread(packed: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Rows ``start:stop`` of a packed mask as integers as wide as ``dtype``: all ones where kept, else 0.

    ``start`` is a multiple of 8.
    """
    word = _WORD[dtype.itemsize]
    width = 8 * dtype.itemsize
    shifts = torch.arange(width - 1, width - 9, -1, dtype=word, device=packed.device)
    octets = packed[start // 8 : -(-stop // 8)].to(word)
    # bit k moves to the sign, and the sign fills the word
    bits = (octets[:, None] << shifts[:, None]).bitwise_right_shift_(width - 1)
    return bits.view(-1, packed.shape[1])[: stop - start]


def zero_dropped_(x: Tensor, bits: Tensor) -> Tensor:
    """Set the dropped entries of ``x`` to zero, in place; ``bits`` are its rows of :func:`spread`."""
    x.view(bits.dtype).bitwise_and_(bits)
    return x


def unpack(packed: Tensor, rows: int) -> Tensor:
    """The mask (rows, columns) as booleans."""
    return spread(packed, 0, rows, torch.int8) != 0
