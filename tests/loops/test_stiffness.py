"""What explicit methods tell of stiff problems, and of others not."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import retrograde as rg


def relaxation(t, y, k):
    """Stiff from t = 1 on: the rate grows from 1 to k there."""
    rate = 1.0 + k / (1.0 + (t / 1.0) ** -40.0)
    return -rate * (y - 1.0)


def turning(t, y, args):
    return np.stack([100.0 * y[1], -100.0 * y[0]])


@pytest.mark.settings(solver=["tsit5", "bosh3"], few={"strict": [], "torch": ["tsit5", "bosh3"]})
def test_where_a_solve_became_stiff(backend, solver, caplog):
    y0 = backend.array([2.0, 3.0])
    with caplog.at_level(logging.INFO, logger="retrograde"):
        sol = rg.solve(relaxation, y0, 0.1, 4.0, 3e3, solver=solver)
    assert sol.stats["num_steps"] > 1024
    assert 1.0 < sol.stats["stiff_from"] < 2.5
    (said,) = [r.getMessage() for r in caplog.records if "stiff" in r.getMessage()]
    assert 'solver="auto"' in said
    assert f"{sol.stats['stiff_from']:.6g}" in said


def test_a_failed_solve_says_so(reference):
    with pytest.raises(rg.SolveFailed, match=r'stiff from t = \S+ on; try solver="auto"'):
        rg.solve(relaxation, np.ones(1) * 2, 0.1, 4.0, 1e5, max_steps=300)


@pytest.mark.parametrize("rtol", [1e-1, 1e-4])
def test_fast_oscillations_are_not_stiff(reference, rtol):
    """Thousands of steps that accuracy asks for."""
    sol = rg.solve(turning, np.array([1.0, 0.0]), 0.0, 40.0, rtol=rtol)
    assert sol.stats["num_steps"] > 1024
    assert "stiff_from" not in sol.stats


def test_every_call_is_counted(reference):
    calls = []

    def f(t, y, k):
        calls.append(t)
        return relaxation(t, y, k)

    sol = rg.solve(f, np.ones(1) * 2, 0.1, 4.0, 3e3)
    assert len(calls) == sol.stats["num_f_evals"] + sol.stats["num_trial_f_evals"]
