"""Constant and given steps: how many, where, and how they end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrograde as rg
from retrograde._backend.clock import HostClock, step_count


def grow(t, y, args):
    return y


def times(t0, t1, **keywords):
    saveat = rg.SaveAt(t0=True, steps=True)
    return rg.solve(grow, np.ones(1), t0, t1, solver="euler", saveat=saveat, **keywords).ts


def test_times_come_from_the_index(reference):
    """t_i = t0 + i dt: no sum of roundings, and t1 itself at the end."""
    dt = 0.1
    ts = times(0.0, 200.0, dt=dt)
    np.testing.assert_allclose(ts, np.arange(2001) * dt, rtol=4e-16)
    assert ts[-1] == 200.0


@pytest.mark.parametrize(
    ("t0", "t1", "dt", "n"),
    [
        (0.0, 1.0, 0.1, 10),
        (0.0, 1.0, 0.3, 4),
        (1.0, 0.0, -0.3, 4),
        (0.0, 0.3, 0.1, 3),  # 0.1 * 3 > 0.3
        (0.0, 0.7, 0.1, 7),  # 0.7 / 0.1 < 7
        (2.0, 2.0, 0.1, 0),
        (0.0, 1.0, 5.0, 1),
        (0.0, 1.0, 1 / 3, 3),
    ],
)
def test_counts(t0, t1, dt, n):
    assert step_count(t0, t1, dt) == n
    ts = times(t0, t1, dt=dt)
    assert len(ts) == n + 1
    assert (ts[0], ts[-1]) == (t0, t1)
    assert np.all(np.abs(np.diff(ts)) <= abs(dt) * (1 + 1e-9))


@given(t0=st.floats(-1e3, 1e3), span=st.floats(1e-6, 1e6), n=st.integers(1, 100_000))
def test_n_equal_steps_are_n(t0, span, n):
    t1 = t0 + span
    if t1 - t0 > 1e-9 * abs(t0):
        assert step_count(0.0, span, span / n) == n


@given(t=st.floats(-1e9, 1e9), h=st.floats(1e-9, 1e3), rest=st.floats(1e-9, 1e4))
def test_landing_never_passes_the_end(t, h, rest):
    """The size of a step is what its ends say, whatever the rounding."""
    t1 = t + rest
    t_new, step = HostClock().land(t, h, t1)
    assert t_new == t + step or t_new == t1
    assert t <= t_new <= t1
    assert step == t_new - t


def test_step_to_takes_the_steps_it_is_given(backend):
    ts = [0.0, 0.1, 0.5, 0.6, 1.0]
    saveat = rg.SaveAt(t0=True, steps=True)
    y0, controller = backend.array([1.0]), rg.StepTo(ts)
    sol = rg.solve(grow, y0, 0.0, 1.0, solver="euler", controller=controller, saveat=saveat)
    backend.assert_close(sol.ts, np.asarray(ts), rtol=1e-15)
    expected = np.cumprod([1.0, *(1.0 + np.diff(ts))])
    backend.assert_close(sol.ys, expected[:, None], rtol=1e-14)


def test_step_to_equals_constant_steps(backend):
    """In values and gradients; but given times stand still where constant steps move with t0."""
    y0, n = backend.array([1.0]), 8
    grids = {"dt": 1 / n}, {"controller": rg.StepTo([i / n for i in range(n + 1)])}
    one, two = (backend.gradient(grow, y0, 0.0, 1.0, times=True, **g) for g in grids)
    np.testing.assert_allclose(one.ys, two.ys, rtol=1e-14)
    np.testing.assert_allclose(one.y0, two.y0, rtol=1e-14)
    for g in (one, two):  # y1 = y0 exp(t1 - t0) nearly
        np.testing.assert_allclose([g.t0, g.t1], [-math.e, math.e], rtol=1e-4)


def test_backward_grid(backend):
    controller = rg.StepTo([1.0, 0.4, 0.0])
    sol = rg.solve(grow, backend.array([1.0]), 1.0, 0.0, solver="euler", controller=controller)
    backend.assert_close(sol.ys, np.asarray([[0.4 * 0.6]]), rtol=1e-14)


def test_rows_at_given_times_do_not_move_with_t0(reference):
    """``fn = t y`` with f = 0: the time of an inner row of StepTo depends on nothing."""
    controller = rg.StepTo((0.0, 1.0, 2.0))
    sol, pullback = rg.solve_vjp(
        lambda t, y, args: 0.0 * y, np.asarray([1.0]), 0.0, 2.0, controller=controller,
        solver="euler", saveat=rg.SaveAt(steps=True, fn=lambda t, y, args: t * y),
    )  # fmt: skip
    g = pullback(np.ones_like(sol.ys))
    assert float(g.t0) == 0.0


def test_a_step_cut_short_keeps_its_size(reference):
    """Recorded steps end where the next one begins, and their inside is told at their own size."""
    from retrograde._controllers import GivenGrid
    from retrograde.backend import EagerBackend

    bk = EagerBackend(np)
    grid = GivenGrid(bk, [0.0, 0.5, 0.7], 2, shifts=True, sizes=[0.0, 0.5, 0.4])
    assert grid.step(1) == (0.5, 0.4)
    assert grid.end(1) == 0.7
    plain = GivenGrid(bk, [0.0, 0.5, 0.7], 2, shifts=True)
    assert plain.step(1) == (0.5, 0.7 - 0.5)
