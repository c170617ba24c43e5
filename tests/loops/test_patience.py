"""A long adaptive solve tells where it is; short ones, and their numbers, know nothing of it."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

import retrograde as rg
from retrograde._checkpointing import patience

SLOTS = (None, rg.RecursiveCheckpointAdjoint(4))


def stiff(t, y, args):
    return -1e4 * (y - np.cos(t))


@pytest.mark.parametrize("adjoint", SLOTS, ids=["plain", "checkpoints"])
@pytest.mark.parametrize("t0", [0.0, 5.0])
def test_a_word_after_many_tries(monkeypatch, caplog, adjoint, t0):
    monkeypatch.setattr(patience, "TRIES", 200)
    keywords = {} if adjoint is None else {"adjoint": adjoint}
    solve = rg.solve if adjoint is None else rg.solve_vjp
    with caplog.at_level(logging.WARNING, logger="retrograde"):
        result = solve(stiff, np.array([0.0]), t0, t0 + 2.0, **keywords)
    sol = result if adjoint is None else result[0]
    n = sol.stats["num_steps"]
    said = [record for record in caplog.records if record.name == "retrograde"]
    assert len(said) == len([k for k in (200, 2000, 20000) if k < n])
    t, tries, _, h, left = map(
        float, re.findall(r"\d[\d.]*(?:e[+-]?\d+)?", said[0].getMessage())[:5]
    )
    assert t0 < t < t0 + 2.0
    assert 200 <= tries < 400
    assert left == pytest.approx((t0 + 2.0 - t) / h, rel=0.1)
    assert tries + left == pytest.approx(n, rel=0.5)


def test_a_word_after_a_while(monkeypatch, caplog):
    now = iter(np.arange(0.0, 1e3, 4.0))
    monkeypatch.setattr(patience.time, "monotonic", lambda: float(next(now)))
    with caplog.at_level(logging.WARNING, logger="retrograde"):
        rg.solve(
            stiff, np.array([0.0]), 0.0, 0.1
        )  # looks after 16, 32, 64, 128 tries: 0, 4, 8, 12 s
    (record,) = [record for record in caplog.records if record.name == "retrograde"]
    assert "after 128 tries of a step (12 s, " in record.getMessage()


@pytest.mark.parametrize("max_steps", [15, 16, 17, 40])
def test_bounds_are_kept_where_it_looks(max_steps):
    sol = rg.solve(stiff, np.array([0.0]), 0.0, 2.0, max_steps=max_steps, throw=False)
    assert sol.stats["num_steps"] == max_steps
    assert sol.status is rg.Status.max_steps
