"""JAX on several devices, made of one CPU: what runs where, by the devices of the arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
adapter: Any = pytest.importorskip("retrograde_backends.jax.adapter")
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")

TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, retrograde as rg
from jax.sharding import NamedSharding, PartitionSpec as P
from retrograde_backends.jax.xla_cpu import eligible as gate
jax.config.update("jax_enable_x64", True)

def loss(y, a):
    return rg.solve(lambda t, y, a: -a * y * y, y, 0.0, 1.0, a, dt=0.25, solver="heun").ys.sum()

def batch(y, a):
    return jax.vmap(loss, (0, None))(y, a)

def refused(word, fn, *arrays):
    try:
        fn(*arrays)
    except rg.UnsupportedByBackend as error:
        assert word in str(error), error
    else:
        raise AssertionError(word)

first, second = jax.devices()
y, a = jnp.linspace(0.5, 1.5, 8).reshape(4, 2), jnp.asarray(0.5)
gradient = jax.jit(jax.grad(lambda y, a: batch(y, a).sum(), (0, 1)))
right = gradient(y, a)

# one of two devices is enough for a kernel, whichever it is; a mesh of both has none
marks = lambda fn, *x: fn.lower(*x).as_text().count("xla_cpu_small_call")
alone = jax.jit(jax.grad(loss))
assert marks(alone, y[0], a) == 2 * bool(gate.UNCACHED)
there = jax.device_put(y[0], second)
np.testing.assert_array_equal(jax.grad(loss)(there, a), alone(y[0], a))
assert rg.solve(lambda t, y, a: -y, there, 0.0, 1.0, solver="heun").ys.devices() == {second}

auto = jax.sharding.AxisType.Auto
mesh = jax.make_mesh((2,), ("i",), axis_types=(auto,))
spread = jax.device_put(y, NamedSharding(mesh, P("i")))
assert gate.platforms_of([spread]) == ("cpu", "cpu")
assert marks(gradient, spread, a) == 0
for x, z in zip(right, gradient(spread, a)):
    np.testing.assert_allclose(x, z, rtol=1e-13)
assert "all-gather" not in gradient.lower(spread, a).compile().as_text()

# shard_map: as unsharded without the check, an error that says so with it
def mapped(check):
    keywords = dict(mesh=mesh, in_specs=(P("i"), P()), out_specs=P("i"))
    if hasattr(jax, "shard_map"):
        fn = jax.shard_map(batch, check_vma=check, **keywords)
    else:
        from jax.experimental.shard_map import shard_map
        fn = shard_map(batch, check_rep=check, **keywords)
    return jax.jit(jax.grad(lambda y, a: fn(y, a).sum(), (0, 1)))

for x, z in zip(right, mapped(False)(y, a)):
    np.testing.assert_allclose(x, z, rtol=1e-13)
loop = lambda y: rg.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * a), (0, y))[1]
if hasattr(jax, "shard_map"):
    refused("check_vma=False", mapped(True), y, a)
    over = jax.shard_map(loop, mesh=mesh, in_specs=P("i"), out_specs=P("i"))
    refused("check_vma=False", jax.jit(over), y)

# explicit axes: an error that says what to do, and what it says works
if hasattr(jax, "set_mesh"):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    typed = jax.device_put(y, NamedSharding(mesh, P("i")))
    with jax.set_mesh(mesh):
        for fn in (gradient, jax.jit(loss), jax.jit(batch)):
            refused("auto_axes", fn, typed, a)
        refused("auto_axes", jax.jit(loop), typed)
        within = jax.sharding.auto_axes(batch, out_sharding=P("i"))
        again = jax.jit(jax.grad(lambda y, a: within(y, a).sum(), (0, 1)))(typed, a)
        for x, z in zip(right, again):
            np.testing.assert_allclose(x, z, rtol=1e-13)
        # no program that was made for one mesh is used in another
        np.testing.assert_allclose(jax.jit(loss)(y, a), loss(y, a), rtol=1e-13)
"""


def test_two_devices_and_their_meshes():
    flags = "--xla_force_host_platform_device_count=2"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "RETROGRADE_XLA_CPU": "1"}
    run = [sys.executable, "-W", "ignore", "-c", TWO_DEVICES]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


class Accelerator:
    """A device that is no CPU, with or without an account of its memory."""

    platform, id = "gpu", 1

    def __init__(self, stats: Any) -> None:
        self.stats = stats

    def memory_stats(self) -> Any:
        return self.stats

    def __str__(self) -> str:
        return "cuda:1"


def test_budgets_are_of_the_device_of_the_arrays(monkeypatch):
    backend, here = adapter.backend, jax.numpy.ones(2)
    full = Accelerator({"bytes_limit": 2**30, "bytes_in_use": 2**29})
    # the default device is a GPU: arrays on the CPU have the host's memory
    monkeypatch.setattr(adapter, "default_device", lambda: full)
    assert "host" in backend.memory(here).source
    found = []
    jax.make_jaxpr(lambda x: found.append(backend.memory(x)) or x)(here)
    assert tuple(found[0]) == (2**29, 2**30, "memory of cuda:1")
    assert backend.memory() == found[0]
    # arrays on a second GPU, while the default is another
    blind = Accelerator(None)
    array = SimpleNamespace(devices=lambda: {blind, full})
    monkeypatch.setattr(adapter, "value", lambda x: array)
    assert backend.memory(here) == found[0]
    monkeypatch.setattr(array, "devices", lambda: {blind})
    free, _, source = backend.memory(here)
    assert free <= adapter.ASSUMED
    assert "assumed" in source
    assert "cuda:1" in source
    plan = rg.plan(lambda t, y, args: -y, here, 0.0, 1.0, dt=0.1)
    assert plan.budget == free // 2
    assert "assumed" in str(plan)
