"""Where a solve comes to rest, and the gradient of that by the implicit function theorem."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg


def coupled(backend):
    """A nonlinear system of three with a known steady state: A x = b, by x = y + y^3 / 3."""
    a = np.array([[2.0, -0.5, 0.3], [0.4, 1.5, -0.2], [0.1, 0.6, 1.8]])

    def f(t, y, b):
        xp = backend.namespace(y)
        x = y + y * y * y / 3.0
        rows = [sum(float(a[i, j]) * x[j] for j in range(3)) for i in range(3)]
        return b - xp.stack(rows)

    b = np.array([1.0, -0.5, 0.7])
    x = np.linalg.solve(a, b)
    y = np.array([np.roots([1 / 3, 0.0, 1.0, -v]) for v in x])
    y = np.real(y[np.abs(y.imag) < 1e-9])
    jacobian = np.linalg.inv(a) / (1.0 + y * y)[:, None]  # dy / db
    return f, b, y, jacobian


@pytest.mark.libraries("numpy strict torch jax:jit")
def test_the_gradient_is_that_of_the_root(backend):
    f, b, y, jacobian = coupled(backend)
    w = np.array([1.0, 2.0, -1.0])
    y0, args = backend.array([0.0, 0.0, 0.0]), backend.array(b)
    name = backend.bk.name
    if name == "torch":
        args.requires_grad_()
        sol = rg.steady_state(f, y0, args)
        (sol.ys[0] * backend.array(w)).sum().backward()
        rest, g = backend.to_numpy(sol.ys[0]), backend.to_numpy(args.grad)
    elif name == "jax":
        import jax

        def loss(b):
            ys = rg.steady_state(f, y0, b).ys
            return (ys[0] * backend.array(w)).sum(), ys[0]

        g, rest = backend.compiled(jax.grad(loss, has_aux=True))(args)
    else:
        sol, pullback = rg.steady_state_vjp(f, y0, args)
        rest, found = backend.to_numpy(sol.ys)[0], pullback(backend.array([w.tolist()]))
        g = backend.to_numpy(found.args)
        assert not np.any(backend.to_numpy(found.y0))
    np.testing.assert_allclose(rest, y, atol=1e-8)
    np.testing.assert_allclose(g, w @ jacobian, atol=1e-8)


def test_what_does_not_rest_is_a_failure():
    with pytest.raises(rg.SolveFailed):
        rg.steady_state(lambda t, y, a: np.stack([y[1], -y[0]]), np.array([1.0, 0.0]), t1=30.0)
    sol = rg.steady_state(lambda t, y, a: 0.0 * y, np.ones(2))  # rests from the start
    assert sol.status is rg.Status.event


def test_a_line_of_steady_states_has_no_gradient():
    f = lambda t, y, a: np.stack([-y[0] + a, 0.0 * y[1]])  # noqa: E731
    _, pullback = rg.steady_state_vjp(f, np.zeros(2), np.asarray(1.0))
    with pytest.raises(rg.InputError, match="singular"):
        pullback(np.ones((1, 2)))
