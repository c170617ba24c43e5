"""The promise of the project: a gradient's measured peak stays within its budget."""

from __future__ import annotations

import pytest

import retrograde as rg
from retrograde.backend import Capability
from retrograde.measure import peak_gradient_bytes

SIZE = 60_000
STATE = 8 * SIZE
STEPS = {
    "constant": {"solver": "rk4", "dt": 0.01},
    "adaptive": {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-7, "max_steps": 200},
}


def gradient_of(backend, solve):
    """The gradient of sum(y1) as a user of the library asks for it, for (y0, rate)."""
    if backend.bk.name == "jax":
        import jax

        return jax.grad(lambda y0, rate: solve(y0, rate).ys.sum(), argnums=(0, 1))

    def run(y0, rate):
        y0, rate = (x.detach().clone().requires_grad_() for x in (y0, rate))
        solve(y0, rate).ys.sum().backward()

    return run


@pytest.mark.device
@pytest.mark.needs(Capability.NATIVE_GRADIENT)
@pytest.mark.settings(
    steps=STEPS,
    states=[30, 60],
    few={name: [("constant", 60), ("adaptive", 30)] for name in ("torch", "jax")},
)
def test_measured_peak_is_within_the_budget(backend, steps, states):
    keywords = STEPS[steps]
    budget, t1 = states * STATE, 1.0 if "dt" in keywords else 10.0
    xp = backend.xp

    def field(t, y, rate):
        return -rate * xp.sin(y)

    y0, rate = backend.array([i / SIZE for i in range(SIZE)]), backend.array(0.5)
    plan = rg.plan(field, y0, 0.0, t1, rate, memory=budget, **keywords)

    def solve(y0, rate, **more):
        return rg.solve(field, y0, 0.0, t1, rate, **keywords, **more)

    measured = peak_gradient_bytes(
        lambda y0, rate: solve(y0, rate).ys,
        gradient_of(backend, lambda y0, rate: solve(y0, rate, memory=budget)),
        y0,
        rate,
    )
    assert STATE < measured.bytes <= plan.memory <= budget
