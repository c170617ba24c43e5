"""VectorField, and check_vjp: finds what is wrong, and where."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import array_api_strict
import numpy as np
import pytest

import retrograde as rg
from retrograde._autodiff import VectorField, check_vjp
from retrograde._backend.registry import backend_of
from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde.backend import Capability

ARGS = {"rates": [np.array([0.5, 2.0]), np.asarray(1.5)], "n": np.array([3]), "none": None}
STATE = (np.array([1.0, 2.0]), {"z": np.array([[0.5], [-1.0]])})


def field(t, y, args):
    x, z = y[0], y[1]["z"]
    a, b = args["rates"]
    return (-a * x * t + b * z[0], {"z": z * b - x[0] * a[1] * t * t})


def vjp(t, y, args, ct):
    x, z = y[0], y[1]["z"]
    a, b = args["rates"]
    ct_x, ct_z = ct[0], ct[1]["z"]
    total = np.sum(ct_z)
    ct_t = -np.sum(ct_x * a * x) - 2 * t * total * x[0] * a[1]
    first = np.array([1.0, 0.0])
    ct_y = (
        -a * t * ct_x - first * (total * a[1] * t * t),
        {"z": b * ct_z + b * first[:, None] * np.sum(ct_x)},
    )
    last = np.array([0.0, 1.0])
    ct_a = -ct_x * x * t - last * (total * x[0] * t * t)
    ct_b = np.sum(ct_x) * z[0, 0] + np.sum(ct_z * z)
    return ct_t, ct_y, {"rates": [ct_a, ct_b], "n": args["n"], "none": None}


def test_a_right_vjp_passes_and_so_does_the_tape():
    assert check_vjp(VectorField(field, vjp=vjp), 0.7, STATE, ARGS) < 1e-8
    assert check_vjp(VectorField(field), np.asarray(0.7), STATE, ARGS) < 1e-8
    assert check_vjp(field, 0.7, STATE, ARGS, seed=3) < 1e-8


def test_a_symplectic_step_hands_the_users_vjp_whole_cotangents():
    """A line of the method uses one half of f; the cotangent of the other is zero, as an array."""
    seen = []

    def pull(t, y, args, ct):
        seen.append([np.shape(x) for x in ct])
        return 0.0, (-ct[1], ct[0]), None

    f = VectorField(lambda t, y, args: (y[1], -y[0]), vjp=pull)
    y0, settings = (np.array([1.0, 2.0]), np.array([0.5, 0.0])), {"dt": 0.1}
    ct = tuple(x[None, :] for x in y0)
    found = [
        rg.solve_vjp(g, y0, 0.0, 1.0, solver="semi_implicit_euler", **settings)[1](ct).y0
        for g in (f, f.f)
    ]
    assert seen
    assert all(shapes == [(2,), (2,)] for shapes in seen)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-14)


def _scaled(part, by=1.001):
    def wrong(t, y, args, ct):
        ct_t, ct_y, ct_args = vjp(t, y, args, ct)
        if part == "t":
            ct_t = ct_t * by
        elif part == "y":
            ct_y = (ct_y[0], {"z": ct_y[1]["z"] * by})
        else:
            ct_args["rates"][1] = ct_args["rates"][1] * by
        return ct_t, ct_y, ct_args

    return wrong


@pytest.mark.parametrize(
    ("part", "name"), [("t", "`t`"), ("y", r"`y\[1\]\['z'\]`"), ("args", r"`args\['rates'\]\[1\]`")]
)
@pytest.mark.parametrize("by", [1.001, -1.0, float("nan")])
def test_a_wrong_part_is_named(part, name, by):
    with pytest.raises(InputError, match=rf"cotangent of {name}: .*relative error"):
        check_vjp(VectorField(field, vjp=_scaled(part, by)), 0.7, STATE, ARGS)
    if by == 1.001:
        error = check_vjp(VectorField(field, vjp=_scaled(part)), 0.7, STATE, ARGS, rtol=0.01)
        assert 1e-5 < error < 2e-3


def test_wrong_structures_and_shapes_are_named():
    def of(ct_t, ct_y, ct_args):
        return VectorField(lambda t, y, a: -a * y, vjp=lambda t, y, a, ct: (ct_t, ct_y, ct_args))

    y, a = np.ones(3), np.asarray(2.0)
    for wrong, message in (
        (of(0.0, (y, y), a), "`y` with 2 leaves; `y` has 1"),
        (of(0.0, y, None), "`args` with 0 leaves"),
        (of(y, y, a), r"`t` of shape \(3,\)"),
        (of(0.0, y, y), r"`args` of shape \(3,\).*shape \(\)"),
    ):
        with pytest.raises(InputError, match=message):
            check_vjp(wrong, 0.0, y, a)


@pytest.mark.parametrize("solver", ["tsit5", "kvaerno3"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, y, args: y, "`vjp` returned ndarray; return"),
        (lambda t, y, args: (t, y[None], args), r"cotangent of y of shape \(1, 2\)"),
        (lambda t, y, args: (t, y.astype("float32"), args), "cotangent of y of .* float32, but y"),
        (lambda t, y, args: (t, y, args * np.ones(2)), r"cotangent of args of shape \(2,\)"),
    ],
)
def test_what_a_vjp_returns_is_held_to_its_primals(solver, change, says):
    """Sums would broadcast it, and round."""

    def pull(t, y, rate, ct):
        return change(0.0 * t, -rate * ct, -np.sum(ct * y))

    f, y0 = VectorField(lambda t, y, rate: -rate * y, vjp=pull), np.ones(2)
    with pytest.raises(InputError, match=says):
        rg.solve_vjp(f, y0, 0.0, 1.0, np.array(2.0), solver=solver)[1](np.ones((1, 2)))


@pytest.mark.parametrize("off", [(1.0, 2.0), (0.0, 1.0)], ids=["by y", "by t"])
def test_a_wrong_vjp_of_a_stiff_field_is_found_at_the_call(off):
    """Where complex arguments tell the derivative, and differences stand by them."""
    by_t, by_y = off

    def pull(t, y, rate, ct):
        return -by_t * rate * np.sum(ct) * np.sin(t), -by_y * rate * ct, -np.sum(ct * y)

    f = VectorField(lambda t, y, rate: -rate * (y - np.cos(t)), vjp=pull)
    with pytest.raises(InputError, match="`vjp` does not give the derivatives of `f` near `y0`"):
        rg.solve_vjp(f, np.ones(2), 0.5, 1.0, np.array(2.0), solver="rodas5p")


@pytest.mark.parametrize("xp", [np, array_api_strict])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_libraries_and_precisions(xp, dtype):
    def f(t, y, a):
        return y.__array_namespace__().exp(-y) * a * t + y * y

    y = xp.asarray([1.0, 2.0, -0.5], dtype=getattr(xp, dtype))
    a = xp.asarray(1.5, dtype=getattr(xp, dtype))
    if dtype == "complex128":
        y, a = y * (1 + 0.5j), a * (1 - 2j)
    assert check_vjp(f, 0.4, y, a) < (1e-4 if dtype == "float32" else 1e-7)


def test_what_f_does_not_use_has_no_error():
    assert check_vjp(lambda t, y, a: 0 * y, 0.0, np.ones(2), np.ones(3)) == 0.0
    assert check_vjp(lambda t, y, a: -y, 0.0, np.full(2, 1e6)) < 1e-7
    wrong = VectorField(lambda t, y, a: -y, vjp=lambda t, y, a, ct: (1.0, -ct, None))
    with pytest.raises(InputError, match="`t`"):
        check_vjp(wrong, 0.0, np.ones(2))


def test_named_fields_are_named():
    class Pair(NamedTuple):
        u: object
        v: object

    wrong = VectorField(
        lambda t, y, a: Pair(y.v, -y.u), vjp=lambda t, y, a, ct: (0.0, Pair(-ct.v, -ct.u), None)
    )
    with pytest.raises(InputError, match=r"`y\.v`"):
        check_vjp(wrong, 0.0, Pair(np.ones(2), np.ones(2)))


def test_a_field_the_tape_cannot_follow_says_so():
    with pytest.raises(UnsupportedByBackend, match="stack"):
        check_vjp(lambda t, y, a: np.array([y[1], -y[0]]), 0.0, np.ones(2))


def test_a_field_that_the_library_differentiates_has_nothing_to_check(monkeypatch):
    backend = type(backend_of(np.ones(2)))
    monkeypatch.setattr(backend, "capabilities", frozenset({Capability.AUTODIFF}))
    with pytest.raises(InputError, match="no vjp to check"):
        check_vjp(lambda t, y, a: -y, 0.0, np.ones(2))


def test_vector_field_is_frozen_and_calls_f():
    f = VectorField(lambda t, y, args: t * y if args is None else args * y)
    assert f(2.0, 3.0) == 6.0
    assert f(2.0, 3.0, 5.0) == 15.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        f.vjp = vjp
