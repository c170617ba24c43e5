"""Gradients of stiff solves by Rosenbrock methods, on every library."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

from ..stiff_cases import CASES, call, keywords


@pytest.mark.libraries("torch jax:jit", slow="strict")
def test_gradients_are_equal_on_all_libraries(backend, reference):
    """To 1e-9, rows inside of steps too, with few slots and one tape where that is cheap to see."""
    case = CASES["robertson"]
    weights = np.asarray([[1.0, 2e3, 3.0], [0.5, -1e3, 0.2]])
    saveat = rg.SaveAt(ts=[37.0, 9e4])
    more = keywords(case, rtol=1e-5, saveat=saveat, max_steps=256)
    expected = reference.gradient(*call(reference, case), weights, **more)
    adjoints = [rg.RecursiveCheckpointAdjoint()]
    if backend.bk.name == "torch":
        adjoints += [rg.RecursiveCheckpointAdjoint(5, one_tape=True), rg.DirectAdjoint()]
    for adjoint in adjoints:
        g = backend.gradient(*call(backend, case), weights, adjoint=adjoint, **more)
        np.testing.assert_allclose(g.ys, expected.ys, rtol=1e-9, atol=1e-16)
        np.testing.assert_allclose(g.args, expected.args, rtol=1e-9)
        np.testing.assert_allclose(g.y0, expected.y0, rtol=1e-9)


@pytest.mark.libraries("torch", slow="jax:jit")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_gradients_are_those_of_forward_mode(backend):
    """Tangents along the steps are exact whatever the problem: 1e-10, by all that is given."""
    case = CASES["robertson"]._replace(t1=40.0)
    more = keywords(case, rtol=1e-4, max_steps=128)
    g, forward = (
        backend.gradient(*call(backend, case), np.asarray([[1.0, 2e3, 3.0]]), **more, **adjoint)
        for adjoint in ({}, {"adjoint": "forward"})
    )
    np.testing.assert_allclose(g.y0, forward.y0, rtol=1e-10)
    np.testing.assert_allclose(g.args, forward.args, rtol=1e-10)


@pytest.mark.libraries("numpy")
def test_every_adjoint_gives_the_same_gradient(backend):
    case = CASES["robertson"]
    base = backend.gradient(*call(backend, case), **keywords(case))
    for adjoint in (
        rg.RecursiveCheckpointAdjoint(4), rg.RecursiveCheckpointAdjoint(7, one_tape=True)
    ):  # fmt: skip
        g = backend.gradient(*call(backend, case), **keywords(case), adjoint=adjoint)
        np.testing.assert_allclose(g.args, base.args, rtol=1e-12)
        np.testing.assert_allclose(g.y0, base.y0, rtol=1e-12)
    g = backend.gradient(*call(backend, case), **keywords(case), memory="6 KiB")
    np.testing.assert_allclose(g.args, base.args, rtol=1e-12)
    for adjoint in (rg.BacksolveAdjoint(), rg.BacksolveAdjoint(mode="continuous")):
        with pytest.raises((rg.InputError, rg.UnsupportedByBackend), match="rodas5p"):
            backend.gradient(*call(backend, case), **keywords(case), adjoint=adjoint)
    with pytest.raises(rg.InputError, match="no exact inverse"):
        rg.solve_vjp(*call(backend, case), **keywords(case), adjoint=rg.ReversibleAdjoint())


@pytest.mark.needs(Capability.HIGHER_ORDER)
@pytest.mark.libraries("torch", slow="jax:jit")
def test_second_derivatives(backend):
    """Of y' = -k y**3, whose flow is y / sqrt(1 + 2 k t y**2)."""
    f = lambda t, y, k: -k * y**3  # noqa: E731

    def end(k):
        more = {"solver": "rodas5p", "dt": 0.0175, "adjoint": "direct"}
        return rg.solve(f, backend.array([1.5]), 0.0, 0.7, k, **more).ys[-1, 0]

    k, u = 2.0, 2 * 0.7 * 1.5**2
    root = math.sqrt(1 + u * k)
    exact = 1.5 / root, -1.5 * u / 2 / root**3, 1.5 * 3 / 4 * u**2 / root**5
    found = [float(backend.to_numpy(x)) for x in backend.second(end, backend.array(k))]
    np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.libraries("numpy torch")
def test_the_plan_records_no_graph(backend):
    """A graph of Jacobians would take ten times what all else does."""
    y0 = backend.array(np.linspace(0.5, 1.0, 40))
    if backend.bk.name == "torch":
        y0.requires_grad_()
    f = lambda t, y, args: -(y**3)  # noqa: E731
    plan = rg.plan(f, y0, 0.0, 1.0, solver="rodas5p")
    assert isinstance(plan.adjoint, rg.RecursiveCheckpointAdjoint)
