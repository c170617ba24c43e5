"""States and arguments in every container, and complex states: one mathematics, many shapes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest

import retrograde as rg


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Box:
    a: Any
    b: Any


optree.register_pytree_node(
    Box, lambda x: ((x.a, x.b), None), lambda _, ab: Box(*ab), namespace="retrograde"
)
FORMS = {
    "dict": (lambda a, b: {"a": a, "b": b}, lambda y: (y["a"], y["b"])),
    "list": (lambda a, b: [a, b], tuple),
    "nested": (lambda a, b: ((a,), (None, (b,))), lambda y: (y[0][0], y[1][1][0])),
    "namedtuple": (Pair, tuple),
    "dataclass": (Box, lambda y: (y.a, y.b)),
}
SPAN = (0.0, 1.5)


def coupled(backend, make, parts):
    """a' = -b a, b' = sum(a) - b with a of two elements and b 0-d, in some container."""

    def f(t, y, args):
        xp = backend.namespace(parts(y)[0])
        a, b = parts(y)
        return make(-b * a, xp.sum(a) - args["rate"] * b)

    return f, make(backend.array([1.0, 0.5]), backend.array(0.3))


def register_with_jax():
    from jax.tree_util import register_dataclass

    try:
        register_dataclass(Box, ["a", "b"], [])
    except ValueError:  # registered by another id
        assert Box is not None


@pytest.mark.parametrize("keywords", [{"dt": 0.25, "solver": "rk4"}, {"rtol": 1e-8}])
@pytest.mark.parametrize("form", FORMS)
def test_containers_do_not_matter(backend, reference, form, keywords):
    if backend.bk.name == "jax":
        register_with_jax()
        if form not in ("dict", "dataclass"):
            pytest.skip("JAX's own trees; two forms are enough to compile")
    make, parts = FORMS[form]
    f, y0 = coupled(backend, make, parts)
    args = {"rate": backend.array(0.7), "unused": [None, 3, "text"]}
    weights = make(np.asarray([[1.0, -2.0]]), np.asarray([0.5]))
    g = backend.gradient(f, y0, *SPAN, args, weights, **keywords)
    assert type(g.ys) is type(y0)
    assert type(g.y0) is type(y0)
    assert g.args["unused"][1:] == [None, None]

    def flat(t, y, rate):
        xp = y.__array_namespace__()
        return xp.concat([-y[2] * y[:2], xp.reshape(xp.sum(y[:2]) - rate * y[2], (1,))])

    y0, weights = np.asarray([1.0, 0.5, 0.3]), np.asarray([[1.0, -2.0, 0.5]])
    expected = reference.gradient(flat, y0, *SPAN, np.asarray(0.7), weights, **keywords)
    for actual, whole in ((g.ys, expected.ys), (g.y0, expected.y0)):
        a, b = parts(actual)
        np.testing.assert_allclose(a, whole[..., :2], rtol=1e-11)
        np.testing.assert_allclose(b, whole[..., 2], rtol=1e-11)
    np.testing.assert_allclose(g.args["rate"], expected.args, rtol=1e-11)


@pytest.mark.parametrize("keywords", [{"dt": 0.01}, {"rtol": 1e-9, "atol": 1e-9}])
def test_complex_rotation(backend, keywords):
    """y' = i w y: y(T) = exp(i w T) y0, and the gradients of Re(conj(c) y(T))."""
    w, y0, c, (_, t) = 2.0 + 0.1j, 1.0 + 2.0j, 0.3 - 1.0j, SPAN

    def f(t, y, w):
        return 1j * w * y

    g = backend.gradient(
        f,
        backend.array([y0], "complex128"),
        *SPAN,
        backend.array(w, "complex128"),
        np.asarray([[c]]),
        **keywords,
    )
    turn = np.exp(1j * w * t)
    np.testing.assert_allclose(g.ys, [[turn * y0]], rtol=1e-7)
    np.testing.assert_allclose(g.y0, [np.conj(turn) * c], rtol=1e-7)
    np.testing.assert_allclose(g.args, np.conj(1j * t * turn * y0) * c, rtol=1e-7)


def test_real_parameter_of_a_complex_state(backend):
    """Its gradient is real: the cotangent's other part has nowhere to go."""

    def f(t, y, w):
        xp = backend.namespace(y)
        return y * (1j * xp.astype(w, y.dtype) if hasattr(xp, "astype") else 1j * w)

    y0, w = backend.array([1.0 + 2.0j], "complex128"), backend.array(2.0)
    g = backend.gradient(f, y0, *SPAN, w, np.asarray([[1.0 + 1.0j]]), rtol=1e-9, atol=1e-9)
    t, turn = SPAN[1], np.exp(2j * SPAN[1])
    exact = np.real(np.conj(1.0 + 1.0j) * 1j * t * turn * (1.0 + 2.0j))
    assert g.args.dtype == np.float64
    np.testing.assert_allclose(g.args, exact, rtol=1e-7)


def test_two_dimensional_leaves(backend):
    """A matrix equation Y' = A Y: the gradient of sum(Y(T)) is exp(A T)^T 1."""
    a = np.asarray([[0.0, 1.0], [-1.0, 0.0]])

    def f(t, y, a):
        return a @ y

    y0 = backend.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    g = backend.gradient(f, y0, 0.0, np.pi / 2, backend.array(a), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(g.ys[0], a @ backend.to_numpy(y0), atol=1e-7)
    np.testing.assert_allclose(g.y0, a.T @ np.ones((2, 3)), atol=1e-7)


def test_a_dense_array_and_its_list_are_two_trees(reference):
    """``[y]`` comes back as ``[ys]``."""
    sol = rg.solve(lambda t, y, args: [-y[0]], [np.ones(2)], 0.0, 1.0, dt=0.5)
    assert isinstance(sol.ys, list)
    assert sol.ys[0].shape == (1, 2)
