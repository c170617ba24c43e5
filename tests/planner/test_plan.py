"""The planner: budgets in words and numbers, what they buy, and what it says about it."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrograde as rg
from retrograde._base.memory import format_bytes, parse_bytes
from retrograde.measure import traced_peak

STATE = 16  # bytes of two float64


def solve(backend, plan=rg.plan, n=500, **keywords):
    def f(t, y, args):
        xp = backend.namespace(y)
        return xp.stack([y[1], -y[0] + 0.1 * xp.sin(t)])

    keywords = {"solver": "euler", "dt": 5.0 / n, **keywords}
    return plan(f, backend.array([1.0, 1.0]), 0.0, 5.0, **keywords)


# --- budgets


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512 MiB", 512 * 2**20),
        ("96KiB", 96 * 1024),
        ("2 GB", 2 * 10**9),
        ("1.5 kB", 1500),
        ("2048", 2048),
        ("1e3 b", 1000),
        (" 1 tib ", 2**40),
    ],
)
def test_bytes_in_words(text, size):
    assert parse_bytes(text) == size


@given(size=st.integers(1, 2**45))
def test_words_and_back_within_their_digits(size):
    assert abs(parse_bytes(format_bytes(size)) - size) <= 0.006 * size


@pytest.mark.parametrize("text", ["", "MiB", "-1 KiB", "0", "12 parsecs", "1 KiB of memory", "nan"])
def test_what_is_no_number_of_bytes(text):
    with pytest.raises(rg.InputError, match=r"`memory` is .* write for example"):
        parse_bytes(text)


def test_a_fraction_of_what_is_free(backend):
    half, quarter, default = (solve(backend, memory=m) for m in (0.5, 0.25, None))
    assert quarter.budget == pytest.approx(half.budget / 2, rel=0.1)
    assert default.budget == pytest.approx(half.budget, rel=0.1)
    assert "free" in half.source


def test_words_and_numbers_are_one(backend):
    plans = [solve(backend, memory=m) for m in ("2 KiB", 2048, 2048.0)]
    assert {p.budget for p in plans} == {2048}
    assert len({p.adjoint for p in plans}) == 1


# --- what a budget buys


def test_more_bytes_never_buy_more_time(backend):
    slots, times = [], []
    for size in (400, 600, 1000, 2000, 4000, 16_000, 100_000, 10**6):
        plan = solve(backend, memory=size)
        slots.append(getattr(plan.adjoint, "checkpoints", None) or 500)
        times.append(next(c.time for c in plan.candidates if c.verdict == "chosen"))
        assert plan.memory <= size
    assert all(b <= 1.05 * a for a, b in itertools.pairwise(times))
    assert slots[-1] == 500
    assert min(slots) < 500


@pytest.mark.parametrize("size", [500, 1000, 5000, 20_000])
def test_most_of_the_budget_is_used_where_states_are_recomputed(backend, size):
    plan = solve(backend, memory=size, n=2000)
    assert plan.adjoint.checkpoints is not None
    assert 0.7 * size <= plan.memory <= size


def test_everything_is_stored_where_it_fits(backend):
    plan = solve(backend, memory="16 MiB")
    assert getattr(plan.adjoint, "checkpoints", None) is None  # states, or tapes
    assert re.search("nothing is (recomputed|computed twice)", plan.reason)


def test_steps_are_exact_on_a_grid_and_predicted_else(backend):
    plan = solve(backend, n=123)
    assert (plan.steps, plan.known) == (123, True)
    adaptive = solve(backend, dt=None, solver="tsit5", rtol=1e-6, max_steps=1000)
    assert not adaptive.known
    assert 1 <= adaptive.steps <= 1000


def test_what_does_not_fit_is_itemised(backend):
    with pytest.raises(rg.PlanInfeasible) as caught:
        solve(backend, memory="30 B")
    message = str(caught.value)
    assert "`memory` is 30 B" in message
    assert "cotangents of a step: 32 B" in message
    assert "Raise the budget or pass a smaller batch." in message
    least = parse_bytes(message.split("needs ")[1].split(" for")[0])
    assert solve(backend, memory=int(least * 1.01) + 1).memory <= least * 1.01 + 1


def test_little_memory_holds_one_tape_at_a_time(reference):
    y0 = np.linspace(0.1, 1.0, 5000)

    def field(t, y, args):
        return np.sin(np.exp(-y)) * np.cos(y)

    def plan(states):
        memory = states * y0.nbytes
        return rg.plan(field, y0, 0.0, 1.0, solver="tsit5", dt=0.02, memory=memory)

    assert plan(30).adjoint.one_tape
    assert not plan(100).adjoint.one_tape
    assert plan(30).items["tapes of a step"] * 6 == plan(100).items["tapes of a step"]


def test_a_named_adjoint_is_checked_not_changed(backend):
    adjoint = rg.RecursiveCheckpointAdjoint(50)
    assert solve(backend, adjoint=adjoint).adjoint is adjoint
    assert solve(backend, adjoint=adjoint, memory="1 MiB").adjoint is adjoint
    with pytest.raises(rg.PlanInfeasible, match=r"50 checkpoints needs .* Raise the budget or"):
        solve(backend, adjoint=adjoint, memory=600)


def test_a_plan_can_be_followed(backend):
    plan = solve(backend, memory=700)
    sol, _ = solve(backend, rg.solve_vjp, adjoint=plan)
    assert sol.plan is plan


def test_planning_runs_f_at_most_twice(reference):
    calls = []

    def f(t, y, args):
        calls.append(t)
        return -y

    named = {"adjoint": "recursive_checkpoint"}
    for keywords in ({"dt": 0.01}, named, {**named, "memory": None}):
        calls.clear()
        rg.plan(f, np.ones(3), 0.0, 1.0, **{"memory": "40 KiB", **keywords})
        assert len(calls) - 1 <= 2  # one more checks what f returns


# --- the table


def test_the_table_shows_every_candidate(backend):
    plan = solve(backend, memory=1000)
    text = str(plan)
    assert text.startswith("Plan: BacksolveAdjoint, ")
    assert "of 1000 B" in text
    assert "steps: 500 (exact)" in text
    for candidate in plan.candidates:
        lines = [line for line in text.splitlines() if line.startswith(f"  {candidate.method} ")]
        row = lines[0]
        assert (candidate.verdict if candidate.verdict == "chosen" else candidate.reason) in row
        assert candidate.accuracy in row
    assert [c.verdict for c in plan.candidates].count("chosen") == 1
    assert "too large" in [c.verdict for c in plan.candidates]
    assert "needed by all: " in text


def test_a_stiff_gradient_where_the_predicted_steps_do_not_fit(reference):
    """Steps grow with t, over eleven decades here: the solve tells how many there are."""
    y0, rates = np.array([1.0, 0.0, 0.0]), np.array([0.04, 3e7, 1e4])

    def robertson(t, y, k):
        a, b, c = k[0] * y[0], k[1] * y[1] ** 2, k[2] * y[1] * y[2]
        return np.stack([c - a, a - b - c, b])

    keywords = {"solver": "rodas5p", "rtol": 1e-4, "atol": np.array([1e-6, 1e-10, 1e-6])}
    sol, pullback = rg.solve_vjp(robertson, y0, 0.0, 1e11, rates, memory="6 KiB", **keywords)
    by_rates = rates * pullback(np.array([[1.0, 0.0, 0.0]])).args / sol.ys[-1, 0]
    # y_3 = 1, k_1 y_1 = k_3 y_2, y_1' = -k_2 y_2^2: y_1 = k_3^2 / (k_1^2 k_2 t)
    np.testing.assert_allclose(by_rates, [-2.0, -1.0, 2.0], atol=0.01)
    assert sol.plan.memory <= 6 * 2**10


def test_reasons_compare_what_the_table_shows(reference):
    """Every state may take fewer bytes than what was chosen, which has room for more steps."""
    plan = solve(reference, dt=None, solver="tsit5", rtol=1e-8, memory="64 KiB")
    chosen = next(c for c in plan.candidates if c.verdict == "chosen")
    every = next(c for c in plan.candidates if "every state" in c.method)
    assert every.bytes < chosen.bytes
    assert every.reason == "fits, with room for the predicted steps alone"


# --- the promise


@pytest.mark.parametrize(("size", "steps"), [(5_000, 60), (60_000, 40)])
@pytest.mark.parametrize("states", [4, 12, 25])
def test_measured_peak_is_within_the_budget(reference, size, steps, states):
    """States of many bytes, NumPy's own account: peak(gradient) - peak(forward) <= budget."""
    y0, ones = np.linspace(0.0, 1.0, size), np.ones((1, size))

    def f(t, y, args):
        return -0.5 * y

    fixed = solve_of(f, y0, steps, memory="1 GiB").items
    budget = sum(fixed.values()) + states * y0.nbytes
    forward = traced_peak(lambda: rg.solve(f, y0, 0.0, 1.0, solver="euler", dt=1 / steps))

    def gradient():
        _, pull = rg.solve_vjp(f, y0, 0.0, 1.0, solver="euler", dt=1 / steps, memory=budget)
        pull(ones)

    extra = traced_peak(gradient) - forward
    assert extra <= budget
    assert extra >= 0.5 * states * y0.nbytes


def solve_of(f, y0, steps, **keywords):
    return rg.plan(f, y0, 0.0, 1.0, solver="euler", dt=1 / steps, **keywords)


# --- the rule


def oscillator_pair(t, y, args):
    return y[1], -y[0]


def test_constant_steps_are_inverted_where_not_every_state_fits(backend):
    def plan(size, room):
        def call(memory):
            keywords = {"solver": "rk4", "dt": 1 / 4000, "memory": memory}
            return rg.plan(lambda t, y, args: -y, y0, 0.0, 1.0, **keywords)

        y0 = backend.array(np.linspace(0.1, 1.0, size))
        return call(sum(call("1 GiB").items.values()) + room * 8 * size)

    near, sparse, half = plan(20_000, 40), plan(64, 40), plan(64, 700)
    assert near.adjoint.guard == 1
    assert "with a guard at every step" in near.reason
    assert sparse.adjoint.guard > 1 or sparse.adjoint.guard is None
    for found in (near, sparse):
        assert isinstance(found.adjoint, rg.BacksolveAdjoint)
        row = next(c for c in found.candidates if c.verdict == "chosen")
        assert row.accuracy == "guarded"
        assert row.time <= 6.0
        assert found.memory <= found.budget
    assert isinstance(half.adjoint, rg.BacksolveAdjoint)
    assert "no dearer to replay" in half.reason
    assert not half.adjoint.inverts_any(4000)


def test_reversible_solvers_and_stiff_ones_and_adaptive_steps(reference, monkeypatch):
    pair = (np.ones(50), np.ones(50))
    keywords = {"dt": 1e-3, "memory": "200 KiB"}
    plan = rg.plan(oscillator_pair, pair, 0.0, 1.0, solver="leapfrog", **keywords)
    assert isinstance(plan.adjoint, rg.ReversibleAdjoint)
    assert "the solver is reversible" in plan.reason
    monkeypatch.setattr(rg.RK4, "implicit", True)
    keywords["memory"] = "400 KiB"
    plan = rg.plan(oscillator_pair, pair, 0.0, 1.0, solver="rk4", **keywords)
    assert isinstance(plan.adjoint, rg.RecursiveCheckpointAdjoint)
    assert "for stiff problems" in plan.reason
    keywords = {"rtol": 1e-9, "atol": 1e-9, "memory": "100 KiB"}
    plan = rg.plan(oscillator_pair, pair, 0.0, 60.0, **keywords)
    assert isinstance(plan.adjoint, rg.RecursiveCheckpointAdjoint)
    assert plan.adjoint.checkpoints > 1
    assert "steps are adaptive: the budget buys" in plan.reason


def test_toy_at_256_bytes_on_jax():
    """T1: the budget buys few states; nothing wrong comes of it, and little is kept."""
    jax = pytest.importorskip("jax")
    xp = jax.numpy

    def f(t, y, args):
        return xp.stack([xp.cos(y[1]) * t * t, xp.sin(y[0]) * t * t])

    def loss(y0):
        sol = rg.solve(f, y0, 0.0, 5.0, solver="euler", dt=0.01, memory=256)
        return sol.ys.sum()

    y0 = xp.asarray([1.0, 1.0], xp.float64)
    plan = rg.plan(f, y0, 0.0, 5.0, solver="euler", dt=0.01, memory=256)
    assert isinstance(plan.adjoint, rg.BacksolveAdjoint)
    _, pull = jax.vjp(loss, y0)
    (g,) = pull(xp.asarray(1.0))
    np.testing.assert_allclose(g, [-6.673239, 5.042737], rtol=1e-6)
    assert sum(x.nbytes for x in jax.tree_util.tree_leaves(pull)) <= 156


def test_a_named_method_takes_what_the_budget_buys(backend):
    plan = solve(backend, memory=1000, adjoint="backsolve")
    assert plan.adjoint.checkpoints > 4
    assert plan.reason == "it was named, with what the budget buys"
    plan = solve(backend, memory=1000, adjoint=rg.BacksolveAdjoint(guard=0))
    assert plan.adjoint.guard == 0  # given, so not replaced
    plan = solve(backend, memory=1000, adjoint="recursive_checkpoint")
    assert 4 < plan.adjoint.checkpoints < 500


def test_an_adjoint_that_a_solver_can_not_serve(backend):
    message = r"RK4 has no exact inverse; pass a reversible solver .* or adjoint='backsolve'"
    with pytest.raises(rg.InputError, match=message):
        solve(backend, memory=1000, adjoint="reversible", solver="rk4")
