"""Bytes and work that must not grow: with saved rows, with steps, with one gradient more."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

import retrograde as rg
from retrograde.measure import peak_gradient_bytes


def spring(xp):
    """r' = v, v' = -k r (diffrax#201)."""

    def f(t, y, k):
        return xp.stack([y[1], -k * y[0]])

    return f


def test_three_hundred_saves_in_bounded_memory(reference):
    """T7: the bytes of the gradient do not follow the number of steps or of saves."""
    y0, k, budget = np.asarray([1.0, 0.0]), np.asarray(1.0), 96 * 1024
    saveat = rg.SaveAt(ts=[0.1 * i for i in range(1, 301)])
    keywords = {"solver": "midpoint", "dt": 0.05, "saveat": saveat}

    def forward(y0, k):
        return rg.solve(spring(np), y0, 0.0, 30.0, k, **keywords).ys

    ones = np.ones((300, 2))

    def gradient(y0, k):
        return rg.solve_vjp(spring(np), y0, 0.0, 30.0, k, memory=budget, **keywords)[1](ones)

    assert peak_gradient_bytes(forward, gradient, y0, k).bytes <= budget
    times = np.asarray(saveat.ts)
    slope = np.sum(-0.5 * times * np.sin(times))
    velocity = np.sum(-0.5 * np.sin(times) - 0.5 * times * np.cos(times))
    np.testing.assert_allclose(gradient(y0, k).args, slope + velocity, rtol=1e-2)


def test_three_hundred_thousand_steps_in_bounded_memory():
    """T7 in full: 300,000 steps and 300 saves, in the compiler's own account."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    jnp, budget = jax.numpy, 64 * 1024
    saveat = rg.SaveAt(ts=[0.1 * i for i in range(1, 301)])
    keywords = {"solver": "midpoint", "dt": 1e-4, "saveat": saveat}

    def solve(y0, k, **more):
        return rg.solve(spring(jnp), y0, 0.0, 30.0, k, **keywords, **more).ys

    def gradient(y0, k):
        return jax.grad(lambda *a: solve(*a, memory=budget).sum(), argnums=(0, 1))(y0, k)

    arguments = jnp.asarray([1.0, 0.0]), jnp.asarray(1.0)
    size = peak_gradient_bytes(solve, gradient, *arguments).bytes
    assert size <= budget + 16 * 1024  # rows of the 300 saves and padding; the states are 4.6 MiB


@pytest.mark.slow
def test_a_thousand_gradients_leave_nothing_on_numpy(reference):
    """T29 by tracemalloc."""
    f, y0, k = spring(np), np.asarray([1.0, 0.5]), np.asarray(1.3)
    keywords = {"solver": "euler", "dt": 0.3, "memory": "1 KiB"}

    def run(count):
        for _ in range(count):
            sol, pull = rg.solve_vjp(f, y0, 0.0, 1.0, k, **keywords)
            pull(np.ones_like(sol.ys))

    tracemalloc.start()
    try:
        run(500)  # until the lists of free objects, and of the last plans, are full
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        run(1000)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.quick("2 KiB")
@pytest.mark.parametrize("memory", ["2 KiB", "1 MiB"])
def test_hundreds_of_gradients_leave_no_tensors(memory):
    """T29 by live tensors, through both of PyTorch's routes."""
    torch = pytest.importorskip("torch")
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    k = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def run(count):
        for _ in range(count):
            sol = rg.solve(spring(torch), y0, 0.0, 1.0, k, solver="heun", dt=0.2, memory=memory)
            torch.autograd.grad(sol.ys.sum(), k)
        gc.collect()
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    assert run(300) <= run(5)


def test_a_thousand_gradients_leave_no_arrays_and_compile_once():
    """T29 by JAX's live arrays; f is traced by the first gradients alone."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    traced = [0]

    def f(t, y, k):
        traced[0] += 1
        return jax.numpy.stack([y[1], -k * y[0]])

    @jax.jit
    def gradient(y0, k):
        def loss(k):
            return rg.solve(f, y0, 0.0, 1.0, k, rtol=1e-2, memory="4 KiB").ys.sum()

        return jax.grad(loss)(k)

    y0, k = jax.numpy.asarray([1.0, 0.5]), jax.numpy.asarray(1.3)
    for _ in range(3):
        gradient(y0, k)
    gc.collect()
    before, calls = len(jax.live_arrays()), traced[0]
    for i in range(1000):
        gradient(y0, k + i)
    gc.collect()
    assert len(jax.live_arrays()) <= before
    assert traced[0] == calls


def test_work_and_bytes_are_linear_in_steps_with_every_step_saved(reference):
    """T30: 8 times the steps, a row each, 8 times the work; the budget holds at both."""
    y0, k, calls = np.asarray([1.0, 0.0]), np.asarray(1.0), [0]
    plain = spring(np)

    def f(t, y, k):
        calls[0] += 1
        return plain(t, y, k)

    def work(n):
        calls[0] = 0
        saveat = rg.SaveAt(steps=True)
        keywords = {"solver": "rk4", "dt": 1.0 / n, "saveat": saveat}
        sol, pull = rg.solve_vjp(f, y0, 0.0, 1.0, k, adjoint="recursive_checkpoint", **keywords)
        pull(np.ones_like(sol.ys))
        return calls[0], sol.plan.memory

    (few, small), (many, large) = work(100), work(800)
    assert many == pytest.approx(8 * few, rel=0.02)
    assert (large - small) == 7 * 100 * (16 + reference.bk.array_overhead)
