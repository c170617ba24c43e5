"""Jacobians by every route, and linear systems in them, against closed forms and NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde._autodiff.prepare_derivatives import prepare_derivatives
from retrograde._integrate.problem import Problem

A = np.random.default_rng(3).normal(size=(4, 4))
Y = np.random.default_rng(4).normal(size=4)


def prepared(backend, f, y0, args, *, t0=0.3, timed=True):
    """The problem of a field, ready to be linearised."""
    problem = Problem(backend.bk, f, y0, args)
    backend.bk.capture(problem, t0)
    prepare_derivatives(problem, t0, timed=timed)
    return problem


def quadratic(backend):
    """``A (y * y) + sin(t) y`` of a vector, and its Jacobian by hand."""

    def f(t, y, a):
        xp = backend.namespace(y)
        return xp.matmul(a, y * y) + backend.namespace(t).sin(t) * y

    return f, 2 * A * Y + np.sin(0.3) * np.eye(4)


def test_dense(backend):
    """J, df/dt, solves and their transposes are NumPy's; a singular matrix says so."""
    f, expected = quadratic(backend)
    problem = prepared(backend, f, backend.array(Y), backend.array(A))
    bk, layout = backend.bk, problem.layout
    linear = bk.linear(layout)

    def run(y):
        state, t = layout.pack((y,)), layout.time(0.3)
        matrix, slope = linear.derivatives(problem.bind(problem.params), t, state)
        c = bk.clock(layout).real(7.0)
        shifted = linear.shifted(matrix, c, linear.mass(np.diag([1.0, 2.0, 0.0, 1.0])))
        factors = linear.factor(shifted)
        parts = linear.solve(factors, state), linear.solve_transposed(factors, state)
        parts = (slope, *parts, linear.product(matrix, state))
        singular = linear.factor((0.0 * shifted[0],))
        rows = [layout.unpack(x)[0] for x in parts]
        return matrix[0], rows, linear.ok(factors), linear.ok(singular)

    with bk.quiet():
        matrix, rows, fine, broken = backend.compiled(run)(backend.array(Y))
    w = 7.0 * np.diag([1.0, 2.0, 0.0, 1.0]) - expected
    backend.assert_close(matrix, expected, rtol=1e-13)
    backend.assert_close(rows[0], np.cos(0.3) * Y)
    backend.assert_close(rows[1], np.linalg.solve(w, Y), rtol=1e-11)
    backend.assert_close(rows[2], np.linalg.solve(w.T, Y), rtol=1e-11)
    backend.assert_close(rows[3], expected @ Y)
    assert bool(fine)
    assert not bool(broken)


@pytest.mark.settings(n=[1, 2, 3, 8, 40], few={"jax:jit": [3, 40]})
def test_solves_of_every_size(backend, n):
    """Each form of a factorisation, of one matrix and of a batch, where a pivot is 0 at first."""
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(2, n, n)), rng.normal(size=(2, n))
    a[0, 0, 0] = 0.0 if n > 1 else 1.0
    for structure, y in (("dense", b[0]), ("batch", b)):
        layout = backend.bk.layout([backend.array(y)])
        linear = backend.bk.linear(layout, structure)
        matrix = a if structure == "batch" else a[0]

        def run(matrix, y, linear=linear, layout=layout):
            factors, state = linear.factor((matrix,)), layout.pack((y,))
            found = linear.solve(factors, state), linear.solve_transposed(factors, state)
            return [layout.unpack(x)[0] for x in found], linear.ok(factors)

        found, ok = backend.compiled(run)(backend.array(matrix), backend.array(y))
        assert bool(ok)
        tall = y[..., None]
        backend.assert_close(found[0], np.linalg.solve(matrix, tall)[..., 0], 1e-9)
        backend.assert_close(found[1], np.linalg.solve(matrix.mT, tall)[..., 0], 1e-9)


@pytest.mark.libraries("numpy strict torch jax:jit")
def test_one_singular_sample_spoils_no_other(backend):
    """Of a batch, the others are solved; the whole is not ok, and nothing raises."""
    a = np.stack([np.eye(2), np.zeros((2, 2)), 2 * np.eye(2)])
    layout = backend.bk.layout([backend.array(np.ones((3, 2)))])
    linear = backend.bk.linear(layout, "batch")
    with backend.bk.quiet():
        factors = linear.factor((backend.array(a),))
        assert not bool(linear.ok(factors))
        x = backend.to_numpy(layout.unpack(linear.solve(factors, layout.pack(
            (backend.array(np.ones((3, 2))),)
        )))[0])  # fmt: skip
    np.testing.assert_allclose(x[[0, 2]], [[1.0, 1.0], [0.5, 0.5]])


@pytest.mark.libraries("numpy strict torch jax:jit")
def test_complex_trees_and_batches(backend):
    """Pairs of reals where f is not holomorphic, leaves of a tree in a row, blocks of a batch."""

    def f(t, y, a):
        xp = backend.namespace(y["z"])
        return {"z": xp.conj(y["z"]) * y["w"], "w": xp.matmul(y["w"], a) * y["z"]}

    rng = np.random.default_rng(5)
    z, w = (rng.normal(size=(3, 2)) + 1j * rng.normal(size=(3, 2)) for _ in range(2))
    a = rng.normal(size=(2, 2)) + 0j
    y0 = {name: backend.array(x, "complex128") for name, x in (("z", z), ("w", w))}
    problem = prepared(backend, f, y0, backend.array(a, "complex128"))
    bk, layout = backend.bk, problem.layout
    field, t = problem.bind(problem.params), layout.time(0.3)
    dw, dz = rng.normal(size=(3, 2)) * 1j, rng.normal(size=(3, 2)) + 0j
    order = sorted(y0)  # as trees of every library have them
    pack = lambda z, w: layout.pack(  # noqa: E731
        [backend.array({"z": z, "w": w}[name], "complex128") for name in order]
    )
    d = pack(dz, dw)
    exact = {"z": dz.conj() * w + z.conj() * dw, "w": (dw @ a) * z + (w @ a) * dz}

    def run(y, d, structure):
        linear = bk.linear(layout, structure)
        matrix = linear.jacobian(field, t, y)
        factors = linear.factor(linear.shifted(matrix, bk.clock(layout).real(9.0)))
        x, back = linear.solve(factors, d), linear.solve_transposed(factors, y)
        found = layout.unpack(linear.product(matrix, d))
        return found, layout.inner(back, d), layout.inner(y, x)

    both = backend.compiled(lambda y, d: [run(y, d, kind) for kind in ("dense", "batch")])
    for found, first, second in both(problem.y0, d):
        for name, x in zip(order, found, strict=True):
            backend.assert_close(x, exact[name], rtol=1e-10)
        assert float(first) == pytest.approx(float(second), rel=1e-10)


FIELDS = {
    "analytic": lambda xp, t, y: xp.exp(y) * y,
    "abs": lambda xp, t, y: xp.abs(y) * y,
    "kinked": lambda xp, t, y: xp.where(y > 0, y * y, xp.sin(y)),
    "constant": lambda xp, t, y: xp.ones_like(y),
    "timed": lambda xp, t, y: y * t,
}
SLOPES = {
    "analytic": np.exp(Y) * (1 + Y),
    "abs": 2 * np.abs(Y),
    "kinked": np.where(Y > 0, 2 * Y, np.cos(Y)),
    "constant": 0 * Y,
    "timed": 0.3 + 0 * Y,
}


@pytest.mark.libraries("numpy strict torch")
def test_the_complex_step_is_taken_where_it_is_exact(backend):
    """Of f that is not analytic, the tape's rows stand in; where f is flat, the product is 0."""
    eager = backend.bk.name not in ("torch",)
    for name, fn in FIELDS.items():
        f = lambda t, y, a, fn=fn: fn(backend.namespace(y), t, y)  # noqa: E731
        problem = prepared(backend, f, backend.array(Y), None)
        linear = backend.bk.linear(problem.layout)
        t = problem.layout.time(0.3)
        matrix, slope = linear.derivatives(problem.bind(()), t, problem.y0)
        backend.assert_close(matrix[0], np.diag(SLOPES[name]), rtol=1e-13)
        own = ["abs"] if backend.bk.name == "numpy" else ["abs", "kinked"]  # no order, says strict
        if slope is not None and name != "timed":
            assert name in own
            assert not np.any(backend.to_numpy(problem.layout.unpack(slope)[0]))
        if eager:
            assert problem.derivatives.kind == ("vjp" if name in own else "complex step")


def test_what_has_no_derivative_says_so(reference):
    """An f that takes floats alone: no complex step, no tape, and an error with a way out."""

    def f(t, y, args):
        out = np.empty(2)
        out[0], out[1] = float(y[1]), -float(y[0])
        return out

    with pytest.raises(rg.UnsupportedByBackend, match=r"jac=\.\.\."):
        prepared(reference, f, np.ones(2), None)
    given = rg.VectorField(f, jac=lambda t, y, args: np.array([[0.0, 1.0], [-1.0, 0.0]]))
    problem = prepared(reference, given, np.ones(2), None, timed=False)
    linear = reference.bk.linear(problem.layout)
    matrix = linear.jacobian(problem.bind(()), problem.layout.time(0.0), problem.y0)
    np.testing.assert_array_equal(matrix[0], [[0.0, 1.0], [-1.0, 0.0]])
    wrong = rg.VectorField(f, jac=lambda t, y, args: np.ones((2, 3)))
    with pytest.raises(rg.InputError, match=r"\(2, 3\)"):
        prepared(reference, wrong, np.ones(2), None, timed=False)
