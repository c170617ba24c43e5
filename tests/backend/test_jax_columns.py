"""JAX: products of small fields as sums, and what they make as columns: the same numbers.

Guards row J5 of ``asv_bench/report.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import retrograde as rg

jax = pytest.importorskip("jax")
jnp = jax.numpy
columns: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.matvec")
products: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.matvec")
gate: Any = pytest.importorskip("retrograde_backends.jax.xla_cpu.eligible")

pytestmark = pytest.mark.optimised

marking = pytest.mark.skipif(not gate.enabled(), reason="kernels are for the CPU, from JAX 0.7 on")
RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def double() -> None:
    jax.config.update("jax_enable_x64", True)


def normal(*shape: int) -> Any:
    return np.asarray(RNG.standard_normal(shape)) / shape[0] ** 0.5


LAYERS = {
    "in": normal(3, 12),
    "bias": normal(12),
    "out": normal(12, 3),
    "shift": normal(3),
    "mix": normal(3, 3),
}


def network(t: Any, y: Any, p: Any) -> Any:
    return jnp.tanh(y @ p["in"] + t * p["bias"]) @ p["out"] + p["shift"]


def gated(t: Any, y: Any, p: Any) -> Any:
    """Calls, a custom jvp, a choice, and a column used as a vector."""
    h = jax.nn.silu(y @ p["in"] + p["bias"])
    h = jnp.where(h > 0.1, jax.nn.softplus(h), 0.3 * jax.nn.relu(h)) * (1 + h[0])
    return jax.jit(lambda h: p["out"].T @ h)(h) - y * jnp.sum(h) / 12


def residual(t: Any, y: Any, p: Any) -> Any:
    y = y + jnp.sin(p["in"] @ (p["bias"] * jnp.cos(y @ p["in"])))
    return p["in"] @ jnp.ones(12, y.dtype) * t - 0.1 * jnp.outer(y, y) @ p["shift"] - y


def forms(t: Any, y: Any, p: Any) -> Any:
    """A matrix from the left, two products of one vector, one with a constant, one of vectors."""
    a, eye = p["mix"], np.eye(3).astype(y.dtype)
    return (a @ y) * (y @ a) - 0.1 * eye @ y + (y @ p["shift"]) * y[::-1]


FIELDS = {f.__name__: f for f in (network, gated, residual, forms)}
START = np.asarray([0.6, -0.3, 0.2])


def agree(found: Any, expected: Any, rtol: float = 1e-10) -> None:
    pairs = zip(*map(jax.tree_util.tree_leaves, (found, expected)), strict=True)
    for a, b in pairs:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert jnp.max(jnp.abs(a - b)) <= rtol * (1 + jnp.max(jnp.abs(b)))


def rewritten(f: Any, y: Any, p: Any) -> tuple[Any, Any]:
    """The field as a function of a flat list, in the two forms."""
    leaves, tree = jax.tree_util.tree_flatten(p)

    def flat(t: Any, y: Any, *leaves: Any) -> Any:
        return f(t, y, jax.tree_util.tree_unflatten(tree, leaves))

    closed = jax.make_jaxpr(flat)(0.5, y, *leaves)
    found = columns.Matvec(closed.jaxpr, 2)

    def run(t: Any, y: Any, *leaves: Any) -> Any:
        both = found.prepared((*leaves, *closed.consts))
        return found.run(both[len(leaves) :], t, y, *both[: len(leaves)])[0]

    return flat, run


@pytest.mark.quick("forms-complex128")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(f, d) for f in FIELDS for d in ("float32", "float64", "complex128")
     if (f, d) != ("gated", "complex128")],  # complex numbers have no order
)  # fmt: skip
def test_values_and_derivatives_of_the_rewritten_field(name: str, dtype: str):
    rtol = 1e-5 if dtype == "float32" else 1e-12
    cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    y, p = cast(START), jax.tree_util.tree_map(cast, LAYERS)
    plain, run = rewritten(FIELDS[name], y, p)
    args = (cast(0.5), y, *jax.tree_util.tree_leaves(p))
    agree(run(*args), plain(*args), rtol)
    dots = tuple(0.1 * jnp.cos(jnp.arange(x.size, dtype=dtype)).reshape(x.shape) for x in args)
    tangents = [jax.jit(lambda *x, f=f: jax.jvp(f, x, dots))(*args) for f in (run, plain)]
    agree(*tangents, rtol)
    cotangents = [jax.jit(lambda *x, f=f: jax.vjp(f, *x)[1](y))(*args) for f in (run, plain)]
    agree(*cotangents, rtol)
    many = jnp.stack([y, 2 * y, -y])
    for axes in ((None, 0), (0, 0), (0, None)):
        lanes = tuple(many[:, 0] if i == 0 else many for i in range(2))
        given = tuple(b if a is not None else x for a, b, x in zip(axes, lanes, args, strict=False))
        one = [
            jax.jit(jax.vmap(f, (*axes, *[None] * len(args[2:]))))(*given, *args[2:])
            for f in (run, plain)
        ]
        agree(*one, rtol)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELDS)
def test_second_derivatives_of_the_rewritten_field(name: str):
    plain, run = rewritten(FIELDS[name], START, LAYERS)
    leaves = jax.tree_util.tree_leaves(LAYERS)

    def hessian(f: Any) -> Any:
        loss = lambda y, *p: jnp.sum(f(0.5, y, *p) ** 3)  # noqa: E731
        return jax.hessian(loss, argnums=(0, 1, 2, 3, 4))(
            jnp.asarray(START), *map(jnp.asarray, leaves)
        )

    agree(hessian(run), hessian(plain))


@pytest.mark.quick("0-2-7", "1-7-8")
@pytest.mark.parametrize(
    ("rows", "width"), [(1, 1), (1, 9), (2, 7), (7, 8), (8, 7), (9, 3), (16, 16)]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_product_in_every_form(rows: int, width: int, axis: int):
    w, y = jnp.asarray(normal(rows, width)), jnp.asarray(normal((rows, width)[axis]))
    plain = (lambda w, y: y @ w) if axis == 0 else (lambda w, y: w @ y)
    (eqn,) = (e for e in jax.make_jaxpr(plain)(w, y).eqns if e.primitive.name == "dot_general")
    for as_sum in (False, True):
        run = jax.jit(lambda w, y, a=as_sum: products.product(eqn, w, y[:, None], as_sum=a)[:, 0])
        agree(run(w, y), plain(w, y), 1e-13)
        ct = plain(w, y)
        agree(jax.vjp(run, w, y)[1](ct), jax.vjp(plain, w, y)[1](ct), 1e-13)


def sums(f: Any) -> int:
    """How many products of the field may be sums."""
    program = jax.make_jaxpr(f)(jnp.ones(3), jnp.ones((3, 3)))
    return len(products.products_to_sum(program.jaxpr, program.jaxpr.invars[:1]))


@pytest.mark.parametrize(
    ("f", "count"),
    [
        (lambda y, a: a @ y, 1),
        (lambda y, a: a @ (2 * y) - y, 1),
        (lambda y, a: a @ jnp.tanh(a @ y), 2),
        (lambda y, a: a @ jax.nn.relu(a @ y), 2),
        (lambda y, a: (a @ y) * (y @ a), 0),  # both would form y
        (lambda y, a: (a @ jnp.tanh(y)) * (jnp.sin(y) @ a), 2),
        (lambda y, a: jnp.sum(a @ y) * (a @ y)[::-1], 0),
        (lambda y, a: y + a @ (y + a @ y), 0),  # and here two products read y
        (lambda y, a: (lambda k: k * k)(a @ y), 0),  # a result that is read twice
        (lambda y, a: (lambda k: a @ k + k)(1 + a @ y), 1),  # the first is, beyond what is cheap
    ],
)
def test_which_products_become_sums(f: Any, count: int):
    assert sums(f) == count


# --- solves

SETTINGS: dict[str, dict[str, Any]] = {
    "tapes": {"adjoint": rg.TapeAdjoint(), "dt": 0.05},
    "slots": {"adjoint": rg.RecursiveCheckpointAdjoint(5), "dt": 0.05},
    "adaptive": {"rtol": 1e-6, "atol": 1e-8, "max_steps": 300},
    "rows": {"dt": 0.05, "saveat": rg.SaveAt(ts=[0.31, 0.87], t1=True)},
    "backsolve": {"adjoint": rg.BacksolveAdjoint(), "dt": 0.05},
    "rk4": {"solver": "rk4", "dt": 0.05},
}


def loss(f: Any, y: Any, p: Any, **settings: Any) -> Any:
    return jnp.sum(rg.solve(f, y, 0.0, 1.0, p, **settings).ys ** 2)


@marking
@pytest.mark.quick("network-adaptive")
@pytest.mark.parametrize(
    ("name", "settings"),
    [("network", s) for s in SETTINGS] + [(f, s) for f in FIELDS for s in ("tapes", "slots")][2:],
)
def test_solves_and_gradients_are_those_of_the_field_as_it_is(
    name: str, settings: str, monkeypatch: pytest.MonkeyPatch
):
    def gradient(y: Any, p: Any) -> Any:
        return jax.value_and_grad(lambda y, p: loss(f, y, p, **SETTINGS[settings]), (0, 1))(y, p)

    f = FIELDS[name]
    given = jnp.asarray(START), jax.tree_util.tree_map(jnp.asarray, LAYERS)
    found = jax.jit(gradient)(*given)
    monkeypatch.setenv("RETROGRADE_XLA_CPU", "0")
    agree(found, jax.jit(gradient)(*given), 1e-9 if settings == "adaptive" else 1e-10)


@pytest.mark.slow
@marking
def test_a_batch():
    y, p = jnp.asarray(START), jax.tree_util.tree_map(jnp.asarray, LAYERS)
    one = jax.grad(lambda y, p: loss(network, y, p, dt=0.1, solver="heun"), (0, 1))
    lanes = jax.jit(jax.vmap(one, (0, None)))(jnp.stack([y, 1.5 * y]), p)
    agree(jax.tree_util.tree_map(lambda x: x[0], lanes), jax.jit(one)(y, p))


@pytest.mark.slow
@marking
def test_other_modes_of_a_network():
    y, p = jnp.asarray(START), jax.tree_util.tree_map(jnp.asarray, LAYERS)
    one = lambda y, p: loss(network, y, p, dt=0.1, solver="rk4")  # noqa: E731
    whole = jax.jit(jax.grad(one, (0, 1)))(y, p)
    many = jnp.stack([y, 1.5 * y])
    lanes = jax.jit(jax.vmap(jax.grad(one, (0, 1)), (0, None)))(many, p)
    agree(jax.tree_util.tree_map(lambda x: x[0], lanes), whole)
    hidden = jax.vmap(jax.jit(jax.grad(one, (0, 1))), (0, None))(many, p)
    agree(hidden, lanes)
    agree(jax.jacfwd(one)(y, p), whole[0])
    agree(jax.jacrev(one)(y, p), whole[0])
    direct = lambda y, p: loss(network, y, p, dt=0.1, solver="rk4", adjoint="direct")  # noqa: E731
    agree(jax.grad(direct, (0, 1))(y, p), whole)
    twice = lambda f: jax.jvp(jax.grad(f), (y, p), (y, p))[1]  # noqa: E731
    agree(twice(one), twice(direct), 1e-9)
    sol, pull = rg.solve_vjp(network, y, 0.0, 1.0, p, dt=0.1, solver="rk4")
    g = pull(2 * sol.ys)
    agree((g.y0, g.args), whole)


@pytest.mark.slow
@marking
def test_the_continuous_adjoint_and_captured_parameters():
    y, p = jnp.asarray(START), jax.tree_util.tree_map(jnp.asarray, LAYERS)
    settings = {"dt": 0.002, "solver": "rk4"}
    mode = rg.BacksolveAdjoint(mode="continuous")

    def captured(p: Any, **more: Any) -> Any:
        return loss(lambda t, y, _: network(t, y, p), y, None, **settings, **more)

    exact = jax.grad(lambda p: loss(network, y, p, **settings))(p)
    agree(jax.grad(captured)(p), exact)
    agree(jax.grad(lambda p: loss(network, y, p, **settings, adjoint=mode))(p), exact, 1e-6)
    agree(jax.grad(lambda p: captured(p, adjoint=mode))(p), exact, 1e-6)


@marking
def test_a_vjp_of_the_users_gets_parameters_as_they_are():
    shapes = set()

    def vjp(t: Any, y: Any, p: Any, ct: Any) -> Any:
        shapes.add(p["bias"].shape)
        return jax.vjp(network, t, y, p)[1](ct)

    y, p = jnp.asarray(START), jax.tree_util.tree_map(jnp.asarray, LAYERS)
    own = rg.VectorField(network, vjp=vjp)
    found = jax.grad(lambda p: loss(own, y, p, dt=0.1))(p)
    agree(found, jax.grad(lambda p: loss(network, y, p, dt=0.1))(p))
    assert shapes == {(12,)}


@marking
def test_such_fields_are_kernels_still():
    y, p = jnp.asarray(START), jax.tree_util.tree_map(jnp.asarray, LAYERS)
    for f in FIELDS.values():
        text = jax.jit(jax.grad(lambda p, f=f: loss(f, y, p, dt=0.05))).lower(p).as_text()
        assert text.count("xla_cpu_small_call") == 2
