"""Plain input: numbers, lists, integers and SciPy's names are taken for what they mean.

Expected values are closed forms: y' = -k y, and the oscillator q'' = -w q.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

pytestmark = pytest.mark.libraries("numpy strict torch jax")  # the same programs under jit
SPAN = (0.0, 1.0)
TIGHT = {"solver": "rk4", "dt": 1 / 64}


def decay(t, y, k):
    return -k * y


def oscillator(t, y, w):
    """In plain Python: a list for a vector."""
    return [y[1], -w[0] * y[0]]


def skip_jax(backend, ok):
    """Every form is a program of its own in JAX: a few are enough."""
    if backend.bk.name == "jax" and not ok:
        pytest.skip("another form stands for this one in JAX")


def like(backend):
    """An array that says which library the numbers beside it are meant for."""
    return backend.array(0.5)


@pytest.mark.parametrize(
    ("y0", "shape"),
    [(2, ()), (2.0, ()), ([2, 1], (2,)), ([[2.0, 1], [0, 4]], (2, 2)), ([(2, 1), (0, 4)], (2, 2))],
)
def test_numbers_as_y0_are_arrays_of_the_other_arrays_library(backend, y0, shape):
    skip_jax(backend, ok=shape == (2,))
    sol, pullback = rg.solve_vjp(decay, y0, *SPAN, like(backend), **TIGHT)
    backend.assert_close(
        sol.ys, backend.array(np.asarray([y0]) * math.exp(-0.5)), rtol=1e-7, atol=1e-9
    )
    assert tuple(sol.ys.shape) == (1, *shape)
    g = pullback(backend.xp.ones_like(sol.ys))
    expected = -np.sum(y0) * math.exp(-0.5)
    np.testing.assert_allclose(backend.to_numpy(g.args), expected, rtol=1e-7)


def test_integers_are_floats_of_the_library(backend):
    """Integer arrays in y0 take the dtype of the floats beside them, or the library's own."""
    whole = backend.xp.asarray([2, 1])
    sol = rg.solve(decay, whole, *SPAN, backend.array(0.5, "float32"), dt=0.25)
    assert sol.ys.dtype == backend.xp.float32
    alone = rg.solve(lambda t, y, args: -y, whole, *SPAN, dt=0.25)
    assert alone.ys.dtype == backend.xp.asarray(1.0).dtype
    mixed = rg.solve(lambda t, y, a: (-y[0], -y[1]), (whole, like(backend)), *SPAN, dt=0.25)
    assert all(x.dtype == backend.xp.float64 for x in mixed.ys)


def test_trees_of_numbers(reference):
    y0 = {"x": 1, "v": [0.0, 2], "z": (1.0, np.float64(3.0))}
    sol = rg.solve(lambda t, y, args: y, y0, *SPAN, **TIGHT)
    e = math.e
    np.testing.assert_allclose(sol.ys["x"], [e], rtol=1e-7)
    np.testing.assert_allclose(sol.ys["v"], [[0.0, 2 * e]], rtol=1e-7)
    np.testing.assert_allclose(sol.ys["z"], [[e], [3 * e]], rtol=1e-7)
    pair = rg.solve(lambda t, y, a: (y[1], -y[0]), (1, 0), 0, 1, solver="leapfrog", dt=0.01)
    np.testing.assert_allclose(pair.ys[0], [math.cos(1)], rtol=1e-4)
    assert rg.solve(decay, [1j, 2], *SPAN, 0.5, dt=0.25).ys.dtype == np.complex128


@pytest.mark.parametrize("form", ["number", "tuple", "list", "dict", "int", "numpy", "complex"])
def test_every_number_in_args_has_a_gradient(backend, form):
    """In any tree, of any type: an argument is a parameter (Lorenz: ``args=(10, 28, 8 / 3)``)."""
    skip_jax(backend, ok=form in ("tuple", "dict"))
    args, k = {
        "number": (0.5, lambda a: a),
        "tuple": ((3, 0.5), lambda a: a[1]),
        "list": ([3, [0.5]], lambda a: a[1][0]),
        "dict": ({"k": 0.5, "n": [backend.xp.asarray([1, 2]), None]}, lambda a: a["k"]),
        "int": (2, lambda a: a / 4),
        "numpy": ((np.float64(0.5), np.float32(2.0)), lambda a: a[0]),
        "complex": (0.5 + 0j, lambda a: backend.namespace(a).real(a)),
    }[form]
    y0 = backend.array([2.0, 1.0])
    _, pullback = rg.solve_vjp(lambda t, y, a: -k(a) * y, y0, *SPAN, args, **TIGHT)
    g = pullback(np.ones((1, 2)).tolist())
    found = k(g.args) if form != "int" else 4 * g.args  # a / 4
    if form == "complex":
        assert backend.bk.floating(g.args) == "complex"
        found = backend.xp.real(g.args)
    assert backend.bk.is_array(found)
    np.testing.assert_allclose(backend.to_numpy(found), -3 * math.exp(-0.5), rtol=1e-7)
    if form == "dict":
        assert g.args["n"] == [None, None]


def test_what_counts_or_chooses_stays_an_integer(backend):
    """Integer arrays always; ints where arrays stand beside them, or where f needs them so."""
    xp, y0 = backend.xp, backend.array([2.0, 1.0])

    def f(t, y, args):
        k, i, n = (args[name] for name in ("k", "i", "n"))
        for _ in range(n - 1):
            k = k * 1.0
        return -k * y[i] * backend.namespace(y).ones_like(y)

    for i, k in ((1, 0.5), (xp.asarray(1), 0.5), (1, like(backend))):
        if backend.bk.name == "jax" and k != 0.5:
            continue
        args = {"k": k, "i": i, "n": 3}
        sol, pullback = rg.solve_vjp(f, y0, *SPAN, args, **TIGHT)
        g = pullback(backend.xp.ones_like(sol.ys))
        assert g.args["i"] is None
        assert g.args["n"] is None
        np.testing.assert_allclose(backend.to_numpy(g.args["k"]), -2 * math.exp(-0.5), rtol=1e-7)
    shifted = rg.solve(lambda t, y, i: -y[i] + 0 * y, y0, *SPAN, 1, dt=0.25)
    np.testing.assert_allclose(backend.to_numpy(shifted.ys[0, 0] - shifted.ys[0, 1]), 1.0)


def test_a_number_that_f_needs_as_pythons(backend):
    """A solve hands it on as it came where f can't take an array; ``solve_vjp`` says what to do."""

    def f(t, y, k):
        return -y if float(k) > 0 else y

    y0 = backend.array([1.0])
    np.testing.assert_allclose(
        backend.to_numpy(rg.solve(f, y0, *SPAN, 0.5, **TIGHT).ys)[0], math.exp(-1), rtol=1e-7
    )
    if Capability.TRACED in backend.bk.capabilities:
        with pytest.raises(TypeError) as caught:
            rg.solve_vjp(f, y0, *SPAN, 0.5)
        assert "let `f` close over those" in "".join(caught.value.__notes__)


RETURNS = {
    "list": ([1.0, 0.0], oscillator),
    "tuple": ([1.0, 0.0], lambda t, y, w: tuple(oscillator(t, y, w))),
    "matrix": ([[1.0, 0.0]], lambda t, y, w: [oscillator(t, y[0, ...], w)]),
    "constants": ([1.0, 0.0, 0.0], lambda t, y, w: [*oscillator(t, y, w), 3]),
    "tree": (([1.0], 0.0), lambda t, y, w: [[y[1]], -w[0] * y[0][0]]),
    "dict": ({"q": 1.0, "p": 0.0}, lambda t, y, w: {"p": -w[0] * y["q"], "q": y["p"]}),
}


@pytest.mark.parametrize("form", RETURNS)
def test_what_f_may_return(backend, form):
    """Lists and tuples, ints and floats of Python for y's arrays; derivatives go through."""
    skip_jax(backend, ok=form in ("constants", "tree"))
    y0, f = RETURNS[form]
    w = (backend.array(4.0),)
    sol, pullback = rg.solve_vjp(f, y0, *SPAN, w, **TIGHT)
    q, p = math.cos(2.0), -2 * math.sin(2.0)
    found = np.concatenate([np.ravel(x) for x in backend.bk.flatten(backend.to_numpy(sol.ys))[0]])
    expected = [p, q] if form == "dict" else [q, p]  # by name
    np.testing.assert_allclose(found[:2], expected, rtol=1e-7)
    assert form != "constants" or abs(found[2] - 3.0) < 1e-12
    ones = backend.map(backend.xp.ones_like, sol.ys)
    g = backend.to_numpy(pullback(ones).args[0])  # d/dw of cos(s) - s sin(s), s = 2 = sqrt(w)
    slope = (-2 * math.sin(2.0) - 2 * math.cos(2.0)) / 4
    np.testing.assert_allclose(g, slope, rtol=1e-6)


@pytest.mark.libraries("numpy strict torch jax:jit")
def test_lists_from_f_in_a_jit_and_in_the_librarys_own_gradient(backend):
    y0, w = backend.array([1.0, 0.0]), (backend.array(4.0),)
    if Capability.NATIVE_GRADIENT not in backend.bk.capabilities:
        w = (4.0,)
    g = backend.gradient(oscillator, y0, *SPAN, w, np.ones((1, 2)), **TIGHT)
    slope = (-2 * math.sin(2.0) - 2 * math.cos(2.0)) / 4
    np.testing.assert_allclose(g.args[0], slope, rtol=1e-6)


def test_a_vjp_of_the_users_may_return_lists(backend):

    def vjp(t, y, w, ct):
        return 0.0, [-w[0] * ct[1], ct[0]], (-ct[1] * y[0],)

    w = (backend.array(4.0),)
    args = (oscillator, vjp)
    _, pullback = rg.solve_vjp(rg.VectorField(*args), [1, 0], *SPAN, w, **TIGHT)
    g = pullback([[1, 1.0]])
    slope = (-2 * math.sin(2.0) - 2 * math.cos(2.0)) / 4
    np.testing.assert_allclose(backend.to_numpy(g.args[0]), slope, rtol=1e-6)


@pytest.mark.parametrize("form", ["list", "tuple", "array", "saveat"])
def test_times_to_save(backend, form):
    skip_jax(backend, ok=form in ("tuple", "array"))
    times = {
        "list": [0.5, 1],
        "tuple": (0.5, np.float32(1.0)),
        "array": backend.array([0.5, 1.0]),
        "saveat": rg.SaveAt(ts=[0.5, 1]),
    }[form]
    sol = rg.solve(decay, backend.array([1.0]), 0, np.int64(1), 2.0, saveat=times, **TIGHT)
    expected = [[math.exp(-1.0)], [math.exp(-2.0)]]
    np.testing.assert_allclose(backend.to_numpy(sol.ys), expected, rtol=1e-7)
    np.testing.assert_allclose(backend.to_numpy(sol.ts), [0.5, 1.0])


def test_a_cotangent_in_a_list(backend):
    """Of numbers, ints or another library's array; the same of a loop's."""
    y0 = (backend.array([1.0, 2.0]), backend.array(3.0))
    _, pullback = rg.solve_vjp(lambda t, y, k: (-y[0], -y[1]), y0, *SPAN, **TIGHT)
    for cotangent in ([[[1, 0.0]], [2]], ([np.array([1.0, 0.0])], np.array([2.0], np.float32))):
        g = backend.to_numpy(pullback(cotangent).y0)
        np.testing.assert_allclose(g[0], [math.exp(-1), 0.0], rtol=1e-7)
        np.testing.assert_allclose(g[1], 2 * math.exp(-1), rtol=1e-7)
    _, pull = rg.loop_vjp(rg.scan, lambda c, x: (2.0 * c, c), backend.array([1.0, 3.0]), length=2)
    init, _ = pull(([1, 2.0], [[1, 1], [0, 0.0]]))
    np.testing.assert_allclose(backend.to_numpy(init), [5.0, 9.0])
    with pytest.raises(rg.InputError, match=r"the cotangent holds a .* of dtype .*float64"):
        pull(([1j, 2.0], None))


@pytest.mark.parametrize(
    ("name", "kind"), [("RK45", "Dopri5"), ("rk23", "Bosh3"), ("DOP853", "Dopri8")]
)
def test_names_of_scipy(reference, name, kind):
    """The same method: SciPy's own result to the tolerance."""
    integrate = pytest.importorskip("scipy.integrate")
    sol = rg.solve(decay, [1.0, 2.0], *SPAN, 0.5, solver=name, atol=[1e-9, 1e-8], rtol=1e-9)
    same = rg.solve(decay, [1.0, 2.0], *SPAN, 0.5, solver=getattr(rg, kind)(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sol.ys, same.ys, rtol=1e-8)
    theirs = integrate.solve_ivp(lambda t, y: -0.5 * y, SPAN, [1.0, 2.0], name.upper(), rtol=1e-9)
    np.testing.assert_allclose(sol.ys[-1], theirs.y[:, -1], rtol=1e-5)
    for stiff in ("Radau", "bdf", "LSODA"):
        with pytest.raises(rg.InputError, match=r"stiff problems; the nearest here is 'rodas5p'"):
            rg.solve(decay, [1.0], *SPAN, 0.5, solver=stiff)


def test_plans_of_plain_input(backend):
    """A plan is made from the same arguments as the solve that follows it."""
    call = (oscillator, [1, 0], 0, 1, (like(backend),))
    plan = rg.plan(*call, dt=0.01, memory="8 KiB", saveat=[0.5, 1])
    sol = rg.solve(*call, dt=0.01, adjoint=plan, saveat=[0.5, 1])
    w = math.sqrt(0.5)
    expected = [math.cos(w / 2), math.cos(w)]
    np.testing.assert_allclose(backend.to_numpy(sol.ys)[:, 0], expected, rtol=1e-6)
