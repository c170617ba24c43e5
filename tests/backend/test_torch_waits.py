"""How often PyTorch's host waits for a device, counted where there is none.

The adapter takes tensors of the CPU for those of a device (one function tells them apart), and what
would make a device wait is counted: reads of a number, and copies of numbers from memory that is
not pinned. A step more costs no more of them than the one read that an adaptive step is judged by.
"""

from __future__ import annotations

import collections
import sys

import numpy as np
import pytest

import retrograde as rg

torch = pytest.importorskip("torch")
device = pytest.importorskip("retrograde_backends.torch.memory")
pytest.importorskip("retrograde_backends.torch.adapter")  # before anything is counted
kernels = pytest.importorskip("retrograde_backends.torch.compiled.cache")

READS = ("item", "tolist", "numpy", "cpu", "__float__", "__bool__", "__int__")
UPLOADS = ("tensor", "as_tensor", "from_numpy", "frombuffer")


@pytest.fixture
def waits(monkeypatch):
    """Counts of reads and of uploads that wait, where tensors are taken for a device's."""
    counts = collections.Counter()
    real = device.on_host
    for module in [m for n, m in sys.modules.items() if n.startswith("retrograde_backends.torch")]:
        if getattr(module, "on_host", None) is real:
            monkeypatch.setattr(module, "on_host", lambda where: False)
    monkeypatch.setattr(device, "copies", lambda where: True)
    plain = torch.tensor
    monkeypatch.setattr(device, "pinned", lambda values, dtype: plain(values, dtype=dtype))
    monkeypatch.setattr(kernels, "BACKEND", "eager")
    monkeypatch.setattr(kernels, "_kernels", type(kernels._kernels)())

    def counted(owner, name, key):
        call = getattr(owner, name)

        def counting(*args, **keywords):
            if key == "reads" or not isinstance(args[0], torch.Tensor):
                counts[key] += 1
            return call(*args, **keywords)

        monkeypatch.setattr(owner, name, counting, raising=False)

    for name in READS:
        counted(torch.Tensor, name, "reads")
    for name in UPLOADS:
        counted(torch, name, "uploads")
    counted(torch.Tensor, "new_tensor", "uploads")
    return counts


def field(t, y, p):
    return torch.stack([p[0] * y[0] - p[1] * y[0] * y[1], torch.cos(t) + p[1] * y[0] * y[1] - y[1]])


Y0, P = (1.0, 0.5), (1.2, 0.7)


def inputs():
    return (torch.tensor(x, dtype=torch.float64) for x in (Y0, P))


def solve(t1, **keywords):
    y0, p = inputs()
    return lambda: rg.solve(field, y0, 0.0, t1, p, **keywords)


def pull(t1, **keywords):
    y0, p = inputs()
    sol, pullback = rg.solve_vjp(field, y0, 0.0, t1, p, **keywords)
    ct = torch.ones_like(sol.ys)

    def run():
        pullback(ct)
        return sol

    return run


def each(counts, make):
    """(reads, uploads) of a step, from solves to 1 and to 3."""
    found = []
    for t1 in (1.0, 3.0):
        run = make(t1)
        counts.clear()
        steps = run().stats["num_steps"]
        found.append((counts["reads"], counts["uploads"], steps))
    (a, c, m), (b, d, n) = found
    assert n - m > 4
    return (b - a) / (n - m), (d - c) / (n - m)


SOLVERS = [("tsit5", 1), ("bosh3", 1), ("dopri8", 2)]


@pytest.mark.parametrize(("solver", "reads"), SOLVERS)
def test_adaptive_steps(waits, solver, reads):
    settings = {"solver": solver, "rtol": 1e-8, "atol": 1e-10}
    assert each(waits, lambda t1: solve(t1, **settings)) == (reads, 0)
    assert each(waits, lambda t1: pull(t1, **settings)) == (0, 0)


@pytest.mark.parametrize("solver", ["rk4", "tsit5", "dopri8"])
def test_constant_steps(waits, solver):
    settings = {"solver": solver, "dt": 0.1}
    assert each(waits, lambda t1: solve(t1, **settings)) == (0, 0)
    for more in ({}, {"adjoint": rg.RecursiveCheckpointAdjoint(3)}):
        assert each(waits, lambda t1: pull(t1, **settings, **more)) == (0, 0)  # noqa: B023
    guarded = {"adjoint": rg.BacksolveAdjoint(guard=1), **settings}
    reads, uploads = each(waits, lambda t1: pull(t1, **guarded))
    assert reads <= 1
    assert uploads == 0


@pytest.mark.parametrize("solver", ["tsit5", "dopri8"])
def test_rows_inside_of_steps(waits, solver):
    """As many rows as steps."""

    def rows(t1):
        return {"solver": solver, "dt": 0.1, "saveat": rg.SaveAt(ts=np.arange(0.05, t1, 0.1))}

    assert each(waits, lambda t1: solve(t1, **rows(t1))) == (0, 0)
    assert each(waits, lambda t1: pull(t1, **rows(t1))) == (0, 0)


@pytest.mark.quick("True")
@pytest.mark.parametrize("rows", [False, True])
def test_compiled_steps(waits, rows):
    def settings(t1):
        saved = {"saveat": rg.SaveAt(ts=np.arange(0.05, t1, 0.1))} if rows else {}
        return {"compile": True, "dt": 0.1, **saved}

    if not rows:
        tight = {"compile": True, "rtol": 1e-8}
        solve(0.5, **tight)()
        assert each(waits, lambda t1: solve(t1, **tight)) == (1, 0)
    solve(0.5, **settings(0.5))()
    assert each(waits, lambda t1: solve(t1, **settings(t1))) == (0, 0)
    pull(0.5, **settings(0.5))()
    assert each(waits, lambda t1: pull(t1, **settings(t1))) == (0, 0)


def test_the_numbers_are_those_of_the_host(waits, monkeypatch):
    wish = {"rtol": 1e-8, "saveat": rg.SaveAt(ts=[0.3, 1.0], t1=True)}
    found = []
    for on_host in (False, True):
        monkeypatch.setattr(device, "on_host", lambda where, here=on_host: here)
        y0, p = inputs()
        sol, pullback = rg.solve_vjp(field, y0, 0.0, 2.0, p, **wish)
        found.append((sol.ys, *pullback(torch.ones_like(sol.ys))[:5]))
    for a, b in zip(*found, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
