"""Fast forms of a step and its vjp against the generic pair: ``RETROGRADE_GENERIC=1`` in a test."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend.registry import adapter

door = importlib.import_module("retrograde._backend.specialise")


def decay(xp):
    return lambda t, y, p: -p * y * y + xp.sin(t + y)


def pair(xp):
    f = decay(xp)
    return lambda t, y, p: {"a": f(t, y["a"], p), "b": -y["b"] * xp.sum(y["a"]) * p}


VECTOR = np.linspace(0.3, 1.0, 3)
FIELDS = {
    "vector": (decay, VECTOR),
    "matrix": (decay, np.linspace(0.3, 1.0, 6).reshape(2, 3)),
    "long": (decay, np.linspace(0.3, 1.0, 3000)),
    "tree": (pair, {"a": VECTOR, "b": np.ones((2, 2))}),
}
TRIES = {"rtol": 1e-6, "atol": 1e-8}
SETTINGS = {
    "constant": {"solver": "rk4", "dt": 0.1, "saveat": rg.SaveAt(steps=True)},
    "tries": TRIES,
    "late, inside": {"solver": "dopri8", "saveat": [0.3, 0.35, 0.9], **TRIES},
    "stored": {"dt": 0.1, "adjoint": rg.RecursiveCheckpointAdjoint()},
    "replayed": {"adjoint": rg.RecursiveCheckpointAdjoint(2), **TRIES},
    "reversible": {"solver": "reversible_heun", "dt": 0.1},
}
STIFF = {
    name: {"solver": name, "saveat": [0.3, 0.35, 0.9], **TRIES} for name in ("rodas5p", "auto")
}


def results(bk, field, settings):
    """Output and gradient by y0, args and t0, as arrays of NumPy."""
    make, y0 = FIELDS[field]
    array, xp = bk.xp.asarray, bk.xp
    leaves, tree = bk.flatten(
        {k: array(x) for k, x in y0.items()} if field == "tree" else array(y0)
    )
    state, p = bk.unflatten(tree, leaves), array(np.asarray(0.7))
    sol, pullback = rg.solve_vjp(make(xp), state, 0.1, 1.1, p, **settings)
    ys, tree = bk.flatten(sol.ys)
    grads = pullback(bk.unflatten(tree, [xp.cos(x) for x in ys]))
    return [np.asarray(x) for x in (*ys, *bk.flatten(grads.y0)[0], grads.args, grads.t0)]


def compare(bk, monkeypatch, field, settings, results=results):
    settings = {**SETTINGS, **STIFF}[settings]
    fast = results(bk, field, settings)
    monkeypatch.setattr(door, "_GENERIC", True)
    plain = results(bk, field, settings)
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_fast_forms_are_the_generic_pair(library, monkeypatch, field, settings):
    pytest.importorskip(library)
    compare(adapter(library), monkeypatch, field, settings)


@pytest.mark.parametrize("field", ["vector", "matrix", "tree"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_stiff_steps_are_the_generic_ones(library, monkeypatch, field):
    pytest.importorskip(library)
    compare(adapter(library), monkeypatch, field, "rodas5p")


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_auto_takes_the_generic_steps(library, monkeypatch):
    """Through a switch: what decays soon after 0.1 at a rate of 3,000."""
    pytest.importorskip(library)
    monkeypatch.setitem(FIELDS, "stiff", (lambda xp: lambda t, y, p: p * (y**2 - 3e3 * y), VECTOR))
    compare(adapter(library), monkeypatch, "stiff", "auto")


def backward(bk, field, settings):
    """The gradient that PyTorch's own autograd asks for."""
    make, y0 = FIELDS[field]
    leaf = lambda x: bk.xp.asarray(x).requires_grad_()  # noqa: E731
    state = {k: leaf(x) for k, x in y0.items()} if field == "tree" else leaf(y0)
    p = leaf(np.asarray(0.7))
    ys = bk.flatten(rg.solve(make(bk.xp), state, 0.1, 1.1, p, **settings).ys)[0]
    sum(bk.xp.sin(x).sum() for x in ys).backward()
    return [np.asarray(x.grad) for x in (*bk.flatten(state)[0], p)]


@pytest.mark.parametrize("settings", ["tries", "stored", "replayed"])
@pytest.mark.parametrize("field", ["matrix", "tree"])
def test_autograd_of_torch_goes_through_both(monkeypatch, field, settings):
    pytest.importorskip("torch")
    compare(adapter("torch"), monkeypatch, field, settings, backward)


@pytest.mark.quick("tries")
@pytest.mark.parametrize("settings", ["tries", "stored"])
def test_programs_of_jax_are_the_generic_pair(monkeypatch, settings):
    pytest.importorskip("jax").config.update("jax_enable_x64", True)
    compare(adapter("jax"), monkeypatch, "vector", settings)


def test_nothing_is_compiled_where_generic_forms_are_set(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(door, "_GENERIC", True)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("a step was compiled"))
    results(adapter("torch"), "vector", {"dt": 0.1, "compile": True})


@pytest.mark.parametrize("libraries", ["numpy", pytest.param("torch jax", marks=pytest.mark.slow)])
def test_the_environment_closes_the_door(libraries):
    """A solve and its gradient by every library that is there; none is asked for its own form."""
    program = """
import numpy as np, retrograde as rg
from retrograde._backend.registry import adapter
from retrograde._backend.stages import ListLayout
import sys
for name in sys.argv[1:]:
    try:
        bk = adapter(name)
    except ImportError:
        continue
    bk.specialise = None
    y0 = bk.xp.asarray([1.0, 0.5])
    sol, pull = rg.solve_vjp(lambda t, y, p: -p * y, y0, 0.0, 1.0, 0.5, solver="bosh3")
    assert isinstance(bk.layout([y0]), ListLayout), name
    grads = pull(bk.xp.ones_like(sol.ys))
    assert abs(float(grads.args) + 1.5 * np.exp(-0.5)) < 1e-3, (name, grads)
    print(name)
"""
    env = {**os.environ, "RETROGRADE_GENERIC": "1"}
    command = [sys.executable, "-c", program, *libraries.split()]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "numpy" in done.stdout or libraries != "numpy"
