"""Gradients of classical stiff problems: those of the problems, and one on all libraries.

Libraries round differently, and where the estimate of a step's error has decayed to rounding, so do
the sizes of steps: by up to a third (Robertson as a differential-algebraic system). So what is held
to 1e-9 is the gradient of the same steps. Of two problems the last digit of y0 already moves it by
more: Robertson to 1e11, where f is a difference that rounding dominates (Hairer & Wanner, *Solving
ODEs II*, IV.10), and van der Pol past a jump, where dy/dy0 has grown by mu**2.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

import retrograde as rg

from ..solvers.test_dae import CAPACITORS, amplifier
from ..solvers.test_mass import RATES, ROBERTSON
from ..solvers.test_mass import robertson as robertson_dae
from ..stiff_cases import CASES, SLOPES, call, keywords


def problem(backend, name):
    """The call, its weights, and what else it takes."""
    if name in CASES:
        case = CASES[name]
        return call(backend, case), np.arange(1.0, len(case.y0) + 1), keywords(case, 1e-5)
    more = {"solver": "rodas5p", "rtol": 1e-5}
    if name == "robertson, algebraic":
        f, y0 = robertson_dae(backend)
        more |= {"atol": 1e-11, "mass": ROBERTSON}
        return (f, y0, 0.0, 1e5, backend.array(RATES)), np.asarray([1.0, 2e3, 3.0]), more
    f, y0, mass = amplifier(backend)
    args = backend.array(CAPACITORS), backend.array(0.99)
    return (f, y0, 0.0, 0.004, args), np.arange(8.0), {**more, "atol": 1e-5, "mass": mass}


def flat(g):
    """All of a gradient, and the end."""
    args = g.args if isinstance(g.args, tuple) else (g.args,)
    return np.concatenate([np.ravel(x) for x in (g.y0, *args, g.ys)])


def gradient(backend, name, times, nudge=0.0):
    """That of given steps, from a y0 that is nudged by a part of itself."""
    (f, y0, t0, _, args), weights, more = problem(backend, name)
    del more["rtol"], more["atol"]
    given = f, y0 * (1.0 + nudge), t0, times[-1], args
    return flat(backend.gradient(*given, weights[None], controller=rg.StepTo(times), **more))


@functools.cache
def known(reference, name):
    """The times of NumPy's steps, its gradient, and what the last digits of y0 make in it, where
    that is much."""
    given, _, more = problem(reference, name)
    times = [0.0, *rg.solve(*given, saveat=rg.SaveAt(steps=True), **more).ts.tolist()]
    found, last = gradient(reference, name, times), (2.3e-16, -2.3e-16, 4.6e-16)
    nudges = last if name in ROUNDED else ()
    moved = [gradient(reference, name, times, e) - found for e in nudges]
    return times, found, np.max(np.abs([0.0 * found, *moved]), axis=0)


NAMES = ["robertson", "robertson, long", "van der pol", "oregonator", "hires",
         "robertson, algebraic", "amplifier"]  # fmt: skip
ROUNDED = ("robertson, long", "van der pol")


@pytest.mark.filterwarnings("ignore:overflow")  # of tries that are rejected
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.settings(
    name=NAMES,
    few={"numpy": [], "strict": [], "jax": [], "jax:jit": ["van der pol"],
         "torch": ["robertson, algebraic", "amplifier"]},
    slow={"jax:jit": NAMES},
)  # fmt: skip
def test_gradients_of_the_same_steps_are_equal(backend, reference, name):
    """To 1e-9, by all initial values and constants; of two, to ten times what the last digit of y0
    makes."""
    times, expected, rounding = known(reference, name)
    difference = np.abs(gradient(backend, name, times) - expected)
    assert np.all(difference <= np.maximum(1e-9 * np.abs(expected), 10.0 * rounding))


@pytest.mark.libraries("numpy", slow="torch")
@pytest.mark.parametrize(
    ("name", "rtol"),
    [
        ("robertson", 1e-7),
        ("hires", 1e-6),
        pytest.param("oregonator", 1e-7, marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_close_differences(backend, name, rtol):
    """To 1e-5, by all initial values and constants."""
    case, slopes = CASES[name], SLOPES[name]
    g = backend.gradient(*call(backend, case), np.asarray([slopes.weights]), **keywords(case, rtol))
    np.testing.assert_allclose(g.y0, slopes.y0, rtol=1e-5)
    np.testing.assert_allclose(g.args, slopes.args, rtol=1e-5)


@pytest.mark.slow
def test_the_gradient_past_jumps_at_a_tight_tolerance(reference):
    """Steps do not move with a jump, and van der Pol's is 1e-6 of the whole: what a step errs there
    is multiplied by as much. Values are right to 1e-7 where the gradient is to a tenth."""
    case, slopes = CASES["van der pol"], SLOPES["van der pol"]
    weights, given = np.asarray([slopes.weights]), call(reference, case)
    for rtol, bound in ((1e-7, 0.2), (1e-12, 1e-5)):
        g = reference.gradient(*given, weights, **keywords(case, rtol))
        np.testing.assert_allclose(g.ys[0], case.end, rtol=1e-6)
        np.testing.assert_allclose(g.y0, slopes.y0, rtol=bound)
        np.testing.assert_allclose(g.args, slopes.args, rtol=bound)


def test_the_slow_end_of_robertsons_problem(reference):
    """There y_0 = (S k_2)**2 / (k_0**2 k_1 t) but for 3e-6 of it, S the sum of y0."""
    case = CASES["robertson, long"]
    weights = np.asarray([[1.0, 0.0, 0.0]])
    g = reference.gradient(*call(reference, case), weights, **keywords(case, 1e-7))
    k = np.asarray(case.args)
    end = k[2] ** 2 / (k[0] ** 2 * k[1] * case.t1)
    np.testing.assert_allclose(g.y0, [2 * end] * 3, rtol=1e-5)
    np.testing.assert_allclose(g.args, np.asarray([-2.0, -1.0, 2.0]) * end / k, rtol=1e-5)


def test_van_der_pol_before_its_first_jump(reference):
    """log(x) - x**2 / 2 = t / mu + constant on the slow manifold, which a speed v is drawn to
    within v / (mu (x**2 - 1)); but for mu**-2."""
    case, t1, mu = CASES["van der pol"], 500.0, 1000.0
    f, y0, t0, _, args = call(reference, case)
    g = reference.gradient(f, y0, t0, t1, args, np.asarray([[1.0, 0.0]]), **keywords(case, 1e-7))
    x, constant = g.ys[0, 0], np.log(2.0) - 2.0 + t1 / mu
    assert abs(np.log(x) - x**2 / 2 - constant) < 1e-5
    slope = (1 / 2.0 - 2.0) / (1 / x - x)
    np.testing.assert_allclose(g.y0, [slope, slope / (mu * 3.0)], rtol=1e-5)
    np.testing.assert_allclose(g.args, -t1 / mu**2 / (1 / x - x), rtol=1e-5)
