"""Interpolants of data: values against SciPy's, and gradients by the data and by time."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import retrograde as rg
from retrograde import interpolate

FORMS = {
    "linear": interpolate.linear,
    "pchip": interpolate.pchip,
    "not-a-knot": interpolate.cubic,
    "natural": partial(interpolate.cubic, ends="natural"),
}
TS = np.asarray([0.0, 0.3, 0.55, 1.0, 1.2, 1.9, 2.0])
XS = np.asarray([0.4, 0.9, 0.7, 0.62, -0.3, -0.2, 1.0])


@pytest.mark.parametrize("count", [2, 3, 4, 9, 40])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_derivatives_are_scipys(form, count):
    scipy = pytest.importorskip("scipy.interpolate")
    peers = {
        "linear": partial(scipy.make_interp_spline, k=1),
        "pchip": scipy.PchipInterpolator,
        "not-a-knot": scipy.CubicSpline,
        "natural": partial(scipy.CubicSpline, bc_type="natural"),
    }
    draw = np.random.RandomState(count)
    ts, xs = np.cumsum(draw.rand(count) + 0.1), draw.randn(count, 3)
    t = np.linspace(ts[0] + 1e-3, ts[-1] - 1e-3, 97)
    own, peer = FORMS[form](ts, xs), peers[form](ts, xs)
    np.testing.assert_allclose(own(t), peer(t), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(own.derivative(t), peer(t, 1), rtol=1e-12, atol=1e-11)


@pytest.mark.libraries("numpy strict torch jax:jit")
def test_a_tree_at_one_time_and_at_many(backend):
    @backend.compiled
    def run(xs):
        found = []
        for form in FORMS.values():
            u = form(backend.array(TS), {"a": xs, "b": xs * 2.0}, outside="hold")
            found += [u(0.7)["b"], u([0.7, 5.0])["a"], u(backend.array(0.7))["a"]]
        return found

    xs = np.stack([XS, XS**2], axis=1)
    found = backend.to_numpy(run(backend.array(xs)))
    for k, form in enumerate(FORMS.values()):
        one, many, same = found[3 * k : 3 * k + 3]
        at = form(TS, xs)(0.7)
        np.testing.assert_allclose(one, 2 * at, rtol=1e-13)
        np.testing.assert_allclose(many, [at, xs[-1]], rtol=1e-13)
        np.testing.assert_allclose(same, at, rtol=1e-13)


def driven(form, xp):
    """f with data in args: the interpolant is made in f, so that gradients are by the data."""
    return lambda t, y, xs: form(TS, xs)(t) - y * y * xp.cos(t)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_by_the_data(form):
    """By retrograde's tape; against central differences of the same solve, and by t0, t1."""
    f, y0 = driven(FORMS[form], np), np.asarray(0.5)
    times = np.linspace(0.01, 1.99, 34)

    def solve(xs, t0=0.01):
        steps = rg.StepTo([t0, *times[1:]])
        return rg.solve_vjp(f, y0, t0, 1.99, xs, controller=steps, solver="rk4")

    g = solve(XS)[1](np.ones(1))
    for i, eps in enumerate(1e-5 * np.eye(len(XS))):
        slope = (solve(XS + eps)[0].ys - solve(XS - eps)[0].ys)[0] / 2e-5
        assert abs(slope - g.args[i]) < 1e-9
    ends = [solve(XS, 0.01 + s)[0].ys[0] for s in (1e-5, -1e-5)]
    assert abs((ends[0] - ends[1]) / 2e-5 - g.t0) < 1e-8


@pytest.mark.libraries("torch jax:jit", slow="jax")
def test_libraries_give_the_same_gradient_by_the_data(backend):
    """The interpolant made outside of the solve, and handed to f in args."""
    xp, steps = backend.namespace(backend.array(XS)), {"solver": "heun", "dt": 0.0625}

    def loss(xs):
        us = [form(backend.array(TS), xs) for form in FORMS.values()]
        f = lambda t, y, us: xp.stack([u(t) for u in us]) - y * y * xp.cos(t)  # noqa: E731
        return rg.solve(f, backend.array([0.5] * 4), 0.0, 2.0, us, **steps).ys.sum()

    expected = 0.0
    for form in FORMS.values():
        f = driven(form, np)
        expected = expected + rg.solve_vjp(f, 0.5, 0.0, 2.0, XS, **steps)[1](np.ones(1)).args
    if backend.bk.name == "jax":
        import jax

        found = backend.compiled(jax.grad(loss))(jax.numpy.asarray(XS))
    else:
        import torch

        x = torch.asarray(XS, requires_grad=True)
        (found,) = torch.autograd.grad(loss(x), x)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-10, atol=1e-12)


def test_kinks_are_stepped_on():
    """A table that a solver of order 5 does not resolve costs it no accuracy between the kinks."""
    u = interpolate.linear(TS, XS)
    exact = np.trapezoid(XS, TS)
    f = lambda t, y, args: u(t)  # noqa: E731
    assert u.kinks == tuple(TS[1:-1])
    steps = rg.PIDController(rtol=1e-3, atol=1e-3, jump_ts=u.kinks)
    sol = rg.solve(f, np.asarray(0.0), 0.0, 2.0, controller=steps)
    assert abs(sol.ys[0] - exact) < 1e-14
    assert abs(rg.solve(f, np.asarray(0.0), 0.0, 2.0, rtol=1e-3, atol=1e-3).ys[0] - exact) > 1e-6


def test_outside_and_what_is_wrong():
    u = interpolate.cubic(TS, XS)
    assert np.isnan(u([-0.1, 2.1])).all()
    assert np.isnan(u.derivative(2.1))
    assert u(2.0) == XS[-1]
    far = interpolate.linear([0.0, 1.0], [0.0, 2.0], outside="extrapolate")
    assert float(far(3.0)) == 6.0
    wrong = [
        (([1.0, 0.0], [0.0, 1.0]), {}, "does not rise"),
        (([0.0], [0.0]), {}, "at least two"),
        (([0.0, 1.0], np.ones(3)), {}, "its first axis"),
        (([0.0, 1.0], [0.0, 1.0]), {"outside": "zero"}, "`outside`"),
    ]
    for args, keywords, match in wrong:
        with pytest.raises(rg.InputError, match=match):
            interpolate.linear(*args, **keywords)
    with pytest.raises(rg.InputError, match="`ends`"):
        interpolate.cubic(TS, XS, ends="clamped")
    with pytest.raises(rg.InputError, match="complex"):
        interpolate.pchip(TS, XS + 1j)
