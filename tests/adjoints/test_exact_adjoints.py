"""Every exact adjoint gives one gradient, whatever it stores; and stores what it should."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import retrograde as rg
from retrograde._checkpointing import schedules
from retrograde.backend import Capability

ADJOINTS = {
    "1 slot": rg.RecursiveCheckpointAdjoint(1),
    "2 slots": rg.RecursiveCheckpointAdjoint(2),
    "5 slots": rg.RecursiveCheckpointAdjoint(5),
    "window": rg.RecursiveCheckpointAdjoint(4, window=3),
    "one tape": rg.RecursiveCheckpointAdjoint(3, one_tape=True),
    "segments": rg.RecursiveCheckpointAdjoint(8, window=8),
    "direct": rg.DirectAdjoint(),
}
STEPS = {
    "constant": {"solver": "rk4", "dt": 0.06},
    "three states carried": {"solver": "reversible_heun", "dt": 0.06},
    "stages for the inside": {"solver": "dopri8", "dt": 0.2},
    "adaptive of order 8": {"solver": "dopri8", "rtol": 1e-9, "atol": 1e-9, "max_steps": 128},
    "adaptive": {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-7, "max_steps": 128},
}
WISHES = {
    "t1": {},
    "rows": {"t0": True, "ts": [0.0, 0.4, 0.41, 1.5], "t1": True},
    "steps": {"steps": True},
    "fn": {"ts": [0.3, 1.9], "fn": lambda t, y, p: p[0] * y * t},
}
COMPILED = {
    "jax": [("2 slots", "stages for the inside", "rows")],
    "jax:jit": [("segments", "constant", "t1"), ("5 slots", "adaptive", "fn")],
}

SLOW = {
    "jax": [("window", "constant", "rows"), ("5 slots", "adaptive", "fn")],
    "jax:jit": [("direct", "adaptive", "rows")],
}


def oscillator(backend):
    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack([y[1], p[0] * (1 - y[0] ** 2) * y[1] - p[1] * y[0] + xp.cos(t)])

    return f, backend.array([1.2, -0.3]), 0.0, 2.0, backend.array([0.8, 1.4])


@functools.cache
def everything_stored(reference, steps, wish):
    """Weights of the rows, and the gradient to agree with."""
    keywords = {**STEPS[steps], "saveat": rg.SaveAt(**WISHES[wish]), "times": True}
    ys = rg.solve(*oscillator(reference), **STEPS[steps], saveat=keywords["saveat"]).ys
    weights = np.cos(np.arange(ys.size)).reshape(ys.shape)
    return weights, reference.gradient(*oscillator(reference), weights, **keywords)


@pytest.mark.settings(name=ADJOINTS, steps=STEPS, wish=WISHES, few=COMPILED, slow=SLOW)
def test_all_equal_to_everything_stored(backend, reference, name, steps, wish):
    if name == "direct" and Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip(f"{backend.bk.name} has no autodiff")
    if (steps, wish) == ("adaptive of order 8", "steps"):
        pytest.skip("rounding of the estimate, some 1e-4 of it in small steps, moves their ends")
    weights, expected = everything_stored(reference, steps, wish)
    keywords = {**STEPS[steps], "saveat": rg.SaveAt(**WISHES[wish]), "times": True}
    g = backend.gradient(*oscillator(backend), weights, adjoint=ADJOINTS[name], **keywords)
    for actual, value in zip(g, expected, strict=True):
        if value is not None:
            np.testing.assert_allclose(actual, value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("slots", [1, 2, 5, 16, 40])
@pytest.mark.parametrize("window", [1, 3, 8])
def test_executed_steps_by_schedule(reference, slots, window):
    """Constant steps: blocks of ``window`` steps at their optimum."""
    f, y0, t0, t1, p = oscillator(reference)
    calls = []

    def counted(t, y, p):
        calls.append(isinstance(y, np.ndarray))
        return f(t, y, p)

    adjoint = rg.RecursiveCheckpointAdjoint(slots, window)
    n = 33
    keywords = {"solver": "euler", "dt": 2.0 / n, "adjoint": adjoint}
    _, pullback = rg.solve_vjp(counted, y0, t0, t1, p, **keywords)
    calls.clear()
    pullback(np.ones((1, 2)))
    if slots >= n:
        replayed = 0
    elif window > 1 and slots * window >= n:  # segments
        replayed = n - slots
    else:
        replayed = schedules.block_advances(n, slots, window)
    assert calls.count(True) == replayed
    assert calls.count(False) == n


@pytest.mark.settings(slots=[None, 1, 4], few={"strict": [], "torch": [1, 4], "jax": []})
def test_a_pullback_can_be_called_again(backend, slots):
    f, y0, t0, t1, p = oscillator(backend)
    adjoint = rg.RecursiveCheckpointAdjoint(slots)
    _, pullback = rg.solve_vjp(f, y0, t0, t1, p, adjoint=adjoint, **STEPS["constant"])
    ones = backend.array([[1.0, 1.0]])
    first, second, double = (backend.to_numpy(pullback(w * ones)) for w in (1.0, 1.0, 2.0))
    assert np.array_equal(first.y0, second.y0)
    assert np.array_equal(first.args, second.args)
    np.testing.assert_allclose(double.args, 2 * first.args, rtol=1e-14)


def test_a_user_vjp_and_the_tape_agree(reference):
    """``VectorField(f, vjp=...)`` is used instead of the tape, and nothing changes."""
    f, y0, t0, t1, p = oscillator(reference)
    used = []

    def vjp(t, y, p, ct):
        used.append(1)
        dy0 = ct[1] * (-2 * p[0] * y[0] * y[1] - p[1])
        dy1 = ct[0] + ct[1] * p[0] * (1 - y[0] ** 2)
        dp = np.stack([ct[1] * (1 - y[0] ** 2) * y[1], -ct[1] * y[0]])
        return -ct[1] * np.sin(t), np.stack([dy0, dy1]), dp

    taped = reference.gradient(f, y0, t0, t1, p, times=True, **STEPS["constant"])
    field = rg.VectorField(f, vjp=vjp)
    own = reference.gradient(field, y0, t0, t1, p, times=True, **STEPS["constant"])
    assert len(used) == 4 * 34
    for a, b in zip(own[:5], taped[:5], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_direct_needs_autodiff(reference):
    with pytest.raises(rg.UnsupportedByBackend, match=r"numpy has no autodiff; use adjoint='auto'"):
        reference.gradient(*oscillator(reference), adjoint="direct", dt=0.5)
