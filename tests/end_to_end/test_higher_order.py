"""Derivatives of derivatives with the adjoint that the planner chooses.

y' = -z y has y(1) = y0 exp(-z): all its derivatives are known. Steps are constant or adaptive,
errors of the solve below 1e-8.
"""

from __future__ import annotations

import numpy as np
import pytest

import retrograde as rg
from retrograde.backend import Capability

# PyTorch itself, when it loads the forward-mode rules of its operations
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

STEPS = {
    "constant": {"solver": "rk4", "dt": 0.01},
    "adaptive": {"rtol": 1e-10, "atol": 1e-12, "max_steps": 256},
}
ROUGH = {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-7, "max_steps": 256}
Y0 = np.asarray([2.0, 3.0])
Z = np.asarray([2.3, 1.1])


@pytest.mark.needs(Capability.HIGHER_ORDER)
@pytest.mark.settings(steps=STEPS, few={}, slow={"jax": [("constant",)]})
def test_second_derivative_by_a_parameter(backend, steps):
    """y1 = y0 exp(a b), with the default adjoint (torchdiffeq#29, T5)."""
    y0, a, b = backend.array([4.0]), backend.array(2.0), 3.0

    def loss(a):
        return rg.solve(lambda t, y, a: a * b * y, y0, 0.0, 1.0, a, **STEPS[steps]).ys[0, 0]

    exact = 4.0 * np.exp(6.0) * np.asarray([1.0, 3.0, 9.0])
    found = [backend.to_numpy(x) for x in backend.second(loss, a)]
    np.testing.assert_allclose(found, exact, rtol=1e-5 if steps == "constant" else 1e-7)


@pytest.mark.libraries("torch", slow="jax jax:jit")
def test_second_derivative_by_a_rate(backend):
    """d2y/dz2 = y0 exp(-z), with the default adjoint (diffrax#332, T6)."""
    y0, z = backend.array(Y0.tolist()), backend.array(2.3)

    def loss(z):
        sol = rg.solve(lambda t, y, z: -z * y, y0, 0.0, 1.0, z, **STEPS["adaptive"])
        return backend.xp.sum(sol.ys)

    exact = 5 * np.exp(-2.3) * np.asarray([1.0, -1.0, 1.0])
    found = [backend.to_numpy(x) for x in backend.second(loss, z)]
    np.testing.assert_allclose(found, exact, rtol=1e-8)


# --- JAX: every order of transforms, jit around, inside, or nowhere
FIRST = ("grad", "jacfwd", "jacrev")
SECOND = [(a, b) for a in ("jacfwd", "jacrev") for b in FIRST]


def jax_x64():
    """JAX as the harness sets it up."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def jax_loss(steps, adjoint="auto"):
    jnp = jax_x64().numpy
    y0, keywords = jnp.asarray(Y0), STEPS.get(steps, ROUGH)

    def loss(z):
        sol = rg.solve(lambda t, y, z: -z * y, y0, 0.0, 1.0, z, adjoint=adjoint, **keywords)
        return jnp.sum(sol.ys)

    return loss


def wrapped(jax, where, outer, inner, fn):
    """outer(inner(fn)) with jit at one place."""
    jit = jax.jit
    if where == "inside":
        return outer(inner(jit(fn)))
    if where == "between":
        return outer(jit(inner(fn)))
    whole = outer(inner(fn))
    return jit(whole) if where == "around" else whole


@pytest.mark.quick("jacfwd-grad-inside")
@pytest.mark.parametrize("where", ["nowhere", "inside", "between", "around"])
@pytest.mark.parametrize("pair", SECOND, ids="-".join)
def test_jax_second_derivatives(pair, where):
    jax = jax_x64()
    steps = "adaptive" if pair in (("jacfwd", "jacrev"), ("jacrev", "jacfwd")) else "constant"
    outer, inner = (getattr(jax, name) for name in pair)
    hessian = wrapped(jax, where, outer, inner, jax_loss(steps))(jax.numpy.asarray(Z))
    np.testing.assert_allclose(hessian, np.diag(Y0 * np.exp(-Z)), rtol=1e-7, atol=1e-9)


@pytest.mark.quick("True-recursive_checkpoint")
@pytest.mark.parametrize("adjoint", ["auto", "forward", "direct", "recursive_checkpoint"])
@pytest.mark.parametrize("jitted", [False, True])
def test_jax_hessian_by_every_adjoint(adjoint, jitted):
    """Hidden by jit or seen, chosen or named."""
    jax = jax_x64()
    hessian = jax.hessian(jax_loss("adaptive", adjoint))
    found = (jax.jit(hessian) if jitted else hessian)(jax.numpy.asarray(Z))
    np.testing.assert_allclose(found, np.diag(Y0 * np.exp(-Z)), rtol=1e-8, atol=1e-10)


@pytest.mark.quick("grad")
@pytest.mark.parametrize("inner", ["grad", "jacfwd", "hessian"])
def test_jax_vmap_of_derivatives(inner):
    """Batched inside and outside; every sample as alone."""
    jax = jax_x64()
    jnp, loss = jax.numpy, jax_loss("rough")
    zs = jnp.asarray([Z, 0.5 * Z, -Z])
    derivative = getattr(jax, inner)(loss)
    alone = np.asarray(jax.jit(lambda zs: jax.lax.map(derivative, zs))(zs))
    np.testing.assert_allclose(jax.jit(jax.vmap(derivative))(zs), alone, rtol=1e-12, atol=1e-12)
    if inner != "hessian":  # derivatives of the batched solve
        outer = getattr(jax, inner)(lambda zs: jnp.sum(jax.vmap(loss)(zs)))
        np.testing.assert_allclose(jax.jit(outer)(zs), alone, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adaptive", "while_loop", "direct"])
def test_jax_reverse_over_reverse_of_a_batch(kind):
    """grad of grad of vmap, as vmap of grad of grad, by differences, and once more."""
    jax = jax_x64()
    jnp = jax.numpy

    def loop(z):
        step = lambda c: (c[0] + z[1], c[1] * jnp.sin(z[0] + c[1]))  # noqa: E731
        return jnp.sum(
            rg.while_loop(lambda c: c[0] < 3.0, step, (0.0 * z[0], z[0]), max_steps=9)[1]
        )

    one = (
        loop
        if kind == "while_loop"
        else jax_loss("adaptive", "direct" if "d" == kind[0] else "auto")
    )
    zs, v = jnp.asarray([Z, 0.5 * Z]), jnp.asarray([[1.0, -0.5], [0.3, 2.0]])
    first = jax.grad(lambda zs: jnp.sum(jax.vmap(one)(zs)))
    second = jax.jit(jax.grad(lambda zs: jnp.vdot(first(zs), v)))
    found = second(zs)
    alone = jax.vmap(lambda z, v: jax.grad(lambda z: jnp.vdot(jax.grad(one)(z), v))(z))
    np.testing.assert_allclose(found, alone(zs, v), rtol=1e-8, atol=1e-10)
    near = (first(zs + 1e-5 * v) - first(zs - 1e-5 * v)) / 2e-5
    np.testing.assert_allclose(found, near, rtol=2e-4, atol=1e-6)
    if kind == "direct":
        third = jax.grad(lambda zs: jnp.vdot(second(zs), v))(zs)
        np.testing.assert_allclose(third, -(v**2) * Y0 * np.exp(-zs), rtol=1e-6)


@pytest.mark.slow
def test_jax_a_parameter_of_the_whole_batch():
    """An unbatched tangent of a batched solve: its cotangents add up."""
    jax = jax_x64()
    jnp = jax.numpy

    def loss(z):
        solve = lambda y: rg.solve(lambda t, y, z: -z * y, y, 0.0, 1.0, z, **STEPS["adaptive"]).ys  # noqa: E731
        return jnp.sum(jax.vmap(solve)(jnp.asarray([Y0, 2 * Y0])))

    z = jnp.asarray(Z)
    for fn in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(fn(loss)(z), -3 * Y0 * np.exp(-Z), rtol=1e-8)
    np.testing.assert_allclose(jax.hessian(loss)(z), np.diag(3 * Y0 * np.exp(-Z)), rtol=1e-7)


@pytest.mark.slow
def test_jax_third_derivative_and_loops():
    jax = jax_x64()
    jnp = jax.numpy

    def loss(z):
        sol = rg.solve(lambda t, y, z: -z * y, jnp.asarray(Y0), 0.0, 1.0, z, **STEPS["constant"])
        return jnp.sum(sol.ys)

    third = jax.jit(jax.grad(jax.jacfwd(jax.grad(loss))))(2.3)
    np.testing.assert_allclose(third, -5 * np.exp(-2.3), rtol=1e-7)

    def twice(z):
        return jax.lax.scan(lambda c, _: (loss(c), None), z, jnp.arange(2))[0]

    first = [d(fn)(2.3) for d in (jax.grad, jax.jacfwd) for fn in (twice, jax.checkpoint(twice))]
    np.testing.assert_allclose(first, first[0], rtol=1e-12)
    ten = jax.lax.fori_loop(0, 2, lambda i, c: loss(c), 2.3)
    np.testing.assert_allclose(twice(2.3), ten, rtol=1e-14)


@pytest.mark.slow
def test_jax_mixed_derivatives_of_state_and_times():
    """d2/dy0 dz = -exp(-z t1) t1; d/dt1 of the gradient by z."""
    jax = jax_x64()
    jnp = jax.numpy

    def loss(y0, z, t1):
        sol = rg.solve(lambda t, y, z: -z * y, y0[None], 0.0, t1, z, **STEPS["adaptive"])
        return jnp.sum(sol.ys)

    h = jax.jit(jax.hessian(loss, argnums=(0, 1, 2)))(2.0, 2.3, 1.0)
    e = np.exp(-2.3)
    exact = np.asarray([[0.0, -e, -2.3 * e], [-e, 2 * e, (2.3 - 1) * 2 * e]])
    np.testing.assert_allclose(np.asarray(h)[:2], exact, atol=1e-5)
    np.testing.assert_allclose(np.asarray(h)[:2, :2], exact[:, :2], atol=1e-8)


@pytest.mark.parametrize("slots", [None, 3])
def test_jax_a_plain_gradient_calls_f_as_often_as_before(slots):
    """The forward pass, replays by the schedule, and one call a stage in reverse."""
    jax = jax_x64()
    from retrograde._checkpointing.schedules import block_advances

    calls, n, y0 = [], 20, jax.numpy.asarray(Y0)

    def f(t, y, z):
        jax.debug.callback(lambda: calls.append(1))
        return -z * y

    def loss(z):
        adjoint = rg.RecursiveCheckpointAdjoint(slots)
        sol = rg.solve(f, y0, 0.0, 1.0, z, solver="rk4", dt=1 / n, adjoint=adjoint)
        return jax.numpy.sum(sol.ys)

    gradient = jax.jit(jax.grad(loss)).lower(jax.numpy.asarray(Z)).compile()
    calls.clear()
    gradient(jax.numpy.asarray(Z))
    jax.effects_barrier()
    replays = 0 if slots is None else block_advances(n, slots, 1)
    assert len(calls) == 4 * (2 * n + replays)


def test_jax_a_compiled_jvp_stores_no_states():
    """The slots of a hidden reverse pass leave no trace in the program."""
    jax = jax_x64()
    n, y0 = 2000, jax.numpy.ones(50)

    def loss(k):
        sol = rg.solve(lambda t, y, k: -k * y, y0, 0.0, 1.0, k, solver="rk4", dt=1 / n)
        return jax.numpy.sum(sol.ys)

    along = jax.jit(lambda k: jax.jvp(loss, (k,), (1.0,)))
    stats = along.lower(0.5).compile().memory_analysis()
    assert stats.temp_size_in_bytes < 40 * y0.nbytes


# --- PyTorch: torch.func, dual tensors, double backward
def torch_loss(steps, **keywords):
    torch = pytest.importorskip("torch")
    y0 = torch.asarray(Y0)

    def loss(z):
        keys = {**STEPS[steps], **keywords}
        return rg.solve(lambda t, y, z: -z * y, y0, 0.0, 1.0, z, **keys).ys.sum()

    return torch, loss, torch.asarray(Z)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["grad", "jacfwd", "jacrev"])
def test_torch_func_first_derivatives(name, steps):
    torch, loss, z = torch_loss(steps)
    found = getattr(torch.func, name)(loss)(z)
    np.testing.assert_allclose(found, -Y0 * np.exp(-Z), rtol=1e-8)


@pytest.mark.parametrize("pair", SECOND, ids="-".join)
def test_torch_func_second_derivatives(pair):
    torch, loss, z = torch_loss("adaptive")
    outer, inner = (getattr(torch.func, name) for name in pair)
    np.testing.assert_allclose(outer(inner(loss))(z), np.diag(Y0 * np.exp(-Z)), atol=1e-8)


def test_torch_hessians_and_jvp():
    torch, loss, z = torch_loss("adaptive")
    exact = np.diag(Y0 * np.exp(-Z))
    functional = torch.autograd.functional
    for hessian in (torch.func.hessian(loss)(z), functional.hessian(loss, z)):
        np.testing.assert_allclose(hessian, exact, atol=1e-8)
    ones = torch.ones_like(z)
    for found in (torch.func.jvp(loss, (z,), (ones,))[1], functional.jvp(loss, z, ones)[1]):
        np.testing.assert_allclose(found, -np.sum(Y0 * np.exp(-Z)), rtol=1e-8)


def test_torch_func_vmap():
    """Constant steps under vmap; adaptive ones are one decision, and an error."""
    torch, loss, z = torch_loss("constant")
    zs = torch.stack([z, 0.5 * z, -z])
    alone = torch.stack([torch.func.grad(loss)(z) for z in zs])
    for found in (
        torch.func.vmap(torch.func.grad(loss))(zs),
        torch.func.grad(lambda zs: torch.func.vmap(loss)(zs).sum())(zs),
    ):
        np.testing.assert_allclose(found, alone, rtol=1e-12)
    adaptive = torch_loss("adaptive")[1]
    with pytest.raises(rg.UnsupportedByBackend, match=r"vmap can't choose its steps.*`dt=`"):
        torch.func.vmap(torch.func.grad(adaptive))(zs)


@pytest.mark.parametrize(
    "keywords",
    [
        {"event": rg.Event(lambda t, y, k: y[0] - 0.5)},
        {"solver": "rodas5p"},
        {"solver": "kvaerno3"},
        {"saveat": rg.SaveAt(dense=True)},
        {"saveat": rg.SaveAt(steps=True)},
    ],
    ids=["event", "rosenbrock", "esdirk", "dense", "steps"],
)
def test_torch_func_vmap_of_what_a_batch_would_decide(keywords):
    """Constant steps of explicit methods with all their rows; of the rest an error of ours."""
    torch = pytest.importorskip("torch")

    def run(y0, k):
        sol = rg.solve(lambda t, y, k: -k * y, y0, 0.0, 1.0, k, dt=0.1, **keywords)
        return sol.ys[-1] if "saveat" not in keywords or sol.dense is None else sol.evaluate(0.97)

    y0, k = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.3, 2.0])
    if "saveat" in keywords:
        alone = torch.stack([run(*one) for one in zip(y0, k, strict=True)])
        np.testing.assert_allclose(torch.func.vmap(run)(y0, k), alone, rtol=1e-6)
        return
    with pytest.raises(rg.UnsupportedByBackend, match=r"torch\.func\.vmap.*per_sample=True"):
        torch.func.vmap(run)(y0, k)


@pytest.mark.parametrize("steps", STEPS)
def test_torch_func_by_the_times_alone(steps):
    """y' = -t y: y(t1) = exp((t0^2 - t1^2) / 2), and nothing else is differentiated."""
    torch = pytest.importorskip("torch")

    def run(t0, t1):
        y0 = torch.ones((), dtype=torch.float64)
        return rg.solve(lambda t, y, args: -t * y, y0, t0, t1, **STEPS[steps]).ys[-1]

    times, exact = torch.asarray([0.25, 1.0], dtype=torch.float64), np.exp((0.0625 - 1.0) / 2)
    value, tangent = torch.func.jvp(run, tuple(times), (1.0 + 0.0 * times[0], 2.0 + 0.0 * times[1]))
    np.testing.assert_allclose([value, tangent], [exact, (0.25 - 2.0) * exact], rtol=1e-7)
    found = torch.func.grad(run, argnums=(0, 1))(*times)
    np.testing.assert_allclose(found, [0.25 * exact, -exact], rtol=1e-7)


def test_torch_what_transforms_refuse():
    torch, loss, z = torch_loss("constant", adjoint="recursive_checkpoint")
    with pytest.raises(rg.UnsupportedByBackend, match=r"pass adjoint='auto', 'direct'"):
        torch.func.grad(loss)(z)
    torch, loss, z = torch_loss("constant", memory="1 MiB")
    with pytest.raises(rg.InputError, match="`memory` is set, but under these transforms"):
        torch.func.grad(loss)(z)
    with pytest.raises(rg.UnsupportedByBackend, match="solve_vjp can't run under"):
        torch.func.grad(lambda z: rg.solve_vjp(lambda t, y, a: -y, z, 0.0, 1.0)[0].ys.sum())(z)


def test_torch_double_backward_that_could_not_be_seen():
    """A budget too small for recorded steps: the error names the adjoint to pass."""
    torch, loss, z = torch_loss("constant", memory="2 KiB")
    z = z.requires_grad_()
    (first,) = torch.autograd.grad(loss(z), z, create_graph=True)
    np.testing.assert_allclose(first.detach(), -Y0 * np.exp(-Z), rtol=1e-8)
    with pytest.raises(rg.UnsupportedByBackend, match='pass `adjoint="direct"`'):
        torch.autograd.grad(first.sum(), z)
