"""Tableaus that are malformed, or that state what they are not."""

from dataclasses import replace

import pytest

import retrograde as rg
from retrograde._solvers.runge_kutta.order_conditions import order_conditions
from retrograde._solvers.runge_kutta.tableau import Tableau


def tableau_of(name: str) -> Tableau:
    return getattr(rg, name).tableau


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": (0.0,)}, r"`c` has 1 entries, but `b` has 2"),
        ({"a": ((), (1.0,), ())}, r"`a` has 3 entries"),
        ({"a": ((), (0.5, 0.5))}, r"`a\[1\]` has 2 entries instead of 1"),
        ({"a": ((), (0.9,))}, r"`a\[1\]` sums to 0.9"),
        ({"a": ((), (float("nan"),))}, r"`a\[1\]` sums to nan"),
        ({"c": (0.1, 1.0)}, r"`a\[0\]` sums to 0"),
        ({"b": (0.5, 0.6)}, r"`b` sums to 1.1"),
        ({"b_error": (0.5, 0.5)}, r"`b_error` sums to 1.0"),
        ({"b_error": (0.5, -0.5, 0.0)}, r"`b_error` has 3 entries"),
        ({"b_coarse": (0.5, 0.5)}, r"`b_coarse` sums to 1.0"),
        ({"b_coarse": (0.5, -0.5), "b_error": None}, r"`b_coarse` goes with a `b_error`"),
        ({"interpolation": ((1.0,), (0.0,), (0.0,))}, r"`c` has 2 entries, but `interpolation`"),
        ({"interpolation": ((1.0,), (0.0, 0.5))}, r"`interpolation` have lengths \[1, 2\]"),
        ({"interpolation": ((), ())}, r"`interpolation` have lengths \[0\]"),
        ({"interpolation_order": 3}, r"`interpolation_order` is 3; .* 1 to 2"),
        ({"error_order": 4}, r"`error_order` is 4; .* 2 to 3"),
        ({"error_order": 1}, r"`error_order` is 1"),
    ],
)
def test_malformed_tableau_raises(change, message):
    with pytest.raises(ValueError, match=message):
        replace(tableau_of("Heun"), **change)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("Heun", {"order": 3}, "Order 3 of `b`"),
        ("Heun", {"b": (0.5 + 1e-12, 0.5 - 1e-12)}, "`b`"),
        ("Heun", {"error_order": 3}, "Order 2 of `b_hat`"),
        ("Dopri5", {"interpolation_order": 5}, "Order 5 of `interpolation`"),
        ("Dopri8", {"interpolation_order": 8}, "Order 8 of `interpolation`"),
        ("Dopri8", {"b_coarse": tableau_of("Dopri8").b}, "Order 3 of `b - b_coarse`"),
        ("RK4", {"interpolation_order": 4}, "Order 4 of `interpolation`"),
        ("Heun", {"interpolation": ((1.0, -0.4), (0.0, 0.4))}, "Order 2 of `interpolation`"),
        ("Euler", {"interpolation": ((0.0, 1.0),)}, "Order 1 of `interpolation`"),
    ],
)
def test_check_finds_an_overstated_order(name, change, message):
    # Passing the shape checks is part of the point: these tables look well-formed.
    table = {k: v for k, v in change.items() if k in ("b", "b_coarse")}
    wrong = replace(tableau_of(name), **{k: v for k, v in change.items() if k not in table})
    for k, v in table.items():
        object.__setattr__(wrong, k, v)
    with pytest.raises(ValueError, match=message):
        wrong.check()


def test_check_wants_the_interpolant_to_end_in_b():
    """Weights of the same order that end in the embedded method instead of `b`."""
    pair = tableau_of("Dopri5")
    rows = zip(pair.interpolation, pair.b_error, strict=True)
    other = tuple((*row[:3], row[3] - e) for row, e in rows)
    with pytest.raises(ValueError, match="which should be `b`"):
        replace(pair, interpolation=other).check()


def test_order_conditions_want_a_weight_for_each_stage():
    with pytest.raises(ValueError, match="zip"):
        order_conditions(tableau_of("Heun"), 2, (1.0,))


def test_the_numbers_of_dopri8_are_those_of_scipy():
    """Typed twice: once here, once there."""
    theirs = pytest.importorskip("scipy.integrate._ivp.dop853_coefficients")
    ours = tableau_of("Dopri8")
    assert list(ours.c) == pytest.approx(list(theirs.C), rel=1e-15)
    for i, row in enumerate(ours.a):
        assert list(row) == pytest.approx(list(theirs.A[i, :i]), rel=1e-15)
    assert list(ours.b_error) == pytest.approx(list(theirs.E5), rel=1e-15)
    assert list(ours.b_coarse) == pytest.approx(list(theirs.E3), rel=1e-14)
    for theta in (0.2, 0.7):
        shape, total = theirs.D.shape[1], [0.0] * 16
        b = [*theirs.B, 0.0, 0.0, 0.0, 0.0]
        first, last = ([float(i == j) for i in range(shape)] for j in (0, 12))
        rows = [b, [x - y for x, y in zip(first, b, strict=True)]]
        rows.append([2 * x - y - z for x, y, z in zip(b, first, last, strict=True)])
        for i, row in reversed(list(enumerate([*rows, *theirs.D]))):
            factor = theta if i % 2 == 0 else 1 - theta
            total = [(x + y) * factor for x, y in zip(total, row, strict=True)]
        assert list(ours.weights(theta)) == pytest.approx(total, rel=1e-11, abs=1e-13)
