"""The integration of eager libraries against the one written once: the same numbers, bit for
bit.

Guards row N1 of ``asv_bench/report.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg

pytestmark = pytest.mark.libraries("numpy strict torch")  # compiled loops have one form


def relax(t, y, args):
    """A field of any shape whose steps are sometimes rejected."""
    return (args - y) * (1.0 + 20.0 * t * t * (2.0 - t))


STATES = {
    "vector": [0.1, 0.3, -0.2],
    "scalar": 0.3,
    "matrix": [[0.1, 0.3], [0.2, -0.2], [0.0, 0.5]],
    "complex": [0.1 + 0.2j, -0.3j],
}
SAVED = {
    "end": None,
    "times": rg.SaveAt(t0=True, ts=[0.0, 0.4, 0.41, 1.7, 2.0]),
    "steps": rg.SaveAt(steps=True),
    "function": rg.SaveAt(ts=[0.5, 1.5], t1=True, fn=lambda t, y, args: 2.0 * y),
}
SETTINGS = {
    "plain": {},
    "no rtol": {"rtol": 0.0, "atol": 1e-4},
    "bounds": {"controller": rg.PIDController(1e-6, 1e-6, dtmax=0.3, dcoeff=0.02)},
    "short": {"max_steps": 5, "throw": False},
    "heun": {"solver": "heun"},
    "reversible": {"solver": "reversible_heun", "max_steps": 40, "throw": False},
}


def both(monkeypatch, backend, run):
    """What a run gives by the fast integration, and by the one written once."""
    fast = run()
    with monkeypatch.context() as m:
        m.setattr(type(backend.bk), "python_loops", False)
        m.setattr(type(backend.bk), "specialise", lambda *_: None)
        return fast, run()


def assert_same(backend, fast, plain):
    for a, b in zip((fast.ts, fast.ys), (plain.ts, plain.ys), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), backend.to_numpy(b))
    assert fast.stats == plain.stats
    assert fast.status == plain.status


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("state", STATES)
def test_states_and_rows(backend, monkeypatch, state, saved):
    dtype = "complex128" if state == "complex" else "float64"
    y0, a = backend.array(STATES[state], dtype), backend.array(0.7, dtype)
    solve = lambda: rg.solve(relax, y0, 0.0, 2.0, a, saveat=SAVED[saved])  # noqa: E731
    fast, plain = both(monkeypatch, backend, solve)
    assert_same(backend, fast, plain)
    assert fast.stats["num_rejected_steps"] > 0


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(backend, monkeypatch, name):
    y0, a = backend.array([0.1, 0.3]), backend.array(0.7)
    keywords = {"rtol": 1e-5, **SETTINGS[name]}
    for span in ((0.0, 2.0), (0.2, 0.0)):
        fast, plain = both(
            monkeypatch, backend, lambda span=span: rg.solve(relax, y0, *span, a, **keywords)
        )
        assert_same(backend, fast, plain)


def test_tolerances_of_elements_and_trees(backend, monkeypatch):
    rtol, y0 = backend.array([1e-3, 1e-6]), backend.array([0.1, 0.3])
    a, tree = backend.array(0.7), {"a": y0, "b": backend.array([[0.2], [0.4]])}
    both_of = lambda t, y, args: {k: relax(t, x, args) for k, x in y.items()}  # noqa: E731
    run = lambda: rg.solve(relax, y0, 0.0, 2.0, a, rtol=rtol)  # noqa: E731
    assert_same(backend, *both(monkeypatch, backend, run))
    fast, plain = both(monkeypatch, backend, lambda: rg.solve(both_of, tree, 0.0, 2.0, a))
    assert fast.stats == plain.stats
    for k in tree:
        np.testing.assert_array_equal(backend.to_numpy(fast.ys[k]), backend.to_numpy(plain.ys[k]))


@pytest.mark.parametrize("memory", ["1 MiB", "4 KiB"])
def test_gradients_of_stored_and_replayed_states(backend, monkeypatch, memory):
    """Replays go through the calls one by one, so every budget has the same numbers."""
    y0, a = backend.array([0.1, 0.3]), backend.array(0.7)

    def run():
        sol, pull = rg.solve_vjp(relax, y0, 0.0, 2.0, a, memory=memory)
        g = pull(backend.xp.ones_like(sol.ys))
        return [backend.to_numpy(x) for x in (sol.ys, g.y0, g.args)]

    for x, y in zip(*both(monkeypatch, backend, run), strict=True):
        np.testing.assert_array_equal(x, y)
