"""``on_step``: every try of a step is told, once, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability


def rough(backend):
    """y' = 10 y cos(20 t): some tries are rejected."""
    return lambda t, y, k: k * y * backend.namespace(t).cos(20.0 * t)


@pytest.mark.parametrize("t0", [0.0, 3.0])
def test_every_try_is_reported(backend, t0):
    """Its start, the state there, its size and the verdict; as accepted steps and stats say."""
    tries = []
    saveat = rg.SaveAt(t0=True, steps=True)
    sol = rg.solve(
        rough(backend), backend.array([1.0]), t0, t0 + 1.0, backend.array(10.0), rtol=1e-5,
        saveat=saveat, max_steps=200, on_step=lambda *tried: tries.append(tried),
    )  # fmt: skip
    assert all(isinstance(x, float) for t, _, h, _ in tries for x in (t, h))
    taken = [tried for tried in tries if tried[3] is True]
    assert len(tries) == int(sol.stats["num_steps"]) > len(taken)
    n = len(taken)
    np.testing.assert_allclose([t for t, *_ in taken], backend.to_numpy(sol.ts)[:n], rtol=1e-12)
    ys = [backend.to_numpy(y) for _, y, _, _ in taken]
    np.testing.assert_array_equal(ys, backend.to_numpy(sol.ys)[:n])
    assert taken[-1][0] + taken[-1][2] == pytest.approx(t0 + 1.0)


@pytest.mark.parametrize("adjoint", ["auto", "direct", "recursive_checkpoint"])
def test_gradients_tell_the_solve_alone(backend, adjoint):
    """No replay is told, and the gradient is the same."""
    if adjoint == "direct" and Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip("no autodiff")
    y0, rate, tries = {"a": backend.array([1.0])}, backend.array(10.0), []

    def f(t, y, k):
        return {"a": rough(backend)(t, y["a"], k)}

    given = {"adjoint": adjoint, "rtol": 1e-5, "max_steps": 100}
    plain = backend.gradient(f, y0, 0.0, 1.0, rate, **given)
    watched = backend.gradient(f, y0, 0.0, 1.0, rate, **given, on_step=lambda *x: tries.append(x))
    np.testing.assert_allclose(watched.args, plain.args, rtol=1e-12)
    starts = [t for t, _, _, ok in tries if ok]
    assert sorted(set(starts)) == sorted(starts)
    assert set(tries[0][1]) == {"a"}


def test_constant_steps_are_reported(backend):
    tries = []
    rg.solve(
        lambda t, y, a: -y, backend.array([1.0]), 0.0, 1.0, solver="rk4", dt=0.25,
        on_step=lambda t, y, h, ok: tries.append((t, h, ok)),
    )  # fmt: skip
    assert sorted(tries) == [(0.25 * i, 0.25, True) for i in range(4)]


def test_what_is_no_function():
    with pytest.raises(rg.InputError, match="`on_step` is 3; pass on_step"):
        rg.solve(lambda t, y, a: -y, [1.0], 0.0, 1.0, on_step=3)
