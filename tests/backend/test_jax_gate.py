"""What may be part of a kernel in JAX, as the gate reads it off a program.

Guards rows J4 and J5 of ``asv_bench/report.py``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)
jnp = jax.numpy
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")


def test_no_program_is_written_for_kernels_that_will_not_be(monkeypatch):
    """One CPU by the arrays, or where they say nothing the default device."""
    monkeypatch.setenv("RETROGRADE_XLA_CPU", "1")
    here = jnp.ones(2)
    for platform in ("cpu", "gpu"):
        device = SimpleNamespace(platform=platform)
        monkeypatch.setattr(gate, "default_device", lambda device=device: device)
        assert gate.enabled() == (bool(gate.UNCACHED) and platform == "cpu")
        with gate.working_on([here]):
            assert gate.enabled() == bool(gate.UNCACHED)
        found = jax.make_jaxpr(lambda x: x * (gate.platforms_of([x, here]) == ("cpu",)))(here)
        assert bool(found.consts or found.jaxpr.eqns[0].invars[1].val) == (platform == "cpu")


def test_the_gate_reads_loops_and_branches():
    def loop(fn: Any) -> Any:
        return jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: fn(x), x))(
            jnp.ones(4)
        ).jaxpr

    assert gate.fits(loop(jnp.sin))
    assert not gate.fits(loop(jnp.sort))
    branch = jax.make_jaxpr(lambda x: jax.lax.cond(x[0] > 0, jnp.sort, jnp.sin, x))(jnp.ones(4))
    assert not gate.fits(branch.jaxpr)


@pytest.mark.skipif(not gate.enabled(), reason="kernels are for the CPU, from JAX 0.7 on")
def test_bits_of_numbers_are_part_of_a_kernel_and_parts_of_numbers_are_not():
    def f(t: Any, y: Any, rate: Any) -> Any:
        bits = jax.lax.bitcast_convert_type(y, jnp.int64)
        same = jax.lax.bitcast_convert_type(((bits << 1) >> 1) | bits, y.dtype)
        return -y * rate + 0 * same

    def loss(y: Any) -> Any:
        return rg.solve(f, y, 0.0, 1.0, 0.5, solver="rk4", dt=0.1).ys.sum()

    program = jax.jit(jax.grad(loss))
    assert "xla_cpu_small_call" in program.lower(jnp.ones(2)).as_text()
    np.testing.assert_allclose(program(jnp.ones(2)), np.exp(-0.5), rtol=1e-6)
    halves = jax.make_jaxpr(lambda y: jax.lax.bitcast_convert_type(y, jnp.int32))(jnp.ones(2))
    assert not gate.fits(halves.jaxpr)
