"""The toy of the README: 500 Euler steps, its exact gradient, and the bytes it keeps (T1).

The gradient of the *discrete* solve is (-6.673239, 5.042737); that of the true differential
equation, (11.312883, -8.563734), is another number, which no step of this size can see.
"""

from __future__ import annotations

import gc
import types
from array import array

import numpy as np
import pytest

import retrograde as rg
from retrograde._checkpointing import schedules

GRADIENT = [-6.673239, 5.042737]
SETTINGS = {
    "1 KiB": {"memory": "1 KiB"},
    "8 slots": {"adjoint": rg.RecursiveCheckpointAdjoint(8)},
    "all": {"adjoint": rg.RecursiveCheckpointAdjoint()},
}


def toy(backend):
    """f, y0, t0, t1 and the keywords of the solve."""

    def f(t, y, args):
        xp = backend.namespace(y)
        return xp.stack([xp.cos(y[1]) * t**2, xp.sin(y[0]) * t**2])

    return (f, backend.array([1.0, 1.0]), 0.0, 5.0), {"solver": "euler", "dt": 0.01}


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradient_is_that_of_the_discrete_solve(backend, reference, setting):
    problem, keywords = toy(backend)
    g = backend.gradient(*problem, **keywords, **SETTINGS[setting])
    np.testing.assert_allclose(g.y0, GRADIENT, rtol=0, atol=1e-6)
    problem, keywords = toy(reference)
    expected = reference.gradient(*problem, **keywords)
    np.testing.assert_allclose(g.ys, expected.ys, rtol=1e-11)
    np.testing.assert_allclose(g.y0, expected.y0, rtol=1e-11)


@pytest.mark.parametrize("setting", SETTINGS)
def test_solve_vjp_agrees(backend, reference, setting):
    problem, keywords = toy(backend)
    g = backend.solve_vjp(*problem, **keywords, **SETTINGS[setting], times=True)
    problem, keywords = toy(reference)
    expected = reference.solve_vjp(*problem, **keywords, times=True)
    for actual, value in zip(g[1:5], expected[1:5], strict=True):
        if value is not None:
            np.testing.assert_allclose(actual, value, rtol=1e-11)


def test_gradient_agrees_with_differences(reference):
    (f, y0, t0, t1), keywords = toy(reference)
    g = reference.gradient(f, y0, t0, t1, **keywords)

    def loss(y0):
        return np.sum(rg.solve(f, y0, t0, t1, **keywords).ys)

    step = 1e-6 * np.eye(2)
    slopes = [(loss(y0 + d) - loss(y0 - d)) / 2e-6 for d in step]
    np.testing.assert_allclose(g.y0, slopes, rtol=1e-8)


@pytest.mark.parametrize("memory", [300, "1 KiB", "4 KiB", "64 KiB"])
def test_kept_bytes_are_within_the_budget(backend, memory):
    (f, y0, t0, t1), keywords = toy(backend)
    sol, pullback = rg.solve_vjp(f, y0, t0, t1, **keywords, memory=memory)
    sizes = kept_bytes(pullback, backend.bk, (y0, sol.ts, sol.ys))
    size = sum(sizes)  # of so small a budget the arrays count, not what holds them
    assert size <= sol.plan.budget
    assert size > 0 or sol.plan.adjoint.checkpoints == 1  # y0's own slot
    assert sol.plan.memory <= sol.plan.budget


@pytest.mark.quick("3", "8", "31", "500")
@pytest.mark.parametrize("slots", [1, 3, 8, 31, 500])
def test_field_is_called_as_often_as_the_closed_formula_says(reference, slots):
    (f, y0, t0, t1), keywords = toy(reference)
    calls = []

    def counted(t, y, args):
        calls.append(isinstance(y, np.ndarray))
        return f(t, y, args)

    adjoint = rg.RecursiveCheckpointAdjoint(slots)
    _, pullback = rg.solve_vjp(counted, y0, t0, t1, **keywords, adjoint=adjoint)
    calls.clear()
    pullback(np.ones((1, 2)))
    assert calls.count(True) == schedules.extra_advances(500, slots)  # replayed
    assert calls.count(False) == 500  # linearised


def kept_bytes(root, bk, known):
    """Bytes of each buffer (array or record of times) that an object keeps alive, but known ones.

    A view counts as all of the buffer that it looks into; 0-d arrays are statistics.
    """
    skip = (types.ModuleType, type, types.BuiltinFunctionType)
    sizes, seen, stack = {}, set(), [root]
    while stack:
        x = stack.pop()
        if id(x) in seen or x is bk or isinstance(x, skip):
            continue
        seen.add(id(x))
        if isinstance(x, array):
            sizes[id(x)] = x.itemsize * len(x)
        elif bk.is_array(x) and x.ndim:
            sizes.update([_buffer(x, bk)])
        elif isinstance(x, types.FunctionType):  # its globals are its module's
            stack += [cell.cell_contents for cell in x.__closure__ or ()]
        else:
            stack += gc.get_referents(x)
    for x in known:
        sizes.pop(_buffer(x, bk)[0], None)
    return list(sizes.values())


def _buffer(x, bk):
    """Identity and bytes of the memory behind an array."""
    if hasattr(x, "untyped_storage"):
        storage = x.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    while getattr(x, "base", None) is not None:
        x = x.base
    return id(x), bk.nbytes(x)
