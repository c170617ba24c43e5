"""The mathematics of the Butcher tableaus: orders, interpolants, stability, malformed tables."""

from dataclasses import replace
from importlib import import_module
from math import cos, exp, log2, prod, sin, sqrt

import pytest

from retrograde._solvers.tableau import Tableau, order_conditions, rooted_trees

# name, order, order of the embedded method, order of the interpolant, calls of f a step,
# first same as last, end of the stability interval (rounded towards zero)
METHODS = [
    ("Euler", 1, None, 1, 1, False, 2.0),
    ("Heun", 2, 1, 2, 2, False, 2.0),
    ("Midpoint", 2, 1, 2, 2, False, 2.0),
    ("Ralston", 2, 1, 2, 2, False, 2.0),
    ("RK4", 4, None, 3, 4, False, 2.785),
    ("Bosh3", 3, 2, 3, 3, True, 2.512),
    ("Dopri5", 5, 4, 4, 6, True, 3.306),
    ("Tsit5", 5, 4, 4, 6, True, 3.506),
]
THETAS = [0.1, 0.35, 0.5, 0.83, 1.0]


def page(name: str) -> type:
    return getattr(import_module(f"retrograde._solvers.{name.lower()}"), name)


def tableau_of(name: str) -> Tableau:
    return page(name).tableau


NAMES = [method[0] for method in METHODS]
PAIRS = [method[0] for method in METHODS if method[2] is not None]
every_method = pytest.mark.parametrize("name", NAMES)
every_pair = pytest.mark.parametrize("name", PAIRS)


def worst(tableau, order, *weights_and_theta):
    return max(map(abs, order_conditions(tableau, order, *weights_and_theta)))


def step(tableau, t, y, h):
    """Stages of one step on y' = y cos t."""
    k = []
    for c, row in zip(tableau.c, tableau.a, strict=True):
        k.append((y + h * dot(row, k)) * cos(t + c * h))
    return k


def dot(weights, k):
    return sum(w * x for w, x in zip(weights, k, strict=True))


# --- the trees and their conditions


def test_rooted_trees_are_counted_right():
    # OEIS A000081
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert all(len(set(rooted_trees(n))) == len(rooted_trees(n)) for n in range(1, 9))


def test_conditions_agree_with_the_textbook_list_to_order_five():
    """Hairer, Nørsett and Wanner, Table II.2.2, written out; weights that satisfy none."""
    tableau, theta = tableau_of("Dopri5"), 0.7
    b, c = [0.3, -0.2, 0.5, 0.1, 0.7, -0.4, 0.6], tableau.c
    one = [1.0] * 7

    def times(*vectors):
        return [prod(entries) for entries in zip(*vectors, strict=True)]

    def a(vector):
        return [sum(x * v for x, v in zip(row, vector, strict=False)) for row in tableau.a]

    c2, c3, ac, ac2, aac = times(c, c), times(c, c, c), a(c), a(times(c, c)), a(a(c))
    lists = [
        [(one, 1)],
        [(c, 2)],
        [(c2, 3), (ac, 6)],
        [(c3, 4), (times(c, ac), 8), (ac2, 12), (aac, 24)],
        [
            (times(c2, c2), 5), (times(c2, ac), 10), (times(c, ac2), 15), (times(c, aac), 30),
            (times(ac, ac), 20), (a(c3), 20), (a(times(c, ac)), 40), (a(ac2), 60), (a(aac), 120),
        ],
    ]  # fmt: skip
    wanted = [
        dot(b, phi) - theta**n / gamma for n, row in enumerate(lists, 1) for phi, gamma in row
    ]
    assert len(wanted) == 17
    assert sorted(order_conditions(tableau, 5, b, theta)) == pytest.approx(sorted(wanted))


# --- the orders


@pytest.mark.parametrize(("name", "order", "embedded", "dense", "calls", "fsal", "_"), METHODS)
def test_stated_properties(name, order, embedded, dense, calls, fsal, _):
    tableau = tableau_of(name)
    assert (tableau.order, tableau.interpolation_order) == (order, dense)
    assert tableau.error_order == (order + 1 if embedded is None else embedded + 1)
    assert (tableau.b_hat is None) == (embedded is None)
    assert (tableau.fsal, page(name).evaluations) == (fsal, calls)
    tableau.check()


@every_method
def test_order_is_not_understated(name):
    tableau = tableau_of(name)
    assert worst(tableau, tableau.order) < 3e-14
    assert worst(tableau, tableau.order + 1) > 1e-4


@every_pair
def test_embedded_order_is_exact(name):
    tableau = tableau_of(name)
    assert worst(tableau, tableau.error_order - 1, tableau.b_hat) < 3e-14
    assert worst(tableau, tableau.error_order, tableau.b_hat) > 5e-4


@every_method
@pytest.mark.parametrize("theta", THETAS)
def test_interpolant_has_its_order_everywhere(name, theta):
    tableau = tableau_of(name)
    dense, weights = tableau.interpolation_order, tableau.weights(theta)
    assert worst(tableau, dense, weights, theta) < 1e-13


@every_method
def test_interpolant_order_is_not_understated(name):
    tableau = tableau_of(name)
    assert worst(tableau, tableau.interpolation_order + 1, tableau.weights(0.5), 0.5) > 1e-4


@every_method
def test_interpolant_joins_the_ends_of_the_step(name):
    tableau = tableau_of(name)
    first = [1.0, *[0.0] * (tableau.stages - 1)]
    assert tableau.weights(0.0) == tuple(0.0 * x for x in first)
    assert tableau.weights(1.0) == pytest.approx(tableau.b, abs=1e-13)
    assert tableau.weight_derivatives(0.0) == tuple(first)


@pytest.mark.parametrize("name", ["Bosh3", "Dopri5", "Tsit5"])
def test_interpolant_of_a_pair_with_fsal_is_smooth(name):
    tableau = tableau_of(name)
    last = [*[0.0] * (tableau.stages - 1), 1.0]
    assert tableau.weight_derivatives(1.0) == pytest.approx(last, abs=1e-13)


@every_method
@pytest.mark.parametrize("theta", THETAS)
def test_weight_derivatives_are_finite_differences(name, theta):
    tableau, e = tableau_of(name), 1e-4
    above, below = tableau.weights(theta + e), tableau.weights(theta - e)
    slopes = [(x - y) / (2 * e) for x, y in zip(above, below, strict=True)]
    assert tableau.weight_derivatives(theta) == pytest.approx(slopes, abs=1e-5)
    assert sum(tableau.weight_derivatives(theta)) == pytest.approx(1.0, abs=1e-13)


# --- what the orders promise of a solve: y' = y cos t, y = exp(sin t)


@every_method
def test_observed_order_of_a_solve(name):
    tableau, t1 = tableau_of(name), 3.0

    def error(steps):
        y, h = 1.0, t1 / steps
        for i in range(steps):
            y += h * dot(tableau.b, step(tableau, i * h, y, h))
        return abs(y - exp(sin(t1)))

    observed = log2(error(128) / error(256))
    assert observed == pytest.approx(tableau.order, abs=0.15)


@every_method
def test_observed_order_of_the_interpolant(name):
    tableau, t, theta = tableau_of(name), 0.8, 0.6

    def error(h):
        y = exp(sin(t))
        dense = y + h * dot(tableau.weights(theta), step(tableau, t, y, h))
        return abs(dense - exp(sin(t + theta * h)))

    observed = log2(error(0.04) / error(0.02))
    assert observed == pytest.approx(tableau.interpolation_order + 1, abs=0.15)


@every_pair
def test_observed_order_of_the_error_estimate(name):
    tableau, t = tableau_of(name), 0.8

    def estimate(h):
        return abs(h * dot(tableau.b_error, step(tableau, t, exp(sin(t)), h)))

    observed = log2(estimate(0.04) / estimate(0.02))
    assert observed == pytest.approx(tableau.error_order, abs=0.15)


@pytest.mark.parametrize(("name", "interval"), [(method[0], method[-1]) for method in METHODS])
def test_stability_interval_is_the_documented_one(name, interval):
    tableau = tableau_of(name)

    def growth(z):
        k = []
        for row in tableau.a:
            k.append(z * (1.0 + dot(row, k)))
        return abs(1.0 + dot(tableau.b, k))

    # 1e-12 for rounding: Midpoint and its kin have growth 1 at the very end.
    assert max(growth(-interval * i / 1000) for i in range(1001)) <= 1.0 + 1e-12
    assert growth(-interval - 0.002) > 1.0
    assert f"[-{interval:.4g}, 0] on the negative real axis" in page(name).__doc__


def test_tsit5_is_more_accurate_than_dopri5_by_the_documented_factor():
    def leading_error(tableau):
        trees = rooted_trees(6)
        residuals = order_conditions(tableau, 6)[-len(trees) :]
        return sqrt(sum((r / symmetry(t)) ** 2 for r, t in zip(residuals, trees, strict=True)))

    def symmetry(tree):
        repeats = [tree[: i + 1].count(branch) for i, branch in enumerate(tree)]
        return prod(map(symmetry, tree)) * prod(repeats)

    # 3.99e-4 is the figure in the literature on Dormand and Prince's pair.
    assert leading_error(tableau_of("Dopri5")) == pytest.approx(3.99e-4, rel=2e-3)
    ratio = leading_error(tableau_of("Dopri5")) / leading_error(tableau_of("Tsit5"))
    assert ratio == pytest.approx(2.9, abs=0.05)


# --- wrong tables


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
        ("RK4", {"interpolation_order": 4}, "Order 4 of `interpolation`"),
        ("Heun", {"interpolation": ((1.0, -0.4), (0.0, 0.4))}, "Order 2 of `interpolation`"),
        ("Euler", {"interpolation": ((0.0, 1.0),)}, "Order 1 of `interpolation`"),
    ],
)
def test_check_finds_an_overstated_order(name, change, message):
    # Passing the shape checks is part of the point: these tables look well-formed.
    wrong = replace(tableau_of(name), **{k: v for k, v in change.items() if k != "b"})
    if "b" in change:
        object.__setattr__(wrong, "b", change["b"])
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
