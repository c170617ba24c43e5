"""What would lose a part of a derivative unseen: it is right, or an error."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

from .test_dense import prepared

Y = np.asarray([0.3, -0.2, 0.5])
A = np.asarray([[-1.0, 0.3, 0.1], [0.2, -2.0, 0.4], [0.0, 0.1, -3.0]])
TIMES = {
    "real": lambda t: np.cos(t.real),
    "a function": lambda t: np.cos(np.abs(t)),
    "a list": lambda t: np.cos(np.asarray([t])),
    "what is made of it": lambda t: np.cos((2.0 * t).real / 2.0),
    "later": lambda t: np.cos(t) if t < 0.5 else np.cos((1.0 * t).real),
    "on its way": lambda t: np.cos(t) if t < 0.2 or t > 0.4 else np.cos(t.real),
}


@pytest.mark.parametrize("forcing", TIMES.values(), ids=TIMES)
def test_df_dt(reference, forcing):
    """Rodas5P keeps its order: the solution is that of cos(t)."""
    f = lambda t, y, a: -50.0 * (y - forcing(t))  # noqa: E731
    sol = rg.solve(f, np.ones(1), 0.0, 1.0, solver="rodas5p", rtol=1e-8, atol=1e-8)
    exact = 50.0 * (50.0 * math.cos(1.0) + math.sin(1.0)) / 2501.0
    assert abs(sol.ys[-1, 0] - exact) < 2e-9
    assert sol.stats["num_steps"] < 30


@pytest.mark.parametrize("low", [0.2, 0.5])
def test_a_time_that_is_a_plain_number_later_on(reference, low):
    """At the end of a solve it is told by the call, within it when it is met."""

    def f(t, y, a):
        return -50.0 * (y - (math.cos(float(t)) if low < t < low + 0.3 else np.cos(t)))

    with pytest.raises(rg.UnsupportedByBackend, match="plain number"):
        rg.solve(f, np.ones(1), 0.0, 1.0, solver="rodas5p", rtol=1e-8, atol=1e-8)


STATES = {
    "real": lambda y: A @ y.real,
    "abs": lambda y: A @ (np.abs(y) * y),
    "cast": lambda y: A @ y.astype(float),
    "norm": lambda y: -y * np.linalg.norm(y),
    "maximum": lambda y: A @ np.maximum(y, 0.1),
    "where": lambda y: A @ np.where(y > 0.1, y * y, np.abs(y)),
    "conj": lambda y: A @ (y.conj() * y),
}


@pytest.mark.parametrize("fn", STATES.values(), ids=STATES)
def test_df_dy(reference, fn):
    """Against central differences."""
    problem = prepared(reference, lambda t, y, a: fn(y), Y, None)
    linear = reference.bk.linear(problem.layout)
    found = linear.jacobian(problem.bind(()), problem.layout.time(0.3), problem.y0)[0]
    h = 1e-6
    columns = [(fn(Y + h * e) - fn(Y - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(found, np.stack(columns, axis=1), atol=1e-8)


def test_a_gradient_past_a_branch_that_is_not_analytic(reference):
    """Near y0 the complex step is right; where it is not any more, the gradient says so."""
    f = lambda t, y, k: k * (A @ np.where(y > 0.2, y, np.abs(y) * y + 0.16))  # noqa: E731
    y0, k = np.asarray([0.9, 0.8, 0.9]), np.asarray(1.2)
    keywords = {"solver": "rodas5p", "rtol": 1e-6, "atol": 1e-8}
    _, pullback = rg.solve_vjp(f, y0, 0.0, 0.3, k, **keywords)
    assert np.isfinite(pullback(np.ones((1, 3))).args)
    _, pullback = rg.solve_vjp(f, y0, 0.0, 3.0, k, **keywords)
    with pytest.raises(rg.UnsupportedByBackend, match="is not analytic"):
        pullback(np.ones((1, 3)))


@pytest.mark.libraries("numpy strict torch jax:jit")
@pytest.mark.parametrize("solver", ["rosenbrock23", "kvaerno3"])
def test_a_jacobian_of_another_field_has_no_gradient(backend, solver):
    """A step by it is a step, but its exact vjp is another: an error, in traced code nan."""
    a, y0 = backend.array(A), backend.array(Y)
    f = lambda t, y, a: backend.namespace(y).matmul(a, y)  # noqa: E731
    right = rg.VectorField(f, jac=lambda t, y, a: a)
    wrong = rg.VectorField(f, jac=lambda t, y, a: 1.01 * a)
    keywords = {"solver": solver, "dt": 0.25}
    weights = np.ones((1, 3))
    g = backend.gradient(right, y0, 0.0, 0.5, a, weights, **keywords)
    assert np.isfinite(g.args).all()
    if Capability.TRACED in backend.bk.capabilities:
        assert np.isnan(backend.gradient(wrong, y0, 0.0, 0.5, a, weights, **keywords).args).any()
        return
    with pytest.raises(rg.UnsupportedByBackend, match="check_jac"):
        backend.gradient(wrong, y0, 0.0, 0.5, a, weights, **keywords)


@pytest.mark.libraries("numpy torch", slow="jax")
@pytest.mark.parametrize("structure", [rg.Banded(0, 0), "batch"], ids=str)
def test_a_jacobian_wider_than_its_structure(backend, structure):
    """A dense one, whose entries the storage has no place for."""
    y0 = backend.array(Y if structure != "batch" else np.stack([Y, Y]))
    size = 3 if structure != "batch" else 6
    jac = lambda t, y, a: backend.array(np.tri(size) - 3.0 * np.eye(size))  # noqa: E731
    field = rg.VectorField(lambda t, y, a: -2.0 * y, jac=jac, structure=structure)
    with pytest.raises(rg.InputError, match="`jac`"):
        rg.solve(field, y0, 0.0, 0.1, solver="rosenbrock23", dt=0.1)


def test_what_pytorch_differentiates_once():
    """A Rosenbrock method's gradient needs second derivatives; one of Kvaerno's does not."""
    torch = pytest.importorskip("torch")

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return 2 * ctx.saved_tensors[0] * g

    y0 = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    f = lambda t, y, a: -Square.apply(y)  # noqa: E731
    keywords = {"rtol": 1e-6, "atol": 1e-8}
    for adjoint in ("recursive_checkpoint", "direct"):
        with pytest.raises(rg.UnsupportedByBackend, match=r"differentiates once only"):
            rg.solve(f, y0, 0.0, 1.0, solver="rodas5p", adjoint=adjoint, **keywords).ys.backward()
    rg.solve(f, y0, 0.0, 1.0, solver="kvaerno5", **keywords).ys.backward()
    assert float(y0.grad) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.libraries("numpy strict")
def test_a_field_that_looks_at_the_type_of_its_state(backend):
    """What the tape would record is another function; the complex step is right all the same."""
    plain = type(backend.array(Y))
    f = lambda t, y, a: -y * y if type(y) is plain else y  # noqa: E731
    problem = prepared(backend, f, backend.array(Y), None)
    linear = backend.bk.linear(problem.layout)
    found = linear.jacobian(problem.bind(()), problem.layout.time(0.3), problem.y0)[0]
    backend.assert_close(found, np.diag(-2 * Y), rtol=1e-12)
    f = lambda t, y, a: backend.namespace(y).abs(y) if type(y) is plain else y  # noqa: E731
    with pytest.raises(rg.UnsupportedByBackend, match="looks at their type"):
        prepared(backend, f, backend.array(Y), None)
