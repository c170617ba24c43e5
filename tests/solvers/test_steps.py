"""One step of any solver: its end does not depend on what else is asked for, and what it tells."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde._base.types import Scale
from retrograde._integrate.problem import Problem
from retrograde._solvers.base import AbstractStepper, Step

from .reversible_cases import SOLVERS as REVERSIBLE
from .reversible_cases import START, pendulums

EXPLICIT = (
    rg.Euler, rg.Heun, rg.Midpoint, rg.Ralston, rg.Bosh3, rg.RK4, rg.Dopri5, rg.Tsit5, rg.Dopri8,
)  # fmt: skip
SOLVERS = {**{s.__name__: s() for s in EXPLICIT}, **REVERSIBLE}


@pytest.mark.libraries("numpy strict torch jax")
@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_ends_where_the_same_one_with_its_error_does(backend, name):
    """Integrations ask for errors and rows, their replays do not: to the last bit the same."""
    solver, (f, y0, p) = SOLVERS[name], pendulums(backend)
    made = Problem(backend.bk, f, y0, p)
    real, scale = backend.bk.clock(made.layout).real, Scale(1e-3, 1e-5)
    field = made.bind((p,))
    judged = solver.error_order is not None
    bare = solver.stepper(backend.bk, made.layout, field)
    whole = solver.stepper(backend.bk, made.layout, field, scale if judged else None)
    with backend.bk.quiet():
        t, carried = START, bare.start(real(START), made.y0)
        state = whole.init(real(t), carried)
        for h in (0.125, 1.0, 0.0625):  # the second has a large error
            alone = bare.step(real(t), real(h), carried, None, error=False)
            found = whole.step(real(t), real(h), carried, state, error=True)
            for x, y in zip(leaves(alone.y1), leaves(found.y1), strict=True):
                np.testing.assert_array_equal(backend.one_to_numpy(x), backend.one_to_numpy(y))
            assert alone.error2 is None
            assert (found.error2 is not None) == judged
            assert found.failed is False
            carried, state, t = found.y1, found.state, t + h


def leaves(state):
    return state if isinstance(state, tuple) else (state,)


class Relaxation(rg.AbstractSolver):
    """Implicit Euler by iteration from the last slope: with a state, failures and counts."""

    order, error_order, evaluations, stages = 1, 2, 12, 12

    def stepper(self, bk, layout, field, scale=None):
        return RelaxationStepper(layout, field, scale)

    def step_vjp(self, bk, layout, vjp, *, outputs, time, field=None):
        raise NotImplementedError


class RelaxationStepper(AbstractStepper):
    tells_calls = True

    def __init__(self, layout, field, scale):
        self.layout, self.field, self.scale = layout, field, scale

    def start(self, t0, y0):
        return y0

    def state(self, carried):
        return carried

    def init(self, t, carried, slope=None):
        k = self.field(self.layout.time(t), carried) if slope is None else slope
        return self.layout.own(k)

    def step(self, t, h, carried, state, *, error):
        layout, k, change = self.layout, state, 0.0
        for _ in range(12):
            y1, last = layout.axpy(carried, h, k), k
            k = layout.own(self.field(layout.time(t + h), y1))
        change = layout.norm2(layout.axpy(k, -1.0, last), k, Scale(1e-6, 1e-6))
        e = layout.weighted(((0.5 * h, k), (-0.5 * h, state)))
        error2, failed = layout.error2(e, carried, y1, self.scale), change > 1.0
        # what failed has an error that nobody may believe
        where = layout.bk.clock(layout).where
        return Step(y1, where(failed, 0.0, error2), k, state, failed, 12)

    def interpolate(self, theta):
        raise NotImplementedError


@pytest.mark.libraries("numpy strict jax:jit")
def test_a_step_that_fails_is_rejected_and_tells_its_calls(backend):
    """From a first step 50 times too long for its iteration, to the solution all the same."""
    y0, k = backend.array([1.0, 0.5]), backend.array(50.0)
    controller = rg.PIDController(1e-3, 1e-3, dt0=1.0)

    def run(y0, k):
        solve = lambda t, y, k: -k * (y - 0.25)  # noqa: E731
        sol = rg.solve(solve, y0, 0.0, 1.0, k, solver=Relaxation(), controller=controller,
                       max_steps=1000)  # fmt: skip
        return sol.ys, {name: sol.stats[name] for name in sol.stats}

    ys, stats = backend.compiled(run)(y0, k)
    np.testing.assert_allclose(backend.to_numpy(ys)[-1], 0.25, rtol=1e-3)
    assert stats["num_rejected_steps"] > 0
    assert stats["num_f_evals"] == 1 + 12 * stats["num_steps"]


def test_dense_output_of_a_solver_without_a_degree_is_refused():
    """It does not say what polynomial its inside is."""
    call = lambda t, y, k: -y, np.ones(2), 0.0, 1.0
    with pytest.raises(rg.InputError, match="does not tell the `degree`"):
        rg.solve(*call, solver=Relaxation(), dt=0.1, saveat=rg.SaveAt(dense=True))
