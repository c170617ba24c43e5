"""dtypes from end to end: half precision, trees of several dtypes, and what has no derivative."""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

HALF = ("float16", "bfloat16")
DIGITS = {"float16": 2e-3, "bfloat16": 1.6e-2}


def halves(backend):
    """Types of half precision that the library has."""
    return [name for name in HALF if hasattr(backend.xp, name)]


def decay(t, y, k):
    assert str(y.dtype) == str(k.dtype)
    return -k * y


def name_of(x):
    return str(x.dtype).rpartition(".")[-1]


@pytest.mark.parametrize("steps", [{"dt": 1e-3, "solver": "heun"}, {"rtol": 1e-2, "atol": 1e-2}])
def test_states_of_half_precision(backend, steps):
    """Steps below their resolution are not rounded away, nor are 1,000 cotangents of k."""
    if name_of(backend.array(1.0)) == "float64" and not halves(backend):
        pytest.skip("the library has no dtype of half precision")
    for dtype in halves(backend):
        y0, k = backend.array([1.0, 2.0], dtype), backend.array(0.5, dtype)
        sol, pullback = rg.solve_vjp(decay, y0, 0.0, 1.0, k, **steps)
        g = pullback(backend.array([[1.0, 1.0]], dtype))
        found = [float(x) for x in (sol.ys[0, 0], sol.ys[0, 1], g.y0[0], g.args, g.t1)]
        e = math.exp(-0.5)
        np.testing.assert_allclose(found, [e, 2 * e, e, -3 * e, -1.5 * e], rtol=2 * DIGITS[dtype])
        assert {name_of(x) for x in (sol.ys, g.y0, g.args)} == {dtype}
        assert name_of(sol.ts) == name_of(g.t0) == "float32"


@pytest.mark.libraries("torch jax", slow="jax:jit")
def test_native_gradients_of_half_precision(backend):
    for dtype in halves(backend):
        y0, k = backend.array([1.0, 2.0], dtype), backend.array(0.5, dtype)
        g = backend.gradient(lambda t, y, k: -k * y, y0, 0.0, 1.0, k, dt=0.01) \
            if dtype == "float16" else None  # fmt: skip
        if g is not None:  # NumPy has no bfloat16
            assert (g.y0.dtype, g.args.dtype) == (np.float16, np.float16)
            assert float(g.args) == pytest.approx(-3 * math.exp(-0.5), rel=2e-3)


def mixed(backend):
    """Three coupled leaves: single, double, complex; f asserts the dtype of each."""

    def f(t, y, k):
        assert [name_of(y[key]) for key in "abc"] == ["float32", "float64", "complex64"]
        xp = backend.namespace(y["c"])
        a = xp.astype(y["a"], y["b"].dtype) if hasattr(xp, "astype") else y["a"].to(y["b"].dtype)
        return {"a": -y["a"], "b": -k * a * y["b"], "c": 1j * y["c"]}

    return f, {
        "a": backend.array([1.0], "float32"),
        "b": backend.array([2.0], "float64"),
        "c": backend.array([1.0 + 1.0j], "complex64"),
    }  # fmt: skip


@pytest.mark.parametrize("adjoint", ["auto", "recursive_checkpoint", "direct"])
def test_trees_of_several_dtypes(backend, adjoint):
    """Values and gradients in the dtypes that came in; what is double has its digits."""
    if adjoint == "direct" and Capability.DIRECT not in backend.bk.capabilities:
        pytest.skip("no autodiff")
    f, y0 = mixed(backend)
    weights = {"a": np.zeros((1, 1)), "b": np.ones((1, 1)), "c": np.ones((1, 1))}
    g = backend.gradient(
        f, y0, 0.0, 1.0, backend.array(0.7), weights, rtol=1e-6, atol=1e-8, max_steps=300,
        adjoint=adjoint,
    )  # fmt: skip
    area = 1.0 - math.exp(-1.0)
    b = 2.0 * math.exp(-0.7 * area)
    expected = {"a": (-0.7 * area * b, 1e-5), "b": (b / 2, 1e-5), "c": (np.exp(-1j), 1e-5)}
    for key, (value, rtol) in expected.items():
        np.testing.assert_allclose(g.y0[key][0], value, rtol=rtol)
        assert g.y0[key].dtype == g.ys[key].dtype
    assert name_of(g.ys["a"]), name_of(g.ys["c"]) == ("float32", "complex64")
    assert g.ys["b"][0, 0] == pytest.approx(b, rel=1e-5)  # f rounds a to single
    assert float(g.args) == pytest.approx(-area * b, rel=1e-5)


@pytest.mark.libraries("numpy strict torch", slow="jax")
def test_rows_functions_and_steps_of_several_dtypes(backend):
    """``SaveAt.fn`` and ``on_step`` see leaves in their own dtypes, and so does a second solve."""
    f, y0 = mixed(backend)
    seen = []

    def energy(t, y, k):
        assert name_of(y["a"]) == "float32"
        return {"a": 2.0 * y["a"]}

    saveat = rg.SaveAt(ts=[0.0, 0.5, 1.0], fn=energy)
    sol, pullback = rg.solve_vjp(
        f, y0, 0.0, 1.0, backend.array(0.7), saveat=saveat, rtol=1e-6, max_steps=100,
        on_step=lambda t, y, h, ok: seen.append({key: name_of(y[key]) for key in y}),
    )  # fmt: skip
    g = pullback(sol.ys)
    exact = 2.0 * np.exp(-np.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(backend.to_numpy(sol.ys["a"])[:, 0], exact, rtol=1e-5)
    assert name_of(g.y0["a"]) == "float32"
    assert seen[0] == {"a": "float32", "b": "float64", "c": "complex64"}


def test_a_vjp_of_the_users_own_sees_its_dtypes(reference):
    def vjp(t, y, k, ct):
        assert y.dtype == k.dtype == ct.dtype == np.float16
        return 0.0 * t, -k * ct, -np.sum(ct * y)

    f = rg.VectorField(lambda t, y, k: -k * y, vjp=vjp)
    half = np.float16
    _, pullback = rg.solve_vjp(f, np.ones(1, half), 0.0, 1.0, np.asarray(0.5, half), dt=0.01)
    g = pullback(np.ones((1, 1), half))
    assert float(g.args) == pytest.approx(-math.exp(-0.5), rel=3e-3)


def test_what_counts_or_chooses_is_handed_through(backend):
    """Integers and bools in args: as they came, and without a gradient; bools are no state."""
    which, on = backend.array([1, 0], "int64"), backend.array([True, False], "bool")

    def f(t, y, args):
        xp = backend.namespace(y)
        assert "int" in str(args["which"].dtype)
        return -args["k"] * xp.where(args["on"], y, 0.0 * y)

    args = {"k": backend.array(0.5), "which": which, "on": on, "name": "decay"}
    _, pullback = rg.solve_vjp(f, backend.array([1.0, 1.0]), 0.0, 1.0, args)
    g = pullback(backend.array([[1.0, 1.0]])).args
    assert float(g["k"]) == pytest.approx(-math.exp(-0.5), rel=1e-4)
    assert g["which"] is None
    assert g["on"] is None
    with pytest.raises(rg.InputError, match="floating dtype"):
        rg.solve(lambda t, y, a: y, on, 0.0, 1.0)


def test_functions_of_rows_return_one_dtype(backend):
    f, y0 = mixed(backend)
    saveat = rg.SaveAt(fn=lambda t, y, k: (y["a"], y["b"]))
    with pytest.raises(rg.InputError, match=r"`saveat.fn` returned leaves of the dtypes .*float64"):
        rg.solve(f, y0, 0.0, 1.0, backend.array(0.7), saveat=saveat, max_steps=100)
