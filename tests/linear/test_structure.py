"""Bands and patterns: entries from few products, and solves of their own, against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend.structure import products

from .test_dense import prepared


def banded(rng, n, lower, upper):
    """A random matrix with a band, whose W is well conditioned."""
    return np.triu(np.tril(rng.normal(size=(n, n)), upper), -lower)


@pytest.mark.settings(
    case=[(7, 1, 1), (12, 2, 1), (9, 0, 2), (50, 2, 2), (5, 4, 4), (3, 0, 0)],
    few={"jax:jit": [(12, 2, 1)]},
)
def test_bands(backend, case):
    """J from as many products as there are diagonals; solves, products and transposes."""
    n, lower, upper = case
    rng = np.random.default_rng(n)
    a, y = banded(rng, n, lower, upper), rng.normal(size=n)

    def f(t, y, a):
        return backend.namespace(y).matmul(a, y * y)

    problem = prepared(backend, f, backend.array(y), backend.array(a))
    bk, layout = backend.bk, problem.layout
    linear = bk.linear(layout, rg.Banded(lower, upper))
    mass = np.diag(rng.normal(size=n) + 3)

    def run(y):
        state = layout.pack((y,))
        field = problem.bind(problem.params)
        matrix = linear.jacobian(field, layout.time(0.3), state)
        c = bk.clock(layout).real(12.0)
        factors = linear.factor(linear.shifted(matrix, c, linear.mass(mass)))
        plain = linear.factor(linear.shifted(matrix, c))
        parts = linear.solve(factors, state), linear.solve_transposed(factors, state)
        parts += linear.product(matrix, state), linear.product_transposed(matrix, state)
        parts += (linear.solve(plain, state),)
        broken = linear.factor(linear.shifted((0.0 * matrix[0],), 0.0 * c))
        rows = [layout.unpack(x)[0] for x in parts]
        return rows, linear.ok(factors), linear.ok(broken)

    with bk.quiet():
        rows, ok, broken = backend.compiled(run)(backend.array(y))
    j = a * (2 * y)
    w = 12.0 * mass - j
    exact = np.linalg.solve(w, y), np.linalg.solve(w.T, y), j @ y, j.T @ y
    exact += (np.linalg.solve(12.0 * np.eye(n) - j, y),)
    for found, expected in zip(rows, exact, strict=True):
        backend.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert bool(ok)
    assert not bool(broken)


@pytest.mark.libraries("numpy strict torch jax:jit")
def test_patterns(backend):
    """A ring, as a dense matrix from three or four products; a narrow pattern is a band."""
    n, rng = 10, np.random.default_rng(2)
    ring = sum(np.roll(np.eye(n), k, axis=1) for k in (-1, 0, 1))
    a, y = rng.normal(size=(n, n)) * ring, rng.normal(size=n)

    def f(t, y, a):
        return backend.namespace(y).matmul(a, y * y)

    problem = prepared(backend, f, backend.array(y), backend.array(a))
    layout = problem.layout
    linear = backend.bk.linear(layout, rg.Coloured(ring))
    assert linear.seeds.shape[0] <= 5

    def run(y):
        field = problem.bind(problem.params)
        return linear.jacobian(field, layout.time(0.3), layout.pack((y,)))[0]

    backend.assert_close(backend.compiled(run)(backend.array(y)), a * (2 * y), rtol=1e-12)


def test_patterns_are_told_in_many_ways():
    """Arrays, lists, indices and sparse matrices; equal ones are equal; few colours."""
    scipy = pytest.importorskip("scipy.sparse")
    dense = np.eye(60) + np.eye(60, k=2) + np.eye(60, k=-1)
    rows, columns = np.nonzero(dense)
    forms = [dense, dense.tolist(), (rows, columns), (rows.tolist(), columns.tolist())]
    forms += [scipy.csr_array(dense), dense != 0]
    found = {rg.Coloured(form) for form in forms}
    assert len(found) == 1
    by = products(found.pop(), 60, pairs=False)
    assert max(by.columns_by) == max(by.rows_by) == 3 or max(by.columns_by) <= 4
    for j in range(60):  # columns of one colour share no row
        same = [k for k in range(60) if by.columns_by[k] == by.columns_by[j]]
        assert (np.sum(dense[:, same] != 0, axis=1) <= 1).all()
    with pytest.raises(rg.InputError, match="lower"):
        rg.Banded(-1, 2)
    with pytest.raises(rg.InputError, match="pattern"):
        rg.Coloured(np.zeros((2, 2)))


@pytest.mark.libraries("numpy torch")
def test_bands_of_complex_unknowns(backend):
    """Over pairs of reals the band is twice as wide."""
    rng = np.random.default_rng(8)
    a = banded(rng, 6, 1, 1) + 1j * banded(rng, 6, 1, 1)
    y = rng.normal(size=6) + 1j * rng.normal(size=6)

    def f(t, y, a):
        xp = backend.namespace(y)
        return xp.matmul(a, xp.conj(y) * y)

    array = lambda x: backend.array(x, "complex128")  # noqa: E731
    problem = prepared(backend, f, array(y), array(a))
    layout = problem.layout
    linear = backend.bk.linear(layout, rg.Banded(1, 1))
    matrix = linear.jacobian(problem.bind(problem.params), layout.time(0.3), problem.y0)
    d = rng.normal(size=6) + 1j * rng.normal(size=6)
    found = layout.unpack(linear.product(matrix, layout.pack((array(d),))))[0]
    backend.assert_close(found, a @ (d.conj() * y + y.conj() * d), rtol=1e-10)
    factors = linear.factor(linear.shifted(matrix, 30.0))
    x = linear.solve(factors, layout.pack((array(d),)))
    rest = layout.weighted(((30.0, x), (-1.0, linear.product(matrix, x))))
    backend.assert_close(layout.unpack(rest)[0], d, rtol=1e-10)
