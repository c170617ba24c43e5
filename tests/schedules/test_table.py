"""Splits for traced loops: equal to the optimal ones, legal everywhere, and within int32."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retrograde._checkpointing.schedules import (
    split,
    split_from_row,
    split_table,
    split_wide,
    total_advances,
)


def recipe(table, length, slots, max_rows):
    """The docstring's recipe, word for word, on int32 scalars (overflow warns, hence fails)."""
    row = table[np.minimum(slots, max_rows)]
    a = np.max(np.where(row < length, row, np.int32(0)))
    b = np.max(np.where(row < a, row, np.int32(0)))
    lean = length - (a - b)
    m = np.where(row[-1] < length, lean, np.minimum(a, lean))
    return np.where(slots > max_rows, split_wide(length, slots), m)


def test_row_split_equals_split_where_the_row_reaches():
    table = split_table(100)
    assert len(table) == 65
    assert {len(row) for row in table} == {64}
    for slots in range(2, 65):
        for length in range(2, 2001):
            assert split_from_row(table[slots], length) == split(length, slots)


@given(length=st.integers(2, 2**30 - 1), slots=st.integers(2, 64))
def test_row_split_is_legal_at_any_length(length, slots):
    row = split_table(64)[slots]
    assert 1 <= split_from_row(row, length) < length
    if length <= row[-1]:
        assert split_from_row(row, length) == split(length, slots)


def test_row_split_beyond_the_row_is_no_worse_than_even_spacing():
    row = split_table(2)[2]
    length, cost = 20_000, 0
    while length > 1:
        m = split_from_row(row, length)
        cost += m + total_advances(length - m, 1)
        length = m
    evenly = sum(start + total_advances(64, 1) for start in range(64, 20_000, 64))
    assert total_advances(20_000, 2) <= cost <= evenly + 64**2


@given(length=st.integers(2, 800_000), slots=st.integers(65, 10**5))
def test_wide_split_is_optimal(length, slots):
    m = split_wide(length, slots)
    cost = m + total_advances(length - m, slots - 1) + total_advances(m, slots)
    assert cost == total_advances(length, slots)


@given(length=st.integers(2, 10**9), slots=st.integers(2, 10**9))
@example(length=10**9, slots=46339)
def test_wide_split_is_legal_and_fits_int32(length, slots):
    # int32 scalars warn where they overflow, and warnings are errors.
    m = split_wide(np.int32(length), np.int32(slots))
    assert m == split_wide(length, slots)
    assert 1 <= m < length


@pytest.mark.parametrize("max_rows", [5, 64])
@given(length=st.integers(2, 3000), slots=st.integers(1, 300))
def test_recipe_for_arrays(max_rows, length, slots):
    table = np.asarray(split_table(300, max_rows), dtype=np.int32)
    m = recipe(table, np.int32(length), np.int32(slots), max_rows)
    if slots <= max_rows:
        assert m == split_from_row(split_table(300, max_rows)[slots], length)
    else:
        assert m == split_wide(length, slots)
