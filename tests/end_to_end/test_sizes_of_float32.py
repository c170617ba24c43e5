"""Float32 holds 1e-38 to 3e38: norms and first steps must hold for what fits into it.

Their squares do not: a slope of 1e17 over a tolerance of 1e-6 has one of 1e46.
"""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

SPANS = {
    "a steep slope over a short span": ("slope", 1e17, 0.0, 1e-11),
    "a steeper slope over a shorter one": ("slope", 1e25, 0.0, 1e-20),
    "a huge slope": ("slope", 1e30, 0.0, 1.0),
    "a decay over a short span": ("decay", 1e18, 1.0, 1e-18),
    "a decay over a long span": ("decay", 1e-20, 1.0, 1e20),
    "a tiny state": ("decay", 1.0, 1e-30, 1.0),
    "a state at the end of float32": ("decay", 1.0, 1e-36, 1.0),
    "a huge state": ("decay", 1.0, 1e30, 1.0),
    "nothing": ("decay", 1.0, 0.0, 1.0),
}


def fields(kind):
    return (lambda t, y, a: a + 0.0 * y) if kind == "slope" else (lambda t, y, a: -a * y)


@pytest.mark.settings(
    case=SPANS, few={"jax:jit": ["a steep slope over a short span", "a huge state"]}
)
def test_values_and_gradients(backend, case):
    """Adaptive, with a row inside, as far as a relative tolerance reaches."""
    if backend.jit and case == "a state at the end of float32":
        pytest.skip("a compiled program takes what is below 1.2e-38 for zero")
    kind, rate, start, span = SPANS[case]
    y0, a = backend.array([start] * 2, "float32"), backend.array(rate, "float32")
    atol = 1e-6 if kind == "slope" else 0.0
    saveat = rg.SaveAt(ts=[0.25 * span, 0.5 * span, span])
    found = backend.gradient(fields(kind), y0, 0.0, span, a, saveat=saveat, atol=atol)
    t = np.array([0.25, 0.5, 1.0])[:, None] * span * np.ones(2)
    exact = start + rate * t if kind == "slope" else start * np.exp(-rate * t)
    slope = t.sum() if kind == "slope" else (-t * exact).sum()
    np.testing.assert_allclose(found.ys, exact, rtol=1e-3)
    np.testing.assert_allclose(found.args, slope, rtol=1e-3)


@pytest.mark.parametrize("solver", ["heun", "bosh3", "dopri5", "dopri8", "reversible_heun"])
def test_every_estimate_of_an_error(reference, solver):
    for case in ("a steep slope over a short span", "a tiny state", "a huge state"):
        kind, rate, start, span = SPANS[case]
        y0, a = (reference.array(x, "float32") for x in ([start] * 2, rate))
        atol = 1e-6 if kind == "slope" else 0.0
        sol = rg.solve(fields(kind), y0, 0.0, span, a, solver=solver, atol=atol, rtol=1e-3)
        exact = rate * span if kind == "slope" else start * np.exp(-1.0)
        np.testing.assert_allclose(sol.ys[-1], exact, rtol=1e-2)


def test_recorded_and_compiled_steps():
    """PyTorch's other forms of the norm."""
    torch = pytest.importorskip("torch")
    for case in ("a steep slope over a short span", "a huge slope"):
        _, rate, start, span = SPANS[case]
        a = torch.tensor(rate, requires_grad=True)
        y0 = torch.full((100,), start)  # more than are summed as products
        sol = rg.solve(fields("slope"), y0, 0.0, span, a, adjoint="direct")
        np.testing.assert_allclose(sol.ys.detach()[-1], rate * span, rtol=1e-5)
        sol.ys.sum().backward()
        np.testing.assert_allclose(a.grad, 100 * span, rtol=1e-5)
