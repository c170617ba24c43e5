"""Programs rewritten for XLA's CPU backend: shifts and large sums, equal to what they replace.

Guards row J7 of ``asv_bench/report.py``.
"""

from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)  # as the harness does
jnp = jax.numpy
shifts = pytest.importorskip("retrograde_backends.jax.xla_cpu.shifts_and_sums")
sums = pytest.importorskip("retrograde_backends.jax.xla_cpu.shifts_and_sums")

pytestmark = pytest.mark.optimised


def rewritten(fn: Any, *args: Any) -> tuple[Any, set[str]]:
    """The function with its shifts replaced, and the names of what it does."""
    closed = jax.make_jaxpr(fn)(*args)
    program = shifts.shifted(closed.jaxpr)

    def run(*arrays: Any) -> Any:
        return jax.core.eval_jaxpr(program, closed.consts, *arrays)[0]

    return run, {eqn.primitive.name for eqn in program.eqns}


ROLLS = [(1, 0), (-1, 1), (3, 1), (0, 0), (7, 2), (-9, 2)]
DTYPES = ["float32", "float64", "complex128", "int32", "bool"]


@pytest.mark.quick(
    *(f"{by}-{axis}-float64" for by, axis in ROLLS), *(f"-9-2-{dtype}" for dtype in DTYPES)
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("by", "axis"), ROLLS)
def test_rolls_are_replaced_and_equal_to_the_bit(dtype: str, by: int, axis: int):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(dtype)
    if dtype == "float64":
        x[0, 0, :3] = np.nan, -0.0, np.inf
    run, names = rewritten(lambda x: jnp.roll(x, by, axis), x)
    assert names == {"retrograde_shift"}
    for program in (run, jax.jit(run)):
        found = np.asarray(program(x))
        assert found.tobytes() == np.roll(x, by, axis).tobytes()


def test_joins_written_out_and_in_calls():
    x = np.arange(12.0).reshape(3, 4)
    written = lambda x: jnp.concatenate([x[:, 1:], x[:, :1]], axis=1)  # noqa: E731
    assert "retrograde_shift" in rewritten(written, x)[1]
    run, names = rewritten(jax.jit(lambda x: 2.0 * jnp.roll(x, 1) + 1.0), x)
    np.testing.assert_array_equal(run(x), 2.0 * np.roll(x, 1) + 1.0)
    assert not names & {"concatenate"}


def joins() -> list[Any]:
    return [
        lambda x: jnp.concatenate([x[:, 2:], x[:, :1]], axis=1),  # one column is lost
        lambda x: jnp.concatenate([x[:, :1], x[:, 1:]], axis=1),  # nothing moves
        lambda x: jnp.concatenate([x[:, 1:], (2 * x)[:, :1]], axis=1),  # two sources
        lambda x: jnp.concatenate([x[1:2, 1:], x[1:2, :1]], axis=1),  # of one row
        lambda x: jnp.concatenate([x[:, 2::2], x[:, 0:2]], axis=1),  # with a stride
        lambda x: jnp.concatenate([x[:, 3:], x[:, 1:3], x[:, :1]], axis=1),  # three parts
        lambda x: jnp.concatenate([x[1:], x[:1]], axis=0)[:, ::-1],
        lambda x: jnp.roll(x[0], 1),  # a vector
    ]


@pytest.mark.parametrize("k", range(len(joins())))
def test_other_joins_keep_their_values(k: int):
    x, fn = np.arange(12.0).reshape(3, 4), joins()[k]
    run, names = rewritten(fn, x)
    np.testing.assert_array_equal(run(x), fn(x))
    assert ("retrograde_shift" in names) == (k == 6)


def test_derivatives_and_batches_of_a_shift():
    x = np.random.default_rng(1).normal(size=(3, 4))
    fn = lambda x: jnp.sin(jnp.roll(x, 1, 1)) * x  # noqa: E731
    run, _ = rewritten(fn, x)
    v = np.cos(x)
    for mine, theirs in ((run, fn), (jax.vmap(run, 1, 0), jax.vmap(fn, 1, 0))):
        args = (x,) if mine is run else (np.stack([x, 2 * x], axis=1),)
        np.testing.assert_array_equal(mine(*args), theirs(*args))
    np.testing.assert_allclose(jax.jvp(run, (x,), (v,))[1], jax.jvp(fn, (x,), (v,))[1], 1e-14)
    np.testing.assert_allclose(jax.vjp(run, x)[1](v)[0], jax.vjp(fn, x)[1](v)[0], 1e-14)
    total = [jax.jit(jax.hessian(lambda x, g=g: g(x).sum()))(x) for g in (run, fn)]
    np.testing.assert_allclose(*total, rtol=1e-13, atol=1e-15)


@pytest.mark.slow
def test_large_sums_of_a_pull_and_their_derivatives():
    rng = np.random.default_rng(2)
    x, g = rng.normal(size=(2, 200, 200))
    run, _ = rewritten(lambda x: jnp.roll(x, 1, 1) + jnp.sin(x), x)
    fn = lambda c, x: c * run(x)  # noqa: E731

    def pulled(c: Any, wrap: bool) -> Any:
        pull = jax.vjp(fn, c, x)[1]
        return (sums.unfused_sum(pull, [x]) if wrap else pull)(g * c)

    assert "retrograde_sum" in str(jax.make_jaxpr(lambda c: pulled(c, True))(2.0))
    still = sums.unfused_sum(jax.vjp(lambda c: c * x, 2.0)[1], [x])
    assert "retrograde_sum" not in str(jax.make_jaxpr(still)(g))
    for derive in (lambda f: f, jax.jacfwd, jax.jacrev, jax.jit):
        found, expected = (derive(lambda c, w=w: pulled(c, w)[0])(2.0) for w in (True, False))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    batch = jax.vmap(lambda c: pulled(c, True)[0])(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(batch, [pulled(c, False)[0] for c in (1.0, 2.0)], rtol=1e-12)
    assert sums.unfused_sum(pulled, [x[:5], x[:5]]) is pulled


def wave(t: Any, y: Any, c: Any) -> Any:
    q, p = y
    around = sum(jnp.roll(q, by, axis) for by in (1, -1) for axis in (0, 1))
    return p, c * (around - 4.0 * q)


@pytest.mark.quick("192")
@pytest.mark.parametrize("m", [16, 192])  # small enough to be left alone; large sums
def test_gradient_of_a_wave_is_that_of_a_plain_loop(m: int):
    x = np.linspace(0.0, 2 * np.pi, m, endpoint=False)
    q = jnp.asarray(np.sin(x)[:, None] * np.cos(2 * x)[None, :])

    def solved(q: Any, c: Any) -> Any:
        ys = rg.solve(wave, (q, 0.1 * q), 0.0, 1.0, c, dt=0.1, solver="semi_implicit_euler").ys
        return (ys[0][-1] ** 2).sum() + (ys[1][-1] * q).sum()

    def plain(q: Any, c: Any) -> Any:
        a, b = q, 0.1 * q
        for _ in range(10):
            a = a + 0.1 * b
            b = b + 0.1 * wave(0.0, (a, b), c)[1]
        return (a**2).sum() + (b * q).sum()

    found, expected = (jax.jit(jax.grad(f, (0, 1)))(q, 0.8) for f in (solved, plain))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * float(jnp.max(jnp.abs(b))))


def test_a_solve_on_a_mesh_joins_nothing():
    """What is left to XLA is a step whose shifts stay in the fusion around them."""
    q = jnp.ones((64, 64))

    def run(q: Any) -> Any:
        ys = rg.solve(wave, (q, q), 0.0, 1.0, 0.5, dt=0.1, solver="semi_implicit_euler").ys
        return ys[0][-1]

    text = jax.jit(run).lower(q).compile().as_text()
    assert "concatenate" not in text
    assert text.count(" pad(") == 8


def test_what_the_rest_of_f_does_not_depend_on_has_no_cotangent():
    derivative = pytest.importorskip("retrograde_backends.jax.field_vjp")
    x, y, z = jnp.ones(2), jnp.ones(3), jnp.ones(4)
    fn = lambda s: (jax.jit(jnp.sin)(s[0]) * s[0], 1.0 + 0.0 * s[2][0])  # noqa: E731
    moved, names = derivative.reached(fn, (x, y, z))
    assert moved == [True, False, True]
    assert "mul" in names
    only = derivative.reached(lambda s: (s[1], jnp.zeros(2)), (x, y, z))
    assert only == ([False, True, False], {"broadcast_in_dim"})
