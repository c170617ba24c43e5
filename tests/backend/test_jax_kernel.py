"""Small systems in JAX on the CPU as one kernel: marked where it is safe, never where it is not.

Guards rows J4 and J5 of ``asv_bench/report.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend.registry import backend_of
from retrograde._checkpointing import FAR, Slots

jax = pytest.importorskip("jax")
jnp = jax.numpy
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")

pytestmark = pytest.mark.optimised

MARK = "xla_cpu_small_call"

marking = pytest.mark.skipif(not gate.enabled(), reason="kernels are for the CPU, from JAX 0.7 on")


@pytest.fixture(autouse=True)
def double() -> None:
    jax.config.update("jax_enable_x64", True)


def lotka_volterra(t: Any, y: Any, p: Any) -> Any:
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], -p[2] * y[1] + p[3] * y[0] * y[1]])


Y0, P = np.asarray([1.0, 1.0]), np.asarray([1.5, 1.0, 3.0, 1.0])


def gradient(f: Any, **keywords: Any) -> Any:
    settings = {"dt": 0.1, "solver": "rk4", **keywords}

    def loss(y: Any, p: Any) -> Any:
        return rg.solve(f, y, 0.0, 1.0, p, **settings).ys.sum()

    return jax.jit(jax.grad(loss, (0, 1)))


def text(fn: Any, *args: Any) -> str:
    """The program as JAX hands it to XLA, which marks some loops by itself later."""
    return str(fn.lower(*map(jnp.asarray, args)).as_text())


SETTINGS: tuple[dict[str, Any], ...] = (
    {}, {"dt": None, "solver": "tsit5"}, {"saveat": rg.SaveAt(ts=[0.3, 0.7])},
    {"adjoint": rg.RecursiveCheckpointAdjoint(4, 3)}, {"adjoint": rg.RecursiveCheckpointAdjoint(3)},
    {"adjoint": rg.BacksolveAdjoint(2)},
)  # fmt: skip


IDS = ("constant", "adaptive", "rows", "window", "slots", "backsolve")


@pytest.mark.quick("adaptive")
@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
def test_same_gradient_with_and_without(settings, monkeypatch):
    with_kernel = gradient(lotka_volterra, **settings)(Y0, P)
    monkeypatch.setenv("RETROGRADE_XLA_CPU", "0")
    plain = gradient(lambda t, y, p: lotka_volterra(t, y, p), **settings)
    assert MARK not in text(plain, Y0, P)
    for a, b in zip(with_kernel, plain(Y0, P), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


@marking
def test_both_passes_of_a_small_system_are_marked():
    found = text(gradient(lotka_volterra), Y0, P)
    assert found.count(MARK) == 2


@marking
def test_the_callers_thread_runs_a_small_gradient():
    """XLA's CPU client gives programs of 1,000 operations or more to another, for 5 us."""

    def f(t: Any, y: Any, p: Any) -> Any:  # as the benchmarks write it
        hare, lynx = y[0], y[1]
        return jnp.stack((p[0] * hare - p[1] * hare * lynx, p[3] * hare * lynx - p[2] * lynx))

    program = gradient(f, dt=None, solver="tsit5").lower(jnp.asarray(Y0), jnp.asarray(P)).compile()
    assert program.cost_analysis()["flops"] < 1000


@marking
@pytest.mark.quick("settings1")
@pytest.mark.parametrize("settings", [{"max_steps": 5000}, {"adjoint": (100,)}])
def test_many_slots_and_high_bounds_are_no_cliff(settings):
    """With a sort among the slots, no pass back was a kernel: 20 times as long from 4,100 on."""
    if "adjoint" in settings:
        settings = {"adjoint": rg.RecursiveCheckpointAdjoint(*settings["adjoint"])}
    program = gradient(lotka_volterra, dt=None, solver="tsit5", **settings)
    assert text(program, Y0, P).count(MARK) == 2
    plain = gradient(lotka_volterra, dt=None, solver="tsit5")
    for a, b in zip(program(Y0, P), plain(Y0, P), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.quick("46")
@pytest.mark.parametrize("rows", [46, 64])
def test_order_of_the_slots_from_their_table(rows: int):
    hooks = pytest.importorskip("retrograde_backends.jax.loops")
    bk = backend_of((jnp.ones(1),))
    index, row = bk.placements(rows, 2000)
    slots = Slots(rows, index, row, 1, None)
    for n in (1, 2, rows - 1, rows, rows + 1, 100, 777, 1999):
        positions = np.full(rows + 1, FAR)
        for i, r in zip(np.asarray(index), np.asarray(row), strict=True):
            if i < n:
                positions[r] = i
        order, top = hooks._walked(slots, jnp.asarray(positions), n)
        expected = np.argsort(positions[:rows], kind="stable")
        assert top == np.sum(positions[:rows] < n)
        np.testing.assert_array_equal(order[: int(top)], expected[: int(top)])
        assert sorted(np.asarray(order[:rows])) == list(range(rows))


@pytest.mark.quick("71680")
@pytest.mark.parametrize("budget", [70 * 1024, 200 * 1024])  # without and with a record of times
def test_kernels_with_many_slots_are_within_the_budget(budget: int):
    """A loop in a kernel works in the memory of the slots that it is given, not in a copy."""

    def oscillator(t: Any, y: Any, mu: Any) -> Any:
        return jnp.stack([y[1], mu * (1.0 - y[0] ** 2) * y[1] - y[0]])

    def loss(y: Any) -> Any:
        settings: Any = {"solver": "bosh3", "rtol": 1e-9, "atol": 1e-9, "max_steps": 16_000}
        return rg.solve(oscillator, y, 0.0, 100.0, 10.0, memory=budget, **settings).ys.sum()

    compiled = jax.jit(jax.grad(loss)).lower(jnp.asarray([2.0, 0.0])).compile()
    assert 0.5 * budget < compiled.memory_analysis().temp_size_in_bytes <= budget


def unread(text: str) -> list[str]:
    """Inputs of kernels in optimised HLO that no operation of the kernel reads."""
    bodies = dict(re.findall(r"^%([\w.\-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))
    marked = re.compile(r"to_apply=%([\w.\-]+), frontend_attributes=\{inlineable[^}]*" + MARK)
    called = marked.findall(text)
    found = []
    for name in called:
        own = re.findall(r"%([\w.\-]+) = \S+ parameter\(", bodies[name])
        read = "\n".join(line.split(" = ")[1] for line in bodies[name].splitlines() if "=" in line)
        found += [f"{name}: {p}" for p in own if not re.search(rf"%{re.escape(p)}\b", read)]
    assert called
    return found


@marking
@pytest.mark.quick("constants")
@pytest.mark.parametrize("how", ["arguments", "constants", "unused"])
def test_a_kernel_reads_every_input(how):
    """XLA aborts the process at the first that is not read: constants are folded into calls."""

    def loss(y: Any, p: Any) -> Any:
        settings: Any = {"dt": 0.1, "solver": "rk4", "adjoint": rg.RecursiveCheckpointAdjoint(3)}
        p = (p, jnp.arange(5000.0)) if how == "unused" else p
        f = lotka_volterra if how != "unused" else lambda t, y, p: lotka_volterra(t, y, p[0])
        return rg.solve(f, y, 0.0, 1.0, p, **settings).ys.sum()

    grad = jax.grad(loss, (0, 1))
    y, p = jnp.asarray(Y0), jnp.asarray(P)
    program = jax.jit(lambda *given: grad(*((y, p) if how == "constants" else given)))
    compiled = program.lower(y, p).compile()
    assert unread(compiled.as_text()) == []
    np.testing.assert_allclose(compiled(y, p)[1], grad(y, p)[1], rtol=1e-12)


def scatter(t: Any, y: Any, p: Any) -> Any:
    return -y[jnp.asarray([1, 0, 1])[:2]] * p[0]


def rejected() -> dict[str, Any]:
    """Fields with what XLA's emitter of such kernels can't do, or not at that size."""
    wide = jnp.ones((64, 64)) * 0.01
    return {
        "scatter": (scatter, 2),
        "sort": (lambda t, y, p: -jnp.sort(y) * p[0], 5),
        "top_k": (lambda t, y, p: -jax.lax.top_k(y, 5)[0] * p[0], 5),
        "fft": (lambda t, y, p: -jnp.fft.ifft(jnp.fft.fft(y)).real * p[0], 8),
        "solve": (lambda t, y, p: -jnp.linalg.solve(jnp.eye(4) * p[0], y), 4),
        "matrix product": (lambda t, y, p: -((wide @ wide) @ y) * p[0], 64),
        "batched product": (lambda t, y, p: -(y.reshape(8, 8) @ wide[:8, :8]).ravel() * p[0], 64),
        "large sum": (lambda t, y, p: -y * p[0] * jnp.sum(jnp.ones(9000) * y[0]) / 9000, 3),
        "callback": (lambda t, y, p: _printed(y, p), 2),
        "convolution": (lambda t, y, p: -jnp.convolve(y, jnp.ones(3), "same") * p[0], 9),
        "random": (lambda t, y, p: -y * jax.random.uniform(jax.random.key(0)) * p[0], 2),
        "cumulative": (lambda t, y, p: -jnp.cumprod(y) * p[0], 4),
        "while": (lambda t, y, p: -jax.lax.fori_loop(0, 3, lambda i, y: 0.9 * y, y) * p[0], 3),
    }


def _printed(y: Any, p: Any) -> Any:
    jax.debug.callback(lambda y: None, y)
    return -y * p[0]


@pytest.mark.quick(
    "adaptive-scatter",
    *(f"constant-{x}" for x in ("large sum", "while")),
)
@pytest.mark.parametrize("name", list(rejected()))
@pytest.mark.parametrize("settings", SETTINGS[:2], ids=IDS[:2])
def test_no_program_fails_to_compile_because_of_it(name, settings):
    f, size = rejected()[name]
    y0 = np.linspace(0.5, 1.0, size)
    for a, b in zip(gradient(f, **settings)(y0, P), (y0, P), strict=True):
        assert a.shape == b.shape
        assert np.isfinite(a).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 200, 2000])
def test_batches_compile_and_agree(size):
    """A batch makes arrays larger than the gate saw: it is not marked, whatever its size."""
    ys = np.linspace(0.5, 1.5, 2 * size).reshape(size, 2)

    def loss(y: Any, p: Any) -> Any:
        return rg.solve(lotka_volterra, y, 0.0, 1.0, p, dt=0.1, solver="rk4").ys.sum()

    ys, p = jnp.asarray(ys), jnp.asarray(P)
    each = jax.jit(jax.vmap(jax.grad(loss), (0, None)))
    found = each(ys, p)
    np.testing.assert_allclose(found[1], jax.grad(loss)(ys[1], p), rtol=1e-11)
    assert MARK not in text(each, ys, p)
    total = jax.jit(jax.grad(lambda p: jax.vmap(loss, (0, None))(ys, p).sum()))
    assert np.isfinite(total(p)).all()


@pytest.mark.slow
def test_other_modes_go_through():
    def loss(y: Any) -> Any:
        return rg.solve(lotka_volterra, y, 0.0, 1.0, p, dt=0.1, solver="rk4").ys.sum()

    p = jnp.asarray(P)
    y = jnp.asarray(Y0)
    _, tangent = jax.jvp(loss, (y,), (jnp.ones(2),))
    np.testing.assert_allclose(tangent, jax.grad(loss)(y).sum(), rtol=1e-12)
    np.testing.assert_allclose(jax.hessian(loss)(y), jax.jacrev(jax.grad(loss))(y), rtol=1e-10)


@marking
def test_what_is_as_large_as_the_gate_lets_through_compiles():
    """XLA calls libraries for larger sums and products, which a kernel can't."""
    n = gate.SUMMED
    matrix = jnp.ones((45, 45)) / 45

    def f(t: Any, y: Any, p: Any) -> Any:
        wide = jnp.sin(jnp.arange(float(n)) * p[0])
        return -(matrix @ y) * wide.sum() / n - y * jnp.max(wide)

    program = gradient(f)
    assert MARK in text(program, np.linspace(0.5, 1.0, 45), P)
    assert np.isfinite(program(np.linspace(0.5, 1.0, 45), P)[0]).all()


@marking
def test_a_large_field_that_joins_is_a_call_and_no_kernel():
    def roll(t: Any, y: Any, p: Any) -> Any:
        return p[0] * (jnp.roll(y, 1) - y)

    found = text(gradient(roll), np.ones(1000), P)
    assert MARK not in found
    assert found.count('inlineable = "false"') > 0
    assert "inlineable" not in text(gradient(lambda t, y, p: -p[0] * y), np.ones(1000), P)


@marking
def test_halves_of_a_symplectic_step_are_calls_in_reverse_alone():
    """Of a call forward, the half that a line of the method drops would be computed as well.

    In reverse, the half that is y[1] itself is a term of a sum.
    """

    def f(t: Any, y: Any, p: Any) -> Any:
        return y[1], p[0] * (jnp.roll(y[0], 1) - y[0])

    def loss(q: Any) -> Any:
        settings: Any = {"dt": 0.1, "solver": "semi_implicit_euler"}
        return rg.solve(f, (q, 0 * q), 0.0, 1.0, jnp.asarray(P), **settings).ys[0].sum()

    assert "inlineable" not in text(jax.jit(loss), np.ones(1000))
    assert text(jax.jit(jax.grad(loss)), np.ones(1000)).count('inlineable = "false"') == 1


@pytest.mark.slow
def test_without_jit_and_for_other_platforms():
    program, y, p = gradient(lotka_volterra), jnp.asarray(Y0), jnp.asarray(P)
    found = program(y, p)
    with jax.disable_jit():
        np.testing.assert_allclose(gradient(lotka_volterra)(y, p)[1], found[1], rtol=1e-12)
    traced = program.trace(y, p)
    assert "inlineable" not in traced.lower(lowering_platforms=("cpu", "cuda")).as_text()


@pytest.mark.slow
def test_programs_for_several_devices_are_left_alone():
    """One for one of two devices is not."""
    code = (
        "import jax, jax.numpy as jnp, retrograde as rg\n"
        "from jax.sharding import NamedSharding, PartitionSpec as P\n"
        "f = lambda t, y, p: jnp.stack([y[1], -y[0]])\n"
        "run = jax.jit(lambda y: rg.solve(f, y, 0.0, 1.0, dt=0.1).ys)\n"
        "print('inlineable' in run.lower(jnp.ones(2)).as_text())\n"
        "over = NamedSharding(jax.sharding.Mesh(jax.devices(), ('i',)), P('i'))\n"
        "y = jax.device_put(jnp.ones(2), over)\n"
        "print('inlineable' in run.lower(y).as_text())\n"
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **flags}, text=True, capture_output=True
    )
    assert done.stdout.split() == ["True", "False"], done.stderr
