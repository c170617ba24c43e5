"""Attempts in one frame: the numbers of the calls one by one, in every form for a size of state.

Guards rows N1 and T1p of ``asv_bench/report.py``.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import retrograde as rg
from retrograde._base.types import Scale
from retrograde._solvers.base import Step

flat = pytest.importorskip("retrograde_backends.flat.attempt")

SIZES = (1, 2, 8, 9, 100, 2048, 2049)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "dopri8", "bosh3"])
def test_an_attempt_is_its_calls_to_the_bit(solver, dtype, size, eager):
    """An integration asks for errors, its replays do not: their states must be the same."""
    bk, array = eager
    draw = np.random.default_rng(size)
    y = array(draw.normal(size=size).astype(dtype))
    layout = bk.layout([y])

    def f(t, y, args):
        return -y * y * args + t

    def field(t, y):
        return (f(t, y, 0.3),)

    field.call = f, 0.3
    made = getattr(rg, solver.title())()
    with bk.quiet():
        scale = Scale(1e-6, 1e-9)
        fused = flat.flat_stepper(
            made.tableau, bk.stages(layout, made.tableau, scale), layout, field
        )
        assert "step" in vars(fused)
        whole, bare = (made.stepper(bk, layout, field, x) for x in (scale, None))
        t, state, state_whole = 0.5, fused.init(0.5, y), whole.init(0.5, y)
        for h in (1e-3, 0.1, 0.02):  # the second, of a large error, is not kept
            found = Step(*fused.step(t, h, y, state, error=True))
            expected = whole.step(t, h, y, state_whole, error=True)
            alone = bare.step(t, h, y, None, error=False)
            np.testing.assert_array_equal(np.asarray(found.y1), np.asarray(expected.y1))
            np.testing.assert_array_equal(np.asarray(found.y1), np.asarray(alone.y1))
            assert found.error2 == expected.error2
            state, state_whole = found.rejected, expected.rejected
            if found.error2 <= 1.0:
                t, y, state, state_whole = t + h, found.y1, found.state, expected.state


@pytest.mark.parametrize("size", [1, 2, 8])
def test_norms_in_floats_are_those_of_arrays(size):
    draw = np.random.default_rng(size)
    error = np.zeros(size)

    def norm(few):
        tolerances = (None, np.asarray(1e-3) if few else np.full(size, 1e-3))
        return flat.squared_norm(np, (error.copy, None), tolerances, np.zeros((3, size)), False)

    norms = norm(few=True), norm(few=False)
    assert "_square_of_few" in norms[0].__qualname__
    assert "_square_of_few" not in norms[1].__qualname__
    y = draw.normal(size=size)
    for _ in range(5):
        y1, error[:] = draw.normal(size=size), 1e-3 * draw.normal(size=size)
        found, expected = (norm(y, y1) for norm in norms)
        assert found == pytest.approx(expected, rel=1e-14)
        y = y1 if draw.random() < 0.5 else y
    for bad in (np.nan, np.inf):
        error[0] = bad
        assert not norms[0](y, y) <= 1.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slopes_of_any_layout_are_copied(dtype):
    torch = pytest.importorskip("torch")
    step = importlib.import_module("retrograde_backends.torch.flat")
    kind = getattr(torch, dtype)
    for size in (3, 9):
        rows = torch.zeros(2, size, dtype=kind)
        put = step.writer(rows[1])
        values = torch.linspace(-1, 1, 2 * size, dtype=kind)
        values[2] = torch.inf
        put(values[::2].requires_grad_().detach())
        assert torch.equal(rows[1], values[::2])
        assert not rows[0].any()


@pytest.fixture(params=["numpy", "torch"])
def eager(request):
    """An adapter whose states are flat, and its arrays of NumPy's."""
    if request.param == "numpy":
        return importlib.import_module("retrograde_backends.numpy").backend, np.asarray
    torch = pytest.importorskip("torch")
    return importlib.import_module("retrograde_backends.torch.adapter").backend, torch.from_numpy
