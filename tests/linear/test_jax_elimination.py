"""JAX: the inverse by a loop over the columns, with which a stiff solve is one kernel."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")


@pytest.mark.libraries("jax")
def test_elimination_in_turns_is_the_inverse(backend):
    from retrograde_backends.jax.linear import eliminated_in_turns

    random = np.random.default_rng(5)
    for n in (2, 7, 24):
        a = random.standard_normal((n, n))
        a[0, 0] = 0.0  # no pivot
        b = jax.jit(eliminated_in_turns)(backend.array(a))
        np.testing.assert_allclose(b @ a, np.eye(n), atol=1e-12)
        a[:, -1] = 0.0
        assert not np.all(np.isfinite(eliminated_in_turns(backend.array(a))))


def test_a_stiff_gradient_is_one_kernel(monkeypatch):
    """All that Robertson's problem and its gradient do can be in one."""
    import retrograde as rg
    from retrograde_backends.jax.xla_cpu import eligible, kernel

    if not eligible.allowed():
        pytest.skip("switched off")
    verdicts, fits = [], kernel.fits
    monkeypatch.setattr(kernel, "fits", lambda jaxpr: verdicts.append(fits(jaxpr)) or verdicts[-1])

    def f(t, y, k):
        a, b, c = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
        return jax.numpy.stack([c - a, a - b - c, b])

    def end(k):
        y0 = jax.numpy.asarray([1.0, 0.0, 0.0])
        return rg.solve(f, y0, 0.0, 10.0, k, solver="rodas5p", max_steps=64).ys[-1, 0]

    jax.grad(end)(jax.numpy.asarray([0.04, 3e7, 1e4]))
    assert verdicts
    assert all(verdicts)
