"""Jacobians by one call of f on a block: right, or not taken. Fields that mix columns are found."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

import retrograde as rg
from retrograde._autodiff.columns import Columns
from retrograde._autodiff.linearise import UNSEEN
from retrograde._autodiff.prepare_derivatives import prepare_derivatives
from retrograde._integrate.problem import Problem

from ..stiff_cases import CASES

door = importlib.import_module("retrograde._backend.specialise")
N = 4
Y = np.array([0.9, -0.4, 1.3, 0.2])
UNIFORM = np.full(N, 0.7)
A = np.random.default_rng(5).normal(size=(N, N))


def prepared(bk, f, y):
    """The problem of a field of NumPy's, ready to be linearised."""
    problem = Problem(bk, f, y, None)
    bk.capture(problem, 0.5)
    prepare_derivatives(problem, 0.5, timed=True)
    return problem


def block(bk, f, y, *, timed=False):
    """J of f at (0.5, y) by a block, whatever was seen at y0."""
    problem = Problem(bk, f, y, None)
    layout, field = problem.layout, problem.bind(())
    state, t = layout.pack((y,)), layout.time(0.5)
    with bk.quiet():
        columns = Columns(bk, layout, field, None if timed else UNSEEN)
        return columns.at(t, state, layout.own(field(t, state)))


GOOD = {
    "elements": lambda xp: lambda t, y, _: xp.stack([y[1] * y[2], y[0] / y[2], y[3], -(y[0] ** 3)]),
    "slices": lambda xp: lambda t, y, _: xp.concatenate([xp.exp(y[1:]) - y[:-1], y[:1] * y[-1]]),
    "reversed": lambda xp: lambda t, y, _: y[[3, 2, 1, 0]] * xp.sin(y),
}


@pytest.mark.libraries("numpy torch")
@pytest.mark.parametrize("name", GOOD)
def test_good_fields(backend, name):
    """A field of elements and arithmetic is taken, and its J is that of differences of order 4."""
    bk, xp = backend.bk, backend.namespace(backend.array(Y.copy()))
    found = block(bk, GOOD[name](xp), backend.array(Y.copy()))
    assert found is not None
    f, expected = GOOD[name](np), np.empty((N, N))
    for j, e in enumerate(np.eye(N) * 1e-3):
        a, b, c, d = (f(0.0, Y + k * e, None) for k in (-2, -1, 1, 2))
        expected[:, j] = (a - 8 * b + 8 * c - d) / 12e-3
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-9)


@pytest.mark.libraries("numpy torch")
def test_time(backend):
    """Where f looks at its time, it is given it; df/dt comes another way."""
    f = lambda t, y, _: y[0] * backend.namespace(y).cos(3.0 * t) - t * y * y  # noqa: E731
    y = backend.array(Y.copy())
    assert block(backend.bk, f, y) is None
    found = np.asarray(block(backend.bk, f, y, timed=True))
    expected = -np.diag(Y)
    expected[:, 0] += math.cos(1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-17)
    problem = prepared(backend.bk, f, y)
    assert problem.derivatives.timed
    layout, field = problem.layout, problem.bind(())
    t, state = layout.time(0.5), layout.pack((y,))
    with backend.bk.quiet():
        slope = layout.own(field(t, state))
        matrix, by_time = backend.bk.linear(layout).derivatives(field, t, state, slope)
    np.testing.assert_array_equal(np.asarray(matrix[0]), found)
    backend.assert_close(by_time, -3.0 * Y[0] * math.sin(1.5) - Y * Y, rtol=1e-14)


BAD = {
    "sum": lambda y: -y * np.sum(y),
    "mean": lambda y: y - np.mean(y),
    "mean of last axis": lambda y: y - y.mean(axis=-1, keepdims=True),
    "size": lambda y: y / y.size,
    "axes": lambda y: y * y.ndim,
    "matrix on the right": lambda y: y @ A,
    "weights": lambda y: y * np.arange(1.0, N + 1),
    "outer weights": lambda y: y * np.sum(y[0] * np.linspace(0.0, 1.0, N + 2)),
    "one column": lambda y: y * (y[0] * np.linspace(1.0, 2.0, N + 2))[2],
    "roll": lambda y: np.roll(y, 1) ** 2,
    "flip": lambda y: np.flip(y) * y,
    "sort": lambda y: np.sort(y),
    "cumsum": lambda y: np.cumsum(y)[:N] * y,
    "cumsum of last axis": lambda y: np.cumsum(y, axis=-1),
    "max": lambda y: -y * y.max(),
    "flat": lambda y: y * y.ravel()[-1],
    "flat and back": lambda y: y.ravel()[::-1].reshape(y.shape) * y,
    "norm": lambda y: y * np.linalg.norm(y),
    "abs": lambda y: -y * np.abs(y),
    "abs of one": lambda y: y + np.abs(y[1] - 0.1),
    "real part": lambda y: y * y.real,
    "conjugate": lambda y: y * np.conj(y),
    "branch": lambda y: -y if y[0] > 0 else y,
    "choice": lambda y: np.where(np.any(y > 1.2), -1.0, 1.0) * y + np.abs(y) ** 0.5,
    "rows": lambda y: np.stack([y[0], y[1], 0.0 * y[2], 1.0]),
}


@pytest.mark.libraries("numpy")
@pytest.mark.parametrize("name", BAD)
def test_bad_fields(backend, name):
    """What mixes columns, or loses derivatives, is never taken but where it is right by chance."""
    f, taken = BAD[name], 0
    for y in (Y.copy(), UNIFORM.copy(), np.sort(Y), -np.sort(-Y), np.eye(N)[1].copy()):
        found = block(backend.bk, lambda t, y, _: f(y), y)
        if found is None:
            continue
        taken += 1
        columns = [np.imag(f(y + 1e-30j * e)) / 1e-30 for e in np.eye(N)]
        differences = [(f(y + 1e-6 * e) - f(y - 1e-6 * e)) / 2e-6 for e in np.eye(N)]
        np.testing.assert_allclose(found, np.transpose(columns), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found, np.transpose(differences), atol=1e-8)
    assert taken < 5


@pytest.mark.libraries("numpy")
def test_another_way_later(backend):
    """A field that a block serves at the start, and not behind t = 1, is solved as without it."""

    def f(t, y, _):
        if np.any(y[3] > 0.05):
            return np.stack([-y[0] * y[1], y[0] * y[1] - y[2], y[2] * y[0], -30.0 * y[3]])
        return -y * np.sum(y) / y.size - 30.0 * y * y

    y0 = np.abs(Y)
    assert prepared(backend.bk, f, y0).derivatives.columns
    assert block(backend.bk, f, y0) is not None
    sol = rg.solve(f, y0, 0.0, 0.5, solver="rodas5p", rtol=1e-9, atol=1e-12, max_steps=5000)
    assert block(backend.bk, f, sol.ys[-1]) is None
    exact = rg.solve(f, y0, 0.0, 0.5, solver="dopri8", rtol=1e-11, atol=1e-12)
    backend.assert_close(sol.ys[-1], exact.ys[-1], rtol=1e-6)


@pytest.mark.libraries("numpy torch")
def test_solves(backend, monkeypatch):
    """Solves and gradients with blocks are those of ``RETROGRADE_GENERIC=1``."""
    case = CASES["hires"]
    xp = backend.namespace(backend.array(Y.copy()))
    f = lambda t, y, k: case.f(xp, t, y, k)  # noqa: E731
    y0, args = backend.array(np.array(case.y0)), backend.array(np.array(case.args))

    def run():
        sol, pull = rg.solve_vjp(f, y0, 0.0, 2.0, args, solver="rodas5p", dt=0.1)
        grads = pull(xp.cos(sol.ys))
        return [np.asarray(x) for x in (sol.ys, grads.y0, grads.args)]

    mine = run()
    assert prepared(backend.bk, lambda t, y, _: f(t, y, args), y0).derivatives.columns
    monkeypatch.setattr(door, "_GENERIC", True)
    theirs = run()
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
