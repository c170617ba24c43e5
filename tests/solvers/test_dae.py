"""A circuit of two transistors, of index 1 with a singular matrix that is not diagonal.

The transistor amplifier of Hairer, Lubich & Roche (1989, doi:10.1007/BFb0093947), eight voltages
and five capacitors, as in the test set of Mazzia & Magherini (2008), whose solution at 0.2 s is
the reference.
"""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

CAPACITORS = np.arange(1.0, 6.0)
"""Microfarads."""
START = [0.0, 3.0, 3.0, 6.0, 3.0, 3.0, 6.0, 0.0]
END = [
    -0.5562145012262709e-2, 3.006522471903042, 2.849958788608128, 2.926422536206241,
    2.704617865010554, 2.761837783378145, 4.770927631616772, 1.236995868091548,
]  # fmt: skip
"""At 0.2 s."""
BY_CAPACITORS = [2.0853355e-07, -1.1273030e-05, 3.3008885e-08, 2.6790024e-06, -3.4348159e-05]
BY_GAIN = 4.69490455e-3
"""Derivatives of the seventh voltage at 4 ms: central differences of NumPy's solves at 1e-10, in
two steps (Richardson)."""


def places():
    """Where each capacitor stands in M: between two nodes, or a node and the earth."""
    found = np.zeros((5, 8, 8))
    for k, first in ((0, 0), (2, 3), (4, 6)):
        found[k, first : first + 2, first : first + 2] = [[-1.0, 1.0], [1.0, -1.0]]
    found[1, 2, 2] = found[3, 5, 5] = -1.0
    return found


def amplifier(backend):
    """f, y0 and M of (capacitors, gain)."""

    def f(t, y, args):
        _, gain = args
        xp, resistor = backend.namespace(y), 9000.0
        source = 0.1 * backend.namespace(t).sin(200 * np.pi * t)

        def transistor(u):
            return 1e-6 * (xp.exp(u / 0.026) - 1.0)

        one, two = transistor(y[1] - y[2]), transistor(y[4] - y[5])
        return xp.stack([
            (y[0] - source) / 1000.0, (2 * y[1] - 6.0) / resistor + (1.0 - gain) * one,
            y[2] / resistor - one, (y[3] - 6.0) / resistor + gain * one,
            (2 * y[4] - 6.0) / resistor + (1.0 - gain) * two,
            y[5] / resistor - two, (y[6] - 6.0) / resistor + gain * two, y[7] / resistor,
        ])  # fmt: skip

    def mass(args):
        c, at = args[0], backend.array(1e-6 * places())
        return sum(c[k] * at[k, ...] for k in range(5))

    return f, backend.array(START), mass


def test_the_reference(reference):
    """At 0.2 s, dense and banded, to the digits of the tolerance."""
    f, y0, mass = amplifier(reference)
    args = CAPACITORS, np.asarray(0.99)
    for structure, rtol in ((None, 1e-6), (rg.Banded(2, 1), 1e-4)):
        sol = rg.solve(
            rg.VectorField(f, structure=structure), y0, 0.0, 0.2, args, mass=mass(args),
            solver="rodas5p", rtol=rtol, atol=rtol,
        )  # fmt: skip
        np.testing.assert_allclose(sol.ys[-1], END, atol=rtol)


@pytest.mark.filterwarnings("ignore:overflow")  # of tries that are rejected
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.libraries("numpy torch jax:jit", slow="strict jax")
def test_its_gradient(backend):
    """By the capacitors, which stand in M, and by the gain."""
    f, y0, mass = amplifier(backend)
    args = backend.array(CAPACITORS), backend.array(0.99)
    weights = np.zeros((1, 8))
    weights[0, 6] = 1.0
    g = backend.gradient(
        f, y0, 0.0, 0.004, args, weights, mass=mass, solver="rodas5p", rtol=1e-8, atol=1e-8,
        max_steps=400,
    )  # fmt: skip
    assert float(backend.to_numpy(g.ys)[0, 6]) == pytest.approx(6.0046302, abs=1e-7)
    np.testing.assert_allclose(g.args[0], BY_CAPACITORS, rtol=1e-5)
    np.testing.assert_allclose(g.args[1], BY_GAIN, rtol=1e-5)


def test_a_start_off_its_equations(reference):
    """An error that tells, and values that are found: those of the nodes without a derivative."""
    f, y0, mass = amplifier(reference)
    args = CAPACITORS, np.asarray(0.99)
    off = y0 + np.asarray([0.0, 0.0, 0.1, 0.0, 0.2, 0.0, 0.0, 0.0])
    with pytest.raises(rg.InputError, match="tolerances away"):
        rg.solve(f, off, 0.0, 0.001, args, mass=mass, solver="rodas5p")
    found = rg.consistent_initial_values(f, off, 0.0, args, mass=mass)
    kept = mass(args) @ (found - off)
    np.testing.assert_allclose(kept, 0.0, atol=1e-15)
    sums = f(np.asarray(0.0), found, args)
    np.testing.assert_allclose([sums[0] + sums[1], sums[3] + sums[4]], 0.0, atol=1e-12)


@pytest.mark.libraries("numpy torch")
@pytest.mark.parametrize("volts", [3.0, -40.0])
def test_a_start_far_off(backend, volts):
    """A diode, through which a whole Newton step overflows, or hardly moves."""

    def f(t, y, args):
        xp = backend.namespace(y)
        current = 1e-12 * (xp.exp((y[0] - y[1]) / 0.026) - 1.0)
        return xp.stack([(5.0 - y[0]) / 10.0 - current, current - y[1]])

    y0 = backend.array([2.0 + volts, 2.0])
    found = rg.consistent_initial_values(f, y0, 0.0, mass=np.diag([0.0, 1.0]))
    u, v = backend.to_numpy(found)
    assert v == 2.0
    assert (5.0 - u) / 10.0 == pytest.approx(1e-12 * np.expm1((u - v) / 0.026), rel=1e-8)
