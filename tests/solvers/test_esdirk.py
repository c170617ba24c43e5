"""ESDIRK methods: their tableaus, orders, stability, stiff problems and exact gradients."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import partial
from importlib import import_module

import numpy as np
import pytest

import retrograde as rg
from retrograde._solvers.runge_kutta.order_conditions import residuals

from ..stiff_cases import van_der_pol

# name, order, order of the embedded method, order of the interpolant, stages
METHODS = [
    ("Kvaerno3", 3, 2, 3, 4),
    ("Kvaerno4", 4, 3, 3, 5),
    ("Kvaerno5", 5, 4, 4, 7),
    ("KenCarp3", 3, 2, 3, 4),
    ("KenCarp4", 4, 3, 3, 6),
    ("KenCarp5", 5, 4, 3, 8),
]
NAMES = [method[0] for method in METHODS]
every_method = pytest.mark.parametrize("name", NAMES)

ROBERTSON = [0.04, 1e4, 3e7]
AT_40 = [0.7158270687, 9.185534765e-06, 0.2841637457]
"""Robertson at t = 40, by SciPy's Radau at 1e-13; Hairer & Wanner, Sec. IV.10, print six digits."""


def tableau_of(name):
    page = import_module(f"retrograde._solvers.esdirk.{name.lower()}")
    return getattr(page, name).tableau


# --- tableaus


@pytest.mark.parametrize(("name", "order", "embedded", "dense", "stages"), METHODS)
def test_stated_properties_hold_and_are_not_understated(name, order, embedded, dense, stages):
    tableau = tableau_of(name)
    assert (tableau.order, tableau.error_order, tableau.stages) == (order, embedded + 1, stages)
    assert tableau.interpolation_order == dense
    tableau.check()
    rows = tableau.rows
    b_hat = [b - e for b, e in zip(tableau.b, tableau.b_error, strict=True)]
    for weights, p in ((tableau.b, order), (b_hat, embedded)):
        assert max(map(abs, residuals(rows, p + 1, weights))) > 1e-4
    inside = residuals(rows, dense + 1, tableau.weights(0.4), 0.4)
    assert max(map(abs, inside)) > 5e-4


@every_method
def test_methods_are_l_stable_and_bounded_inside(name):
    """On the imaginary axis by a scan (then in the half plane by the maximum principle)."""
    tableau = tableau_of(name)

    def growth(z):
        y = []
        for row in tableau.a:
            y.append((1.0 + z * sum(a * v for a, v in zip(row, y, strict=True)))
                     / (1.0 - z * tableau.gamma if row else 1.0))  # fmt: skip
        return abs(y[-1])

    assert max(growth(1j * 10 ** (k / 50 - 3)) for k in range(500)) <= 1.0 + 1e-9
    assert abs(tableau.at_infinity(1.0)) < 1e-12
    assert max(abs(tableau.at_infinity(k / 16)) for k in range(17)) <= 1.0


def test_a_misprint_is_seen():
    """A denominator of KenCarp5 that stands with another digit in a program: off by 2e-12."""
    tableau = tableau_of("KenCarp5")
    row = (*tableau.a[6][:5], -4269925059573 / 7827059040719)
    with pytest.raises(ValueError, match=r"a\[6\]"):
        dataclasses.replace(tableau, a=(*tableau.a[:6], row, tableau.a[7]))
    with pytest.raises(ValueError, match="Order 4 of `b`"):
        dataclasses.replace(tableau_of("Kvaerno3"), order=4).check()


# --- convergence


def curved(t, y, args):
    """y1 = cos t + 1, y2 = 1 / (2 + t): nonlinear, and f sees the time."""
    slope = -np.sin(t) + 3.0 * (1.0 + np.cos(t) - y[0]) * y[1]
    return np.stack([slope, -y[1] * y[1] + np.sin(y[0] - np.cos(t) - 1.0)])


def curved_at(t):
    return np.asarray([np.cos(t) + 1.0, 1.0 / (2.0 + t)])


@every_method
def test_observed_order(name):
    order, inside = tableau_of(name).order, tableau_of(name).interpolation_order
    errors = []
    for steps in (8, 16):
        at = [1.0 + (k + 0.4) / steps for k in range(0, steps, 3)]
        sol = rg.solve(
            curved, curved_at(0.0), 0.0, 2.0, solver=name.lower(), dt=1.0 / steps,
            saveat=rg.SaveAt(ts=at, t1=True),
        )  # fmt: skip
        exact = np.stack([curved_at(t) for t in [*at, 2.0]])
        missed = np.abs(np.asarray(sol.ys) - exact).max(axis=1)
        errors.append((missed[-1], missed[:-1].max()))
    ends, insides = np.log2(np.asarray(errors[0]) / np.asarray(errors[1]))
    assert ends > order - 0.35
    # an interpolant of order q in a step has q + 1 beside the solution's own error
    assert insides > min(order, inside + 1) - 0.45


@every_method
def test_stiff_solutions_are_as_accurate_inside_as_at_the_ends(name):
    """Prothero and Robinson's problem, lambda = -1e8: there the slope at a step's begin is noise,
    and Hermite's polynomial through it is off by 1 at once."""
    f = lambda t, y, args: -1e8 * (y - np.cos(t)) - np.sin(t)  # noqa: E731
    at, start = np.linspace(0.1, 2.9, 57), np.asarray([1.0 + 1e-7])
    errors = []
    for dt in (0.2, 0.1):
        sol = rg.solve(f, start, 0.0, 3.0, solver=name.lower(), dt=dt, saveat=at)
        errors.append(np.abs(np.asarray(sol.ys)[:, 0] - np.cos(at)).max())
    assert errors[0] < 4e-4
    assert errors[0] / errors[1] > 6.0  # stages of order 2


# --- stiff problems on every library


def robertson(backend):
    def f(t, y, k):
        xp = backend.namespace(y)
        r1, r2, r3 = k[0] * y[0], k[1] * y[1] * y[2], k[2] * y[1] * y[1]
        return xp.stack([-r1 + r2, r1 - r2 - r3, r3])

    return f


WEIGHTS = np.asarray([[1.0, 2.0, -1.0], [0.5, 1e4, 3.0]])


@pytest.mark.libraries("numpy torch jax", slow="strict jax:jit")
def test_robertson_and_its_gradient_are_the_same_everywhere(backend):
    keywords = {"rtol": 1e-7, "atol": 1e-11, "solver": "kvaerno5", "max_steps": 200}
    problem = robertson(backend), backend.array([1.0, 0.0, 0.0]), 0.0, 40.0
    saveat = rg.SaveAt(ts=[3.0, 40.0])
    keywords["adjoint"] = rg.RecursiveCheckpointAdjoint(6)  # steps are replayed
    found = backend.gradient(*problem, backend.array(ROBERTSON), WEIGHTS, saveat=saveat, **keywords)
    np.testing.assert_allclose(found.ys[-1], AT_40, rtol=2e-5)
    # as NumPy gives them; against differences below
    np.testing.assert_allclose(found.y0, GRADIENT[0], rtol=1e-9)
    np.testing.assert_allclose(found.args, GRADIENT[1], rtol=1e-9)


GRADIENT = (
    [1.93818972849485, 1.179922828842405, 1.1800003892994455],
    [7.866558994268781, -3.2393244200232606e-05, 3.8673309202264706e-09],
)


def vdp(t, y, mu):
    return np.stack([y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0] + 0.1 * np.sin(t)])


@pytest.mark.parametrize("name", ["Kvaerno3", "Kvaerno4", "Kvaerno5", "KenCarp4"])
def test_gradients_are_those_of_the_discrete_solve(name):
    """On accepted times that stand still; rows inside of steps, too.

    Up to a fast transition, which would amplify what rounding is in the differences.
    """
    y0, mu = np.asarray([2.0, -0.6]), np.asarray(100.0)
    keywords = {"solver": name.lower(), "rtol": 1e-4, "atol": 1e-6}
    sol = rg.solve(vdp, y0, 0.0, 60.0, mu, saveat=rg.SaveAt(t0=True, steps=True), **keywords)
    times = [float(t) for t in sol.ts]
    steps = {"solver": name.lower(), "controller": rg.StepTo(times)}
    steps["saveat"] = rg.SaveAt(ts=[0.31 * times[1], 30.0, 59.0], t1=True)
    weights = np.random.default_rng(3).standard_normal((4, 2))

    def loss(y0, mu):
        return float(np.sum(weights * rg.solve(vdp, y0, 0.0, times[-1], mu, **steps).ys))

    _, pullback = rg.solve_vjp(vdp, y0, 0.0, times[-1], mu, **steps)
    found, e = pullback(weights), 1e-4
    wanted = (loss(y0, mu + e) - loss(y0, mu - e)) / (2 * e)
    assert float(found.args) == pytest.approx(wanted, rel=3e-8)
    d = np.asarray([0.3, 1.0])
    wanted = (loss(y0 + 1e-5 * d, mu) - loss(y0 - 1e-5 * d, mu)) / 2e-5
    assert float(found.y0 @ d) == pytest.approx(wanted, rel=1e-6)


def exact_step(tableau, h, y, mu):
    """A step of van der Pol's equation in complex numbers: its imaginary parts are derivatives."""
    slope = lambda y: van_der_pol(np, 0.0, y, mu)  # noqa: E731
    k = [slope(y)]
    for row in tableau.a[1:]:
        psi = y + h * sum(a * x for a, x in zip(row, k, strict=False))
        z, d = h * tableau.gamma * k[-1], h * tableau.gamma
        for _ in range(12):
            u, v = psi + z
            matrix = [[1, -d], [d * (2 * mu * u * v + 1), 1 - d * mu * (1 - u * u)]]
            z = z - np.linalg.solve(np.asarray(matrix), z - d * slope(psi + z))
        k.append(z / d)
    return y + h * sum(b * x for b, x in zip(tableau.b, k, strict=True))


def test_gradients_past_a_fast_transition_are_those_of_the_steps():
    """Differences of this solve miss the gradient by 1e-2 to 1e-5, whatever their size.

    Where y leaves the slow branch, a step multiplies what rounding left of it: derivatives grow
    and shrink by a thousand. So each step's vjp is held to that step's own derivative.
    """
    e, mu, weights = 1e-100, np.asarray(1000.0), np.asarray([[1.0, 0.3]])
    pol = partial(van_der_pol, np)
    problem, keywords = (pol, np.asarray([2.0, 0.0]), 0.0, 900.0, mu), {"solver": "kvaerno3"}
    more = {"rtol": 1e-4, "atol": 1e-6, "saveat": rg.SaveAt(t0=True, steps=True)}
    sol, pullback = rg.solve_vjp(*problem, **keywords, **more)
    rows = np.zeros_like(sol.ys)
    rows[-1] = weights
    whole, g, args = pullback(rows), weights[0], 0.0
    for n in reversed(range(len(sol.ts) - 1)):
        t, t1, y = float(sol.ts[n]), float(sol.ts[n + 1]), sol.ys[n]
        _, pull = rg.solve_vjp(pol, y, t, t1, mu, controller=rg.StepTo([t, t1]), **keywords)
        found = pull(g[None])
        ends = [exact_step(tableau_of("Kvaerno3"), t1 - t, y + 1j * e * d, mu + 1j * e * m)
                for d, m in zip(np.eye(3, 2), (0.0, 0.0, 1.0), strict=True)]  # fmt: skip
        matrix = np.stack([end.imag for end in ends]) / e
        exact, sizes = matrix @ g, np.abs(matrix) @ np.abs(g)
        error = np.abs([*(found.y0 - exact[:2]), found.args - exact[2]])
        assert error.max() < 1e-10 * sizes.max()
        g, args = exact[:2], args + exact[2]
    np.testing.assert_allclose([*whole.y0, whole.args], [*g, args], rtol=1e-8)


@pytest.mark.libraries("torch", slow="jax")
def test_autodiff_through_the_steps_gives_the_same_gradient_and_second_derivatives(backend):
    f = lambda t, y, mu: backend.namespace(y).stack(  # noqa: E731
        [y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]]
    )
    problem = f, backend.array([2.0, -0.6]), 0.0, 0.4, backend.array(30.0)
    keywords = {"solver": "kvaerno3", "dt": 0.1}
    ours = backend.gradient(*problem, **keywords)
    theirs = backend.gradient(*problem, adjoint="direct", **keywords)
    np.testing.assert_allclose(ours.y0, theirs.y0, rtol=1e-10)
    np.testing.assert_allclose(ours.args, theirs.args, rtol=1e-10)

    def loss(mu):
        return rg.solve(*problem[:4], mu, adjoint="direct", **keywords).ys[-1, 0]

    second = backend.to_numpy(backend.second(loss, backend.array(30.0))[2])
    at = [backend.gradient(*problem[:4], backend.array(m), np.asarray([[1.0, 0.0]]), **keywords)
          for m in (29.99, 30.01)]  # fmt: skip
    assert float(second) == pytest.approx(float(at[1].args - at[0].args) / 0.02, rel=1e-5)


@pytest.mark.libraries("numpy torch", slow="strict")
def test_trees_complex_states_and_float32(backend):
    """A stiff decay and a fast rotation in one tree; each dtype by its own tolerance."""
    for dtype, kind, rtol in (("complex128", "float64", 1e-8), ("complex64", "float32", 1e-4)):
        y0 = {"a": backend.array([1.0, 2.0j], dtype), "b": backend.array(1.0 + 1.0j, dtype)}

        def f(t, y, rate):
            return {"a": (y["b"] - y["a"]) * rate, "b": 1j * y["b"]}

        rate = backend.array(1000.0, kind)
        sol = rg.solve(f, y0, 0.0, 1.0, rate, solver="kvaerno4", rtol=rtol, atol=rtol)
        b = (1 + 1j) * np.exp(1j)
        a = b * 1000.0 / (1000.0 + 1j)  # the fast part has gone
        np.testing.assert_allclose(backend.to_numpy(sol.ys["b"])[-1], b, rtol=20 * rtol)
        np.testing.assert_allclose(backend.to_numpy(sol.ys["a"])[-1], [a, a], rtol=20 * rtol)


# --- what fails


def test_stages_that_can_not_be_solved_end_a_solve_with_a_reason():
    """sqrt of what is negative is nan: no small step gets past it; constant steps say so too."""
    f = lambda t, y, args: -1.0 - np.sqrt(y)  # noqa: E731
    with np.errstate(invalid="ignore"):
        sol = rg.solve(f, np.ones(1), 0.0, 2.0, solver="kvaerno3", throw=False)
        assert sol.status != rg.Status.converged
        assert 0.5 < float(sol.t_final) < 1.0
        sol = rg.solve(f, np.ones(1), 0.0, 2.0, solver="kvaerno3", dt=0.1, throw=False)
        assert sol.status == rg.Status.non_finite


@pytest.mark.libraries("numpy torch jax:jit", slow="strict")
def test_failures_have_a_status_a_time_and_no_numbers(backend):
    """nan on the way; a W that is singular, and a stage without a solution, at the size that is
    given; smaller steps get past both."""
    xp = backend.xp

    def f(t, y, k):
        broken = xp.where(xp.asarray(t) > k[2], backend.array(math.nan), 0.0 * k[2])
        return y * k[0] + y * y * k[1] + broken

    def solver(**steps):
        keywords = {"solver": "kvaerno3", "throw": False, "max_steps": 400, **steps}
        run = backend.compiled(lambda y, k: rg.solve(f, y, 0.0, 0.5, k, **keywords))
        return lambda *k: run(backend.array([1.0, 0.5]), backend.array(k))

    singular = 1.0 / (0.25 * tableau_of("Kvaerno3").gamma)
    adaptive, constant = solver(rtol=1e-6, atol=1e-9), solver(dt=0.25)
    sol = adaptive(-1.0, 0.0, 0.3)
    assert rg.Status(int(sol.status)) is rg.Status.non_finite
    assert float(sol.t_final) == pytest.approx(0.3, abs=1e-9)
    assert backend.eager or np.all(np.isnan(backend.to_numpy(sol.ys)))
    for *k, why in ((singular, 0.0, 9.0, True), (-1.0, 40.0, 9.0, True), (-1.0, 0.0, 0.3, False)):
        sol = constant(*k)
        # no program looks at steps of constant size on the way
        why = rg.Status.unsolved if why and backend.eager else rg.Status.non_finite
        assert rg.Status(int(sol.status)) is why
        assert backend.eager or np.all(np.isnan(backend.to_numpy(sol.ys)))
        with pytest.raises(rg.SolveFailed, match="the equations of an implicit step"):
            sol.raise_if_failed()
    found = backend.to_numpy(adaptive(singular, 0.0, 9.0).ys)[-1, 1]
    assert float(found) == pytest.approx(0.5 * math.exp(0.5 * singular), rel=1e-4)


@pytest.mark.libraries("numpy torch jax:jit", slow="strict jax")
def test_a_stage_without_a_solution_is_what_a_solve_ends_with(backend):
    """From t = 0.3 on y' = 40 y**2 - y, whose stages have none in steps as large as `dtmin`."""
    xp = backend.xp

    def f(t, y, k):
        return k * y * y * xp.where(t > 0.3, backend.array(1.0), 0.0 * k) - y

    controller = rg.PIDController(rtol=1e-6, atol=1e-9, dt0=0.1, dtmin=0.05, dtmax=0.1)
    more = {"solver": "kvaerno5", "controller": controller, "max_steps": 400, "throw": False}
    run = backend.compiled(lambda y, k: rg.solve(f, y, 0.0, 2.0, k, **more))
    sol = run(backend.array([1.0, 0.5]), backend.array(40.0))
    assert rg.Status(int(sol.status)) is rg.Status.unsolved
    assert 0.1 < float(sol.t_final) < 0.31
    assert backend.eager or np.all(np.isnan(backend.to_numpy(sol.ys)))
    with pytest.raises(rg.SolveFailed, match=r"At t = 0\.[23].*iteration did not converge"):
        sol.raise_if_failed()
    mild = run(backend.array([1.0, 0.5]), backend.array(0.0))
    np.testing.assert_allclose(backend.to_numpy(mild.ys)[-1, 0], math.exp(-2.0), rtol=1e-5)


def test_a_jacobian_that_is_wrong_costs_steps_and_no_digits():
    """Newton's matrix decides how fast a stage is solved, not what it is."""

    class Wrong:
        def __call__(self, t, y, args):
            return np.stack([y[1], -1e3 * y[0] - 100.0 * y[1]])

        def jac(self, t, y, args):
            return np.asarray([[0.0, 1.2], [-900.0, -110.0]])

    right = lambda t, y, args: Wrong()(t, y, args)  # noqa: E731
    ends = [
        rg.solve(f, np.asarray([1.0, 0.0]), 0.0, 0.5, solver="kvaerno4", dt=0.01).ys[-1]
        for f in (Wrong(), right)
    ]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-10)
    assert math.isfinite(float(ends[0][0]))


# --- split fields


def halves(backend):
    """y1 = cos t + 1, y2 = 1 / (2 + t) for k = 1: a fast decay, and what moves by itself."""

    def explicit(t, y, k):
        xp = np if backend is None else backend.namespace(y)
        return xp.stack([-xp.sin(t) + y[1] * 0.0, -k * y[1] * y[1] + xp.sin(y[0] - xp.cos(t) - 1)])

    def implicit(t, y, k):
        xp = np if backend is None else backend.namespace(y)
        off = xp.cos(t) + 1.0 - y[0]
        return xp.stack([off * k * (4.0 + y[1]), (y[0] - 1.0 - xp.cos(t)) * y[1]])

    return rg.Split(explicit, implicit)


@pytest.mark.parametrize("name", ["KenCarp3", "KenCarp4", "KenCarp5"])
def test_additive_pairs_have_their_order(name):
    order, f = tableau_of(name).order, halves(None)
    errors = []
    for steps in (10, 20):
        dt = 1.0 / steps
        sol = rg.solve(
            f, curved_at(0.0), 0.0, 2.0, np.asarray(1.0), solver=name.lower(), dt=dt,
            saveat=rg.SaveAt(ts=[0.93], t1=True),
        )  # fmt: skip
        exact = np.stack([curved_at(0.93), curved_at(2.0)])
        errors.append(np.abs(np.asarray(sol.ys) - exact).max(axis=1))
    inside, end = np.log2(errors[0] / errors[1])
    assert end > order - 0.6
    assert inside > 2.0


SPLIT = {"solver": "kencarp4", "dt": 0.125, "saveat": rg.SaveAt(ts=[0.4, 1.5])}
WEIGHED = np.asarray([[1.0, -2.0], [0.5, 3.0]])


def split_on_numpy(k, t1=1.5):
    """The loss, and what pulls it back."""
    problem = halves(None), np.asarray([2.3, 0.4]), 0.0, t1, np.asarray(k)
    sol, pullback = rg.solve_vjp(*problem, **SPLIT)
    return float(np.sum(WEIGHED * sol.ys)), pullback


def test_the_gradient_of_a_split_solve_is_that_of_its_differences():
    found, e = split_on_numpy(1.3)[1](WEIGHED), 1e-5
    ends = [split_on_numpy(1.3 + d)[0] for d in (-e, e)]
    assert float(found.args) == pytest.approx((ends[1] - ends[0]) / (2 * e), rel=1e-8)
    # the last step's size moves with t1
    ends = [split_on_numpy(1.3, 1.55 + d)[0] for d in (-e, e)]
    late = split_on_numpy(1.3, 1.55)[1](WEIGHED)
    assert float(late.t1) == pytest.approx((ends[1] - ends[0]) / (2 * e), rel=1e-8)


@pytest.mark.libraries("torch jax", slow="strict jax:jit")
def test_split_fields_on_every_library(backend):
    """The stiff part alone is solved for; the same gradient; the sum by another method."""
    problem = halves(backend), backend.array([2.3, 0.4]), 0.0, 1.5, backend.array(1.3)
    found = backend.gradient(*problem, WEIGHED, **SPLIT)
    wanted = split_on_numpy(1.3)[1](WEIGHED)
    np.testing.assert_allclose(found.y0, wanted.y0, rtol=1e-9)
    np.testing.assert_allclose(found.args, wanted.args, rtol=1e-9)
    if backend.eager:
        whole = backend.gradient(*problem, WEIGHED, **{**SPLIT, "solver": "kvaerno4"})
        np.testing.assert_allclose(whole.ys, found.ys, rtol=1e-3)


def test_jumps_of_a_split_field_are_stepped_on():
    """A forcing that is switched, in either part: on its side of the jump each step sees one."""
    on = lambda t: np.where(t < 1.0, 1.0, -2.0)  # noqa: E731
    still, fast = (lambda t, y, a: a * on(t) + 0.0 * y), (lambda t, y, a: -50.0 * y)
    for f in (rg.Split(still, fast), rg.Split(fast, still)):
        controller = rg.PIDController(rtol=1e-8, atol=1e-8, jump_ts=[1.0])
        keywords = {"solver": "kencarp5", "controller": controller}
        sol, pullback = rg.solve_vjp(f, np.ones(1), 0.0, 1.1, np.asarray(1.0), **keywords)
        held = math.exp(-5.0) - 1.0
        wanted = math.exp(-55.0) + (1 - math.exp(-50.0)) / 50 * math.exp(-5.0) + 2 * held / 50
        assert float(sol.ys[-1, 0]) == pytest.approx(wanted, rel=1e-6)
        slope = float(pullback(np.ones((1, 1))).args)
        assert slope == pytest.approx(wanted - math.exp(-55.0), rel=1e-6)
        assert sol.stats["num_rejected_steps"] < 8


# --- systems without a matrix


def brusselator(backend, n):
    """The one of Hairer and Wanner, Sec. IV.10, periodic on n x n points: f, y0, preconditioner."""
    x, y = np.meshgrid(*[np.arange(n) / n] * 2, indexing="ij")
    waves = 2 * np.cos(2 * np.pi * np.arange(n) / n) - 2
    sizes = backend.array(n * n * (waves[:, None] + waves[None, :]))
    y0 = backend.array(np.stack([22 * y * (1 - y) ** 1.5, 27 * x * (1 - x) ** 1.5]))

    def f(t, w, alpha):
        xp = backend.namespace(w)
        u, v = w[0, ...], w[1, ...]
        along = [xp.roll(w, s, axis=a) for s in (1, -1) for a in (1, 2)]
        moved = alpha * n * n * (along[0] + along[1] + along[2] + along[3] - 4 * w)
        return moved + xp.stack([1 + u * u * v - 4.4 * u, 3.4 * u - u * u * v])

    def near(t, w, c, r):
        xp = backend.namespace(r)
        return xp.real(xp.fft.ifft2(xp.fft.fft2(r) / (c - 0.02 * sizes)))

    return f, y0, near


def check_without_matrix(backend, n, others):
    """Values and gradients of GMRES, with and without a preconditioner, and of another route."""
    f, y0, near = brusselator(backend, n)
    problem = f, y0, 0.0, 0.3, backend.array(0.02)
    solvers = [rg.GMRES(preconditioner=near), *others]
    found = [
        backend.gradient(*problem, solver=rg.Kvaerno5(linear_solver=s), rtol=1e-6, atol=1e-8)
        for s in solvers
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0].ys, other.ys, rtol=1e-9)
        np.testing.assert_allclose(found[0].args, other.args, rtol=1e-8)
        np.testing.assert_allclose(found[0].y0, other.y0, rtol=1e-8, atol=1e-8)


@pytest.mark.libraries("numpy", slow="jax")
def test_gmres_gives_what_a_factorisation_gives(backend):
    check_without_matrix(backend, 4, [rg.GMRES(memory=5), None])


def transport(backend, seen):
    """A complex field that is neither normal nor analytic, and (c I - J) roughly inverted, twice:
    of the field, and of its adjoint."""
    waves = backend.array(-np.geomspace(2.0, 400.0, 9) * (1.0 + 0.5j), "complex128")

    def f(t, y, a):
        xp = backend.namespace(y)
        return y * waves + 25.0 * xp.roll(y, 1) + y * (xp.real(xp.conj(y) * y) * a)

    def near(t, y, c, r):
        seen.append("near")
        return (r + 25.0 * backend.namespace(r).roll(r / (c - waves), 1)) / (c - waves)

    def transposed(t, y, c, r):
        seen.append("transposed")
        xp = backend.namespace(r)
        return (r + 25.0 * xp.roll(r / (c - xp.conj(waves)), -1)) / (c - xp.conj(waves))

    return f, rg.GMRES(near, transposed)


@pytest.mark.libraries("numpy torch", slow="strict jax")
def test_preconditioners_of_complex_fields(backend):
    """Values and gradients are those of a factorisation; the adjoint's own preconditioner serves
    its systems, and both save products."""
    seen = []
    f, both = transport(backend, seen)
    y0 = backend.array(np.exp(1j * np.arange(9.0)), "complex128")
    weights, found = np.exp(2j * np.arange(9.0))[None], []
    for solver in (None, both, dataclasses.replace(both, transposed=None), rg.GMRES()):
        seen.append(solver)
        keywords = {"solver": rg.Kvaerno4(linear_solver=solver), "dt": 0.05}
        found.append(backend.gradient(f, y0, 0.0, 0.05, backend.array(-0.5), weights, **keywords))
    for other in found[1:]:
        np.testing.assert_allclose(other.ys, found[0].ys, rtol=1e-9)
        np.testing.assert_allclose(other.args, found[0].args, rtol=1e-9)
        np.testing.assert_allclose(other.y0, found[0].y0, rtol=1e-9)
    if backend.eager:
        marks = [i for i, x in enumerate(seen) if not isinstance(x, str)]
        ours, wrong = (seen[a:b] for a, b in itertools.pairwise(marks[1:]))
        theirs = wrong.count("near") - ours.count("near")
        assert 0 < ours.count("transposed") < 0.8 * theirs


@pytest.mark.libraries("torch", slow="jax")
def test_autodiff_does_not_follow_iterations(backend):
    """Its derivative would be that of the iteration, wrong by its tolerance."""
    solver = rg.Kvaerno3(linear_solver=rg.GMRES())
    with pytest.raises(rg.UnsupportedByBackend, match="linear_solver"):
        backend.gradient(
            lambda t, y, k: -k * y, backend.array([1.0]), 0.0, 1.0, backend.array(2.0),
            solver=solver, adjoint="direct", dt=0.5,
        )  # fmt: skip


@pytest.mark.slow
def test_gmres_on_a_field_of_2048_unknowns(reference):
    check_without_matrix(reference, 32, [rg.GMRES(memory=30)])


@pytest.mark.parametrize("wrong", [{"rtol": 0.0}, {"memory": 0}, {"max_products": 1.5}], ids=str)
def test_settings_of_gmres_are_checked(wrong):
    with pytest.raises(rg.InputError, match=next(iter(wrong))):
        rg.GMRES(**wrong)
