"""What no derivative is asked for may be used in ways that have none.

A carry leaf or an argument that goes through a callback, a loop of unknown length or NumPy is a
constant of the gradient, whatever the reverse pass stores; where its gradient is asked for, the
library's own error comes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import retrograde as rg

LOOPS: tuple[dict[str, Any], ...] = ({}, {"checkpoints": 1}, {"memory": 400})
Z = 0.3


def factor() -> float:
    """The derivative of the loops below: cos(sin z) over z, 1.5 z and 2.25 z."""
    return math.prod(math.cos(math.sin(Z * 1.5**i)) for i in range(3))


def while_loop(y: Any, z: Any, start: Any, cos: Any, sin: Any, **keywords: Any) -> Any:
    def body(c: Any) -> Any:
        return c[0] + 1, c[1] * cos(sin(c[2])), 1.5 * c[2]

    return rg.while_loop(lambda c: c[0] < 3, body, (start, y, z), max_steps=4, **keywords)[1]


def scan(y: Any, z: Any, xs: Any, cos: Any, sin: Any, **keywords: Any) -> Any:
    def body(c: Any, x: Any) -> Any:
        return (c[0] * cos(sin(c[1])) + 0.0 * x, 1.5 * c[1]), (c[0], sin(x))

    (end, _), (_, rows) = rg.scan(body, (y, z), xs, **keywords)
    return end + 0.0 * rows.sum()


@pytest.fixture
def jax() -> Any:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def by_callback(jax: Any) -> Any:
    shape = jax.ShapeDtypeStruct((), "float64")
    return lambda x: jax.pure_callback(lambda x: np.sin(x, dtype="float64"), shape, x)


def by_newton(jax: Any) -> Any:
    """sin x by a loop of unknown length: y with arcsin y = x."""

    def sin(x: Any) -> Any:
        step = lambda y: y - (jax.numpy.arcsin(y) - x) * jax.numpy.sqrt(1 - y * y)  # noqa: E731
        off = lambda y: abs(jax.numpy.arcsin(y) - x) > 1e-13  # noqa: E731
        return jax.lax.while_loop(off, step, 0.5 * x)

    return sin


@pytest.mark.quick("{'checkpoints': 1}")
@pytest.mark.parametrize("keywords", LOOPS, ids=str)
def test_leaves_of_loops_in_jax(jax, keywords):
    jnp = jax.numpy
    for loop, data, by in (
        (while_loop, jnp.asarray(0), by_callback),
        (scan, jnp.linspace(0.1, 0.5, 3), by_newton),
    ):
        sin = by(jax)

        def loss(y: Any, z: Any, loop: Any = loop, data: Any = data, sin: Any = sin) -> Any:
            return loop(y, z, data, jnp.cos, sin, **keywords)

        hidden = jax.grad(jax.jit(loss))  # what is asked for can't be seen where it is planned
        np.testing.assert_allclose(hidden(2.0, Z), factor(), rtol=1e-12)
        with pytest.raises(ValueError, match=r"callbacks|Reverse-mode"):
            jax.grad(loss, (0, 1))(2.0, Z)


@pytest.mark.quick("by_callback-True", "by_newton-False")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("by", [by_callback, by_newton])
def test_arguments_closures_and_outputs_of_solves_in_jax(jax, by, closed):
    """y' = -a y sin z and the row y sin z: both gradients as with z a number."""
    jnp, exact = jax.numpy, math.exp(-0.5 * math.sin(Z)) * math.sin(Z)
    wish = {"rtol": 1e-10, "atol": 1e-12, "max_steps": 64}
    sin = by(jax)

    def loss(y: Any, a: Any, z: Any) -> Any:
        field = lambda t, y, p: -p[0] * y * sin(z if closed else p[1])  # noqa: E731
        row = lambda t, y, p: y * sin(z if closed else p[1])  # noqa: E731
        args = (a, 0.0 * a if closed else z)
        return rg.solve(field, y, 0.0, 1.0, args, saveat=rg.SaveAt(fn=row), **wish).ys.sum()

    found = jax.grad(jax.jit(loss), (0, 1))(jnp.ones(1), 0.5, Z)
    np.testing.assert_allclose(found[0], [exact], rtol=1e-8)
    np.testing.assert_allclose(found[1], -exact * math.sin(Z), rtol=1e-8)
    with pytest.raises(ValueError, match=r"callbacks|Reverse-mode"):
        jax.grad(loss, (1, 2))(jnp.ones(1), 0.5, Z)


@pytest.mark.parametrize("keywords", LOOPS, ids=str)
def test_leaves_of_loops_in_torch(keywords):
    torch = pytest.importorskip("torch")
    number = lambda x, **k: torch.tensor(x, dtype=torch.float64, **k)  # noqa: E731
    sin = lambda x: torch.as_tensor(np.sin(x.numpy()))  # noqa: E731
    for loop, data in ((while_loop, torch.tensor(0)), (scan, number([0.1, 0.2, 0.3]))):
        y = number(2.0, requires_grad=True)
        loop(y, number(Z), data, torch.cos, sin, **keywords).backward()
        np.testing.assert_allclose(y.grad, factor(), rtol=1e-12)


@pytest.mark.parametrize("adjoint", ["auto", "recursive_checkpoint", "backsolve"])
def test_arguments_of_solves_in_torch(adjoint):
    torch = pytest.importorskip("torch")
    z, y = torch.tensor(Z, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    y.requires_grad_()

    def field(t: Any, y: Any, z: Any) -> Any:
        return -y * torch.as_tensor(np.sin(z.numpy()))

    rg.solve(field, y, 0.0, 1.0, z, rtol=1e-9, atol=1e-11, adjoint=adjoint).ys.sum().backward()
    np.testing.assert_allclose(y.grad, [math.exp(-math.sin(Z))], rtol=1e-7)
