"""The PID controller: what it accepts, how far it changes a step, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend.clock import HostClock

CLOCK = HostClock()


def adapt(error, h=0.1, order=5, before=(), **settings):
    """(accepted, next h) after a try with this error, and accepted ones before it."""
    controller = rg.PIDController(**settings)
    run, memory = controller.adapter(CLOCK, order), controller.init(CLOCK)
    for past in before:
        _, _, memory = run(past**2, h, memory)
    ok, h_next, _ = run(error**2, h, memory)
    return ok, h_next


@pytest.mark.parametrize("error", [0.0, 0.5, 1.0])
def test_an_error_of_at_most_one_is_accepted(error):
    assert adapt(error)[0]


@pytest.mark.parametrize("error", [1.0 + 1e-9, 3.0, math.inf, math.nan])
def test_a_larger_error_is_rejected_and_the_step_shrinks(error):
    ok, h = adapt(error)
    assert not ok
    assert 0.2 * 0.1 <= h <= 0.9 * 0.1


def test_factor_limits():
    assert adapt(0.0)[1] == pytest.approx(1.0)  # factormax = 10
    assert adapt(1e9)[1] == pytest.approx(0.02)  # factormin = 0.2
    assert adapt(math.nan)[1] == pytest.approx(0.02)
    assert adapt(0.0, factormax=3.0)[1] == pytest.approx(0.3)
    assert adapt(1e9, factormin=0.5)[1] == pytest.approx(0.05)


@pytest.mark.parametrize("errors", [(0.2, 0.5, 0.9), (0.9, 0.5, 0.7), (1.0, 0.01, 0.3)])
def test_pid_control_is_the_published_formula(errors):
    """Soderlind 2003: h' = h safety r_n^(b1/k) r_(n-1)^(b2/k) r_(n-2)^(b3/k), r = 1 / error."""
    *before, error = errors
    _, h = adapt(error, before=before, order=5, pcoeff=0.3, icoeff=0.4, dcoeff=0.1)
    powers = (0.1, -(0.3 + 2 * 0.1), 0.3 + 0.4 + 0.1)
    factor = math.prod(e ** (-b / 5) for e, b in zip(errors, powers, strict=True))
    assert h == pytest.approx(0.1 * min(10.0, 0.9 * factor), rel=1e-14)


@pytest.mark.parametrize("sign", [1, -1])
def test_step_limits_keep_the_sign(sign):
    _, h = adapt(0.0, h=sign * 0.1, dtmax=0.25)
    assert h == pytest.approx(sign * 0.25)
    ok, h = adapt(1e9, h=sign * 0.1, dtmin=0.08, force_dtmin=True)
    assert not ok
    assert h == pytest.approx(sign * 0.08)
    ok, _ = adapt(1e9, h=sign * 0.08, dtmin=0.08, force_dtmin=True)
    assert ok  # however large the error


def test_integral_control_is_the_textbook_formula():
    """h' = h safety error**(-1/k) with p = 0, i = 1."""
    for error in (0.3, 0.9, 1.7):
        _, h = adapt(error, order=4, pcoeff=0.0, icoeff=1.0)
        expected = 0.1 * 0.9 * error ** (-1 / 4)
        assert h == pytest.approx(expected if error <= 1 else min(expected, 0.09))


def test_proportional_control_looks_at_the_step_before():
    """Growing errors shorten the step beyond what their size alone would."""
    calm, growing = (adapt(0.5, before=(e,))[1] for e in (0.5, 0.1))
    assert growing < calm


def test_derivative_control_is_neutral_on_constant_errors():
    for error in (0.3, 0.8):
        a, b = (adapt(error, before=(error, error), dcoeff=d)[1] for d in (0.0, 0.1))
        assert a == pytest.approx(b)


def sizes(backend, controller, f=None, **keywords):
    """Sizes of the accepted steps of y' = y cos(6 t) on [0, 4]."""

    def field(t, y, args):
        return y * backend.namespace(y).cos(6.0 * t)

    saveat = rg.SaveAt(t0=True, steps=True)
    y0 = backend.array([1.0])
    sol = rg.solve(f or field, y0, 0.0, 4.0, controller=controller, saveat=saveat, **keywords)
    ts = backend.to_numpy(sol.ts)
    return np.diff(ts[np.isfinite(ts)]), sol


def test_dtmax_bounds_every_step(backend):
    h, _ = sizes(backend, rg.PIDController(1e-3, 1e-3, dtmax=0.11), max_steps=200)
    assert h.max() <= 0.11 * (1 + 1e-9)
    np.testing.assert_allclose(h[5:-2], 0.11, rtol=1e-9)  # it would like longer ones


def test_dt0_is_the_first_step(backend):
    h, _ = sizes(backend, rg.PIDController(1e-3, 1e-3, dt0=0.01), max_steps=200)
    assert h[0] == pytest.approx(0.01)


def test_forced_dtmin_ends_the_solve(backend):
    controller = rg.PIDController(1e-12, 1e-12, dtmin=0.05, force_dtmin=True)
    h, sol = sizes(backend, controller, max_steps=200)
    assert h[:-1].min() >= 0.05 * (1 - 1e-9)
    assert int(sol.stats["num_accepted_steps"]) == len(h) <= 81


def test_forced_dtmin_takes_no_step_of_nan(backend):
    """However small steps may become: f is nan from t = 1.1 on."""

    def f(t, y, args):
        xp = backend.namespace(y)
        return -y + 0.0 * xp.sqrt(1.1 - t)

    controller = rg.PIDController(1e-3, 1e-3, dtmin=0.2, force_dtmin=True)
    with np.errstate(invalid="ignore"), pytest.raises(rg.SolveFailed, match="nan or inf") as error:
        sizes(backend, controller, f, max_steps=50)
    assert error.value.solution.status is rg.Status.non_finite


def test_dtmin_without_force_fails(backend):
    controller = rg.PIDController(1e-12, 1e-12, dtmin=0.05)
    with pytest.raises(rg.SolveFailed, match="fell below its floor"):
        sizes(backend, controller, max_steps=200)


def test_first_step_scales_with_the_problem(reference):
    """A field 1000 times as fast starts with a far shorter step, by no guess of the user's."""
    first = []
    for rate in (1.0, 1000.0):
        h, _ = sizes(reference, rg.PIDController(1e-6, 1e-9), lambda t, y, a, r=rate: -r * y)
        first.append(h[0])
    assert 50 < first[0] / first[1] < 2000


def test_first_step_of_a_field_that_is_zero(backend):
    """Nothing to estimate from: it still ends, in few steps."""
    _, sol = sizes(backend, rg.PIDController(), lambda t, y, a: 0.0 * y, max_steps=200)
    assert int(sol.stats["num_steps"]) < 20


def test_tolerances_of_every_element(backend):
    """A loose tolerance on one element leaves it out of the control."""

    def f(t, y, args):
        xp = backend.namespace(y)
        return xp.stack([xp.cos(40.0 * t), 0.1 * y[1]])

    y0 = backend.array([0.0, 1.0])
    tight, loose = (
        rg.solve(f, y0, 0.0, 4.0, rtol=1e-6, atol=backend.array([a, 1e-6]), max_steps=2000)
        for a in (1e-6, 1e3)
    )
    assert int(loose.stats["num_steps"]) * 4 < int(tight.stats["num_steps"])


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
def test_rejections_are_few(reference, rtol):
    """The default exponents reject less than a fifth, though the step must shrink and grow."""
    _, sol = sizes(reference, rg.PIDController(rtol, rtol))
    assert sol.stats["num_rejected_steps"] <= 0.2 * sol.stats["num_steps"] + 1


def test_settings_that_contradict_each_other():
    f, y0 = (lambda t, y, a: -y), np.ones(1)
    for settings, named in (
        ({"dtmin": 0.2, "dtmax": 0.1}, "`dtmin` is 0.2, above `dtmax`"),
        ({"dtmin": -0.2}, "`dtmin`"),
        ({"dtmin": math.nan}, "`dtmin` is nan"),
        ({"factormin": 2.0}, "`factormin`"),
        ({"factormax": 0.5}, "`factormax`"),
        ({"safety": 0.0}, "`safety`"),
        ({"rtol": math.inf}, "`rtol` is inf"),
    ):
        with pytest.raises(rg.InputError) as caught:
            rg.solve(f, y0, 0.0, 1.0, controller=rg.PIDController(**settings))
        assert named in str(caught.value)


def test_bounds_of_no_step_at_all(backend):
    """t0 == t1: the first step is zero, and its bounds divide by nothing."""
    controller = rg.PIDController(dtmax=0.1)
    sol = rg.solve(lambda t, y, args: -y, backend.array([1.0]), 0.5, 0.5, controller=controller)
    assert backend.to_numpy(sol.ys).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("name", "powers", "ratio"),
    [
        ("I", (0.0, 0.0, 1.0), 0.0),
        ("PI34", (0.0, -0.4, 0.7), 0.0),
        ("PI33", (0.0, -1 / 3, 2 / 3), 0.0),
        ("PI42", (0.0, -1 / 5, 3 / 5), 0.0),
        ("H211PI", (0.0, 1 / 6, 1 / 6), 0.0),
        ("H211b", (0.0, 1 / 4, 1 / 4), 1 / 4),
        ("H312PID", (1 / 18, 1 / 9, 1 / 18), 0.0),
    ],
)
def test_named_coefficients_are_the_published_filters(name, powers, ratio):
    """Soderlind 2003, table III: exponents k b_j of 1/error, the oldest first, and a_2."""
    errors, k = (0.3, 0.7, 0.5), 4
    controller = rg.PIDController(coefficients=name, factormax=50.0, safety=1.0)
    run, memory = controller.adapter(CLOCK, k), controller.init(CLOCK)
    h, sizes = 0.1, []
    for e in errors:
        _, following, memory = run(e**2, h, memory)
        sizes.append(h)
        h = following
    factor = math.prod(e ** (-b / k) for e, b in zip(errors, powers, strict=True))
    factor *= (sizes[-1] / sizes[-2]) ** -ratio
    assert h / sizes[-1] == pytest.approx(factor, rel=1e-13)


@pytest.mark.quick("numpy-H211b", "jax:jit-H312PID", "torch-PI34", "strict-I")
@pytest.mark.parametrize("name", ["I", "PI34", "H211b", "H312PID"])
def test_solves_and_gradients_by_named_coefficients(backend, name):
    """Replays without a record carry the memory of any of them."""
    g = backend.gradient(
        lambda t, y, k: -k * y, backend.array([1.0]), 0.0, 2.0, backend.array(0.7),
        controller=rg.PIDController(1e-8, 1e-8, coefficients=name), max_steps=200,
        adjoint=rg.RecursiveCheckpointAdjoint(2, record=False),
    )  # fmt: skip
    assert g.args == pytest.approx(-2 * math.exp(-1.4), rel=1e-6)


def test_an_unknown_name_of_coefficients():
    with pytest.raises(rg.InputError, match="`coefficients` is 'H211'; choose one of 'I', 'PI33'"):
        rg.solve(lambda t, y, a: -y, [1.0], 0, 1, controller=rg.PIDController(coefficients="H211"))
