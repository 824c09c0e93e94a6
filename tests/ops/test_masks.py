import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genft.ops.masks import entry_mask, keep_probability, spread, unpack, zero_dropped_

CPU = torch.device("cpu")


def mask(shape, p, seed, **kw):
    return unpack(entry_mask(shape, p, seed, CPU, **kw), shape[0])


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.99), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_a_mask_is_a_function_of_its_arguments(rows, columns, p, seed):
    packed = entry_mask((rows, columns), p, seed, CPU)
    assert packed.dtype == torch.uint8
    assert packed.shape == (-(-rows // 8), columns)
    assert torch.equal(packed, entry_mask((rows, columns), p, torch.tensor(seed), CPU))
    assert unpack(packed, rows).shape == (rows, columns)


@pytest.mark.parametrize("p", [0.0, 0.01, 0.1, 0.25, 0.5, 0.9])
def test_entries_are_kept_with_the_stated_probability(p):
    n, k = 640_000, int(mask((800, 800), p, 7).sum())
    assert abs(keep_probability(p) - (1 - p)) <= 2**-11
    assert stats.binomtest(k, n, keep_probability(p)).pvalue > 1e-3


def test_without_dropout_everything_is_kept():
    assert mask((33, 17), 0.0, 1).all()
    assert keep_probability(0.0) == 1.0


def test_a_mask_never_drops_everything():
    assert keep_probability(0.99999) > 0


def test_masks_of_other_seeds_and_streams_are_independent():
    shape, p = (400, 500), 0.3
    kept = [mask(shape, p, seed, stream=stream).flatten() for seed in (0, 1, 2**40) for stream in (0, 1)]
    r = np.corrcoef(torch.stack(kept).double().numpy())
    assert np.abs(r - np.eye(len(kept))).max() < 5 / np.sqrt(shape[0] * shape[1])


def test_entries_are_independent_along_rows_and_columns():
    kept = mask((512, 512), 0.5, 3).double() - 0.5
    for shift in ((1, 0), (0, 1), (8, 0), (1, 1)):
        r = 4 * (kept * kept.roll(shift, (0, 1))).mean()
        assert abs(r) < 5 / 512


def test_a_mask_does_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    first = entry_mask((1000, 900), 0.1, 11, CPU)
    try:
        torch.set_num_threads(3)
        assert torch.equal(first, entry_mask((1000, 900), 0.1, 11, CPU))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dropped_entries_become_zero_and_others_stay(dtype):
    packed = entry_mask((29, 13), 0.4, 5, CPU)
    x = torch.randn(29, 13).to(dtype)
    expected = torch.where(unpack(packed, 29), x, 0)
    for rows in (slice(0, 8), slice(8, 24), slice(24, 29)):
        zero_dropped_(x[rows], spread(packed, rows, torch.empty(16, 13, dtype=dtype)))
    assert torch.equal(x, expected)


def test_the_bit_layout():
    packed = torch.tensor([[0b0000_0001], [0b0000_0010]], dtype=torch.uint8)
    assert unpack(packed, 11).flatten().nonzero().flatten().tolist() == [0, 9]


def test_a_mask_on_the_meta_device_has_its_shape():
    packed = entry_mask((20, 6), 0.1, 1, torch.device("meta"))
    assert packed.is_meta
    assert packed.shape == (3, 6)
