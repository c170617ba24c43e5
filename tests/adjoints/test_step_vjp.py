"""The pull of one step is the transpose of its derivative: <g, J v> = <J^T g, v>.

J v by central differences along random directions in y, the parameters, t and h.
"""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde._autodiff.field_vjp import field_pullback
from retrograde._base.types import NeedsGradient
from retrograde._integrate.problem import Problem

SOLVERS = [
    rg.Euler,
    rg.Heun,
    rg.Midpoint,
    rg.Ralston,
    rg.Bosh3,
    rg.RK4,
    rg.Dopri5,
    rg.Tsit5,
    rg.Dopri8,
]
Y0, P, T, H = np.asarray([0.7, -0.4, 1.1]), np.asarray([0.6, 1.3]), 0.3, 0.25


def problem(backend):
    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack(
            [p[0] * y[1] * xp.sin(y[2]), -p[1] * y[0] * xp.exp(0.3 * t), y[0] * y[1] - t * y[2]]
        )

    return Problem(backend.bk, f, backend.array(Y0), backend.array(P))


def advance(backend, solver, y, p, t, h):
    """One step, as a NumPy array."""
    made = problem(backend)
    field = made.bind((backend.array(p),))
    stepper = solver.stepper(backend.bk, made.layout, field)
    y0 = made.layout.pack([backend.array(y)])
    y1 = stepper.step(float(t), float(h), y0, None, error=False).y1
    return backend.to_numpy(made.layout.unpack(y1)[0]).copy()


@pytest.mark.libraries("numpy strict torch")  # the generic stages, which strict covers
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.__name__)
def test_inner_product_identity(backend, solver):
    made, solver, rng = problem(backend), solver(), np.random.default_rng(1)
    params = (backend.array(P),)
    vjp = field_pullback(made, params, NeedsGradient((True,), True, True, False))
    step_vjp = solver.step_vjp(backend.bk, made.layout, vjp, outputs=False, time=True)
    pack, g = made.layout.pack, rng.normal(size=3)
    y, ct = pack([backend.array(Y0)]), pack([backend.array(g)])
    with backend.bk.quiet():
        step, _ = step_vjp.pull(T, H, y, ct, vjp.zero())
    back_y = backend.to_numpy(made.layout.unpack(step.y)[0])
    back_p = backend.to_numpy(vjp.finish(step.params)[0])
    for _ in range(3):
        v, q, s, r = rng.normal(size=3), rng.normal(size=2), *rng.normal(size=2)
        ends = [
            advance(backend, solver, Y0 + e * v, P + e * q, T + e * s, H + e * r)
            for e in (1e-5, -1e-5)
        ]
        forward = g @ (ends[0] - ends[1]) / 2e-5
        reverse = back_y @ v + back_p @ q + float(step.t) * s + float(step.h) * r
        np.testing.assert_allclose(reverse, forward, rtol=2e-9)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.__name__)
def test_adding_cotangents_adds_pulls(reference, solver):
    """The pull is linear, and a pass used twice gives the same bits twice."""
    made = problem(reference)
    vjp = field_pullback(made, (P,), NeedsGradient((True,), False, False, False))
    step_vjp = solver().step_vjp(reference.bk, made.layout, vjp, outputs=False, time=False)

    def pull(g):
        step, _ = step_vjp.pull(T, H, Y0, np.asarray(g), vjp.zero())
        return np.concatenate([step.y.copy(), vjp.finish(step.params)[0].copy()])

    a, b = pull([1.0, 0.0, 2.0]), pull([0.5, -1.0, 0.0])
    np.testing.assert_allclose(pull([1.5, -1.0, 2.0]), a + b, rtol=1e-13, atol=1e-15)
    assert np.array_equal(pull([1.0, 0.0, 2.0]), a)
