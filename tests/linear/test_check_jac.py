"""``rg.check_jac``, and a wrong structure that a solve refuses."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg


def chain(backend):
    """Neighbours of a chain, and one entry of its own; with its Jacobian."""

    def f(t, y, k):
        xp = backend.namespace(y)
        zero = xp.zeros_like(y[:1])
        low, high = xp.concat([zero, y[:-1]]), xp.concat([y[1:], zero])
        return low * high - k * y * y

    def jac(t, y, k):
        xp, n = backend.namespace(y), 6
        zero = xp.zeros_like(y[:1])
        low, high = xp.concat([zero, y[:-1]]), xp.concat([y[1:], zero])
        eye = lambda k: backend.array(np.eye(n, k=k))  # noqa: E731
        return eye(-1) * high[:, None] + eye(1) * low[:, None] - 2 * k * eye(0) * y[:, None]

    return f, jac


@pytest.mark.libraries("numpy strict torch", slow="jax")
def test_check_jac(backend):
    """A right one passes in every storage; a wrong entry and a narrow band are told by name."""
    f, jac = chain(backend)
    y, k = backend.array(np.linspace(1.0, 2.0, 6)), backend.array(0.5)
    for structure in (None, rg.Banded(1, 1), rg.Coloured(np.tri(6, k=1))):
        assert rg.check_jac(rg.VectorField(f, jac=jac, structure=structure), 0.0, y, k) < 1e-14
    with pytest.raises(rg.InputError, match=r"depends on y\[5\]: row 4, column 5"):
        rg.check_jac(rg.VectorField(f, structure=rg.Banded(1, 0)), 0.0, y, k)

    def wrong(t, y, k):
        return jac(t, y, k) + backend.array(np.eye(6) * [0, 0, 0, 1e-3, 0, 0])

    with pytest.raises(rg.InputError, match=r"row 3, column 3 \(f\[3\] by y\[3\]\)"):
        rg.check_jac(rg.VectorField(f, jac=wrong), 0.0, y, k)
    with pytest.raises(rg.InputError, match="neither"):
        rg.check_jac(rg.VectorField(f), 0.0, y, k)


@pytest.mark.libraries("numpy strict torch jax")
def test_a_solve_refuses_a_structure_that_is_wrong(backend):
    """One product of J shows it, at the call."""
    f, _ = chain(backend)
    y, k = backend.array(np.linspace(1.0, 2.0, 6)), backend.array(0.5)
    narrow = rg.VectorField(f, structure=rg.Banded(1, 0))
    for given in (k, 0.5):  # a number is tried as an array first
        with pytest.raises(rg.InputError, match=r"Jacobian of `f` .*check_jac"):
            rg.solve(narrow, y, 0.0, 0.1, given, solver="rodas5p")


def test_diagonals_and_samples(reference):
    """A jac by diagonals, and one of every sample, are those of the whole matrix."""
    f, jac = chain(reference)
    y, k = np.linspace(1.0, 2.0, 6), np.asarray(0.5)

    def by_diagonals(t, y, k):
        a = jac(t, y, k)
        return np.stack([np.append(0.0, np.diag(a, 1)), np.diag(a), np.append(np.diag(a, -1), 0.0)])

    banded = rg.VectorField(f, jac=by_diagonals, structure=rg.Banded(1, 1))
    assert rg.check_jac(banded, 0.0, y, k) < 1e-14

    def each(t, y, k):
        return -k * y**2

    def of_each(t, y, k):
        return np.eye(2) * (-2 * k * y)[:, :, None]

    samples = rg.VectorField(each, jac=of_each, structure="batch")
    assert rg.check_jac(samples, 0.0, np.arange(1.0, 7.0).reshape(3, 2), k) < 1e-14
    mixed = rg.VectorField(lambda t, y, k: y * np.sum(y), structure="batch")
    with pytest.raises(rg.InputError, match=r"depends on y\[1, 0\]: row 0, column 2"):
        rg.check_jac(mixed, 0.0, np.ones((3, 2)), k)
