"""Stiff problems by Rosenbrock methods, on every library: values and failures."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg

from ..stiff_cases import CASES, call, keywords


@pytest.mark.settings(
    name=CASES,
    few={"strict": ["robertson"], "torch": ["robertson", "hires"], "jax:jit": ["robertson, long"]},
    slow={"jax:jit": [(name,) for name in CASES if name != "robertson, long"]},
)
def test_where_a_stiff_solve_ends(backend, name):
    case = CASES[name]
    solve = backend.compiled(lambda y0, args: rg.solve(f, y0, 0.0, t1, args, **keywords(case)))
    f, y0, _, t1, args = call(backend, case)
    sol = solve(y0, args)
    found, end = backend.to_numpy(sol.ys)[-1], np.asarray(case.end)
    np.testing.assert_allclose(found, end, rtol=1e-5, atol=1e-5 * case.scale)
    stats = {k: int(v) for k, v in sol.stats.items() if k.startswith("num_")}
    tries, steps = stats["num_steps"], stats["num_accepted_steps"]
    assert stats["num_factorizations"] == tries < 1.3 * steps
    assert stats["num_jac_evals"] == (steps if backend.eager else tries)
    if name != "oregonator":
        assert tries < 800


def test_names_of_other_libraries_lead_here():
    for name in ("Radau", "BDF", "LSODA"):
        with pytest.raises(rg.InputError, match="rodas5p"):
            rg.solve(lambda t, y, args: -y, np.ones(1), 0.0, 1.0, solver=name)


@pytest.mark.libraries("numpy torch jax:jit", slow="strict")
def test_failures_have_a_status_and_no_numbers(backend):
    """nan in f on the way, and a W that is singular at every size that is given."""
    y0 = backend.array([1.0, 0.5])

    def broken(t, y, args):
        xp = backend.namespace(y)
        return -y + xp.where(t > 0.5, xp.asarray(math.nan), xp.asarray(0.0))

    more = {"solver": "rodas5p", "throw": False, "max_steps": 300}
    solve = backend.compiled(lambda y: rg.solve(broken, y, 0.0, 1.0, **more))
    sol = solve(y0)
    assert rg.Status(int(sol.status)) is rg.Status.non_finite
    if not backend.eager:
        assert np.all(np.isnan(backend.to_numpy(sol.ys)))
    # y' = c y with h gamma c = 1: there is no U_1, whatever f is
    gamma = rg.Rodas5P.tableau.gamma
    c = backend.array(1.0 / (0.25 * gamma))
    sol = rg.solve(lambda t, y, c: c * y, y0, 0.0, 1.0, c, solver="rodas5p", dt=0.25, throw=False)
    why = rg.Status.unsolved if backend.eager else rg.Status.non_finite
    assert rg.Status(int(sol.status)) is why
    adaptive = rg.solve(lambda t, y, c: c * y, y0, 0.0, 1.0, c, solver="rodas5p", rtol=1e-6)
    expected = math.exp(float(backend.to_numpy(c)))
    np.testing.assert_allclose(backend.to_numpy(adaptive.ys)[-1, 0], expected, rtol=1e-4)


@pytest.mark.libraries("numpy torch", slow="strict jax")
def test_what_a_solve_may_be_given(backend):
    """Complex trees, tolerances by leaf, backward in time, events, jumps, dense output."""
    f = lambda t, y, rate: {name: x * rate * (1j - 2.0) for name, x in y.items()}  # noqa: E731
    y0 = {"a": backend.array([1.0, 0.5j], "complex128"), "b": backend.array(2.0 + 0j, "complex128")}
    more = {"solver": "rodas5p", "rtol": 1e-8, "atol": {"a": 1e-10, "b": 1e-9}}
    for t1 in (1.2, -0.6):
        sol = rg.solve(f, y0, 0.0, t1, backend.array(1.5), **more)
        for name, start in (("a", np.asarray([1.0, 0.5j])), ("b", np.asarray(2.0 + 0j))):
            expected = np.exp((1j - 2.0) * 1.5 * t1) * start
            np.testing.assert_allclose(backend.to_numpy(sol.ys[name])[-1], expected, rtol=1e-6)
    decay = lambda t, y, args: -50.0 * (y - backend.namespace(y).cos(t))  # noqa: E731
    event = rg.Event(lambda t, y, args: y[0] - 0.9, direction=-1)
    start = backend.array([2.0])
    sol = rg.solve(
        decay, start, 0.0, 2.0, solver="rodas5p", rtol=1e-7, atol=1e-9,
        event=event, saveat=rg.SaveAt(t1=True, dense=True),
    )  # fmt: skip

    def exact(t):
        slow = (2500 * np.cos(t) + 50 * np.sin(t)) / 2501
        return slow + (2 - 2500 / 2501) * np.exp(-50 * t)

    assert abs(float(sol.ts[-1]) - 0.4710) < 5e-3
    np.testing.assert_allclose(backend.to_numpy(sol.ys)[-1, 0], 0.9, atol=1e-7)
    for t in (0.01, 0.2, 0.4):
        np.testing.assert_allclose(float(sol.evaluate(t)[0]), exact(t), rtol=1e-5)
    jump = lambda t, y, args: -40.0 * (y - backend.namespace(y).where(t > 0.3, 1.0 + 0 * y, 0 * y))  # noqa: E731
    controller = rg.PIDController(rtol=1e-8, atol=1e-10, jump_ts=[0.3])
    sol = rg.solve(jump, start, 0.0, 1.0, solver="rodas5p", controller=controller)
    np.testing.assert_allclose(
        backend.to_numpy(sol.ys)[-1, 0], 1.0 + 2 * math.exp(-40) - math.exp(-28), rtol=1e-6
    )


@pytest.mark.libraries("numpy torch", slow="jax")
def test_float32(backend):
    y0, k = backend.array([1.0], "float32"), backend.array(1e3, "float32")
    f = lambda t, y, k: -k * (y - backend.namespace(y).cos(t))  # noqa: E731
    sol = rg.solve(f, y0, 0.0, 1.0, k, solver="rodas5p", rtol=1e-4, atol=1e-5)
    found = backend.to_numpy(sol.ys)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[-1, 0], math.cos(1.0) + 1e-3 * math.sin(1.0), rtol=2e-4)
    with pytest.raises(rg.InputError, match=r"`rtol` is 1e-08, .*float32 are rounded by 1e-07"):
        rg.solve(f, y0, 0.0, 1.0, k, solver="rodas5p", rtol=1e-8, atol=1e-10)
