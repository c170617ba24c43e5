"""Fields that use their time in plain code: tables, interpolants, ``math``.

The gradients of y0 and args need no derivative by t, so they are there; those of t0, t1 and ts
are an error for who reads them, never a number that leaves a part out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import retrograde as rg

TIMES = np.linspace(0.0, 3.0, 31)
FORCING = np.sin(TIMES)
TABLE = (1.0, -0.5, 2.0)


def interpolated(t: Any) -> float:
    return float(np.interp(t, TIMES, FORCING))


def from_a_table(t: Any) -> float:
    return TABLE[int(float(t) // 1.0)]


def by_math(t: Any) -> float:
    return math.cos(t)


PLAIN = (interpolated, from_a_table, by_math)
SOLVES = {
    "constant": {"dt": 0.1},
    "adaptive": {"rtol": 1e-6},
    "checkpoints": {"dt": 0.1, "adjoint": rg.RecursiveCheckpointAdjoint(3)},
    "rows": {"dt": 0.1, "saveat": rg.SaveAt(ts=[0.5, 1.7], t1=True)},
}


@pytest.mark.libraries("numpy strict torch")
@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("keywords", SOLVES.values(), ids=SOLVES)
@pytest.mark.parametrize("forcing", PLAIN)
def test_gradients_of_states_and_parameters(backend, forcing, keywords):
    """d/dy0 and d/dk of y' = -k y + u(t): against central differences."""

    def f(t: Any, y: Any, k: Any) -> Any:
        return -k * y + forcing(t)

    def total(y: float, k: float) -> float:
        ys = rg.solve(f, np.asarray([y]), 0.0, 2.0, np.asarray(k), **keywords).ys
        return float(np.sum(ys))

    y0, k = backend.array([1.0]), backend.array(0.5)
    sol, pullback = rg.solve_vjp(f, y0, 0.0, 2.0, k, **keywords)
    g = pullback(backend.map(lambda x: x * 0.0 + 1.0, sol.ys))
    e, rtol = 1e-5, 1e-8
    if "rtol" in keywords:  # those steps move with what is changed: wide differences, of few digits
        e, rtol = 0.1, 0.02
    wanted = (total(1.0 + e, 0.5) - total(1.0 - e, 0.5)) / (2 * e)
    np.testing.assert_allclose(backend.to_numpy(g.y0), [wanted], rtol=rtol)
    wanted = (total(1.0, 0.5 + e) - total(1.0, 0.5 - e)) / (2 * e)
    np.testing.assert_allclose(backend.to_numpy(g.args), wanted, rtol=rtol)
    given = "saveat" in keywords  # a saved time moves along the interpolant, whatever f is
    assert (g.ts is None) != given
    if given:
        ys, ts = backend.to_numpy(sol.ys)[:2, 0], keywords["saveat"].ts
        slopes = -0.5 * ys + [forcing(t) for t in ts]
        np.testing.assert_allclose(backend.to_numpy(g.ts), slopes, rtol=1e-2)
    for name in ("t0", "t1"):
        with pytest.raises(rg.UnsupportedByBackend, match=f"`{name}` has no gradient: `f`.* on t,"):
            getattr(g, name)
    assert isinstance(g, rg.Gradients if hasattr(rg, "Gradients") else tuple)


@pytest.mark.libraries("numpy strict torch")
@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_output_functions_that_use_their_time(backend):
    def fn(t: Any, y: Any, k: Any) -> Any:
        return y * math.exp(-float(t))

    y0, k = backend.array([1.0]), backend.array(0.5)
    wish = rg.SaveAt(ts=[0.5, 1.0], fn=fn)
    sol, pullback = rg.solve_vjp(lambda t, y, k: -k * y, y0, 0.0, 1.0, k, dt=0.01, saveat=wish)
    g = pullback(backend.map(lambda x: x * 0.0 + 1.0, sol.ys))
    np.testing.assert_allclose(backend.to_numpy(g.y0), [math.exp(-0.75) + math.exp(-1.5)])
    np.testing.assert_allclose(
        backend.to_numpy(g.args), -0.5 * math.exp(-0.75) - math.exp(-1.5), rtol=1e-9
    )
    with pytest.raises(rg.UnsupportedByBackend, match=r"`saveat\.fn`"):
        _ = g.ts


@pytest.mark.libraries("numpy strict torch")
def test_a_time_that_can_be_followed_has_its_gradients(backend):
    """t only in comparisons and through the library: as before."""

    def f(t: Any, y: Any, k: Any) -> Any:
        return -k * y * (1.0 if t < 5.0 else 2.0) + t * t

    y0, k = backend.array([0.0]), backend.array(0.0)
    sol, pullback = rg.solve_vjp(f, y0, 0.0, 1.0, k, dt=0.1)
    g = pullback(backend.map(lambda x: x * 0.0 + 1.0, sol.ys))
    np.testing.assert_allclose(backend.to_numpy(g.t1), 1.0, rtol=1e-10)
    np.testing.assert_allclose(backend.to_numpy(g.t0), 0.0, atol=1e-10)


def test_a_gradient_by_t0_that_is_named_is_refused():
    torch = pytest.importorskip("torch")
    y0 = torch.tensor([1.0], dtype=torch.float64)
    t0 = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    ys = rg.solve(
        lambda t, y, a: -y + t.item(), y0, t0, 1.0, dt=0.5, adjoint="recursive_checkpoint"
    ).ys
    with pytest.raises(rg.UnsupportedByBackend, match=r"plain number.*`t\.detach\(\)`"):
        ys.sum().backward()
    ys = rg.solve(lambda t, y, a: -y + t.detach().item(), y0, t0, 1.0, dt=0.5).ys
    ys.sum().backward()
    assert t0.grad is not None
