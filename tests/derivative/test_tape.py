"""The tape as a whole: what a function may do, what it may not, and what comes back."""

from __future__ import annotations

import math
import weakref

import array_api_strict
import numpy as np
import pytest

from retrograde._autodiff.vjp import vjp
from retrograde._base.errors import InputError

Y = np.array([0.5, 1.5, -2.0, 3.0])


def gradient(fn, *arrays, xp=np, ct=None):
    """Values, and gradients of their sum (or of <ct, value>)."""
    outputs, pull = vjp(fn, arrays, xp)
    return outputs[0], pull([np.ones_like(outputs[0]) if ct is None else ct])


def test_lotka_volterra():
    def f(t, y, p):
        xp = y.__array_namespace__()
        a, b, c, d = p
        return xp.stack([a * y[0] - b * y[0] * y[1], c * y[0] * y[1] - d * y[1]])

    u, v, a, b, c, d = 1.0, 2.0, 1.5, 1.0, 0.8, 3.0
    inputs = [np.asarray(0.0), np.array([u, v]), np.array([a, b, c, d])]
    (k,), pull = vjp(f, inputs, np)
    np.testing.assert_allclose(k, [a * u - b * u * v, c * u * v - d * v])
    ct_t, ct_y, ct_p = pull([np.array([1.0, 0.5])])
    assert ct_t.shape == ()
    assert float(ct_t) == 0.0
    np.testing.assert_allclose(ct_y, [a - b * v + 0.5 * c * v, -b * u + 0.5 * (c * u - d)])
    np.testing.assert_allclose(ct_p, [u, -u * v, 0.5 * u * v, -0.5 * v])


def test_unused_inputs_and_constant_outputs_give_exact_zeros():
    constant = np.array([1.0, 2.0])
    outputs, pull = vjp(lambda x, y: [constant, 2 * x], [Y, constant], np)
    assert outputs[0] is constant
    ct_x, ct_y = pull([np.ones(2), np.ones(4)])
    np.testing.assert_array_equal(ct_x, np.full(4, 2.0))
    np.testing.assert_array_equal(ct_y, np.zeros(2))
    outputs, pull = vjp(lambda x: 3.0, [Y], np)
    np.testing.assert_array_equal(pull([np.asarray(1.0)])[0], np.zeros(4))


def test_outputs_that_alias_inputs_and_each_other():
    outputs, pull = vjp(lambda x, y: (x, y * x, x), [Y, Y + 1], np)
    assert outputs[0] is Y
    cts = [np.arange(4.0), np.ones(4), np.full(4, 3.0)]
    kept = [c.copy() for c in cts]
    ct_x, ct_y = pull(cts)
    np.testing.assert_allclose(ct_x, np.arange(4.0) + (Y + 1) + 3.0)
    np.testing.assert_allclose(ct_y, Y)
    for c, k in zip(cts, kept, strict=True):
        np.testing.assert_array_equal(c, k)


def test_no_inputs_and_no_floating_inputs():
    assert vjp(lambda: np.ones(2), [], np)[1]([np.ones(2)]) == []
    count = np.array([3, 4])
    (out,), pull = vjp(lambda n, y: y * n[1] + float(n[0]), [count, Y], np)
    np.testing.assert_array_equal(out, Y * 4 + 3)
    ct_n, ct_y = pull([np.ones(4)])
    assert ct_n.dtype == count.dtype
    np.testing.assert_array_equal(ct_n, [0, 0])
    np.testing.assert_array_equal(ct_y, np.full(4, 4.0))


def test_no_cotangent_is_zero():
    _, pull = vjp(lambda y: [y * y, 3.0 * y], [Y], np)
    np.testing.assert_array_equal(pull([None, Y])[0], pull([np.zeros_like(Y), Y])[0])
    np.testing.assert_array_equal(pull([None, None])[0], np.zeros_like(Y))


def test_cotangents_are_checked():
    _, pull = vjp(lambda y: y * y, [Y], np)
    with pytest.raises(InputError, match="2 entries for 1"):
        pull([Y, Y])
    with pytest.raises(InputError, match=r"\(3,\).*\(4,\)"):
        pull([np.ones(3)])
    assert pull([np.ones(4, dtype=np.float32)])[0].dtype == np.float64


def test_mixed_precisions_come_back_in_their_own():
    low, z = Y.astype(np.float32), Y + 1j
    (out,), pull = vjp(lambda a, b, z: a * b * z + b[0], [low, Y, z], np)
    grads = pull([np.ones(4, dtype=out.dtype)])
    assert [g.dtype for g in grads] == [np.float32, np.float64, np.complex128]
    np.testing.assert_allclose(grads[0], Y * Y, rtol=1e-6)
    np.testing.assert_allclose(grads[1], Y * Y + np.array([4.0, 0, 0, 0]))
    np.testing.assert_allclose(grads[2], Y * Y)
    cast = gradient(lambda a: np.sum(a.astype(np.float64) * Y), low)[1][0]
    assert cast.dtype == np.float32
    (out,), pull = vjp(lambda y: (y * (1 + 2j)).imag, [Y], np)
    np.testing.assert_allclose(pull([np.ones(4)])[0], np.full(4, 2.0))


def test_the_where_trap_is_ours_too():
    c = 1.0

    def trap(y):
        xp = y.__array_namespace__()
        return xp.where(y > c, xp.sqrt(y - c), 0.0)

    def safe(y):
        xp = y.__array_namespace__()
        return xp.where(y > c, xp.sqrt(xp.where(y > c, y - c, 1.0)), 0.0)

    with np.errstate(invalid="ignore"):
        _, (caught,) = gradient(trap, Y)
    assert np.isnan(caught).tolist() == [True, False, True, False]
    _, (free,) = gradient(safe, Y)
    np.testing.assert_allclose(free, [0.0, 0.5 / math.sqrt(0.5), 0.0, 0.5 / math.sqrt(2.0)])


def test_python_branches_and_loops():
    def f(y):
        total = y[0] * 0
        for v in y:
            if v > 0 and bool(v != 1.5):
                total = total + v * v
            elif v <= -2.0:
                total -= v
        return total

    _, (grad,) = gradient(f, Y)
    np.testing.assert_allclose(grad, [1.0, 0.0, -1.0, 6.0])


def test_ties_are_shared_and_norms_of_zero_are_flat():
    x = np.array([2.0, 2.0, 1.0])
    np.testing.assert_allclose(gradient(np.max, x)[1][0], [0.5, 0.5, 0.0])
    np.testing.assert_allclose(gradient(lambda v: np.maximum(v, 2.0), x)[1][0], [0.5, 0.5, 0])
    np.testing.assert_allclose(gradient(lambda v: np.clip(v, 1.0, 2.0), x)[1][0], np.ones(3))
    np.testing.assert_array_equal(gradient(np.linalg.norm, np.zeros(3))[1][0], np.zeros(3))
    np.testing.assert_allclose(gradient(np.prod, np.array([0.0, 2.0, 3.0]))[1][0], [6.0, 0, 0])
    np.testing.assert_array_equal(gradient(np.prod, np.array([0.0, 2, 0]))[1][0], np.zeros(3))
    np.testing.assert_array_equal(gradient(lambda v: v**0 + v**2, np.zeros(2))[1][0], np.zeros(2))


def test_functions_without_slope_give_plain_arrays():
    def f(y):
        steps = np.floor(y) + np.sign(y) + np.round(y) + (y // 2) + np.astype(y, np.int64)
        assert type(steps) is np.ndarray
        return y * steps + np.argmax(y)

    value, (grad,) = gradient(f, Y)
    np.testing.assert_allclose(grad * Y + 3, value)


def test_bytes_kept_by_the_tape():
    n = 1000
    y, w = np.linspace(0.1, 1.0, n), np.ones(n)
    assert vjp(lambda y: 2 * y + y[1:].sum() - y[::-1], [y], np)[1].nbytes == 0
    assert vjp(lambda y: y * w * y, [y], np)[1].nbytes == 8 * n  # y * w; w is the user's
    assert vjp(lambda y: np.exp(y), [y], np)[1].nbytes == 0  # exp keeps its output
    assert vjp(lambda y: np.sin(np.sin(y)), [y], np)[1].nbytes == 8 * n
    strict = array_api_strict.asarray(y)
    sin = array_api_strict.sin
    assert sin(strict).shape == (n,)
    kept = vjp(
        lambda y: (lambda xp: xp.sin(xp.sin(y)))(y.__array_namespace__()),
        [strict],
        array_api_strict,
    )[1].nbytes
    assert kept == 8 * n


def test_nothing_outlives_the_pullback():
    held = [np.ones(3)]
    watch = weakref.ref(held[0])
    _, pull = vjp(lambda y: y * held[0], [Y[:3]], np)
    held.clear()
    assert watch() is not None  # the pullback needs it
    del pull
    assert watch() is None


def test_variables_of_another_call_are_refused():
    leaked = []
    vjp(lambda y: leaked.append(y) or y * y, [Y], np)
    for use in (lambda y: y * leaked[0], lambda y: np.stack([y, leaked[0]]), lambda y: leaked[0]):
        with pytest.raises(InputError, match="another call"):
            vjp(use, [Y], np)
