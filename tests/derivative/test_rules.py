"""Every rule against central differences, on NumPy and array-api-strict, in three precisions."""

from __future__ import annotations

import pathlib
import runpy

import array_api_strict
import numpy as np
import pytest

from retrograde._autodiff.namespace import LINALG, namespace_of
from retrograde._autodiff.vjp import vjp

_cases = runpy.run_path(str(pathlib.Path(__file__).with_name("cases.py")))
CASES, OPERATORS = _cases["CASES"], _cases["OPERATORS"]
NAMESPACES = {"numpy": np, "strict": array_api_strict}
ALL = {**CASES, **OPERATORS}
IDS = [(name, k) for name, cases in ALL.items() for k in range(len(cases))]
COMPLEX = (
    "add subtract multiply divide pow negative positive abs exp expm1 log log1p sqrt square "
    "reciprocal sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh conj real imag "
    "sum mean prod var std cumulative_sum matmul tensordot vecdot outer solve inv trace "
    "vector_norm stack concat where roll take astype mixed reads"
).split()


def numpy_of(x):
    return np.asarray(x._array if hasattr(x, "_array") else x)


def call_on(xp, call):
    """The case's function of arrays, run on plain arrays or on variables."""

    def fn(*arrays):
        carrying = [x for x in arrays if hasattr(x, "tape")]
        return call(carrying[0].__array_namespace__() if carrying else xp, *arrays)

    return fn


def differences(fn, inputs, ct, asarray, unit=1.0, h=1e-6):
    """Gradients of Re <ct, fn> by central differences, element by element, along ``unit``."""
    grads = []
    for i, x in enumerate(inputs):
        grad = np.zeros(x.shape)
        for k in np.ndindex(*x.shape):
            ends = []
            for step in (-h, h):
                moved = x.copy()
                moved[k] += step * unit
                at = [asarray(moved) if j == i else asarray(v) for j, v in enumerate(inputs)]
                ends.append(np.sum(np.conj(ct) * numpy_of(fn(*at))).real)
            grad[k] = (ends[1] - ends[0]) / (2 * h)
        grads.append(grad)
    return grads


def test_every_function_with_a_rule_has_a_case():
    assert set(namespace_of(np)._functions) == set(CASES)
    assert set(CASES) >= LINALG


@pytest.mark.parametrize("library", NAMESPACES)
@pytest.mark.parametrize(("name", "k"), IDS)
def test_gradient_matches_differences(library, name, k):
    xp = NAMESPACES[library]
    call, *lists = ALL[name][k]
    inputs = [np.asarray(x, dtype=float) for x in lists]
    fn = call_on(xp, call)
    outputs, pull = vjp(fn, [xp.asarray(x) for x in inputs], xp)
    value = numpy_of(fn(*[xp.asarray(x) for x in inputs]))
    np.testing.assert_allclose(numpy_of(outputs[0]), value, rtol=1e-14)
    ct = np.random.default_rng(3).normal(size=value.shape)
    grads = pull([xp.asarray(ct)])
    expected = differences(fn, inputs, ct, xp.asarray)
    for x, grad, want in zip(inputs, grads, expected, strict=True):
        assert type(grad) is type(xp.asarray(x))
        assert grad.dtype == xp.float64
        np.testing.assert_allclose(numpy_of(grad), want, rtol=1e-7, atol=1e-8)
    for again, grad in zip(pull([xp.asarray(ct)]), grads, strict=True):
        np.testing.assert_array_equal(numpy_of(again), numpy_of(grad))


@pytest.mark.parametrize(("name", "k"), IDS)
def test_float32_stays_float32(name, k):
    call, *lists = ALL[name][k]
    fn = call_on(np, call)
    results = {}
    for dtype in (np.float32, np.float64):
        outputs, pull = vjp(fn, [np.asarray(x, dtype=dtype) for x in lists], np)
        ct = np.random.default_rng(3).normal(size=outputs[0].shape).astype(dtype)
        results[dtype] = [*outputs, *pull([ct])]
        assert {x.dtype for x in results[dtype]} == {np.dtype(dtype)}
    for low, high in zip(results[np.float32], results[np.float64], strict=True):
        np.testing.assert_allclose(low, high, rtol=2e-4, atol=2e-5)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("library", NAMESPACES)
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_cotangents_are_conjugate_transposed_products(library, name):
    xp = NAMESPACES[library]
    rng = np.random.default_rng(5)
    for call, *lists in ALL[name]:
        inputs = [np.asarray(np.asarray(x) * (1 + 0.2j) + 0.1j) for x in lists]
        fn = call_on(xp, call)
        try:
            value = numpy_of(fn(*[xp.asarray(x) for x in inputs]))
        except TypeError:
            continue  # the library's own refusal: an order relation of complex numbers
        outputs, pull = vjp(fn, [xp.asarray(x) for x in inputs], xp)
        np.testing.assert_allclose(numpy_of(outputs[0]), value, rtol=1e-14)
        ct = rng.normal(size=value.shape).astype(value.dtype)
        if value.dtype.kind == "c":
            ct = ct + 1j * rng.normal(size=value.shape)
        grads = pull([xp.asarray(ct)])
        along_real = differences(fn, inputs, ct, xp.asarray)
        along_imag = differences(fn, inputs, ct, xp.asarray, unit=1j)
        for grad, a, b in zip(grads, along_real, along_imag, strict=True):
            assert grad.dtype == xp.complex128
            np.testing.assert_allclose(numpy_of(grad), a + 1j * b, rtol=1e-6, atol=1e-7)
