"""Reversible solvers: order, exact inverse, exact vjp of a step."""

from __future__ import annotations

import math
import pathlib
import runpy

import numpy as np
import pytest

import retrograde as rg
from retrograde._autodiff.field_vjp import field_pullback
from retrograde._base.types import NeedsGradient

_cases = runpy.run_path(str(pathlib.Path(__file__).with_name("reversible_cases.py")))
SOLVERS = _cases["SOLVERS"]
START = _cases["START"]
P = _cases["P"]
pendulums = _cases["pendulums"]
forward = _cases["forward"]
flat = _cases["flat"]
each = pytest.mark.parametrize("name", SOLVERS)


# --- accuracy


@pytest.fixture(scope="module")
def exact(reference):
    f, y0, p = pendulums(reference)
    return rg.solve(f, y0, 0.0, 1.0, p, rtol=1e-13, atol=1e-13).ys


@pytest.mark.settings(
    name=SOLVERS,
    few={"jax": ["velocity_verlet", "coupled bosh3"], "jax:jit": ["reversible_heun"]},
)
def test_observed_order(backend, exact, name):
    solver, (f, y0, p), errors = SOLVERS[name], pendulums(backend), []
    for n in (40, 80) if solver.order < 3 else (8, 16):
        ys = backend.to_numpy(rg.solve(f, y0, 0.0, 1.0, p, solver=solver, dt=1 / n).ys)
        pairs = zip(flat(ys), flat(exact), strict=True)
        errors.append(max(np.max(np.abs(a - b)) for a, b in pairs))
    assert solver.order - 0.2 < math.log2(errors[0] / errors[1]) < solver.order + 0.4


@pytest.mark.libraries("numpy strict torch jax")  # as without jit
@pytest.mark.parametrize("name", ["reversible_heun", "coupled heun", "coupled bosh3"])
def test_tolerance_controls_the_error(backend, exact, name):
    (f, y0, p), found = pendulums(backend), []
    for tol in (1e-3, 1e-5) if backend.eager else (1e-5,):
        sol = rg.solve(f, y0, 0.0, 1.0, p, solver=SOLVERS[name], rtol=tol, atol=tol)
        ends = zip(flat(backend.to_numpy(sol.ys)), flat(exact), strict=True)
        found.append(max(np.max(np.abs(a - b)) for a, b in ends))
    assert found[-1] < 2e-4
    assert found[-1] < found[0] / 10 or not backend.eager


def test_interpolants_join_the_ends_of_a_step(reference):
    for solver in SOLVERS.values():
        stepper, s, made = forward(reference, solver)
        s1 = stepper.step(0.3, 0.1, s, None, error=True).y1
        stepper.extra_stages()
        for theta, end in ((0.0, s), (1.0, s1)):
            expected = made.layout.split(end, solver.copies)[0]
            np.testing.assert_allclose(stepper.interpolate(theta), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    "name", ["velocity_verlet", "reversible_heun", "alf", "coupled bosh3", "mclachlan4"]
)
def test_order_of_the_interpolant(reference, name):
    """A row inside a step is as accurate as the ends of steps: one and two thirds of one here."""
    (f, y0, p), errors, solver = pendulums(reference), [], SOLVERS[name]
    expected = rg.solve(f, y0, 0.0, 1 / 3, p, rtol=1e-13, atol=1e-13).ys
    for n in (20, 40):
        at = rg.SaveAt(ts=[1 / 3])
        ys = rg.solve(f, y0, 0.0, 1.0, p, solver=solver, dt=1 / n, saveat=at).ys
        pairs = zip(flat(ys), flat(expected), strict=True)
        errors.append(max(np.max(np.abs(a - b)) for a, b in pairs))
    assert math.log2(errors[0] / errors[1]) > solver.order - 0.3


# --- the inverse


@pytest.mark.libraries("numpy strict torch jax")  # as without jit
@each
def test_inverse_of_a_step(backend, name):
    """To a few units in the last place, both ways in time.

    Steps follow each other: a slope that is carried must be that of its state and time.
    """
    solver, rng = SOLVERS[name], np.random.default_rng(0)
    stepper, s, made = forward(backend, solver)
    wide, real = solver.carried(backend.bk, made.layout), backend.bk.clock(made.layout).real
    assert solver.reversible
    with backend.bk.quiet():
        t = START
        for h in rng.uniform(-0.4, 0.4, 5).tolist():
            after = stepper.step(real(t), real(h), s, None, error=False).y1
            back = stepper.invert(real(t), real(h), after)
            pairs = zip(*(backend.to_numpy(tuple(wide.unpack(x))) for x in (back, s)), strict=True)
            assert max(np.max(np.abs(a - b)) for a, b in pairs) < 4e-15
            s, t = after, t + h


@each
def test_a_solve_and_back(reference, name):
    """A hundred steps; damping of the inverse's own (1 / lam, 1 / |1 - 2 eta|) is allowed for."""
    solver = SOLVERS[name]
    stepper, s, _ = forward(reference, solver)
    states, dt, n = [s], 0.05, 100
    for i in range(n):
        states.append(stepper.step(START + i * dt, dt, states[-1], None, error=False).y1)
    growth = {"alf damped": 1 / 0.6, "coupled heun": 1 / 0.99}.get(name, 1 / 0.999)
    worst, s = 0.0, states[-1]
    for i in reversed(range(n)):
        s = stepper.invert(START + i * dt, dt, s)
        worst = max(worst, np.max(np.abs(s - states[i])) / growth ** (n - i))
    assert worst < 2e-13


@pytest.mark.libraries("numpy strict torch jax")  # as without jit
def test_runge_kutta_steps_are_inverted_to_their_order(backend):
    """One step back: not exact, O(h**(order + 1)); what a guarded backsolve begins with."""
    stepper, s, made = forward(backend, rg.RK4())
    real, errors = backend.bk.clock(made.layout).real, []
    for h in (0.2, 0.1):
        after = stepper.step(real(0.3), real(h), s, None, error=False).y1
        back = stepper.invert(real(0.3), real(h), after)
        pairs = zip(*(backend.to_numpy(tuple(made.layout.unpack(x))) for x in (back, s)),
                    strict=True)  # fmt: skip
        errors.append(max(np.max(np.abs(a - b)) for a, b in pairs))
    assert not rg.RK4().reversible
    assert 4.5 < math.log2(errors[0] / errors[1]) < 6.5


# --- the step's vjp


@pytest.mark.libraries("numpy strict torch")  # the generic layout, which strict covers
@each
@pytest.mark.parametrize("one_tape", [False, True])
def test_inner_product_identity(backend, name, one_tape):
    """<g, J v> = <J^T g, v> for a carried state, the parameters, t and h."""
    solver, rng = SOLVERS[name], np.random.default_rng(1)
    _, s, made = forward(backend, solver)
    wide, params, t, h = solver.carried(backend.bk, made.layout), backend.array(P), 0.3, 0.25
    vjp = field_pullback(made, (params,), NeedsGradient((True,), True, True, False))
    field = made.bind((params,)) if one_tape else None
    stepper = solver.step_vjp(backend.bk, made.layout, vjp, outputs=False, time=True, field=field)

    def packed(leaves):
        return wide.pack([backend.array(x) for x in leaves])

    def noise():
        return [rng.normal(size=shape) for shape in wide.shapes]

    def numbers(state):
        return backend.to_numpy(tuple(wide.unpack(state)))

    def ahead(e, v, q, a, b):
        moved = packed([x + e * d for x, d in zip(base, v, strict=True)])
        run = made.bind((backend.array(np.asarray(P) + e * q),))
        forth = solver.stepper(backend.bk, made.layout, run)
        after = forth.step(t + e * a, h + e * b, moved, None, error=False).y1
        return [x.copy() for x in numbers(after)]

    base, g = [np.asarray(x).copy() for x in numbers(s)], noise()
    with backend.bk.quiet():
        step, _ = stepper.pull(t, h, packed(base), packed(g), vjp.zero())
        cts, ct_p = numbers(step.y), backend.to_numpy(vjp.finish(step.params)[0])
        for _ in range(3):
            v, q, (a, b), e = noise(), rng.normal(size=2), rng.normal(size=2).tolist(), 1e-5
            ends = zip(ahead(e, v, q, a, b), ahead(-e, v, q, a, b), strict=True)
            slopes = [(x - y) / (2 * e) for x, y in ends]
            expected = sum(np.sum(x * y) for x, y in zip(g, slopes, strict=True))
            found = sum(np.sum(x * y) for x, y in zip(cts, v, strict=True)) + ct_p @ q
            np.testing.assert_allclose(
                found + float(step.t) * a + float(step.h) * b, expected, rtol=2e-8
            )
