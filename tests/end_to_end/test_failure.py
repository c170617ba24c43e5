"""Solves that do not reach t1: an error or a status that tells why and where, a nan gradient."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde import Status

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of sqrt, in f


def decay(t, y, args):
    return -y


def breaks_at_half(backend):
    """A field that is nan from t = 0.5 on."""

    def f(t, y, args):
        xp = backend.namespace(y)
        return -y + 0.0 * xp.sqrt(0.5 - t)

    return f


def blows_up(t, y, args):
    """y' = y**2: y(1) = inf from y(0) = 1."""
    return y * y


CASES = {
    "max_steps, constant": (decay, {"dt": 0.01, "max_steps": 40}, Status.max_steps, 0.4, 0.4),
    "max_steps, adaptive": (decay, {"rtol": 1e-10, "max_steps": 5}, Status.max_steps, 0.0, 0.9),
    "max_steps, given times": (
        decay,
        {"controller": rg.StepTo(np.linspace(0.0, 2.0, 201).tolist()), "max_steps": 40},
        Status.max_steps,
        0.4,
        0.41,
    ),
    "nan in f": (breaks_at_half, {"rtol": 1e-6, "max_steps": 400}, Status.non_finite, 0.3, 0.5),
    "nan, constant": (breaks_at_half, {"dt": 0.01}, Status.non_finite, 0.45, 0.5),
    "dt_min": (
        blows_up,
        {"controller": rg.PIDController(1e-6, 1e-9, dtmin=1e-4), "max_steps": 1000},
        Status.dt_min,
        0.9,
        1.0,
    ),
}


def arguments(backend, case, t1=2.0):
    f, keywords, status, low, high = CASES[case]
    f = f(backend) if f is breaks_at_half else f
    return (f, backend.array([1.0, 0.5]), 0.0, t1), keywords, status, low, high


@pytest.mark.parametrize("case", CASES)
def test_an_error_with_the_partial_solution(backend, case):
    problem, keywords, status, low, high = arguments(backend, case)
    with pytest.raises(rg.SolveFailed) as caught:
        rg.solve(*problem, **keywords)
    solution = caught.value.solution
    assert solution.status is status
    if backend.eager or "adaptive" in case:
        assert low <= float(solution.t_final) <= high
    assert str(float(solution.t_final))[:5] in str(caught.value)
    assert status.message in str(caught.value)
    assert tuple(solution.ys.shape) == (1, 2)
    ys = backend.to_numpy(solution.ys)
    if status is not Status.non_finite:
        assert np.all(np.isfinite(ys))
    if case.startswith("max_steps"):
        expected = np.exp(-float(solution.t_final)) * np.asarray([[1.0, 0.5]])
        np.testing.assert_allclose(ys, expected, rtol=1e-6)
        assert int(solution.stats["num_steps"]) == keywords["max_steps"]


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_nan_never_a_number(backend, case):
    problem, keywords, status, *_ = arguments(backend, case)
    g = backend.gradient(*problem, **keywords, throw=False)
    assert np.all(np.isnan(g.y0))
    if backend.eager:
        assert rg.solve(*problem, **keywords, throw=False).status is status


def test_traced_solves_report_a_status(backend):
    problem, keywords, status, *_ = arguments(backend, "max_steps, constant")
    run = backend.compiled(
        lambda y0: rg.solve(problem[0], y0, *problem[2:], **keywords, throw=False).status
    )
    assert int(run(problem[1])) == status


def test_parameters_of_a_failed_solve_get_nan(backend):
    y0, rate = backend.array([1.0]), backend.array([0.5])
    keywords = {"dt": 0.1, "max_steps": 3, "throw": False}
    g = backend.gradient(lambda t, y, k: -k * y, y0, 0.0, 1.0, rate, times=True, **keywords)
    for x in (g.y0, g.args, g.t0, g.t1):
        assert np.all(np.isnan(x))


def test_partial_rows_are_marked(reference):
    """Saved times that were not reached hold inf."""
    saveat = rg.SaveAt(ts=[0.2, 0.35, 1.5])
    f, y0 = decay, np.asarray([1.0])
    sol = rg.solve(f, y0, 0.0, 2.0, dt=0.01, max_steps=40, saveat=saveat, throw=False)
    assert sol.status is Status.max_steps
    np.testing.assert_allclose(sol.ys[:2, 0], np.exp([-0.2, -0.35]), rtol=1e-8)
    assert np.all(np.isinf(sol.ys[2:]))


def test_tries_within_max_steps_are_enough(backend):
    """One less fails, and the number needed does not."""
    y0 = backend.array([1.0])
    n = int(rg.solve(decay, y0, 0.0, 1.0).stats["num_steps"])
    assert rg.solve(decay, y0, 0.0, 1.0, max_steps=n).status is Status.converged
    with pytest.raises(rg.SolveFailed, match=r"reached `max_steps`; raise it"):
        rg.solve(decay, y0, 0.0, 1.0, max_steps=n - 1)
