"""Lotka-Volterra, adaptive steps: gradients of all six inputs, from any number of slots.

Held to each other (slots, libraries), to finite differences over the same accepted steps, and
to the number of steps that the schedule says are executed.
"""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde._checkpointing import schedules

Y0, RATES = [1.0, 1.0], [1.5, 1.0, 3.0, 1.0]
SPAN = (0.0, 20.0)
KEYWORDS = {"rtol": 1e-8, "atol": 1e-8}
SAVED = [0.0, 3.0, 7.5, 20.0]
WEIGHTS = np.asarray([[0.3, -0.2], [1.0, 2.0], [0.5, 1.0], [2.0, 1.0]])
SLOTS = [2, 3, 8, 64, None]


def field(backend):
    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]])

    return f


def gradient(backend, slots):
    y0, p = backend.array(Y0), backend.array(RATES)
    adjoint = rg.RecursiveCheckpointAdjoint(slots)
    saveat = rg.SaveAt(ts=SAVED)
    f = field(backend)
    return backend.gradient(f, y0, *SPAN, p, WEIGHTS, saveat=saveat, adjoint=adjoint, **KEYWORDS)


@pytest.fixture(scope="module")
def expected(reference):
    """NumPy's values with every state stored."""
    return gradient(reference, None)


@pytest.mark.device
@pytest.mark.settings(slots=SLOTS, few={"strict": [], "torch": [8], "jax": [], "jax:jit": [8]})
def test_every_library_and_number_of_slots_agrees(backend, expected, slots):
    g = gradient(backend, slots)
    for actual, value in zip(g[:3], expected[:3], strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-9)


@pytest.mark.parametrize("slots", SLOTS)
def test_slots_do_not_change_a_bit(reference, expected, slots):
    g = gradient(reference, slots)
    assert np.array_equal(g.y0, expected.y0)
    assert np.array_equal(g.args, expected.args)


def test_gradient_agrees_with_differences_over_the_same_steps(reference, expected):
    f, y0, p = field(reference), np.asarray(Y0), np.asarray(RATES)
    steps = rg.solve(f, y0, *SPAN, p, saveat=rg.SaveAt(steps=True), **KEYWORDS).ts
    controller = rg.StepTo((SPAN[0], *steps))

    def loss(x):
        sol = rg.solve(f, x[:2], *SPAN, x[2:], controller=controller, saveat=rg.SaveAt(ts=SAVED))
        return np.sum(WEIGHTS * sol.ys)

    x = np.concatenate([y0, p])
    # order 4: a step long enough that rounding leaves nine digits
    h = 1e-4
    slopes = [
        (8 * (loss(x + d) - loss(x - d)) - (loss(x + 2 * d) - loss(x - 2 * d))) / (12 * h)
        for d in h * np.eye(6)
    ]
    np.testing.assert_allclose(np.concatenate([expected.y0, expected.args]), slopes, rtol=1e-8)


@pytest.mark.parametrize("slots", SLOTS)
def test_executed_steps_equal_the_closed_formula(reference, slots):
    f, calls = field(reference), []

    def counted(t, y, p):
        calls.append(isinstance(y, np.ndarray))
        return f(t, y, p)

    adjoint = rg.RecursiveCheckpointAdjoint(slots)
    y0, p = np.asarray(Y0), np.asarray(RATES)
    sol, pullback = rg.solve_vjp(counted, y0, *SPAN, p, adjoint=adjoint, **KEYWORDS)
    n = sol.stats["num_accepted_steps"]
    assert sol.stats["num_rejected_steps"] > 0  # which are never taken again
    calls.clear()
    pullback(np.ones((1, 2)))
    replayed = 0 if slots is None else schedules.events(slots).extra_advances(n)
    assert calls.count(True) == 6 * replayed  # tsit5 takes six evaluations
    assert calls.count(False) == 6 * n


def test_statistics_count_the_calls_of_f(reference):
    f, calls = field(reference), []

    def counted(t, y, p):
        calls.append(t)
        return f(t, y, p)

    sol = rg.solve(counted, np.asarray(Y0), *SPAN, np.asarray(RATES), **KEYWORDS)
    assert len(calls) - 1 == sol.stats["num_f_evals"]  # one call checks what f returns
    assert sol.stats["num_steps"] == (
        sol.stats["num_accepted_steps"] + sol.stats["num_rejected_steps"]
    )
