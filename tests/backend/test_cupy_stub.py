"""The lines of CuPy's adapter, run on a stub that computes with NumPy (``cupy_stub``).

A stub proves nothing about CuPy's results, its speed or its memory: it shows that the adapter
is found by the type of an array, that its lines run, that they call nothing which the stub does
not name, and what a step reads back. The results of CuPy itself are tested where there is a
device, by the id ``cupy`` of the ``backend`` fixture.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend import registry as _registry
from retrograde._commands.compare.problem import PROBLEMS

from .cupy_stub import READS, make_cupy, ndarray, wrap

if importlib.util.find_spec("cupy") is not None:
    pytest.skip("CuPy itself is here", allow_module_level=True)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cupy(monkeypatch):
    """The stub in place of CuPy, and every trace of it removed afterwards."""
    ours = ("array_api_compat.cupy", "retrograde_backends.cupy")
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
    return np.stack([p[0] * y[0] - p[1] * y[0] * y[1] + 0.0 * t, p[1] * y[0] * y[1] - p[0] * y[1]])


def compat(t, y, p):
    """The same, by the namespace that a user finds with array_api_compat."""
    xp = importlib.import_module("array_api_compat").array_namespace(y)
    both = p[1] * y[0, ...] * y[1, ...]
    return xp.stack([p[0] * y[0, ...] - both + 0.0 * t, both - p[0] * y[1, ...]])


Y0, P = np.asarray([1.0, 0.5]), np.asarray([1.2, 0.7])


@pytest.mark.parametrize("f", [field, compat])
@pytest.mark.parametrize(
    "keywords",
    [
        {"dt": 0.1, "solver": "rk4"},
        {"dt": 0.1, "adjoint": rg.RecursiveCheckpointAdjoint(3)},
        {"rtol": 1e-6, "adjoint": rg.RecursiveCheckpointAdjoint(4)},
        {"rtol": 1e-6, "saveat": rg.SaveAt(t0=True, ts=[0.4, 1.1], t1=True)},
        {"rtol": 1e-6, "solver": "dopri8"},
    ],
)
def test_the_adapter_is_found_and_its_lines_run(cupy, f, keywords):
    sol, pullback = rg.solve_vjp(f, wrap(Y0), 0.0, 2.0, wrap(P), **keywords)
    assert _registry.backend_for(wrap(Y0)).name == "cupy"
    g = pullback(wrap(np.ones(sol.ys.shape)))
    expected, back = rg.solve_vjp(field, Y0, 0.0, 2.0, P, **keywords)
    reference = back(np.ones(expected.ys.shape))
    pairs = [(sol.ys, expected.ys), *zip(g[:4], reference[:4], strict=True)]
    pairs += [] if g.ts is None else [(g.ts, reference.ts)]
    for a, b in pairs:
        assert type(a) is ndarray
        # BLAS rounds by where an array lies; adaptive steps move with it, constant ones do not
        rtol = 1e-13 if "dt" in keywords else 1e-10
        np.testing.assert_allclose(a.get(), b, rtol=rtol, atol=1e-13)


def reads(run):
    """Host reads a step: of a solve to 1 and one to 6, the difference."""
    counts = []
    for t1 in (1.0, 6.0):
        READS.clear()
        steps = run(t1).stats["num_steps"]
        counts.append((len(READS), steps))
    (a, m), (b, n) = counts
    assert n - m > 10
    return (b - a) / (n - m)


def gradient(t1, **keywords):
    sol, pullback = rg.solve_vjp(field, wrap(Y0), 0.0, t1, wrap(P), **keywords)
    READS.clear()
    pullback(wrap(np.ones(sol.ys.shape)))
    return sol


@pytest.mark.parametrize(("solver", "each"), [("tsit5", 1), ("bosh3", 1), ("dopri8", 2)])
def test_reads_of_an_adaptive_step(cupy, solver, each):
    forward = {"solver": solver, "rtol": 1e-8}
    assert reads(lambda t1: rg.solve(field, wrap(Y0), 0.0, t1, wrap(P), **forward)) == each
    assert reads(lambda t1: gradient(t1, **forward)) == 0


@pytest.mark.parametrize("solver", ["rk4", "tsit5", "dopri8"])
def test_a_constant_step_reads_nothing(cupy, solver):
    settings = {"solver": solver, "dt": 0.1}
    assert reads(lambda t1: rg.solve(field, wrap(Y0), 0.0, t1, wrap(P), **settings)) == 0
    for more in ({}, {"adjoint": rg.RecursiveCheckpointAdjoint(3)}, {"saveat": rg.SaveAt(steps=1)}):
        assert reads(lambda t1: gradient(t1, **settings, **more)) == 0  # noqa: B023
    guarded = {"adjoint": rg.BacksolveAdjoint(guard=1)}
    assert reads(lambda t1: gradient(t1, **settings, **guarded)) <= 1


def test_the_readme_runs(cupy, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(x for x in re.findall(r"```python\n(.*?)```", text, re.S) if "import cupy" in x)
    exec(compile(code.replace("100_000", "1_000"), "README.md", "exec"), {})
    assert capsys.readouterr().out == "cupy (1000,) ()\n"


@pytest.mark.parametrize("name", PROBLEMS)
def test_compare_runs(cupy, name):
    bench = importlib.import_module("retrograde_backends.commands.peers_arrays").Bench
    problem = PROBLEMS[name]()
    found, expected = (
        bench(problem, library).ours({"memory": "8 KiB"}) for library in ("cupy", "numpy")
    )
    pairs = zip(found.gradient(*found.leaves), expected.gradient(*expected.leaves), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a.get(), b, rtol=1e-9)


def test_the_demo_runs(cupy):
    session = importlib.import_module("retrograde._commands.demo.session")
    guesses = importlib.import_module("retrograde._commands.demo.problem").guesses
    x, options = guesses(np, 2), session.Options(memory="16 KiB")
    found, expected = (session.Library(name, options).gradient(x) for name in ("cupy", "numpy"))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7)


def test_functions_of_cupys_own_record_or_say_why_not(cupy):
    def slopes(make):
        return rg.solve_vjp(lambda t, y, p: make(y), wrap(Y0), 0.0, 1.0, wrap(P), dt=0.5)

    sol, pullback = slopes(lambda y: cupy.sin(y) * cupy.exp(-y) + cupy.maximum(y, 0.3))
    expected, back = rg.solve_vjp(
        lambda t, y, p: np.sin(y) * np.exp(-y) + np.maximum(y, 0.3), Y0, 0.0, 1.0, P, dt=0.5
    )
    g, reference = pullback(wrap(np.ones((1, 2)))), back(np.ones((1, 2)))
    np.testing.assert_allclose(sol.ys.get(), expected.ys, rtol=1e-14)
    np.testing.assert_allclose(g.y0.get(), reference.y0, rtol=1e-13)
    for make in (lambda y: cupy.roll(y, 1), lambda y: cupy.stack([y[0], y[1]])):
        with pytest.raises(rg.UnsupportedByBackend, match=r"np\.roll.*array_namespace"):
            slopes(make)


def test_memory_is_what_driver_and_pool_have_free(cupy):
    bk = importlib.import_module("retrograde_backends.cupy").backend
    x = wrap(np.ones(3))
    assert bk.memory(x)[:2] == bk.memory()[:2] == (6_000_000, 9_000_000)
    cupy.get_default_memory_pool().limit = 4_500_000
    assert bk.memory(x)[:2] == (2_500_000, 4_500_000)
