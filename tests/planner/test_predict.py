"""The number of adaptive steps: predicted, and what becomes of a solve that takes more."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrograde as rg
from retrograde._planner.costs import limit
from retrograde._planner.rules import make_plan
from retrograde._planner.step_count import extrapolate
from retrograde.measure import traced_peak

from ..stiff_cases import CASES, call, keywords

SOLVERS = ("tsit5", "dopri5", "bosh3")


def lotka_volterra(t, y, args):
    return np.stack([y[0] * (1.1 - 0.4 * y[1]), y[1] * (0.1 * y[0] - 0.4)])


def lorenz(t, y, args):
    x, y, z = y
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def van_der_pol(mu):
    return lambda t, y, args: np.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def oscillator(t, y, args):
    return np.stack([y[1], -y[0]])


def slowing(t, y, args):
    return 10 * np.exp(-0.5 * t) * np.stack([y[1], -y[0]])


def burgers(t, u, args):
    flux, dx = u * u / 2, 2 * np.pi / 64
    diffusion = 0.05 * (np.roll(u, -1) - 2 * u + np.roll(u, 1)) / dx**2
    return diffusion - (np.roll(flux, -1) - np.roll(flux, 1)) / (2 * dx)


PROBLEMS = {
    "Lotka-Volterra": (lotka_volterra, [10.0, 5.0], 30.0),
    "Lorenz": (lorenz, [1.0, 1.0, 1.0], 20.0),
    "van der Pol 1": (van_der_pol(1.0), [2.0, 0.0], 20.0),
    "van der Pol 10": (van_der_pol(10.0), [2.0, 0.0], 40.0),
    "decay": (lambda t, y, args: -y, [1.0, 2.0], 10.0),
    "oscillator": (oscillator, [1.0, 0.0], 50.0),
    "slowing": (slowing, [1.0, 0.0], 10.0),
    "Burgers": (burgers, 1 + 0.5 * np.sin(np.linspace(0, 2 * np.pi, 64, endpoint=False)), 2.0),
}


def predicted_and_taken(name, solver, rtol):
    f, y0, t1 = PROBLEMS[name]
    settings = {"solver": solver, "rtol": rtol, "atol": rtol / 100}
    call = (f, np.asarray(y0), 0.0, t1)
    plan = rg.plan(*call, memory="1 GiB", **settings)
    assert plan.steps_source == "predicted by a short probe"
    return plan.steps, rg.solve(*call, **settings).stats["num_accepted_steps"]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_within_a_factor_of_three(reference, name, solver):
    steps, taken = predicted_and_taken(name, solver, 1e-5)
    assert taken / 3 < steps < 3 * taken


@pytest.mark.parametrize("name", ["robertson", "robertson, long", "hires", "oregonator"])
def test_stiff_decays_of_many_scales(reference, name):
    """Robertson to 1e11 was predicted ten million times the steps that it takes."""
    case = CASES[name]
    plan = rg.plan(*call(reference, case), **keywords(case))
    taken = rg.solve(*call(reference, case), **keywords(case)).stats["num_accepted_steps"]
    assert taken / 4 < plan.steps < 15 * taken


def test_no_plan_looks_at_schedules_without_end(reference):
    """Of a span that is far beyond its probe: at most 100,000 steps."""
    plan = rg.plan(oscillator, np.ones(2), 0.0, 1e12)
    assert plan.steps == 100_000


@pytest.mark.slow
def test_most_are_within_a_factor_of_two(reference):
    cases = itertools.product(PROBLEMS, SOLVERS, (1e-3, 1e-4, 1e-6, 1e-8))
    ratios = [steps / taken for steps, taken in itertools.starmap(predicted_and_taken, cases)]
    assert np.mean([1 / 2 <= r <= 2 for r in ratios]) >= 0.8
    assert np.mean([1 / 3 <= r <= 3 for r in ratios]) >= 0.95


def field_of(backend):
    def f(t, y, args):
        xp = backend.namespace(y)
        return xp.stack([y[1], -y[0] + 0.1 * xp.sin(t)])

    return f


def test_every_library_predicts_the_same(backend, reference):
    settings = {"rtol": 1e-7, "memory": "1 MiB"}
    own = rg.plan(field_of(backend), backend.array([1.0, 1.0]), 0.0, 20.0, **settings)
    numpy = rg.plan(field_of(reference), np.ones(2), 0.0, 20.0, **settings)
    assert own.steps == pytest.approx(numpy.steps, abs=1)
    assert own.steps_source == numpy.steps_source


def test_a_short_solve_is_counted(reference):
    f, y0 = PROBLEMS["decay"][0], np.ones(2)
    plan = rg.plan(f, y0, 0.0, 1.0, rtol=1e-3, atol=1e-3, memory="1 MiB")
    sol = rg.solve(f, y0, 0.0, 1.0, rtol=1e-3, atol=1e-3)
    assert plan.steps == sol.stats["num_accepted_steps"] < 12


def test_the_probe_is_short(reference):
    calls = []

    def f(t, y, args):
        calls.append(t)
        return lorenz(t, y, args)

    rg.plan(f, np.ones(3), 0.0, 1e3, rtol=1e-9, memory="1 GiB")
    assert len(calls) <= 3 + 2 + 24 * 6  # check and tape; first step; 24 tries of six stages


@pytest.mark.libraries("numpy strict torch", slow="jax jax:jit")
def test_the_last_solve_tells_the_next(backend):
    f, y0 = field_of(backend), backend.array([1.0, 1.0])
    call, settings = (f, y0, 0.0, 9.0), {"rtol": 1e-6, "memory": "1 MiB", "max_steps": 500}
    sol, _ = rg.solve_vjp(*call, **settings)
    plan = rg.plan(*call, **settings)
    taken = sol.stats["num_accepted_steps"]
    near = abs(taken - sol.plan.steps) <= sol.plan.steps / 4
    assert plan.steps == (sol.plan.steps if near else taken)
    assert plan.steps_source == "predicted: as the last solve"
    for other in ({"rtol": 1e-5}, {"solver": "dopri5"}):
        assert "last" not in rg.plan(*call, **{**settings, **other}).steps_source
    assert "last" not in rg.plan(f, y0, 0.0, 8.0, **settings).steps_source
    # a new function of the same code is known, another one is not
    assert "last" in rg.plan(field_of(backend), y0, 0.0, 9.0, **settings).steps_source
    assert (
        "last" not in rg.plan(lambda t, y, args: f(t, y, args), *call[1:], **settings).steps_source
    )


def test_a_fresh_function_is_known_by_what_it_closes_over(reference):
    """As in a training loop: new lambdas, new arrays and numbers, the same objects."""

    class Field:
        def __call__(self, t, y, rates):
            return -rates[0] * y * np.cos(3 * t)

    def steps_source(field, rates, **more):
        f = functools.partial(lambda t, y, args, scale: scale * field(t, y, rates), scale=1.5)
        sol, _ = rg.solve_vjp(f, np.ones(2), 0.0, 9.0, rtol=1e-7, memory="1 MiB", **more)
        return sol.plan.steps_source

    field, rates = Field(), (np.ones(2), 0.5)
    assert "last" not in steps_source(field, rates)
    assert "last" in steps_source(field, (np.zeros(2), 0.25))
    assert "last" in steps_source(field, rates, saveat=rg.SaveAt(ts=[1.0]))
    for other in ((Field(), rates), (field, (np.ones(2), 1)), (field, (np.ones(1), 0.5))):
        assert "last" not in steps_source(*other)


@pytest.mark.libraries("numpy strict torch")  # f is traced, not run
@pytest.mark.parametrize("entry", ["solve", "solve_vjp", "plan"])
def test_calls_of_a_fresh_function_are_counted(backend, entry):
    calls, y0 = [], backend.array([1.0, 1.0])
    if hasattr(y0, "requires_grad_"):
        y0.requires_grad_(entry == "solve")
    inner = field_of(backend)

    def fresh():
        return lambda t, y, args: (calls.append(t), inner(t, y, args))[1]

    found = []
    for _ in range(3):
        calls.clear()
        result = getattr(rg, entry)(fresh(), y0, 0.0, 4.0, rtol=1e-5, memory="1 MiB")
        stats = getattr(result[0] if entry == "solve_vjp" else result, "stats", None)
        found.append(len(calls))
        if stats is not None:
            assert stats["num_f_evals"] + stats["num_trial_f_evals"] == len(calls)
    if stats is not None:
        assert stats["num_trial_f_evals"] <= 2


def test_nothing_is_probed_under_tracing():
    jax = pytest.importorskip("jax")
    plans = []

    def loss(y0, t1):
        sol = rg.solve(lambda t, y, args: -y, y0, 0.0, t1, memory="1 MiB", max_steps=300)
        plans.append(sol.plan)
        return sol.ys.sum()

    for t1, transform in ((1.0, jax.grad(loss)), (2.0, jax.jit(jax.grad(loss), static_argnums=1))):
        transform(jax.numpy.ones(2), t1)
        assert (plans[-1].steps, plans[-1].steps_source) == (64, "unknown: a guess")


def test_a_second_plan_compiles_nothing(monkeypatch):
    jax = pytest.importorskip("jax")
    y0, settings = jax.numpy.ones(2), {"rtol": 1e-6, "memory": "1 MiB"}

    def f(t, y, args):
        return -y * jax.numpy.cos(t)

    first = rg.plan(f, y0, 0.0, 5.0, **settings)
    jit, made = jax.jit, []
    monkeypatch.setattr(jax, "jit", lambda *a, **k: made.append(a) or jit(*a, **k))
    assert rg.plan(f, y0, 0.0, 5.0, **settings).steps == first.steps
    assert not made


def test_a_probe_that_fails_is_no_failure(reference):
    """Loose steps may leave the domain of f; the steps of the solve do not."""
    calls = itertools.count()

    def f(t, y, args):
        if next(calls) == 8:  # in the probe: a check, a tape, a first step, and six stages
            raise ValueError("out of the domain")
        return -y

    plan = rg.plan(f, np.ones(2), 0.0, 1.0, rtol=1e-8, memory="1 MiB")
    assert plan.steps_source == "predicted from the first step"


def test_max_steps_bounds_a_prediction(reference):
    plan = rg.plan(lorenz, np.ones(3), 0.0, 100.0, rtol=1e-9, memory="1 MiB", max_steps=50)
    assert plan.steps == 50


def test_the_sense_of_time_does_not_matter(reference):
    plans = [
        rg.plan(lambda t, y, args: -y, np.ones(2), 0.0, t1, rtol=1e-8, memory="1 MiB")
        for t1 in (1.0, -1.0)
    ]
    assert plans[0].steps == pytest.approx(plans[1].steps, rel=0.2)


def test_extrapolation():
    assert extrapolate([0.0, 1.0, 2.0, 3.0, 4.0], 4.0, 1.0) == 4
    assert extrapolate([0.0, 1.0, 2.0, 3.0, 3.5], 3.5, 2.0) == 7.0  # half a step at the end
    assert extrapolate([0.0, 0.1, 1.1, 2.1, 3.1], 3.1, 10.0) == 31.0  # one only found the size
    far = extrapolate([0.0, 1.0, 2.0, 3.0, 4.0], 400.0, 1.0)
    assert 200 < far < 400


# --- a wrong prediction


def quickening(t, y, args):
    """Slow where the probe looks, forty times quicker from t = 30 on."""
    return (1 + 40 * (t > 30)) * np.stack([y[1], -y[0]])


@pytest.mark.quick("20")
@pytest.mark.parametrize("size", [20, 50, 100])
def test_a_solve_of_many_more_steps_keeps_the_budget(reference, size):
    y0, memory = np.stack([np.ones(size), np.zeros(size)]), "80 KiB"
    settings = {"rtol": 1e-3, "atol": 1e-3}
    forward = traced_peak(lambda: rg.solve(quickening, y0, 0.0, 36.0, **settings))
    plan = rg.plan(quickening, y0, 0.0, 36.0, memory=memory, **settings)
    solutions = []

    def gradient():
        own = type("Own", (), {})()  # closed over: no last solve is known
        quick = lambda t, y, args, own=own: quickening(t, y, args)  # noqa: E731
        sol, pull = rg.solve_vjp(quick, y0, 0.0, 36.0, memory=memory, **settings)
        solutions.append(sol)
        return pull(np.ones_like(sol.ys))

    measured = traced_peak(gradient) - forward
    sol = solutions[-1]
    assert sol.stats["num_accepted_steps"] > plan.limit > 2 * plan.steps  # so it began again
    assert "begun again" in sol.plan.steps_source
    assert 0.5 * plan.budget < measured <= plan.budget


@pytest.mark.libraries("torch", slow="numpy strict")  # traced records have their size
def test_a_solve_begun_again_has_the_same_gradient(backend):

    def f(t, y, args):
        xp = backend.namespace(y)
        return (11 + 10 * xp.tanh(20 * (t - 20))) * xp.stack([y[1], -y[0]])

    y0, settings = backend.array([1.0, 0.0]), {"rtol": 1e-4, "atol": 1e-4}
    sol, pull = rg.solve_vjp(f, y0, 0.0, 30.0, memory=5000, **settings)
    assert "begun again" in sol.plan.steps_source
    named = rg.RecursiveCheckpointAdjoint(20)
    _, direct = rg.solve_vjp(f, y0, 0.0, 30.0, adjoint=named, **settings)
    ones = backend.array([[1.0, 1.0]])
    backend.assert_close(pull(ones).y0, backend.to_numpy(direct(ones).y0))


def test_a_solve_that_outgrows_every_plan_says_so(reference):
    y0 = np.asarray([1.0, 0.0])
    with pytest.raises(rg.PlanInfeasible, match=r"takes more than \d+ steps, .* loosen `rtol`"):
        rg.solve_vjp(quickening, y0, 0.0, 45.0, rtol=1e-4, atol=1e-4, memory="3 KiB")


def test_a_prediction_alone_refuses_nothing(reference):
    """Three times too many steps are predicted; the solve fits all the same."""
    y0, settings = np.asarray([2.0, 0.0]), {"rtol": 1e-6, "atol": 1e-8}
    stiff = van_der_pol(30.0)
    plan = rg.plan(stiff, y0, 0.0, 60.0, memory="1 GiB", **settings)
    _, pull = rg.solve_vjp(stiff, y0, 0.0, 60.0, memory=6 * plan.steps, **settings)
    assert np.all(np.isfinite(pull(np.ones((1, 2))).y0))


@given(state=st.integers(8, 10**5), steps=st.integers(1, 10**4), room=st.integers(0, 10**8))
def test_the_limit_is_the_last_step_that_fits(state, steps, room):
    shape = limited_shape(state, steps)
    try:
        plan = make_plan(shape, room, "a test", None)
    except rg.PlanInfeasible:
        return
    adjoint, most = plan.adjoint, plan.limit
    assert most >= plan.steps

    def size(n):
        slots = n - 1 if adjoint.checkpoints is None else min(adjoint.checkpoints, n) - 1
        return 9 * (n + 1) + slots * state

    assert size(most) <= room
    assert limit(plan.shape, adjoint, adjoint, room) == most
    assert size(most + 2) > room


def limited_shape(state, steps):
    from retrograde._planner.shape import Shape

    return Shape(
        state=state,
        steps=steps,
        known=False,
        bound=None,
        tape=0,
        stages=7,
        fixed={"record of times": 9 * (steps + 1)},
        free_slot=True,
        windows=False,
        growing=9,
    )
