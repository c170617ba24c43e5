"""A plan is followed by the problem it was made for, and by no other."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg


def decay(t, y, args):
    return -y if args is None else -args * y


def call(backend, what, size=2, t1=1.0, f=decay, **keywords):
    keywords = {"solver": "euler", "dt": 0.01, **keywords}
    return what(f, backend.array(np.linspace(0.5, 1.0, size)), 0.0, t1, **keywords)


def test_what_may_differ(backend):
    """Values, times and fewer steps; the gradient is that of the solve at hand."""
    plan = call(backend, rg.plan, memory="2 KiB")
    sol, pull = call(backend, rg.solve_vjp, t1=0.5, adjoint=plan, f=lambda t, y, args: -2 * y)
    assert sol.plan is plan
    g = np.asarray(pull(backend.array(np.ones((1, 2)))).y0)
    np.testing.assert_allclose(g, 0.98**50, rtol=1e-5)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 5000}, r"y0: \(2,\) .*, not \(5000,\)"),
        ({"t1": 10.0}, "number of steps: 100, not 1000"),
        ({"solver": "rk4"}, r"solver: Euler\(\), not RK4\(\)"),
        ({"solver": "bosh3", "dt": None}, "steps: constant, not adaptive"),
        ({"saveat": rg.SaveAt(ts=[0.5, 1.0])}, "no rows inside, not rows at ts"),
    ],
    ids=["size", "steps", "solver", "control", "rows"],
)
def test_what_must_be_the_same(backend, keywords, message):
    plan = call(backend, rg.plan, memory="2 KiB")
    with pytest.raises(rg.InputError, match=f"`adjoint` is a plan made for another.*{message}"):
        call(backend, rg.solve_vjp, adjoint=plan, **keywords)


def test_args_and_dtypes_must_be_the_same(backend):
    rates = backend.array([1.0, 2.0])
    plan = call(backend, rg.plan, args=rates, memory="4 KiB")
    call(backend, rg.solve_vjp, args=2 * rates, adjoint=plan)
    with pytest.raises(rg.InputError, match=r"args: \(2,\) .*, not \(\)"):
        call(backend, rg.solve_vjp, args=rates[0], adjoint=plan)
    with pytest.raises(rg.InputError, match=r"args: .*, not none"):
        call(backend, rg.solve_vjp, adjoint=plan)


def test_a_plan_of_one_library_is_not_followed_by_another(reference):
    torch = pytest.importorskip("torch")
    plan = rg.plan(decay, np.ones(2), 0.0, 1.0, dt=0.1, memory="4 KiB")
    y0 = torch.ones(2, dtype=torch.float64)
    with pytest.raises(rg.InputError, match="library: numpy, not torch"):
        rg.solve_vjp(decay, y0, 0.0, 1.0, dt=0.1, adjoint=plan)


def test_adaptive_steps_that_outgrow_a_plan_are_planned_anew(reference):
    """The plan of a short solve, followed by a long one: its bytes are kept, and it can go on."""
    keywords = {"rtol": 1e-8, "atol": 1e-8}

    def turn(t, y, args):
        return np.stack([y[1], -y[0]])

    y0, ones = np.asarray([1.0, 0.0]), np.ones((1, 2))
    plan = rg.plan(turn, y0, 0.0, 1.0, memory="8 KiB", **keywords)
    sol, _ = rg.solve_vjp(turn, y0, 0.0, 60.0, adjoint=plan, **keywords)
    again, pull = rg.solve_vjp(turn, y0, 0.0, 60.0, adjoint=sol.plan, **keywords)
    assert again.plan.memory <= 8192
    exact = [np.cos(60.0) - np.sin(60.0), np.sin(60.0) + np.cos(60.0)]
    np.testing.assert_allclose(pull(ones).y0, exact, atol=1e-5)
