"""The product with second derivatives of f, by every library's route, against differences of J."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde._autodiff.field_vjp import field_pullback
from retrograde._autodiff.prepare_derivatives import prepare_derivatives
from retrograde._base.types import NeedsGradient
from retrograde._integrate.problem import Problem

A = np.random.default_rng(0).normal(size=(3, 3))
Y = np.random.default_rng(1).normal(size=3) + 2
T = 0.3


def field(xp, t, y, a):
    """What depends on all its arguments."""
    return xp.matmul(a, xp.sin(y)) * xp.cos(t * y)


def expected(ks, lams, taus):
    """Cotangents by t, y and a: central differences of ``sum lam . Df [tau, k]``."""

    def phi(t, y, a, e=1e-30):
        found = [field(np, t + 1j * e * tau, y + 1j * e * k, a).imag / e for k, tau in along]
        return np.sum(np.stack(found) * lams)

    along, h = list(zip(ks, taus, strict=True)), 1e-5
    by_t = (phi(T + h, Y, A) - phi(T - h, Y, A)) / (2 * h)
    by_y = [(phi(T, Y + h * d, A) - phi(T, Y - h * d, A)) / (2 * h) for d in np.eye(3)]
    units = np.eye(9).reshape(9, 3, 3)
    by_a = [(phi(T, Y, A + h * d) - phi(T, Y, A - h * d)) / (2 * h) for d in units]
    return by_t, np.array(by_y), np.array(by_a).reshape(3, 3)


def second(backend, f, ks, lams, taus):
    """The same by ``FieldVJP.second``, and the problem, which tells the way that was taken."""
    bk = backend.bk
    problem = Problem(bk, f, backend.array(Y), backend.array(A))
    bk.capture(problem, T)
    prepare_derivatives(problem, T, timed=True)
    layout, wanted = problem.layout, NeedsGradient((True,), True, False, False)

    def run(y, a, k, lam, tau):
        vjp = field_pullback(problem, (a, *problem.params[1:]), wanted)
        state = lambda rows: [layout.pack((rows[i, ...],)) for i in range(len(ks))]  # noqa: E731
        given = taus if backend.eager else [tau[i] for i in range(len(ks))]
        point = layout.time(T), layout.pack((y,))
        mu, ct, acc = vjp.second(*point, state(k), state(lam), vjp.zero(), given)
        return ct, layout.unpack(layout.pack(mu))[0], vjp.finish(acc)[0]

    with bk.quiet():
        found = backend.compiled(run)(*map(backend.array, (Y, A, ks, lams, np.array(taus))))
    return [backend.to_numpy(x) for x in found], problem


@pytest.mark.libraries("numpy strict torch jax:jit", slow="jax")
def test_second(backend):
    """By y, t and parameters: exact where f is analytic or the library differentiates, as the
    derivatives tell; more directions than unknowns, and fewer."""

    def plain(t, y, a):
        return field(backend.namespace(y), t, y, a)

    def kinked(t, y, a):
        xp = backend.namespace(y)
        return field(xp, t, xp.abs(y), a)

    def vjp(t, y, a, ct):
        xp = backend.xp
        c, x = xp.cos(t * y) * ct, -xp.matmul(a, xp.sin(y)) * xp.sin(t * y) * ct
        ct_y = x * t + xp.cos(y) * xp.matmul(a.T, c)
        return xp.sum(x * y), ct_y, c[:, None] * xp.sin(y)[None, :]

    for s in (2, 8):
        rng = np.random.default_rng(s)
        terms = rng.normal(size=(s, 3)), rng.normal(size=(s, 3)), rng.normal(size=s).tolist()
        exact = expected(*terms)
        fields = {"plain": plain, "kinked": kinked, "own": rg.VectorField(plain, vjp=vjp)}
        for name, f in fields.items():
            if s == 2 and name == "kinked":
                continue
            found, problem = second(backend, f, *terms)
            for a, b in zip(found, exact, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
            differences = name == "kinked" and backend.bk.name in ("numpy", "array_api_strict")
            differences |= name == "own" and backend.bk.name == "torch"
            assert problem.derivatives.accuracy == ("1e-9" if differences else "exact")


def test_a_vjp_may_return_real_zeros(reference):
    """Of a parameter that f does not look at, at complex arguments too."""
    rng = np.random.default_rng(8)
    terms = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), [0.0, 0.0]
    own = rg.VectorField(
        lambda t, y, a: y * y,
        vjp=lambda t, y, a, ct: (0.0, 2 * y * ct, reference.array(np.zeros((3, 3)))),
    )
    found, problem = second(reference, own, *terms)
    assert problem.derivatives.accuracy == "exact"
    np.testing.assert_allclose(found[1], 2 * np.sum(terms[0] * terms[1], 0), rtol=1e-13)


def test_a_vjp_that_drops_imaginary_parts_is_seen(reference):
    """A user's vjp by floats: differences take its place, and say so."""

    def f(t, y, a):
        return field(reference.namespace(y), t, y, a)

    def vjp(t, y, a, ct):
        t, y, a, ct = (np.real(x) for x in (t, y, a, ct))
        c, x = np.cos(t * y) * ct, -(a @ np.sin(y)) * np.sin(t * y) * ct
        return np.sum(x * y), x * t + np.cos(y) * (a.T @ c), np.outer(c, np.sin(y))

    rng = np.random.default_rng(7)
    terms = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), [0.0, 0.5]
    found, problem = second(reference, rg.VectorField(f, vjp=vjp), *terms)
    by = problem.derivatives
    assert (by.second, by.accuracy) == ("differences", "1e-9")
    for a, b in zip(found, expected(*terms), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
