"""What is noted of a state tells its errors: size, place and sign of them do not matter."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from retrograde._adjoints.projection_guard import Guard, guard_bytes, guard_width
from retrograde._backend.registry import adapter

SHAPES = {
    "3": [(3,)],
    "5": [(5,)],
    "200": [(200,)],
    "300": [(300,)],
    "100000": [(100, 1000)],
    "tree": [(7,), (3, 411), (1,), (2000,)],
    "small tree": [(3,), (3,), (3,)],
}


def guard_of(bk, leaves, every=1):
    layout = bk.layout(leaves)
    return Guard(SimpleNamespace(bk=bk, carried=layout, clock=bk.clock(layout)), every), layout


def directions(shapes, draw):
    """Errors spread, of one element, smooth, alternating, and opposite in two leaves."""
    size = sum(int(np.prod(s)) for s in shapes)
    one = np.zeros(size)
    one[draw.integers(size)] = 1.0
    signs = [np.full(int(np.prod(s)), (-1.0) ** i) for i, s in enumerate(shapes)]
    alternating = (-1.0) ** np.arange(size)
    return draw.normal(size=size), one, np.ones(size), alternating, np.concatenate(signs)


def split(x, shapes):
    ends = np.cumsum([int(np.prod(s)) for s in shapes])
    return [part.reshape(s) for part, s in zip(np.split(x, ends[:-1]), shapes, strict=True)]


@pytest.mark.settings(name=SHAPES, few={"jax": ["tree"]})
def test_errors_are_seen_in_every_direction(backend, name):
    bk, shapes, draw = backend.bk, SHAPES[name], np.random.default_rng(0)
    y = draw.normal(size=sum(int(np.prod(s)) for s in shapes))
    leaves = [backend.array(x) for x in split(y, shapes)]
    guard, layout = guard_of(bk, leaves)
    table = guard.note(guard.table(1), 1, layout.pack(leaves))
    for e in directions(shapes, draw):
        true = 1e-6 / np.linalg.norm(y)
        wrong = y + 1e-6 * e / np.linalg.norm(e)
        state = layout.pack([backend.array(x) for x in split(wrong, shapes)])
        seen = float(guard.error(table, 1, state))
        assert true / 10 < seen < 10 * true
        assert float(guard.apart(state, layout.pack(leaves))) == pytest.approx(true, rel=1e-6)
    assert float(guard.error(table, 1, layout.pack(leaves))) < 1e-14


def test_projections_are_gaussian():
    """Over many errors: the mean square is the error's, and few are seen a tenth of their size."""
    bk, draw = adapter("numpy"), np.random.default_rng(1)
    guard, layout = guard_of(bk, [np.zeros(5000)])
    y = draw.normal(size=5000)
    table = guard.note(guard.table(1), 1, y)
    seen = []
    for _ in range(500):
        e = draw.normal(size=5000) * (draw.random(5000) < 0.01)
        e *= np.linalg.norm(y) / np.linalg.norm(e)
        seen.append(guard.error(table, 1, y + e) * np.linalg.norm(y + e) / np.linalg.norm(y))
    assert np.mean(np.square(seen)) == pytest.approx(1.0, rel=0.15)
    assert np.mean(np.less(seen, 0.1)) <= 0.004  # 2e-4 each
    assert np.mean(np.less(seen, 0.3)) <= 0.04  # 1.3e-2
    assert layout.nbytes > 2 * guard_bytes(layout)


def test_complex_states_are_seen_whole(backend):
    bk = backend.bk
    for size in (1, 2, 9):
        y = backend.array(np.linspace(1, 2, size) + 1j, "complex128")
        guard, layout = guard_of(bk, [y])
        assert guard_width(layout) == min(4, 2 * size)
        table = guard.note(guard.table(1), 1, layout.pack([y]))
        for e in (1e-6, 1e-6j):
            assert float(guard.error(table, 1, layout.pack([y + e]))) > 1e-8


def test_states_in_between_are_not_noted(backend):
    y = backend.array([1.0, 2.0])
    guard, layout = guard_of(backend.bk, [y], every=3)
    state, table = layout.pack([y]), guard.table(7)
    for i in range(7):
        table = guard.note(table, i, layout.pack([y * (1.0 + i)]))
    assert float(guard.error(table, 6, layout.pack([y * 7.0]))) == 0.0
    assert float(guard.error(table, 3, state)) > 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_passes_no_guard(backend, bad):
    y = backend.array(np.linspace(1, 2, 6))
    guard, layout = guard_of(backend.bk, [y])
    table = guard.note(guard.table(1), 1, layout.pack([y]))
    with backend.bk.quiet(), np.errstate(invalid="ignore"):
        error = guard.error(table, 1, layout.pack([y * bad]))
    assert not float(error) <= 1.0
