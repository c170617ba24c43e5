"""Mass matrices: differential-algebraic systems of index 1, their starts and gradients."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

RATES = [0.04, 3e7, 1e4]
ROBERTSON = np.diag([1.0, 1.0, 0.0])
LOOP = [[2.0, -2.0], [-2.0, 2.0]]


def robertson(backend):
    """The third equation is that of the sum."""

    def f(t, y, k):
        a, b, c = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
        return backend.namespace(y).stack([c - a, a - b - c, y[0] + y[1] + y[2] - 1.0])

    return f, backend.array([1.0, 0.0, 0.0])


def circuit(backend):
    """A capacitor of 2 between two nodes, each behind a resistor of k: M is singular, not
    diagonal."""

    def f(t, v, k):
        return backend.namespace(v).stack([(1.0 - v[0]) / k, -v[1] / k])

    return f, backend.array([0.5, 0.5])


STIFF = {"solver": "rodas5p", "rtol": 1e-7, "atol": 1e-13, "max_steps": 400}


@pytest.mark.libraries("numpy torch jax:jit", slow="strict")
def test_robertson(backend):
    """Its end by Radau at 1e-11, and its gradient by that of the ordinary system's rates."""
    f, y0 = robertson(backend)
    weights = np.asarray([[1.0, 0.0, 0.0]])
    g = backend.gradient(
        f, y0, 0.0, 1e5, backend.array(RATES), weights, mass=ROBERTSON,
        adjoint=rg.RecursiveCheckpointAdjoint(8), **STIFF,
    )  # fmt: skip
    end = [0.0178659211421158, 7.274751468442964e-08, 0.9821340061103861]
    np.testing.assert_allclose(backend.to_numpy(g.ys)[0], end, rtol=1e-6)
    # central differences of solves at 1e-10
    np.testing.assert_allclose(g.args, [-0.79304714, -5.2818034e-10, 3.1690758e-06], rtol=1e-6)


@pytest.mark.libraries("numpy torch")
def test_a_circuit(backend):
    """v = (1 +- (1 - exp(-t / 4 k))) / 2, and its derivative by k."""
    f, v0 = circuit(backend)
    k, t = 1.5, 3.0
    g = backend.gradient(
        f, v0, 0.0, t, backend.array(k), np.asarray([[1.0, 0.0]]), mass=LOOP, solver="rodas5p",
        rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    left = np.exp(-t / (4 * k))
    np.testing.assert_allclose(backend.to_numpy(g.ys)[0], [1 - left / 2, left / 2], rtol=1e-7)
    np.testing.assert_allclose(g.args, -left * t / (8 * k**2), rtol=1e-6)


def test_a_regular_matrix_is_divided_by(reference):
    f = lambda t, y, k: np.stack([-y[0], -3.0 * y[1]])  # noqa: E731
    matrix, y0 = np.asarray([[2.0, 1.0], [0.0, 4.0]]), np.ones(2)
    ys = rg.solve(f, y0, 0.0, 1.0, mass=matrix, **STIFF).ys
    divided = lambda t, y, k: np.linalg.solve(matrix, f(t, y, k))  # noqa: E731
    np.testing.assert_allclose(ys, rg.solve(divided, y0, 0.0, 1.0, rtol=1e-9, atol=1e-12).ys,
                               rtol=1e-6)  # fmt: skip


def test_starts(reference):
    f, _ = robertson(reference)
    off, k = np.asarray([0.9, 0.0, 0.3]), np.asarray(RATES)
    with pytest.raises(rg.InputError, match=r"`y0` does not satisfy .* tolerances away"):
        rg.solve(f, off, 0.0, 1.0, k, mass=ROBERTSON, **STIFF)
    found = rg.consistent_initial_values(f, off, 0.0, k, mass=ROBERTSON)
    np.testing.assert_allclose(found, [0.9, 0.0, 0.1], atol=1e-12)
    rg.solve(f, found, 0.0, 1.0, k, mass=ROBERTSON, **STIFF)

    def index_two(t, y, k):
        return np.stack([y[1], y[0] - 1.0])

    with pytest.raises(rg.InputError, match="index is above 1"):
        rg.solve(index_two, np.ones(2), 0.0, 1.0, mass=np.diag([1.0, 0.0]), **STIFF)


@pytest.mark.needs(Capability.TRACED)
def test_an_inconsistent_start_is_nan_in_traced_code(reference):
    import jax
    import jax.numpy as jnp

    def end(y0):
        f = lambda t, y, k: jnp.stack([-y[0], y[0] - y[1]])  # noqa: E731
        settings = {"mass": np.diag([1.0, 0.0]), "solver": "rosenbrock23", "max_steps": 50}
        return rg.solve(f, y0, 0.0, 0.5, **settings).ys[-1]

    good, bad = jax.jit(jax.vmap(end))(jnp.asarray([[1.0, 1.0], [1.0, 2.0]]))
    np.testing.assert_allclose(good, np.exp(-0.5), rtol=1e-3)
    assert np.isnan(bad).all()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"solver": "tsit5"}, r"`mass` needs a Rosenbrock method, but `solver` is tsit5"),
        ({"solver": "auto"}, r"`mass` needs a Rosenbrock method, but `solver` is auto"),
        ({"mass": np.eye(2)}, r"`mass` has shape \(2, 2\), but the state has 3"),
        ({"mass": np.eye(3) * np.nan}, "`mass` holds nan"),
        ({"per_sample": True}, "`mass` and `per_sample`"),
    ],
)
def test_what_can_not_be(reference, keywords, message):
    f, y0 = robertson(reference)
    settings = {"mass": ROBERTSON, **STIFF, **keywords}
    with pytest.raises(rg.InputError, match=message):
        rg.solve(f, y0, 0.0, 1.0, np.asarray(RATES), **settings)


def test_entries_outside_of_the_structure_are_told(reference):
    """A matrix that is kept as a band would lose them."""
    field = rg.VectorField(lambda t, y, args: -y, structure=rg.Banded(0, 0))
    mass = np.eye(3) + 0.1 * np.eye(3, k=1)
    keywords = {"solver": "rodas5p", "mass": mass}
    with pytest.raises(rg.InputError, match="`mass` has entries outside"):
        rg.solve(field, np.ones(3), 0.0, 1.0, **keywords)
    assert rg.solve(field, np.ones(3), 0.0, 1.0, **{**keywords, "mass": np.eye(3)}).status == 0


def test_a_start_is_found_whatever_the_structure(reference):
    """The band of a Jacobian is no square matrix."""
    f = lambda t, y, args: np.stack([-y[0], y[0] * y[1] - 1.0, -y[2]])  # noqa: E731
    mass = np.diag([1.0, 0.0, 1.0])
    field = rg.VectorField(f, structure=rg.Banded(1, 0))
    found = rg.consistent_initial_values(field, np.array([2.0, 3.0, 1.0]), 0.0, mass=mass)
    np.testing.assert_allclose(found, [2.0, 0.5, 1.0])
