"""Methods that need df/dt, and fields that hide it."""

from __future__ import annotations

import math

import pytest

import retrograde as rg


@pytest.mark.libraries("numpy torch")
@pytest.mark.parametrize("solver", ["rodas5p", "rosenbrock23", "auto"])
def test_a_time_read_as_a_plain_number_is_an_error(backend, solver):
    """df/dt would be 0 unseen, and the order lost; a method without it takes such a field."""
    y0 = backend.array([1.0])

    def f(t, y, args):
        return -50.0 * (y - math.cos(float(t)))

    with pytest.raises(rg.UnsupportedByBackend, match="kvaerno5"):
        rg.solve(f, y0, 0.0, 1.0, solver=solver)
    sol = rg.solve(f, y0, 0.0, 1.0, solver="kvaerno5", rtol=1e-8, atol=1e-8)
    exact = 50.0 * (50.0 * math.cos(1.0) + math.sin(1.0)) / 2501.0
    assert abs(float(sol.ys[-1, 0]) - exact) < 1e-6
