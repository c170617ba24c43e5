"""Powers of a controller in JAX: right, and nan where an error isn't finite.

Guards row J4 of ``asv_bench/report.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)
jnp = jax.numpy
power: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.power")

POWERS = (0.0, -0.085, 0.02, 0.5, -0.5)
ERRORS = {"float64": 1e-15, "float32": 5e-7}


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("dtype", list(ERRORS))
def test_a_power_is_right(dtype, p):
    span = np.log([2.0**-53, np.finfo(dtype).max / 2])
    edges = [0.5**0.5, np.nextafter(0.5**0.5, 0), 1.0, 2**0.5, 2.0**-64, 1e-16]
    x = np.exp(np.random.default_rng(0).uniform(*span, 2000))
    x = np.concatenate((x, edges)).astype(dtype)
    found = jax.vmap(lambda v: power.fixed_power(v, p))(jnp.asarray(x))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, x.astype("float64") ** p, rtol=ERRORS[dtype])


@pytest.mark.parametrize("dtype", list(ERRORS))
@pytest.mark.parametrize("x", [np.nan, -np.nan, np.inf])
def test_what_is_not_finite_has_no_power(dtype, x):
    assert np.isnan(jax.jit(power.fixed_power, static_argnums=1)(jnp.asarray(x, dtype), -0.085))


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_steps_are_those_of_a_host(tolerance):
    """NumPy's controller raises to powers by the C library."""

    def field(xp: Any) -> Any:
        return lambda t, y, mu: xp.stack((y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]))

    times = []
    for xp in (np, jnp):
        settings: Any = {"rtol": tolerance, "atol": tolerance, "saveat": rg.SaveAt(steps=True)}
        times.append(rg.solve(field(xp), xp.asarray([2.0, 0.0]), 0.0, 9.0, 10.0, **settings).ts)
    np.testing.assert_allclose(times[1][: len(times[0])], times[0], rtol=1e-8)
