"""Loops at their ends, and what is refused, on every library."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import retrograde as rg

from .loops import Decay, gradient, rnn, rnn_inputs, weights


def keep(c: Any) -> Any:
    return c


@pytest.mark.parametrize("kind", ["checkpointed", "bounded"])
def test_no_trip(backend, kind):
    """The carry, and its cotangent, go through as they are."""
    loop = Decay(0)
    init = loop.init(backend)
    args = (loop.cond, loop.body), (init,)
    result, grads = gradient(backend, rg.while_loop, *args, max_steps=9, kind=kind)
    np.testing.assert_array_equal(result["y"], backend.to_numpy(init["y"]))
    floats = [init["rest"][0], init["rest"][1], init["y"]]
    for g, x in zip(sorted(grads, key=np.size), floats, strict=True):
        np.testing.assert_array_equal(g, weights(x))


def test_no_row(backend):
    carry, xs = rnn_inputs(backend, 3)
    none = {k: x[:0, ...] for k, x in xs.items()}
    result, grads = gradient(backend, rg.scan, (rnn,), (carry, none))
    assert result[1]["h"].shape == (0, 2)
    assert result[1]["n"][0].shape == (0,)
    np.testing.assert_array_equal(grads[0], weights(carry[0]))
    assert grads[2].shape == (0, 2)


def test_scan_without_rows_of_ys(backend):
    (carry, y), grads = gradient(
        backend, rg.scan, (lambda c, x: (c * x, None),),
        (backend.array(2.0), backend.array([3.0, 4.0])),
    )  # fmt: skip
    assert y is None
    assert carry == 24.0
    np.testing.assert_allclose([grads[0], *grads[1]], np.cos(1.0) * np.asarray([12, 8, 6]))


def test_the_bound_is_reported(backend):
    loop = Decay(20)
    init = loop.init(backend)

    def run(init: Any, **keywords: Any) -> Any:
        return rg.while_loop(loop.cond, loop.body, init, max_steps=7, **keywords)

    if backend.jit:
        assert np.isnan(backend.to_numpy(backend.compiled(run)(init)["y"])).all()
    else:
        with pytest.raises(rg.SolveFailed, match="`max_steps` = 7") as failure:
            run(init)
        seven = rg.while_loop(lambda c: c["i"] < 7, loop.body, init)
        found = backend.to_numpy(failure.value.solution["y"])
        np.testing.assert_allclose(found, backend.to_numpy(seven["y"]), rtol=1e-14)


def test_at_most_so_many_steps(backend):
    """throw=False: the carry after ``max_steps``, and its gradient."""
    seven, loop = Decay(7), Decay(20)
    expected = gradient(
        backend, rg.while_loop, (seven.cond, seven.body), (seven.init(backend),), checkpoints=3
    )
    args = (loop.cond, loop.body), (loop.init(backend),)
    found = gradient(backend, rg.while_loop, *args, max_steps=7, throw=False, checkpoints=3)
    np.testing.assert_allclose(found[0]["y"], expected[0]["y"], rtol=1e-14)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.libraries("jax:jit")  # an eager loop raises
def test_gradients_of_a_loop_that_was_cut_are_nan(backend):
    loop = Decay(20)
    args = (loop.cond, loop.body), (loop.init(backend),)
    _, grads = gradient(backend, rg.while_loop, *args, max_steps=7)
    assert all(np.isnan(g).all() for g in grads)


def test_a_lane_that_was_cut_has_nan_values_and_derivatives():
    """In every kind and mode, under jit and vmap; the lane that ended has its own."""
    jax = pytest.importorskip("jax")

    def run(x, kind):
        def step(c):
            return c[0] * 1.5, c[1] + c[0], c[2] + 1

        init = (x, 0.0 * x, 0)
        a, b, n = rg.while_loop(lambda c: c[0] < 100.0, step, init, max_steps=4, kind=kind)
        return b, (a, n)

    x = jax.numpy.asarray([2.0, 90.0])
    for kind in ("checkpointed", "bounded", "lax"):
        both = jax.vmap(lambda x, k=kind: jax.jvp(lambda x: run(x, k), (x,), (1.0,), has_aux=True))
        b, tangent, (a, n) = jax.jit(both)(x)
        slope = jax.vmap(jax.grad(lambda x, k=kind: run(x, k)[0]))
        for found in (tangent, *([] if kind == "lax" else [jax.jit(slope)(x)])):
            np.testing.assert_array_equal(found, [np.nan, 1.0])
        np.testing.assert_array_equal(a, [np.nan, 135.0])
        np.testing.assert_array_equal(b, [np.nan, 90.0])
        np.testing.assert_array_equal(n, [4, 1])


def test_nan_in_the_carry_goes_through(backend):
    """A loop computes what its body says; nan is no failure, and ends what compares with it."""
    start = backend.array([1.0, float("nan")])
    result, (grad,) = gradient(
        backend, rg.scan, (lambda c, _: (c * 2.0, None),), (start, None), length=3
    )
    np.testing.assert_array_equal(result[0], [8.0, np.nan])
    np.testing.assert_allclose(grad, 8.0 * weights(start))
    ended = rg.while_loop(lambda c: c < 3.0, keep, backend.array(float("nan")))
    assert np.isnan(backend.to_numpy(ended))


CHANGES = {
    "shape": (lambda c, xp: xp.stack([c, c]), "shape"),
    "dtype": (lambda c, xp: xp.astype(c, xp.float32), "float32"),
    "tree": (lambda c, xp: (c, c), "structure"),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("loop", ["while", "scan"])
def test_a_body_that_changes_its_carry(backend, what, loop):
    change, word = CHANGES[what]
    xp = backend.bk.xp

    def body(c: Any, _: Any = None) -> Any:
        new = change(c, xp)
        return new if loop == "while" else (new, None)

    start = backend.array(1.0)

    def run() -> Any:
        if loop == "scan":
            return rg.scan(body, start, None, 3)
        return rg.while_loop(lambda c: backend.eager or c < 2.0, body, start, max_steps=3)

    with pytest.raises(rg.InputError, match=rf"`body` returned .*{word}"):
        run()


def test_a_condition_of_a_shape(backend):
    start = backend.array([1.0, 2.0])
    with pytest.raises(rg.InputError, match=r"`cond` returned an array of shape \(2,\)"):
        rg.while_loop(lambda c: c < 3.0, keep, start)
    with pytest.raises(rg.InputError, match="`cond` returned NoneType"):
        rg.while_loop(lambda c: None, keep, start)


@pytest.mark.libraries("numpy strict torch")  # a traced body has one result
def test_rows_of_ys_that_change(backend):
    xp, calls = backend.xp, []

    def body(c: Any, _: Any) -> Any:
        calls.append(0)
        return c, c if len(calls) < 3 else xp.stack([c, c])

    with pytest.raises(rg.InputError, match="`body` returned a y of"):
        rg.scan(body, backend.array(1.0), None, 4)


def test_a_body_that_writes_into_its_carry(backend):
    if not hasattr(backend.array([1.0]), "__setitem__") or not backend.eager:
        pytest.skip("arrays of this library can't change")

    def body(c: Any) -> Any:
        c[0] = 2.0 * c[0]
        return c

    with pytest.raises(rg.InputError, match="`body` changed its argument in place"):
        rg.while_loop(lambda c: bool(c[0] < 9.0), body, backend.array([1.0, 1.0]))


BAD: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("kind", {"kind": "recursive"}, "`kind` is 'recursive'"),
    ("max_steps", {"max_steps": -1}, "`max_steps` is -1"),
    ("float", {"max_steps": 3.5}, "`max_steps` is 3.5"),
    ("checkpoints", {"checkpoints": 0}, "`checkpoints` is 0"),
    ("both", {"checkpoints": 2, "memory": "1 MiB"}, "`checkpoints` and `memory`"),
    ("bounded", {"checkpoints": 2, "kind": "bounded"}, "which stores every step"),
    ("memory", {"memory": "few"}, "`memory` is 'few'"),
)


@pytest.mark.parametrize("keywords", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_settings(reference, keywords):
    given, message = keywords
    loop = Decay()
    with pytest.raises(rg.InputError, match=message):
        rg.loop_vjp(rg.while_loop, loop.cond, loop.body, loop.init(reference), **given)


def test_bad_arguments(reference):
    x = reference.array([1.0, 2.0])
    for call, message in (
        (lambda: rg.while_loop(None, keep, x), "`cond` is None"),
        (lambda: rg.while_loop(keep, 3, x), "`body` is 3"),
        (lambda: rg.scan(rnn, x), "`length` is None"),
        (lambda: rg.scan(rnn, x, x, 3), "`xs` has a leaf of 2 rows where 3"),
        (lambda: rg.scan(rnn, x, 1.0), "`xs` has a leaf of type float"),
        (lambda: rg.scan(lambda c, _: c, x, None, 2), "return the pair"),
        (lambda: rg.loop_vjp(rg.solve, x), "pass rg.while_loop or rg.scan"),
        (lambda: rg.loop_vjp(rg.scan, rnn, x, None, 2, kind="lax"), "has no pullback"),
        (lambda: rg.while_loop(keep, keep, 1.0), "holds no array"),
    ):
        with pytest.raises(rg.InputError, match=message):
            call()


def test_bad_cotangents(reference):
    x = reference.array([1.0, 2.0])
    _, pull = rg.loop_vjp(rg.scan, lambda c, _: (2.0 * c, c), x, None, 2)
    for ct, message in (
        (x, "pass the pair"),
        (((x, x), None), "type tuple"),
        ((x, x), "shape"),
        ((None, [1.0, 2.0]), "type list"),
    ):
        with pytest.raises(rg.InputError, match=message):
            pull(ct)


def test_cotangents_may_be_none_and_numbers(reference):
    loop = Decay()
    _, pull = rg.loop_vjp(rg.while_loop, loop.cond, loop.body, loop.init(reference))
    whole = {"i": 0, "odd": False, "y": np.zeros(2), "rest": (np.asarray(2.0), np.asarray(0.0))}
    short = {"i": None, "odd": None, "y": None, "rest": (2.0, None)}
    for a, b in zip(*(pull(ct)["rest"] for ct in (whole, short)), strict=True):
        assert a == b
    with pytest.raises(rg.InputError, match="structure"):
        pull({"y": np.zeros(2)})


def test_a_budget_that_is_too_small_is_itemised(backend):
    loop = Decay()
    args = (loop.cond, loop.body), (loop.init(backend),)
    with pytest.raises(rg.PlanInfeasible, match="cotangents of the carry"):
        gradient(backend, rg.while_loop, *args, memory=20)


def test_plain_loops(backend):
    """kind="lax": the library's own loop, the same values; JAX's has forward mode."""

    def power(x: Any) -> Any:
        return rg.while_loop(lambda c: c < 100.0, lambda c: c * x, x, kind="lax")

    assert backend.to_numpy(backend.compiled(power)(backend.array(3.0))) == 243.0
    total, rows = rg.scan(
        lambda c, x: (c * x, c), backend.array(2.0), backend.array([1.0, 2.0, 3.0]),
        kind="lax", reverse=True,
    )  # fmt: skip
    assert backend.to_numpy(total) == 12.0
    np.testing.assert_array_equal(backend.to_numpy(rows), [12.0, 6.0, 2.0])
    if backend.bk.name == "jax":
        tangent = importlib.import_module("jax").jvp(power, (3.0,), (1.0,))[1]
        assert float(tangent) == 5 * 3.0**4


@pytest.mark.parametrize("form", ["scan", "while_loop"])
def test_more_steps_than_tables_of_slots_reach(form, monkeypatch):
    """A compiled loop of no bound, and room for more states than its tables tell of."""
    jax = pytest.importorskip("jax")
    monkeypatch.setattr("retrograde._loops.loop_program.TABLES", 20)
    n = 50

    def loss(a):
        if form == "scan":
            return rg.scan(lambda y, _: (y + a * jax.numpy.cos(y), None), 0.1 * a, None, n)[0]
        body = lambda s: (s[0] + 1, s[1] + a * jax.numpy.cos(s[1]))  # noqa: E731
        start = (jax.numpy.asarray(0), 0.1 * a)
        return rg.while_loop(lambda s: s[0] < n, body, start, memory="1 MiB")[1]

    def reference(a):
        step = lambda y, _: (y + a * jax.numpy.cos(y), None)  # noqa: E731
        return jax.lax.scan(step, 0.1 * a, None, length=n)[0]

    found, wanted = (jax.grad(f)(jax.numpy.asarray(0.03)) for f in (loss, reference))
    assert abs(found - wanted) < 1e-5 * abs(wanted)
