"""The continuous adjoint beside its peers, and inside the libraries' own programs."""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

CONTINUOUS = rg.BacksolveAdjoint(mode="continuous")


def spiral(backend, y0=None):
    """T1: a gradient with errors that grow."""

    def f(t, y, args):
        xp = backend.namespace(y)
        return xp.stack([xp.cos(y[1]) * t**2, xp.sin(y[0]) * t**2])

    return f, backend.array([1.0, 1.0]) if y0 is None else y0, 0.0, 5.0


def test_known_to_be_wrong_on_t1(backend):
    """Neither the gradient of the 500 steps, nor that of the ODE (11.312883, -8.563734)."""
    keywords = {"solver": "euler", "dt": 0.01}
    g = backend.gradient(*spiral(backend), adjoint=CONTINUOUS, **keywords)
    np.testing.assert_allclose(g.y0, [14.4647, 14.4344], atol=1e-3)
    discrete = backend.gradient(*spiral(backend), **keywords)
    np.testing.assert_allclose(discrete.y0, [-6.673239, 5.042737], atol=1e-5)


@pytest.mark.libraries("numpy torch jax:jit", slow="strict jax")
def test_known_to_be_wrong_on_t2(backend):
    """Lorenz, dz/drho = 0.446134893 at t = 1, 2.145918785 at t = 2: right there, 60 % out here."""

    def f(t, y, rho):
        xp = backend.namespace(y)
        x, v, z = y[0], y[1], y[2]
        return xp.stack([10 * (v - x), x * (rho - z) - v, x * v - 8 / 3 * z])

    call = (f, backend.array([1.0, 1.0, 1.0]), 0.0)
    keywords = {"dt": 0.01, "adjoint": CONTINUOUS}
    w, rho = np.asarray([[0.0, 0.0, 1.0]]), backend.array(28.0)
    one, two = (backend.gradient(*call, t1, rho, w, **keywords).args for t1 in (1.0, 2.0))
    assert abs(one - 0.446134893) < 2e-6
    assert abs(two - 2.145918785) > 1.1


# --- peers
@pytest.mark.slow
@pytest.mark.libraries("jax")  # the same numbers
def test_the_numbers_of_diffrax(backend):
    diffrax, jax = pytest.importorskip("diffrax"), pytest.importorskip("jax")

    def peer(f, y0, t1, args, solver, dt, ts):
        saveat = diffrax.SaveAt(t1=True) if ts is None else diffrax.SaveAt(ts=backend.array(ts))
        adjoint = diffrax.BacksolveAdjoint()
        term = diffrax.ODETerm(f)
        return diffrax.diffeqsolve(
            term, solver, 0.0, t1, dt, y0, args, saveat=saveat, adjoint=adjoint
        ).ys

    f, y0, *_ = spiral(backend)
    theirs = jax.grad(lambda y: peer(f, y, 5.0, None, diffrax.Euler(), 0.01, None).sum())(y0)
    ours = backend.gradient(*spiral(backend), solver="euler", dt=0.01, adjoint=CONTINUOUS)
    np.testing.assert_allclose(ours.y0, theirs, rtol=1e-9)

    call, ts = lotka_volterra(backend), [0.5, 1.3, 2.0]
    w = np.cos(np.arange(6)).reshape(3, 2)
    theirs = jax.grad(
        lambda y, p: (w * peer(call[0], y, 2.0, p, diffrax.Tsit5(), 0.02, ts)).sum(), argnums=(0, 1)
    )(call[1], call[4])
    keywords = {
        "dt": 0.02,
        "saveat": rg.SaveAt(ts=ts),
        "adjoint": CONTINUOUS,
    }
    ours = backend.gradient(*call, w, **keywords)
    np.testing.assert_allclose(ours.y0, theirs[0], rtol=1e-9)
    np.testing.assert_allclose(ours.args, theirs[1], rtol=1e-9)


def lotka_volterra(backend):
    def f(t, y, p):
        x, z = y[0], y[1]
        xp = backend.namespace(y)
        return xp.stack([p[0] * x - p[1] * x * z, p[2] * x * z - p[3] * z])

    return f, backend.array([1.0, 0.5]), 0.0, 2.0, backend.array([1.5, 1.0, 0.8, 0.7])


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
@pytest.mark.parametrize("call", [spiral, lotka_volterra])
def test_the_numbers_of_torchdiffeq(call, solver):
    torch, peer = pytest.importorskip("torch"), pytest.importorskip("torchdiffeq")

    class Library:
        array = staticmethod(lambda x: torch.asarray(x, dtype=torch.float64))
        namespace = staticmethod(lambda y: torch)

    f, y0, t0, t1, *rest = call(Library)
    args = rest[0].requires_grad_() if rest else None
    y0 = y0.requires_grad_()
    inputs = [y0] if args is None else [y0, args]
    times = [t0, 0.4 * t1, t1]
    ys = peer.odeint_adjoint(
        lambda t, y: f(t, y, args),
        y0,
        torch.asarray(times, dtype=torch.float64),
        method=solver,
        options={"step_size": 0.01},
        adjoint_params=inputs[1:],
    )
    theirs = torch.autograd.grad(ys[1:].sum(), inputs)
    keywords = {"solver": solver, "dt": 0.01, "saveat": rg.SaveAt(ts=times[1:])}
    ys = rg.solve(f, y0, t0, t1, args, adjoint=CONTINUOUS, **keywords).ys
    ours = torch.autograd.grad(ys.sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)


# --- inside the libraries' own programs
def oscillator(backend):
    def f(t, y, p):
        xp = backend.namespace(y)
        return xp.stack([y[1], p[0] * (1 - y[0] ** 2) * y[1] - p[1] * y[0] + xp.cos(t)])

    return f, backend.array([1.2, -0.3]), 0.0, 2.0, backend.array([0.8, 1.4])


@pytest.mark.libraries("jax:jit", slow="jax")
def test_residuals_on_jax(backend):
    """T1's 500 steps leave y(t1), y0, t0, t1 and a status between the passes."""
    jax = pytest.importorskip("jax")

    def solve(y0):
        return rg.solve(
            *spiral(backend, y0),
            solver="euler",
            dt=0.01,
            adjoint=CONTINUOUS,
        ).ys

    _, pull = jax.vjp(backend.compiled(solve), backend.array([1.0, 1.0]))
    assert sum(x.nbytes for x in jax.tree_util.tree_leaves(pull)) <= 64


@pytest.mark.slow
@pytest.mark.libraries("jax jax:jit")
def test_under_vmap(backend):
    jax = pytest.importorskip("jax")
    f, y0, t0, t1, p = oscillator(backend)

    def gradient(y0, t0):
        keywords = {
            "solver": "bosh3",
            "saveat": rg.SaveAt(ts=[1.0, 2.0]),
            "adjoint": CONTINUOUS,
        }

        def loss(y0, t0, p):
            return rg.solve(f, y0, t0, t1, p, **keywords).ys.sum()

        return jax.grad(loss, argnums=(0, 1, 2))(y0, t0, p)

    y0 = backend.array([[1.2, -0.3], [0.1, 2.0], [-1.0, 0.7]])
    t0 = backend.array([0.0, 0.25, 0.5])
    together = backend.compiled(jax.vmap(gradient))(y0, t0)
    one = jax.jit(gradient)
    alone = [one(y, t) for y, t in zip(y0, t0, strict=True)]
    for i, whole in enumerate(together):
        np.testing.assert_allclose(whole, np.stack([x[i] for x in alone]), rtol=1e-9)


@pytest.mark.needs(Capability.NATIVE_GRADIENT)
def test_what_f_closes_over(backend):
    """Tensors and tracers that f closes over get gradients."""
    f, y0, t0, t1, p = oscillator(backend)
    keywords = {"solver": "heun", "dt": 0.05, "adjoint": CONTINUOUS}
    expected = backend.gradient(f, y0, t0, t1, p, **keywords).args
    if backend.bk.name == "torch":
        p = p.requires_grad_()
        rg.solve(lambda t, y, _: f(t, y, p), y0, t0, t1, **keywords).ys.sum().backward()
        actual = p.grad
    else:
        jax = pytest.importorskip("jax")

        def loss(p):
            return rg.solve(lambda t, y, _: f(t, y, p), y0, t0, t1, **keywords).ys.sum()

        actual = backend.compiled(jax.grad(loss))(p)
    np.testing.assert_allclose(backend.one_to_numpy(actual), expected, rtol=1e-12)
