"""Solves that do not reach t1: an error or a status that tells why and where.

Rows that were reached keep their numbers, the others are nan, states and times, and so is every
gradient. In eager libraries the row for t1 holds where the solve stopped.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import retrograde as rg
from retrograde import Status

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of sqrt, in f
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]


def decay(t, y, args):
    return -y


def breaks_at_half(backend):
    """A field that is nan from t = 0.5 on."""

    def f(t, y, args):
        xp = backend.namespace(y)
        return -y + 0.0 * xp.sqrt(0.5 - t)

    return f


def blows_up(t, y, args):
    """y' = y**2: y(1) = inf from y(0) = 1."""
    return y * y


CASES = {
    "max_steps, constant": (decay, {"dt": 0.01, "max_steps": 40}, Status.max_steps, 0.4, 0.4),
    "max_steps, adaptive": (decay, {"rtol": 1e-10, "max_steps": 4}, Status.max_steps, 0.0, 0.9),
    "max_steps, given times": (
        decay,
        {"controller": rg.StepTo(np.linspace(0.0, 2.0, 201).tolist()), "max_steps": 40},
        Status.max_steps,
        0.4,
        0.41,
    ),
    "nan in f": (breaks_at_half, {"rtol": 1e-6, "max_steps": 400}, Status.non_finite, 0.3, 0.5),
    "nan, constant": (breaks_at_half, {"dt": 0.01}, Status.non_finite, 0.45, 0.5),
    "dt_min": (
        blows_up,
        {"controller": rg.PIDController(1e-6, 1e-9, dtmin=1e-4), "max_steps": 1000},
        Status.dt_min,
        0.9,
        1.0,
    ),
}


def arguments(backend, case, t1=2.0):
    f, keywords, status, low, high = CASES[case]
    f = f(backend) if f is breaks_at_half else f
    return (f, backend.array([1.0, 0.5]), 0.0, t1), keywords, status, low, high


@pytest.mark.parametrize("case", CASES)
def test_an_error_with_the_partial_solution(backend, case):
    problem, keywords, status, low, high = arguments(backend, case)
    with pytest.raises(rg.SolveFailed) as caught:
        rg.solve(*problem, **keywords)
    solution = caught.value.solution
    assert solution.status is status
    if backend.eager or case != "nan, constant":  # compiled constant steps are not looked at
        assert low <= float(solution.t_final) <= high
        assert str(float(solution.t_final))[:5] in str(caught.value)
    assert status.message in str(caught.value)
    assert tuple(solution.ys.shape) == (1, 2)
    ts, ys = backend.to_numpy(solution.ts), backend.to_numpy(solution.ys)
    if not backend.eager:
        assert np.all(np.isnan(ys))
        assert np.all(np.isnan(ts))
    elif status is not Status.non_finite:
        assert ts == solution.t_final
        assert np.all(np.isfinite(ys))
        if case != "dt_min":
            np.testing.assert_allclose(ys, np.exp(-ts) * [[1.0, 0.5]], rtol=1e-6)
    if case.startswith("max_steps"):
        assert int(solution.stats["num_steps"]) == keywords["max_steps"]


@pytest.mark.parametrize("case", CASES)
def test_the_steps_that_were_taken(backend, case):
    """All of them are right, and the last one is where the solve ended."""
    problem, keywords, status, low, high = arguments(backend, case)
    saveat = rg.SaveAt(t0=True, steps=True)
    sol = rg.solve(*problem, **keywords, saveat=saveat, throw=False)
    ts, ys = backend.to_numpy(sol.ts), backend.to_numpy(sol.ys)
    n = int(sol.stats["num_accepted_steps"])
    assert ys.shape == (n + 1, 2)
    assert ts[-1] == float(sol.t_final)
    assert low <= ts[-1] <= high
    assert sol.status is status
    exact = 1.0 / (1.0 / ys[0] - ts[:, None]) if case == "dt_min" else ys[0] * np.exp(-ts[:, None])
    np.testing.assert_allclose(ys, exact, rtol=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_nan_never_a_number(backend, case):
    problem, keywords, status, *_ = arguments(backend, case)
    g = backend.gradient(*problem, **keywords, throw=False)
    assert np.all(np.isnan(g.y0))
    if backend.eager:
        assert rg.solve(*problem, **keywords, throw=False).status is status


def test_traced_solves_report_a_status(backend):
    problem, keywords, status, *_ = arguments(backend, "max_steps, constant")
    run = backend.compiled(
        lambda y0: rg.solve(problem[0], y0, *problem[2:], **keywords, throw=False).status
    )
    assert int(run(problem[1])) == status


@pytest.mark.device
def test_parameters_of_a_failed_solve_get_nan(backend):
    y0, rate = backend.array([1.0]), backend.array([0.5])
    keywords = {"dt": 0.1, "max_steps": 3, "throw": False}
    g = backend.gradient(lambda t, y, k: -k * y, y0, 0.0, 1.0, rate, times=True, **keywords)
    for x in (g.y0, g.args, g.t0, g.t1):
        assert np.all(np.isnan(x))


SAVEAT = rg.SaveAt(t0=True, t1=True, ts=[0.2, 0.35, 0.45, 1.5])
"""Of which a solve to 0.4 reaches the first three rows."""


def loses_a_part(backend):
    """Two equations that know nothing of each other; the second is nan from t = 0.41 on."""

    def f(t, y, args):
        xp = backend.namespace(y)
        k = args if args is not None else 1.0
        return -k * y + xp.stack([0.0 * t, 0.0 * xp.sqrt(0.41 - t)])

    return f


ENDS = {
    "max_steps": (lambda backend: lambda t, y, k: -k * y, {"max_steps": 40}, Status.max_steps),
    "nan in a part": (loses_a_part, {}, Status.non_finite),
}


@pytest.mark.parametrize("end", ENDS)
def test_rows_that_were_not_reached_are_nan(backend, end):
    """In every part of the state, and of what ``SaveAt.fn`` makes of it."""
    make, keywords, status = ENDS[end]
    y0, k = backend.array([1.0, 0.5]), backend.array(1.0)

    @backend.compiled
    def run(y0, k):
        sol = rg.solve(
            make(backend), y0, 0.0, 2.0, k, dt=0.01, saveat=SAVEAT, throw=False, **keywords
        )
        saveat = dataclasses.replace(SAVEAT, fn=lambda t, y, k: (y[0], 0.0 * y[0] + 1.0))
        fn = rg.solve(
            make(backend), y0, 0.0, 2.0, k, dt=0.01, saveat=saveat, throw=False, **keywords
        )
        return sol.ts, sol.ys, fn.ys, sol.t_final, sol.status

    ts, ys, (first, ones), t, found = run(y0, k)
    at = np.asarray([0.0, 0.2, 0.35])
    lost = slice(3, 5 if backend.eager else 6)
    np.testing.assert_array_equal(backend.to_numpy(ts)[:3], at)
    assert np.all(np.isnan(backend.to_numpy(ts)[lost]))
    np.testing.assert_allclose(
        backend.to_numpy(ys)[:3], np.exp(-at[:, None]) * [1.0, 0.5], rtol=1e-8
    )
    assert np.all(np.isnan(backend.to_numpy(ys)[lost]))
    np.testing.assert_array_equal(backend.to_numpy(first), backend.to_numpy(ys)[:, 0])
    np.testing.assert_array_equal(backend.to_numpy(ones)[:5], [1, 1, 1, np.nan, np.nan])
    assert np.isnan(backend.to_numpy(ones)[5]) or backend.eager
    assert float(t) == pytest.approx(0.4, abs=0.011)
    assert int(found) == status


ADJOINTS = {
    "every state": rg.RecursiveCheckpointAdjoint(),
    "slots": rg.RecursiveCheckpointAdjoint(3),
    "slots without a record": rg.RecursiveCheckpointAdjoint(3, record=False),
    "backsolve": rg.BacksolveAdjoint(checkpoints=2),
    "continuous": rg.BacksolveAdjoint(mode="continuous"),
    "reversible": rg.ReversibleAdjoint(checkpoints=2),
    "direct": "direct",
    "forward": "forward",
    "tape": "tape",
}


@pytest.mark.settings(name=ADJOINTS, few={"jax:jit": ["slots without a record", "continuous"]})
def test_gradients_are_nan_by_every_input_and_adjoint(backend, name):
    """Even those of a loss that looks at rows which were reached alone."""
    adaptive = name in ("slots without a record", "forward", "every state")
    keywords = {"rtol": 1e-9, "max_steps": 4} if adaptive else {"dt": 0.01, "max_steps": 40}
    if name == "reversible":
        keywords["solver"] = rg.ReversibleHeun()
    weights = np.asarray([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])[:, None]
    y0, k = backend.array([1.0, 0.5]), backend.array(1.0)
    try:
        g = backend.gradient(
            lambda t, y, k: -k * y, y0, 0.0, 2.0, k, weights, times=True, saveat=SAVEAT,
            adjoint=ADJOINTS[name], throw=False, **keywords,
        )  # fmt: skip
    except rg.UnsupportedByBackend:
        pytest.skip(f"{backend.bk.name} has no such adjoint")
    assert np.all(np.isfinite(g.ys[0]))
    assert np.all(np.isnan(g.ys[4]))
    for x in (g.y0, g.args, g.t0, g.t1, g.ts):
        assert np.all(np.isnan(x))


def test_tries_within_max_steps_are_enough(backend):
    """One less fails, and the number needed does not."""
    y0 = backend.array([1.0])
    n = int(rg.solve(decay, y0, 0.0, 1.0).stats["num_steps"])
    assert rg.solve(decay, y0, 0.0, 1.0, max_steps=n).status is Status.converged
    with pytest.raises(rg.SolveFailed, match=r"reached `max_steps`; raise it"):
        rg.solve(decay, y0, 0.0, 1.0, max_steps=n - 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["field", "one parameter"])
def test_nan_at_the_start_ends_a_solve_at_once(backend, bad, where):
    """After one evaluation by the integration, and with the reason that it has; inf is as bad as
    nan."""
    y0, p, calls = backend.array([1.0, 0.0, 2.0]), backend.array([1.0, bad, 1.0]), []

    def f(t, y, p):
        calls.append(1)
        return y * bad if where == "field" else -p * y

    with pytest.raises(rg.SolveFailed, match=r"At t = 0.0 after 0 steps: `f` or the state became"):
        rg.solve(f, y0, 0.0, 1.0, p)
    assert len(calls) <= 2 or not backend.eager  # the first one checks the result of f
    run = backend.compiled(lambda p: attributes(rg.solve(f, y0, 0.0, 1.0, p, throw=False)))
    ys, status, stats, t = run(p)
    assert np.all(np.isnan(backend.to_numpy(ys))) or backend.eager
    assert (int(status), int(stats["num_steps"]), float(t)) == (Status.non_finite, 0, 0.0)


@pytest.mark.libraries("numpy torch jax", slow="strict")
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno3", "auto"])
def test_nan_right_behind_a_start_at_zero(backend, solver):
    """There is no resolution of t that would end the tries of ever smaller steps."""

    def f(t, y, args):
        return backend.namespace(y).sqrt(-t) - y

    with pytest.raises(rg.SolveFailed, match=r"At t = 0.0 after \d+ steps: ") as end:
        rg.solve(f, backend.array([1.0, 0.5]), 0.0, 1.0, solver=solver)
    assert end.value.solution.status in (Status.non_finite, Status.unsolved)


def attributes(sol):
    return sol.ys, sol.status, sol.stats, sol.t_final


def test_a_solve_that_has_nothing_to_do_asks_f_for_nothing(backend):
    """t0 = t1: y0, whatever f says there."""
    sol = rg.solve(lambda t, y, args: y * np.nan, backend.array([1.0]), 1.0, 1.0)
    assert backend.to_numpy(sol.ys).tolist() == [[1.0]]


@pytest.mark.quick("the first row-auto", "all rows-recursive_checkpoint")
@pytest.mark.parametrize("adjoint", ["auto", "direct", "recursive_checkpoint", "backsolve"])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(None)], ids=["the first row", "all rows"])
def test_what_f_closes_over_gets_nan(adjoint, rows):
    """In PyTorch and JAX, where the only rows reached do not depend on it."""
    wish = rg.SaveAt(t0=True, ts=[0.0, 0.5])
    keywords = {"rtol": 1e-8, "max_steps": 2, "throw": False, "adjoint": adjoint, "saveat": wish}

    def loss(k, y0):
        return rg.solve(lambda t, y, args: -k * y, y0, 0.0, 1.0, **keywords).ys[rows].sum()

    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    jnp = jax.numpy
    both = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(1.0), jnp.ones(2))
    assert all(bool(jnp.all(jnp.isnan(x))) for x in both)
    k, y0 = torch.tensor(1.0, requires_grad=True), torch.ones(2, requires_grad=True)
    loss(k, y0).backward()
    assert bool(torch.isnan(k.grad))
    assert bool(torch.all(torch.isnan(y0.grad)))
