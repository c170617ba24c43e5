"""Plans of very many steps or leaves: what is searched or counted must not be all of them."""

from __future__ import annotations

import time

import numpy as np
import pytest

import retrograde as rg
from retrograde._autodiff.vjp import vjp
from retrograde._checkpointing import schedules


def decay(t, y, args):
    return -y


@pytest.mark.parametrize("memory", [None, "1 GiB", "4 KiB"])
@pytest.mark.parametrize("dt", [1e-8, 1e-12])
def test_the_time_of_a_plan_does_not_follow_its_steps(backend, dt, memory):
    y0, dt = backend.array([1.0, 2.0]), max(dt, 1e-9 if backend.bk.name == "jax" else 0)
    rg.plan(decay, y0, 0.0, 1.0, dt=0.01, memory=memory)  # libraries load and trace here
    seconds = []
    for _ in range(3):
        start = time.process_time()
        plan = rg.plan(decay, y0, 0.0, 1.0, dt=dt, memory=memory)
        seconds.append(time.process_time() - start)
    assert plan.steps == round(1 / dt)
    assert min(seconds) < 0.1


def test_the_ranges_that_are_inverted_are_those_of_the_schedule():
    """Dearer to replay than to invert: by the ranges themselves, and by their closed form."""
    for slots in range(1, 12):
        for n in range(slots + 1, 200):
            at = schedules.positions(n, slots)
            ranges = zip(at, (*at[1:], n), range(slots, 0, -1), strict=False)
            dearer = any(b - a > schedules.replay_limit(room, 1) for a, b, room in ranges)
            assert rg.BacksolveAdjoint(slots).inverts_any(n) == dearer
        twice = schedules.twice(n)
        assert schedules.repeats(n, twice) <= 2 < schedules.repeats(n, max(1, twice - 1))


def test_a_bound_of_steps_that_is_not_reached_costs_nothing(backend):
    """Of constant steps: seven are seven, whatever ``max_steps`` allows."""
    y0 = backend.array([1.0, 2.0])
    plans = [
        rg.plan(decay, y0, 0.0, 7.0, dt=1.0, memory="1 KiB", max_steps=n, solver="euler")
        for n in (7, 10**6)
    ]
    assert plans[0].adjoint == plans[1].adjoint
    assert plans[0].memory == plans[1].memory


def leaves_of(backend, n):
    y0 = {f"k{i:04}": backend.array([0.1, 0.2 + i]) for i in range(n)}
    return y0, {name: 0.5 * x for name, x in y0.items()}


def tree_decay(t, y, rates):
    return {name: -rates[name] * y[name] for name in y}


def plan_seconds(backend, n):
    """The least of three, of the state and of args of n leaves each."""
    y0, rates = leaves_of(backend, n)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        rg.plan(tree_decay, y0, 0.0, 1.0, rates, dt=0.1)
        seconds.append(time.process_time() - start)
    return min(seconds)


@pytest.mark.libraries("numpy torch", slow="strict")
def test_planning_is_linear_in_leaves(backend):
    """2,000 leaves in half a second of the libraries whose calls are not checked or traced."""
    plan_seconds(backend, 10)
    few, many = (plan_seconds(backend, n) for n in (250, 2000))
    assert many < 0.5 or backend.bk.name == "array_api_strict"
    assert many < 16 * few + 0.1  # 64 where it is quadratic


def test_arrays_that_a_tape_holds_are_found_at_once():
    x, z = np.ones(3), np.ones(3)
    _, pull = vjp(lambda x, z: [x * x, z + 1.0], [x, z], np)
    assert [any(a is b for b in pull.held([x, z])) for a in (x, z)] == [True, False]


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_a_named_backsolve_never_keeps_more_than_every_state(backend, size):
    """States of few numbers: notes of each would take as much as the states themselves."""

    def kept(adjoint, **keywords):
        y0 = backend.array(np.linspace(0.5, 1.0, size))
        return rg.plan(decay, y0, 0.0, 1.0, adjoint=adjoint, **keywords)

    for keywords in ({"solver": "euler", "dt": 0.002}, {"rtol": 1e-10, "atol": 1e-12}):
        plan = kept("backsolve", **keywords)
        tables = plan.shape.tables * plan.adjoint.slots  # a schedule's, where there is one
        assert plan.memory <= kept("recursive_checkpoint", **keywords).memory + tables
        assert isinstance(plan.adjoint, rg.BacksolveAdjoint)
        rows = plan.steps if plan.known else plan.shape.bound or plan.steps  # a buffer's, traced
        notes = plan.shape.noted * rows if plan.adjoint.guard == 1 else 0
        data = plan.adjoint.slots * 8 * size + notes
        assert data <= rows * 8 * size or plan.adjoint.slots >= rows


def test_a_backsolve_of_two_numbers_is_exact_and_says_why(reference):
    y0, ones = np.asarray([1.0, 0.5]), np.ones((1, 2))
    keywords = {"solver": "euler", "dt": 0.002}
    sol, pull = rg.solve_vjp(decay, y0, 0.0, 1.0, adjoint="backsolve", **keywords)
    assert "its guard would take more than every state" in sol.plan.reason
    np.testing.assert_allclose(pull(ones).y0, (1 - 0.002) ** 500 * np.ones(2), rtol=1e-12)
    assert sol.stats["inverted"] == 0
    named = rg.solve_vjp(decay, y0, 0.0, 1.0, adjoint=rg.BacksolveAdjoint(16), **keywords)
    assert named[0].plan.adjoint == rg.BacksolveAdjoint(16)  # slots that are given stay
