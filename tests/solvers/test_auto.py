"""The solver that switches: what it costs, and the gradient of what it did."""

from __future__ import annotations

import pathlib
import runpy

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

_cases = runpy.run_path(str(pathlib.Path(__file__).parent.with_name("stiff_cases.py")))
CASES, field = _cases["CASES"], _cases["field"]
pol = _cases["van_der_pol"]


def lotka(xp, t, y, k):
    return xp.stack([k * y[0] - y[0] * y[1], y[0] * y[1] - 3.0 * y[1]])


SEVEN = {
    "lotka": (lotka, [1.0, 1.0], 20.0, 1.5),
    "pol 5": (pol, [2.0, 0.0], 50.0, 5.0),
    "pol 50": (pol, [2.0, 0.0], 150.0, 50.0),
    "pol 1000": (pol, [2.0, 0.0], 3000.0, 1000.0),
    **{name: CASES[name][:4] for name in ("robertson", "oregonator", "hires")},
}
MILD = ("lotka", "pol 5")


@pytest.mark.parametrize("name", SEVEN)
def test_it_costs_what_the_better_method_costs(reference, name):
    """The seven problems of the design note: at most half as much again; no switch where there is
    no reason."""
    f, y0, t1, args = SEVEN[name]

    def calls(solver):
        f0, y = field(reference, f), np.asarray(y0)
        sol = rg.solve(f0, y, 0.0, t1, np.asarray(args), solver=solver, rtol=1e-5, atol=1e-8)
        return sol.stats["num_f_evals"]

    found = calls("auto")
    if name in MILD:
        assert found == calls("tsit5")
    assert found <= 1.5 * calls("rodas5p")


@pytest.mark.parametrize(
    ("name", "rtol", "atol"),
    [
        ("robertson", 1e-8, 1e-12),
        ("hires", 1e-8, 1e-12),
        ("robertson", 1e-10, 1e-14),
        pytest.param("pol 50", 1e-9, 1e-13, marks=pytest.mark.slow),
    ],
)
def test_what_is_fast_may_be_small(reference, name, rtol, atol):
    """Unweighed, the fast part of a difference of stages may be less than the slow one; and at
    tight tolerances steps that stability holds hover further below its bound."""
    f, y0, t1, args = SEVEN[name]
    given = field(reference, f), np.asarray(y0), 0.0, t1, np.asarray(args)
    keywords = {"rtol": rtol, "atol": atol}
    found, stiff = (rg.solve(*given, solver=s, **keywords).stats for s in ("auto", "rodas5p"))
    assert found["num_f_evals"] <= 1.5 * stiff["num_f_evals"]


def problem(backend):
    """Stiff between jumps: a hundred steps of either method."""
    return field(backend, pol), backend.array([2.0, 0.0]), 0.0, 60.0, backend.array(60.0)


STEPS = {"solver": "auto", "rtol": 1e-5, "atol": 1e-8, "max_steps": 400}
ROWS = rg.SaveAt(ts=[10.3, 47.1], t1=True)
WEIGHTS = np.cos(np.arange(6.0)).reshape(3, 2)


@pytest.fixture(scope="module")
def expected(reference):
    """By every state stored, and what was solved."""
    return reference.gradient(
        *problem(reference), WEIGHTS, saveat=ROWS, adjoint=rg.RecursiveCheckpointAdjoint(), **STEPS
    )


ADJOINTS = {
    "all": rg.RecursiveCheckpointAdjoint(),
    "5 slots": rg.RecursiveCheckpointAdjoint(5),
    "one tape": rg.RecursiveCheckpointAdjoint(3, one_tape=True),
    "direct": rg.DirectAdjoint(),
}


@pytest.mark.settings(
    adjoint=ADJOINTS,
    few={"strict": [], "torch": ["5 slots", "direct"], "jax": [], "jax:jit": ["5 slots"]},
    slow={"jax:jit": ["direct"]},
)
def test_replays_read_what_was_decided(backend, expected, adjoint):
    """One gradient by every adjoint on every library; direct ones differentiate by another way."""
    if adjoint == "direct" and Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip(f"{backend.bk.name} has no autodiff")
    g = backend.gradient(
        *problem(backend), WEIGHTS, saveat=ROWS, adjoint=ADJOINTS[adjoint], **STEPS
    )
    for name in ("ys", "y0", "args"):
        np.testing.assert_allclose(getattr(g, name), getattr(expected, name), rtol=1e-8, atol=1e-9)


def test_both_methods_are_used_and_right(reference, expected):
    f, y0, t0, t1, mu = problem(reference)
    sol = rg.solve(f, y0, t0, t1, mu, **STEPS)
    stiff = rg.solve(f, y0, t0, t1, mu, solver="rodas5p", rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(sol.ys, stiff.ys, rtol=1e-4)
    steps = sol.stats["num_steps"]
    assert 6 * steps + 50 < sol.stats["num_f_evals"] < 8 * steps - 50
    ends = [
        np.sum(WEIGHTS * rg.solve(f, y0, t0, t1, mu + e, solver="rodas5p", rtol=1e-11, atol=1e-12,
                                  saveat=ROWS).ys)
        for e in (1e-4, -1e-4)
    ]  # fmt: skip
    np.testing.assert_allclose(expected.args, (ends[0] - ends[1]) / 2e-4, rtol=2e-3)


def test_inside_of_steps(reference):
    """Dense output, saved times and an event's time see the chosen method's interpolant."""
    f, y0, t0, t1, mu = problem(reference)
    dense = rg.SaveAt(dense=True)
    crossing = rg.Event(lambda t, y, mu: y[0], terminal=False)
    sol = rg.solve(f, y0, t0, t1, mu, saveat=dense, event=crossing, **STEPS)
    rows = rg.solve(f, y0, t0, t1, mu, saveat=rg.SaveAt(ts=[10.3, 48.0]), **STEPS).ys
    np.testing.assert_allclose(sol.evaluate([10.3, 48.0]), rows, rtol=1e-10)
    assert sol.events[0].ts.shape == (1,)
    np.testing.assert_allclose(sol.evaluate(sol.events[0].ts)[0, 0], 0.0, atol=1e-10)


@pytest.mark.needs(Capability.TRACED)
@pytest.mark.slow
def test_samples_choose_for_themselves(reference):
    import jax
    import jax.numpy as jnp

    def end(mu):
        y0 = jnp.asarray([2.0, 0.0])
        f = lambda t, y, mu: pol(jnp, t, y, mu)  # noqa: E731
        return rg.solve(f, y0, 0.0, 20.0, mu, **STEPS).ys[-1].sum()

    rates = jnp.asarray([1.0, 60.0])
    values, slopes = jax.vmap(jax.value_and_grad(end))(rates)
    for mu, value, slope in zip(rates, values, slopes, strict=True):
        one = jax.value_and_grad(end)(mu)
        np.testing.assert_allclose((value, slope), one, rtol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rg.Auto(rg.Bosh3()), r"`explicit` is Bosh3\(\); pass rg.Tsit5\(\)"),
        (lambda: rg.Auto(rg.ALF()), "`explicit` is ALF"),
        (lambda: rg.Auto(stiff=rg.Rosenbrock23()), r"`stiff` is Rosenbrock23\(\); pass rg.Rodas"),
    ],
)
def test_methods_that_do_not_pair(make, message):
    with pytest.raises(rg.InputError, match=message):
        make()


def test_names(reference):
    y0 = np.asarray([1.0, 0.5])
    ends = [
        rg.solve(lambda t, y, a: -y * t, y0, 0.0, 1.0, solver=solver).ys
        for solver in ("auto", rg.Auto(), rg.Auto(rg.Tsit5(), rg.Rodas5P()))
    ]
    assert np.array_equal(ends[0], ends[1])
    assert np.array_equal(ends[0], ends[2])
    assert rg.Auto() == rg.Auto(rg.Tsit5())
