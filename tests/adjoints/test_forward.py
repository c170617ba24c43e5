"""Forward mode: tangents along the steps, as a jvp and as the gradient by a few numbers."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend.registry import adapter
from retrograde.backend import Capability

# PyTorch itself, when it loads the forward-mode rules of its operations
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

STEPS = {
    "constant": {"solver": "rk4", "dt": 0.06},
    "given": {"solver": "heun", "controller": rg.StepTo((0.0, 0.3, 1.1, 1.6, 2.0))},
    "adaptive": {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-7, "max_steps": 128},
}
WISHES = {
    "t1": {},
    "rows": {"t0": True, "ts": [0.0, 0.4, 0.41, 1.5], "t1": True},
    "steps": {"steps": True},
    "fn": {"ts": [0.3, 1.9], "fn": lambda t, y, p: y * t if p is None else p[0] * y * t},
}


def jax_x64():
    """JAX as the harness sets it up."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def oscillator(backend, dtype="float64"):
    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack([y[1], p[0] * (1 - y[0] ** 2) * y[1] - p[1] * y[0] + xp.cos(t) * p[0]])

    return f, backend.array([1.2, -0.3], dtype), 0.0, 2.0, backend.array([0.8, 1.4], dtype)


def jvp(backend, fn, x, v):
    """Tangent of ``fn(x) -> 0-d array`` along v, both lists of arrays, as users ask for it."""
    if backend.bk.name == "jax":
        jax = importlib.import_module("jax")
        return backend.compiled(lambda x, v: jax.jvp(fn, (x,), (v,))[1])(x, v)
    forward = importlib.import_module("torch").autograd.forward_ad
    with forward.dual_level():
        out = fn([forward.make_dual(a, b) for a, b in zip(x, v, strict=True)])
        return forward.unpack_dual(out).tangent


def directions(backend, flat):
    """A direction for each array."""
    out, i = [], 1
    for x in flat:
        shape, dtype = tuple(x.shape), str(x.dtype).rpartition(".")[-1]
        values = np.sin(np.arange(i, i + int(np.prod(shape))).reshape(shape))
        i += values.size
        values = values * (1 - 0.5j) if "complex" in dtype else values
        out.append(backend.array(values.tolist(), dtype))
    return out


def paired(backend, gradient, v):
    """Re <gradient, v> over all inputs, cotangents being dL/da + i dL/db."""
    parts = [gradient.y0, gradient.args, gradient.t0, gradient.t1, gradient.ts]
    leaves = adapter("numpy").flatten(parts)[0]
    pairs = zip(leaves, backend.to_numpy(v), strict=True)
    return sum(np.sum(np.real(np.conj(g) * x)) for g, x in pairs)


def check_against_reverse(backend, call, keywords, times=True):
    """The jvp along a direction is the inner product with the gradient."""
    f, y0, t0, t1, p = call
    reverse = {**keywords, "adjoint": rg.RecursiveCheckpointAdjoint()}
    gradient = backend.gradient(f, y0, t0, t1, p, times=times, **reverse)
    flat, loss, _ = backend._native(f, (y0, t0, t1, p), None, times, dict(keywords))
    v = directions(backend, flat)
    got = float(jvp(backend, lambda x: loss(x)[0], flat, v))
    assert got == pytest.approx(paired(backend, gradient, v), rel=1e-12, abs=1e-12)


@pytest.mark.needs(Capability.HIGHER_ORDER)
@pytest.mark.settings(
    adjoint=["auto", "forward", "direct"],
    steps=STEPS,
    wish=WISHES,
    few={
        "jax": [("forward", "adaptive", "rows")],
        "jax:jit": [("direct", "given", "t1")],
    },
    slow={
        "jax": [("direct", "adaptive", "fn"), ("auto", "constant", "t1")],
        "jax:jit": [("forward", "given", "rows"), ("auto", "adaptive", "rows")],
    },
)
def test_jvp_is_the_inner_product_with_the_gradient(backend, adjoint, steps, wish):
    """By y0, parameters, t0, t1 and saved times at once."""
    keywords = {**STEPS[steps], "saveat": rg.SaveAt(**WISHES[wish]), "adjoint": adjoint}
    check_against_reverse(backend, oscillator(backend), keywords)


@pytest.mark.needs(Capability.HIGHER_ORDER)
@pytest.mark.parametrize("times", [False, True], ids=["numbers", "times"])
def test_jvp_equals_finite_differences(backend, times):
    """On constant steps, whose discrete solve is smooth in everything."""
    call = oscillator(backend)
    flat, loss, _ = backend._native(
        call[0], (*call[1:4], call[4]), None, times, {"solver": "rk4", "dt": 0.25}
    )
    if times:  # t1 is the end of the last step: it may move by less than a step
        flat[-1] = flat[-1] - 0.1
    v = directions(backend, flat)
    got = float(jvp(backend, lambda x: loss(x)[0], flat, v))
    eps = 1e-5
    up, down = ([x + s * eps * d for x, d in zip(flat, v, strict=True)] for s in (1, -1))
    difference = float(loss(up)[0] - loss(down)[0]) / (2 * eps)
    assert got == pytest.approx(difference, rel=1e-8)


@pytest.mark.needs(Capability.HIGHER_ORDER)
@pytest.mark.parametrize("steps", ["constant", "adaptive"])
def test_trees_and_complex_states(backend, steps):
    def f(t, y, p):
        a, b = y["a"], y["b"]
        return {"a": p["w"] * a + b[0] * b[1], "b": -0.5 * b + 0.1 * a * p["w"]}

    y0 = {
        "a": backend.array(1.0 + 0.5j, "complex128"),
        "b": backend.array([0.3 - 1j, 2.0 + 0j], "complex128"),
    }
    p = {"w": backend.array(-0.4 + 1.1j, "complex128"), "n": 3, "none": None}
    check_against_reverse(backend, (f, y0, 0.0, 2.0, p), STEPS[steps], times=False)


@pytest.mark.needs(Capability.DIRECT)
@pytest.mark.settings(
    steps=STEPS,
    wish=WISHES,
    few={
        "torch": [("constant", "steps"), ("given", "t1"), ("constant", "fn")],
        "jax": [("given", "fn")],
    },
    slow={"jax": [("adaptive", "fn"), ("constant", "fn")], "jax:jit": [("constant", "t1")]},
)
def test_by_name_a_gradient_equals_that_of_checkpoints(backend, steps, wish):
    """More numbers than are carried with the solve (9 with the times), or few of them."""
    f, y0, t0, t1, p = oscillator(backend)
    keywords = {**STEPS[steps], "saveat": rg.SaveAt(**WISHES[wish])}
    for times, args in ((True, p), (False, None)):
        g = f if args is not None else lambda t, y, _: f(t, y, p)
        call = (g, y0, t0, t1, args)
        expected, got = (
            backend.gradient(*call, times=times, adjoint=name, **keywords)
            for name in ("recursive_checkpoint", "forward")
        )
        for a, b in zip(got, expected, strict=True):
            if b is not None:  # two forms of one integration round differently
                size = np.max(np.abs(b), where=np.isfinite(b), initial=0.0)  # rows of padding
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * size)


@pytest.mark.libraries("torch", slow="jax")
@pytest.mark.needs(Capability.DIRECT)
def test_by_name_complex_gradients_and_solve_vjp(backend):

    def f(t, y, p):
        return p * y * y

    y0, p = backend.array([0.3 - 1j, 0.5j], "complex128"), backend.array(0.4 + 0.1j, "complex128")
    for run in (backend.gradient, backend.solve_vjp):
        expected, got = (
            run(f, y0, 0.0, 1.0, p, dt=0.1, adjoint=name)
            for name in ("recursive_checkpoint", "forward")
        )
        np.testing.assert_allclose(got.y0, expected.y0, rtol=1e-12)
        np.testing.assert_allclose(got.args, expected.args, rtol=1e-12)


@pytest.mark.libraries("torch", slow="jax jax:jit")
@pytest.mark.needs(Capability.DIRECT)
def test_some_of_the_inputs(backend):
    """What is not differentiated is left out; times of a solve without steps have slopes."""
    f, y0, t0, _, p = oscillator(backend)
    expected, got = (
        backend.gradient(f, y0, t0, t0, p, times=True, adjoint=name, rtol=1e-5)
        for name in ("recursive_checkpoint", "forward")
    )
    np.testing.assert_allclose(got.y0, expected.y0, rtol=1e-12)
    if not backend.eager:
        np.testing.assert_allclose((got.t0, got.t1), (expected.t0, expected.t1), rtol=1e-12)
        assert abs(expected.t1) > 0.1


def test_libraries_without_autodiff_name_what_works(backend):
    if Capability.DIRECT in backend.bk.capabilities:
        pytest.skip(f"{backend.bk.name} has forward mode")
    f, y0, t0, t1, p = oscillator(backend)
    match = rf"ForwardMode, but {backend.bk.name} has no autodiff; use adjoint='auto' or Rec"
    with pytest.raises(rg.UnsupportedByBackend, match=match):
        rg.solve_vjp(f, y0, t0, t1, p, dt=0.5, adjoint="forward")


@pytest.mark.needs(Capability.HIGHER_ORDER)
def test_a_field_with_its_own_vjp_has_no_jvp(backend):
    """The message says whose derivative was asked for."""
    y0 = backend.array([1.0, 2.0])
    field = rg.VectorField(lambda t, y, k: -k * y, vjp=lambda t, y, k, ct: (0.0 * t, -k * ct, ct))

    def run(x, adjoint="auto"):
        return rg.solve(field, x[0], 0.0, 1.0, backend.array([0.5, 0.5]), dt=0.25, adjoint=adjoint)

    for adjoint, match in (("auto", "`f` itself"), ("forward", "`adjoint` is ForwardMode")):
        with pytest.raises(rg.InputError, match=match):
            jvp(backend, lambda x, a=adjoint: run(x, a).ys.sum(), [y0], [y0])
    got = backend.gradient(field, y0, 0.0, 1.0, backend.array([0.5, 0.5]), dt=0.25)
    np.testing.assert_allclose(got.y0, np.exp(-0.5) * np.ones(2), rtol=1e-4)


def test_torch_captured_tensors():
    """What f closes over can't be given a tangent: an error, never a zero."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 2, dtype=torch.float64)
    y0 = torch.ones(2, dtype=torch.float64)
    with pytest.raises(rg.InputError, match=r"closes over arrays .* pass them through `args`"):
        rg.solve(lambda t, y, args: module(y), y0, 0.0, 1.0, dt=0.5, adjoint="forward")
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        w = forward.make_dual(torch.tensor(2.0), torch.tensor(1.0))
        with pytest.raises(rg.InputError, match="closes over a dual tensor"):
            rg.solve(lambda t, y, args: -w * y, y0, 0.0, 1.0, dt=0.5)


def test_jax_captured_tracers(reference):
    jax = jax_x64()
    y0 = jax.numpy.asarray([2.0, 3.0])

    def loss(z):
        sol = rg.solve(lambda t, y, args: -z * y, y0, 0.0, 1.0, solver="bosh3", dt=0.02)
        return sol.ys.sum()

    for fn in (jax.jacfwd(loss), jax.jit(jax.jacfwd(loss))):
        np.testing.assert_allclose(fn(2.3), -5 * np.exp(-2.3), rtol=1e-4)
        np.testing.assert_allclose(fn(2.3), jax.grad(loss)(2.3), rtol=1e-12)


def test_the_plan_tells_of_one_number():
    """JAX outside of jit: one differentiated number needs no reverse pass; two are too many."""
    jax = jax_x64()
    seen = []

    def loss(z, w):
        sol = rg.solve(
            lambda t, y, a: -a[0] * y + a[1], jax.numpy.ones(3), 0.0, 1.0, (z, w), dt=0.1
        )
        seen.append(sol.plan)
        return sol.ys.sum()

    one, two = jax.grad(loss)(1.0, 2.0), jax.grad(loss, (0, 1))(1.0, 2.0)
    assert isinstance(seen[0].adjoint, rg.ForwardMode)
    assert isinstance(seen[1].adjoint, rg.RecursiveCheckpointAdjoint)
    assert "one number" in seen[0].reason
    np.testing.assert_allclose(one, two[0], rtol=1e-12)


@pytest.mark.parametrize("jitted", [False, True])
def test_jax_a_field_with_a_custom_vjp(jitted):
    """Reverse mode as ever; a jvp is an error that says what to change."""
    jax = jax_x64()
    doubled = jax.custom_vjp(lambda x: 2 * x)
    doubled.defvjp(lambda x: (2 * x, None), lambda _, ct: (2 * ct,))
    y0 = jax.numpy.ones(2)

    def loss(z):
        return rg.solve(lambda t, y, z: -z * doubled(y), y0, 0.0, 1.0, z, dt=0.1).ys.sum()

    wrap = jax.jit if jitted else lambda fn: fn
    np.testing.assert_allclose(wrap(jax.grad(loss))(0.5), -4 * np.exp(-1.0), rtol=1e-4)
    with pytest.raises(rg.UnsupportedByBackend, match=r"`f` calls a jax.custom_vjp"):
        wrap(jax.jacfwd(loss))(0.5)
