"""The lines of CuPy's adapter, run on a stub that computes with NumPy.

A stub proves nothing about CuPy's results, its speed or its memory: it shows that the adapter
is found by the type of an array, that its lines run, that they call nothing which the stub does
not name, and that a step reads one value back. The results of CuPy itself are tested where
there is a device, by the id ``cupy`` of the ``backend`` fixture.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types

import numpy as np
import pytest

import retrograde as rg
from retrograde import _registry

if importlib.util.find_spec("cupy") is not None:
    pytest.skip("CuPy itself is here", allow_module_level=True)


class Device(contextlib.nullcontext):
    """One device."""

    def __init__(self, device=None):
        super().__init__()

    def __eq__(self, other):
        return isinstance(other, Device)

    __hash__ = None


class ndarray(np.ndarray):
    """Reductions and operations give arrays, never scalars, as on a device."""

    device = Device()

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return np.asarray(array).view(type(self))

    def __getitem__(self, index):
        return wrap(super().__getitem__(index))

    def __float__(self):
        READS.append(self.shape)
        return float(np.asarray(self))

    def dot(self, other, out=None):
        result = wrap(np.asarray(self).dot(np.asarray(other)))
        if out is None:
            return result
        out[...] = result
        return out

    def __array_namespace__(self, **_):
        return sys.modules["cupy"]


ndarray.__module__ = "cupy"
READS: list[tuple[int, ...]] = []


def wrap(x):
    if isinstance(x, tuple):
        return tuple(map(wrap, x))
    return np.asarray(x).view(ndarray) if isinstance(x, (np.ndarray, np.generic)) else x


def wrapped(fn):
    return lambda *args, **keywords: wrap(fn(*args, **keywords))


class Pool:
    limit = 0

    def free_bytes(self):
        return 1_000_000

    def used_bytes(self):
        return 2_000_000

    def get_limit(self):
        return self.limit


def make_cupy():
    """Modules with the names of CuPy's that computing with NumPy can stand for."""
    cupy = types.ModuleType("cupy")
    for name in dir(np):
        value = getattr(np, name)
        if callable(value) and not isinstance(value, type):
            value = wrapped(value)
        if not name.startswith("_") and not isinstance(value, types.ModuleType):
            setattr(cupy, name, value)
    pool = Pool()
    cupy.ndarray, cupy.linalg, cupy.fft = ndarray, np.linalg, np.fft
    cupy.get_default_memory_pool = lambda: pool
    runtime = types.SimpleNamespace(memGetInfo=lambda: (5_000_000, 9_000_000))
    cupy.cuda = types.ModuleType("cupy.cuda")
    cupy.cuda.runtime, cupy.cuda.Device = runtime, Device
    return {
        "cupy": cupy,
        "cupy.linalg": np.linalg,
        "cupy.fft": np.fft,
        "cupy.cuda": cupy.cuda,
        "cupy.cuda.device": types.SimpleNamespace(Device=Device),
    }


@pytest.fixture
def cupy(monkeypatch):
    """The stub in place of CuPy, and every trace of it removed afterwards."""
    ours = ("array_api_compat.cupy", "retrograde_backends.cupy_")
    modules = make_cupy()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    known = dict(_registry._by_type)
    yield modules["cupy"]
    for name in [n for n in sys.modules if n.startswith(ours)]:
        del sys.modules[name]
    _registry._by_type.clear()
    _registry._by_type.update(known)


def field(t, y, p):
    xp = y.__array_namespace__()
    return xp.stack([p[0] * y[0] - p[1] * y[0] * y[1] + 0.0 * t, p[1] * y[0] * y[1] - p[0] * y[1]])


@pytest.mark.parametrize(
    "keywords",
    [
        {"dt": 0.1, "solver": "rk4"},
        {"dt": 0.1, "adjoint": rg.RecursiveCheckpointAdjoint(3)},
        {"rtol": 1e-6, "adjoint": rg.RecursiveCheckpointAdjoint(4)},
        {"rtol": 1e-6, "saveat": rg.SaveAt(t0=True, ts=[0.4, 1.1], t1=True)},
    ],
)
def test_the_adapter_is_found_and_its_lines_run(cupy, keywords):
    y0, p = np.asarray([1.0, 0.5]), np.asarray([1.2, 0.7])
    sol, pullback = rg.solve_vjp(field, wrap(y0), 0.0, 2.0, wrap(p), **keywords)
    assert _registry.backend_for(wrap(y0)).name == "cupy"
    g = pullback(wrap(np.ones(sol.ys.shape)))
    expected, back = rg.solve_vjp(field, y0, 0.0, 2.0, p, **keywords)
    reference = back(np.ones(expected.ys.shape))
    for a, b in ((sol.ys, expected.ys), (g.y0, reference.y0), (g.args, reference.args)):
        assert type(a) is ndarray
        # BLAS rounds by where an array lies; adaptive steps move with it, constant ones do not
        rtol = 1e-13 if "dt" in keywords else 1e-10
        np.testing.assert_allclose(np.asarray(a), b, rtol=rtol)


def test_one_read_a_step(cupy):
    y0, p = wrap(np.asarray([1.0, 0.5])), wrap(np.asarray([1.2, 0.7]))
    counts = []
    for t1 in (1.0, 6.0):
        READS.clear()
        sol = rg.solve(field, y0, 0.0, t1, p, rtol=1e-8)
        counts.append((len(READS), sol.stats["num_steps"]))
    assert counts[1][0] - counts[0][0] == counts[1][1] - counts[0][1] > 10


def test_memory_is_what_driver_and_pool_have_free(cupy):
    bk = importlib.import_module("retrograde_backends.cupy_").backend
    x = wrap(np.ones(3))
    assert bk.memory(x)[:2] == bk.memory()[:2] == (6_000_000, 9_000_000)
    cupy.get_default_memory_pool().limit = 4_500_000
    assert bk.memory(x)[:2] == (2_500_000, 4_500_000)
