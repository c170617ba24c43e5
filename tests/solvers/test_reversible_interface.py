"""Reversible solvers: counts of evaluations, names, containers, dtypes, failures, bad input."""

from __future__ import annotations

import math
import pathlib
import runpy

import numpy as np
import pytest

import retrograde as rg
from retrograde._integrate.problem import Problem

_cases = runpy.run_path(str(pathlib.Path(__file__).with_name("reversible_cases.py")))
SOLVERS = _cases["SOLVERS"]
pendulums = _cases["pendulums"]
oscillator = _cases["oscillator"]
each = pytest.mark.parametrize("name", SOLVERS)
CARRIED = {"reversible_heun": 3, "alf": 2, "alf damped": 2}
CARRIED |= {name: 2 for name in SOLVERS if name.startswith("coupled")}


@each
@pytest.mark.parametrize("wish", ["t1", "steps", "adaptive"])
def test_evaluations_are_counted_right(reference, name, wish):
    f, y0, p = pendulums(reference)
    solver, calls = SOLVERS[name], []
    keywords = {"dt": 0.1} if wish != "adaptive" else {"rtol": 1e-3}
    if wish == "adaptive" and solver.error_order is None:
        pytest.skip("no error estimate")
    saveat = rg.SaveAt(steps=wish == "steps")

    def counted(t, y, p):
        calls.append(t)
        return f(t, y, p)

    sol = rg.solve(counted, y0, 0.0, 1.0, p, solver=solver, saveat=saveat, **keywords)
    assert sol.stats["num_f_evals"] == len(calls) - 1  # one that looks at what f returns
    assert solver.copies == CARRIED.get(name, 1)


def test_stages_are_evaluations_of_a_pull(reference):
    """What the planner is told: as many tapes as a step linearises with output inside."""
    f, y0, p = pendulums(reference)
    for solver in SOLVERS.values():
        calls = []

        def counted(t, y, p, calls=calls):
            calls.append(t)
            return f(t, y, p)

        _, pullback = rg.solve_vjp(
            counted, y0, 0.0, 0.5, p, solver=solver, dt=0.5, saveat=rg.SaveAt(ts=[0.5])
        )
        calls.clear()
        pullback((tuple(np.ones((1, *x.shape)) for x in y0[0]),) * 2)
        start = solver.programs().start
        assert len(calls) <= solver.stages + solver.extra + (len(start.body) if start else 0)


def test_names(reference):
    y0 = (np.asarray([1.0]), np.asarray([0.5]))
    for name, solver in {
        **{name: SOLVERS[name] for name in ("semi_implicit_euler", "mclachlan4", "yoshida6")},
        "leapfrog": rg.VelocityVerlet(),
        "forest_ruth": rg.Yoshida4(),
        "reversible_heun": rg.ReversibleHeun(),
        "alf": rg.ALF(),
    }.items():
        found = [
            rg.solve(oscillator, y0, 0.0, 1.0, 2.0, solver=s, dt=0.1).ys for s in (name, solver)
        ]
        assert np.array_equal(found[0], found[1])
        assert solver.name == name or name in ("leapfrog", "forest_ruth")
    assert rg.Reversible(rg.RK4()) == rg.Reversible(rg.RK4(), 0.999)
    assert hash(rg.ALF(0.9)) != hash(rg.ALF())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rg.ALF(0.5), r"`eta` is 0.5; .* no inverse"),
        (lambda: rg.ALF(0.0), r"`eta` is 0.0"),
        (lambda: rg.ALF(1.5), r"`eta` is 1.5"),
        (lambda: rg.ALF("1"), r"`eta` is '1'"),
        (lambda: rg.Reversible("rk4"), r"`base` is 'rk4'; .* rg.Tsit5\(\)"),
        (lambda: rg.Reversible(rg.ALF()), r"`base` is ALF"),
        (lambda: rg.Reversible(rg.RK4(), 0.0), r"`coupling` is 0.0"),
        (lambda: rg.Reversible(rg.RK4(), 1.01), r"`coupling` is 1.01"),
        (lambda: rg.Reversible(rg.RK4(), True), r"`coupling` is True"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(rg.InputError, match=message):
        make()


@pytest.mark.libraries("numpy strict torch jax")  # as without jit
@pytest.mark.parametrize("solver", ["leapfrog", "semi_implicit_euler"])
def test_containers_of_a_pair(backend, solver):
    """Tuple, list and namedtuple; the shapes of q and p may differ, their sizes may not."""
    from collections import namedtuple

    kind = namedtuple("Phase", "q p")
    for make in (lambda q, p: (q, p), lambda q, p: [q, p], kind):

        def f(t, y, args, make=make):
            return make(backend.namespace(y[1]).reshape(y[1], (2, 1)), -y[0][:, 0])

        y0 = make(backend.array([[1.0], [0.0]]), backend.array([0.0, 1.0]))
        sol = rg.solve(f, y0, 0.0, 1.0, solver=solver, dt=0.01)
        assert type(sol.ys) is type(y0)
        np.testing.assert_allclose(backend.to_numpy(sol.ys)[1][0, 0], -math.sin(1.0), atol=1e-2)


def test_a_system_that_is_not_separable_is_stepped_and_differentiated(reference):
    """Documented: no error, the exact gradient of the steps taken, an inverse to O(h**2)."""

    def damped(t, y, k):
        q, p = y
        return p - 0.2 * q, -k * q - 0.5 * p

    y0, errors = (np.asarray([1.0]), np.asarray([0.3])), []
    g = reference.gradient(damped, y0, 0.0, 1.0, np.asarray(1.3), solver="leapfrog", dt=0.1)
    ends = [
        sum(x.sum() for x in rg.solve(damped, y0, 0.0, 1.0, k, solver="leapfrog", dt=0.1).ys)
        for k in (1.3 + 1e-6, 1.3 - 1e-6)
    ]
    np.testing.assert_allclose(g.args, (ends[0] - ends[1]) / 2e-6, rtol=1e-8)
    made = Problem(reference.bk, damped, y0, np.asarray(1.3))
    stepper = rg.VelocityVerlet().stepper(reference.bk, made.layout, made.bind(made.params))
    for h in (0.1, 0.05):
        after = stepper.step(0.0, h, made.y0, None, error=False).y1
        back = stepper.invert(0.0, h, after)
        errors.append(np.max(np.abs(back - made.y0)))
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.3


@pytest.mark.libraries("numpy strict torch jax")  # as without jit
@pytest.mark.parametrize("form", ["single", "complex128", "float32"])
def test_dtypes(backend, form):
    """float32 and complex states come out as they went in, carried copies and all."""
    dtype = "float64" if form == "single" else form
    for solver in (rg.ReversibleHeun(), rg.ALF(), rg.Reversible(rg.Heun())):
        y0 = backend.array([1.0, 0.5], dtype)
        spin = 0.7j if dtype == "complex128" else -0.3
        sol = rg.solve(lambda t, y, args, spin=spin: spin * y, y0, 0.0, 1.0, solver=solver, dt=0.01)
        assert sol.ys.dtype == y0.dtype
        np.testing.assert_allclose(
            backend.to_numpy(sol.ys)[0], np.exp(spin) * np.asarray([1.0, 0.5]), rtol=1e-4
        )


@pytest.mark.libraries("numpy torch jax")  # as without jit; strict arrays warn of overflow
def test_a_failed_solve_says_where(backend):
    """What is carried turns nan: the last good state and a nan gradient."""

    def blows(t, y, args):
        return y * y

    y0 = backend.array([1.0])
    for solver in ("reversible_heun", "alf"):
        sol = rg.solve(blows, y0, 0.0, 3.0, solver=solver, dt=0.05, throw=False)
        assert sol.status is rg.Status.non_finite
        g = backend.solve_vjp(blows, y0, 0.0, 3.0, solver=solver, dt=0.05, throw=False)
        assert np.isnan(g.y0).all()
