"""Calibration: the cost of a vjp, measured where it is asked for and assumed where not."""

from __future__ import annotations

import time

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability


def plan_of(backend, **keywords):
    def f(t, y, rate):
        return -rate * backend.namespace(y).sin(y)

    y0, rate = backend.array([0.1, 0.2, 0.3]), backend.array(0.5)
    return rg.plan(f, y0, 0.0, 1.0, rate, memory="1 MiB", **keywords)


@pytest.mark.parametrize("keywords", [{"dt": 0.01}, {}], ids=["constant", "adaptive"])
def test_measured_on_every_library(backend, keywords):
    keywords = {"max_steps": 500, **keywords}
    plan = plan_of(backend, calibrate=True, **keywords)
    assert plan.calibrated
    assert 0.1 <= plan.vjp < 100
    assert f"vjp of a step: {plan.vjp:.1f} F (measured)" in str(plan)
    assumed = plan_of(backend, **keywords)
    assert (assumed.calibrated, assumed.vjp) == (False, 2.0)
    assert "vjp of a step: 2.0 F (assumed)" in str(assumed)
    for one, other in zip(plan.candidates, assumed.candidates, strict=True):
        assert one.time - plan.vjp == pytest.approx(other.time - assumed.vjp)


def test_a_slow_vjp_is_seen(reference):
    """A vjp of the user's that takes four times as long as f, slow enough to be timed."""

    def f(t, y, args):
        time.sleep(1e-3)
        return -y

    def vjp(t, y, args, ct):
        time.sleep(4e-3)
        return None, -ct, None

    field = rg.VectorField(f, vjp=vjp)
    plan = rg.plan(field, np.ones(3), 0.0, 1.0, solver="heun", dt=0.1, calibrate=True)
    assert 3.0 < plan.vjp < 5.5


def test_nothing_is_run_unless_wanted(reference):
    calls = []

    def f(t, y, args):
        calls.append(t)
        return -y

    rg.plan(f, np.ones(3), 0.0, 1.0, dt=0.01)
    few = len(calls)
    rg.plan(f, np.ones(3), 0.0, 1.0, dt=0.01, calibrate=True)
    assert few <= 3 < 50 < len(calls)


def test_a_network_that_f_closes_over():
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 3)
    plan = rg.plan(lambda t, y, args: net(y), torch.ones(2, 3), 0.0, 1.0, dt=0.1, calibrate=True)
    assert plan.calibrated
    assert net.weight.grad is None


@pytest.mark.needs(Capability.TRACED)
def test_nothing_can_be_timed_under_tracing(backend):
    jax = pytest.importorskip("jax")

    def traced(y0):
        rg.plan(lambda t, y, args: -y, y0, 0.0, 1.0, dt=0.1, calibrate=True)
        return y0

    with pytest.raises(rg.InputError, match="`calibrate` is True, but nothing can be timed"):
        jax.jit(traced)(backend.array([1.0]))


def test_solve_takes_no_calibrate(reference):
    with pytest.raises(TypeError, match="calibrate"):
        rg.solve_vjp(lambda t, y, args: -y, np.ones(1), 0.0, 1.0, calibrate=True)
