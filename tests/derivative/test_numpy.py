"""NumPy's own functions and methods on variables, in-place writes, and what is refused."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest

from retrograde._autodiff.vjp import vjp
from retrograde._base.errors import UnsupportedByBackend

Y = np.array([0.5, 1.5, -2.0, 3.0])
A = np.arange(16.0).reshape(4, 4) / 7 - 1

SAME = {
    "sin": lambda y: np.sin(y) + np.arctan2(y, 2.0) + np.power(2.0, y) + np.absolute(y),
    "constant-left": lambda y: A @ y + np.float64(2.0) * y + A[0] * y - A[1] / (y * y) - A[2],
    "stack": lambda y: np.stack([y[1] * y[0], -y[0], y[2], 1.0]),
    "asarray": lambda y: y.__array_namespace__().asarray([[y[1], -y[0] * y[2]], [y[3], 2.0]]),
    "concatenate": lambda y: np.concatenate([y[1:], y[:1] * y[1]]),
    "hstack": lambda y: np.hstack([y[1:], y[0] * y[1]]),
    "roll": lambda y: (np.roll(y, 1) - 2 * y + np.roll(y, -1)) * y,
    "where": lambda y: np.where(y > 0, y * y, -y),
    "sum": lambda y: np.sum(y * y) * y + np.mean(y, axis=0) + np.var(y, ddof=1) + np.std(y),
    "dot": lambda y: np.dot(A, y) + np.dot(y, A) * np.dot(y, y) + np.dot(2.0, y),
    "norm": lambda y: np.linalg.norm(y) * y + np.linalg.norm(y, 1) + np.linalg.norm(y, np.inf),
    "cumsum": lambda y: np.cumsum(y * y) + y.cumsum(axis=0),
    "outer": lambda y: np.outer(y, y).sum(axis=1) + np.trace(np.outer(y, y)),
    "transpose": lambda y: np.transpose(np.reshape(y, (2, 2)))[0, 1] * np.ravel(y) + np.diff(y)[0],
    "methods": lambda y: y.reshape(2, 2).T.flatten() * y.sum() + y.clip(-1, 2).mean() * y.max(),
    "solve": lambda y: np.linalg.solve(A + 3 * np.eye(4), y) * y,
    "shape": lambda y: y * y.shape[0] + np.size(y) + len(y) + y.ndim + np.argmax(y) * y,
    "copy": lambda y: y.copy() * np.copy(y) + y.transpose() + y.dot(y),
    "remainder": lambda y: np.remainder(y, 0.7) * np.mod(5.0, y + 0.1),
}


def compare(fn, x=Y):
    """The tape's value and gradient against the function itself and central differences."""
    (value,), pull = vjp(fn, [x], np)
    np.testing.assert_allclose(value, fn(x.copy()), rtol=1e-13)
    ct = np.random.default_rng(0).normal(size=value.shape)
    (grad,) = pull([ct])
    for k in np.ndindex(*x.shape):
        h = np.zeros_like(x)
        h[k] = 1e-6
        slope = np.sum(ct * (fn(x + h) - fn(x - h))) / 2e-6
        np.testing.assert_allclose(grad[k], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SAME)
def test_numpy_spelling(name):
    compare(SAME[name])


def laplacian(y):
    d = np.zeros_like(y)
    d[1:-1] = y[2:] - 2 * y[1:-1] + y[:-2]
    d[0] = 3.0
    d[-1] = y[0] * y[-1]
    return d * d


def accumulated(y):
    d = np.empty_like(y)
    d[:] = y * y
    d[1:3] += y[:2]
    d[0] -= 2 * y[3]
    d *= y
    d **= 2
    return d


def overwritten(y):
    d = 2 * y
    d[:2] = y[1] * y[2]
    d[1] = 7.0
    return d


def masked(y):
    d = y * 1.0
    d[y < 0] = 0.0
    return d * y


def through_a_slice(y):
    d = y * 3.0
    inner = d[1:]
    inner[0] = y[0] * y[1]
    inner += 1.0
    return d * d


def through_a_row(y):
    d = np.ones_like(np.reshape(y, (2, 2)))
    row = d[0]
    row *= y[:2]
    return d * y[3]


def scalars(y):
    s = r = y[0]
    s += 1
    s *= y[1]
    return s * r * y


@pytest.mark.parametrize(
    "fn", [laplacian, accumulated, overwritten, masked, through_a_slice, through_a_row, scalars]
)
def test_writes(fn):
    before = Y.copy()
    compare(fn)
    np.testing.assert_array_equal(Y, before)


def _write(y, *path):
    d = y
    for step in path:
        d = step(d)
    d[0] = 1.0
    return d


def _stale(y):
    d = y * 2.0
    view = d[1:]
    d[1] = 0.0
    return view


def _augmented(y):
    y += 1
    return y


REFUSED = {
    "float": (lambda y: float(y[0]) * y, r"xp\.sin"),
    "int": (lambda y: y * int(y[0]), "number"),
    "math": (lambda y: math.sin(y[0]) * y, "number"),
    "index": (lambda y: y * operator.index(y[0]), "number"),
    "array": (lambda y: np.array([y[1], -y[0]]), r"xp\.stack"),
    "asarray": (lambda y: np.asarray(y), r"xp\.stack"),
    "slices into a plain array": (lambda y: _filled(np.zeros(4), y), r"xp\.zeros_like"),
    "einsum": (lambda y: np.einsum("i,i->i", y, y), "`einsum`"),
    "fft": (lambda y: np.fft.rfft(y), "`rfft`"),
    "own fft": (lambda y: y.__array_namespace__().fft.rfft(y), r"`xp\.fft\.rfft`"),
    "interp": (lambda y: np.interp(y, Y, Y), "`interp`"),
    "det": (lambda y: y.__array_namespace__().linalg.det(np.reshape(y, (2, 2))), "det"),
    "cbrt": (lambda y: np.cbrt(y), "`cbrt`"),
    "reduce": (lambda y: np.add.reduce(y), r"`add\.reduce`"),
    "out": (lambda y: np.add(y, 1, out=np.zeros(4)), "out"),
    "method": (lambda y: y.tolist(), "tolist"),
    "sort in place": (lambda y: y.sort(), "sort"),
    "setting": (lambda y: np.roll(y, y[0]), "roll"),
    "full": (lambda y: y.__array_namespace__().full((2,), y[0]), "full"),
    "input": (_write, "an input of the function"),
    "input by +=": (_augmented, "an input of the function"),
    "slice of input": (lambda y: _write(y, lambda d: d[1:]), "an input of the function"),
    "reshaped input": (lambda y: _write(y, lambda d: d.T), "an input of the function"),
    "reshaped": (lambda y: _write(2 * y, lambda d: np.reshape(d, (2, 2))), "view"),
    "stale view": (_stale, "view is still in use"),
    "many places": (lambda y: _scattered(2 * y), "indices"),
    "variable index": (lambda y: y[y], "index"),
}


def _filled(d, y):
    d[1:] = y[1:]
    return d


def _scattered(d):
    d[np.array([0, 0])] = 1.0
    return d


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_the_gradient_is_refused(name):
    fn, message = REFUSED[name]
    with pytest.raises(UnsupportedByBackend, match=message) as caught:
        vjp(fn, [Y.copy()], np)
    assert "rg.VectorField(f, vjp=...)" in str(caught.value)


def test_an_element_written_into_a_plain_array_is_refused():
    def f(y):
        d = np.zeros(2)
        d[0] = y[1]
        return d

    with pytest.raises(UnsupportedByBackend, match=r"xp\.zeros_like") as caught:
        vjp(f, [Y], np)
    assert isinstance(caught.value.__cause__, ValueError)  # NumPy's, which had ours as its cause


def test_what_fails_for_a_variable_says_so():
    """Code that NumPy does not hand to its arguments, and methods by their order of arguments."""
    with pytest.raises(
        UnsupportedByBackend, match=r"recording `f` .*TypeError.*np\.roll"
    ) as caught:
        vjp(lambda y: y + {1.5: 0.0}[y], [Y], np)  # unhashable
    assert isinstance(caught.value.__cause__, TypeError)
    for call in (
        lambda y: y.sum(0, None, None, True),
        lambda y: np.sum(y, dtype=None, out=None),
        lambda y: y.clip(0.0, 0.5, None),
        lambda y: y.dot(y, None),
        lambda y: y.var(None, None, None, 1),
        lambda y: y.reshape((2, 2), order="C"),
    ):
        (out,), pull = vjp(call, [Y], np)
        np.testing.assert_allclose(out, call(Y))
        assert pull([np.ones(out.shape)])[0].shape == Y.shape


def test_attributes_that_arrays_lack():
    def f(y):
        assert not hasattr(y, "nonsense")
        assert not hasattr(y, "__array_interface__")
        with pytest.raises(TypeError, match="0-d"):
            iter(y[0])
        with pytest.raises(TypeError):
            hash(y)
        assert "Variable" in repr(y)
        return y

    vjp(f, [Y], np)
