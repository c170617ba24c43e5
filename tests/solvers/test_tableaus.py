"""The mathematics of the Butcher tableaus: orders, interpolants, stability."""

from importlib import import_module
from math import cos, exp, log2, prod, sin, sqrt

import pytest

from retrograde._backend.stages import joint
from retrograde._solvers.runge_kutta.order_conditions import order_conditions, rooted_trees
from retrograde._solvers.runge_kutta.tableau import Tableau

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
    ("Dopri8", 8, 5, 7, 12, True, 6.393),
]
THETAS = [0.1, 0.35, 0.5, 0.83, 1.0]


def page(name: str) -> type:
    return getattr(import_module(f"retrograde._solvers.runge_kutta.{name.lower()}"), name)


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


def grain(tableau):
    """Rounding of an interpolant's weights, from the size of its coefficients: 1 for Tsit5."""
    return max(1.0, max(abs(x) for row in tableau.interpolation for x in row) / 100)


def slightest(order):
    """What a residual of this order is above, where it is one: they fall as 1 / gamma does."""
    return 1e-4 if order < 8 else 5e-6


def dot(weights, k):
    """Over the stages that have weights: a step's, or all of its interpolant."""
    return sum(w * x for w, x in zip(weights, k[: len(weights)], strict=True))


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
    expected = order + 1 if embedded is None else embedded + 1
    assert tableau.error_order == expected + (0 if tableau.b_coarse is None else 2)
    assert (tableau.b_hat is None) == (embedded is None)
    assert (tableau.fsal, page(name).evaluations) == (fsal, calls)
    tableau.check()


@every_method
def test_order_is_not_understated(name):
    tableau = tableau_of(name)
    assert worst(tableau, tableau.order) < 3e-14
    assert worst(tableau, tableau.order + 1) > slightest(tableau.order)


@every_pair
def test_embedded_order_is_exact(name):
    tableau = tableau_of(name)
    lower = tableau.error_order - (1 if tableau.b_coarse is None else 3)
    assert worst(tableau, lower, tableau.b_hat) < 3e-14
    assert worst(tableau, lower + 1, tableau.b_hat) > 4e-4
    if tableau.b_coarse is not None:
        coarse = [b - e for b, e in zip(tableau.b, tableau.b_coarse, strict=True)]
        assert worst(tableau, lower - 2, coarse) < 3e-14
        assert worst(tableau, lower - 1, coarse) > 4e-4


@every_method
@pytest.mark.parametrize("theta", THETAS)
def test_interpolant_has_its_order_everywhere(name, theta):
    tableau = tableau_of(name)
    dense, weights = tableau.interpolation_order, tableau.weights(theta)
    assert worst(tableau, dense, weights, theta) < 1e-13


@every_method
def test_interpolant_order_is_not_understated(name):
    tableau = tableau_of(name)
    order = tableau.interpolation_order + 1
    assert worst(tableau, order, tableau.weights(0.5), 0.5) > slightest(order)


@every_method
def test_interpolant_joins_the_ends_of_the_step(name):
    tableau = tableau_of(name)
    first = [1.0, *[0.0] * (tableau.inside - 1)]
    assert tableau.weights(0.0) == tuple(0.0 * x for x in first)
    own = [0.0] * (tableau.inside - tableau.stages)
    assert tableau.weights(1.0) == pytest.approx([*tableau.b, *own], abs=1e-13)
    assert tableau.weight_derivatives(0.0) == tuple(first)


@pytest.mark.parametrize("name", ["Bosh3", "Dopri5", "Tsit5", "Dopri8"])
def test_interpolant_of_a_pair_with_fsal_is_smooth(name):
    tableau = tableau_of(name)
    last = [0.0] * tableau.inside
    last[tableau.stages - 1] = 1.0
    assert tableau.weight_derivatives(1.0) == pytest.approx(last, abs=1e-13 * grain(tableau))


@every_method
@pytest.mark.parametrize("theta", THETAS)
def test_weight_derivatives_are_finite_differences(name, theta):
    tableau, e = tableau_of(name), 1e-4
    above, below = tableau.weights(theta + e), tableau.weights(theta - e)
    slopes = [(x - y) / (2 * e) for x, y in zip(above, below, strict=True)]
    assert tableau.weight_derivatives(theta) == pytest.approx(slopes, abs=1e-5 * grain(tableau))
    total = sum(tableau.weight_derivatives(theta))
    assert total == pytest.approx(1.0, abs=1e-13 * grain(tableau))


# --- what the orders promise of a solve: y' = y cos t, y = exp(sin t)


@every_method
def test_observed_order_of_a_solve(name):
    tableau = tableau_of(name)
    t1, steps = (3.0, 128) if tableau.order < 8 else (2.0, 8)  # above rounding

    def error(steps):
        y, h = 1.0, t1 / steps
        for i in range(steps):
            y += h * dot(tableau.b, step(tableau, i * h, y, h))
        return abs(y - exp(sin(t1)))

    observed = log2(error(steps) / error(2 * steps))
    assert observed == pytest.approx(tableau.order, abs=0.15)


@every_method
def test_observed_order_of_the_interpolant(name):
    tableau, theta = tableau_of(name), 0.6
    t, h = (0.8, 0.04) if tableau.order < 8 else (0.3, 0.4)

    def error(h):
        y = exp(sin(t))
        dense = y + h * dot(tableau.weights(theta), step(tableau, t, y, h))
        return abs(dense - exp(sin(t + theta * h)))

    observed = log2(error(h) / error(h / 2))
    assert observed == pytest.approx(tableau.interpolation_order + 1, abs=0.15)


@every_pair
def test_observed_order_of_the_error_estimate(name):
    tableau, t = tableau_of(name), 0.8

    def estimate(h):
        k = step(tableau, t, exp(sin(t)), h)
        fine = (h * dot(tableau.b_error, k)) ** 2
        if tableau.b_coarse is None:
            return sqrt(fine)
        return sqrt(joint(fine, (h * dot(tableau.b_coarse, k)) ** 2, lambda ok, a, b: a))

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
        return prod(symmetry(branch) for _, branch in tree) * prod(repeats)

    # 3.99e-4 is the figure in the literature on Dormand and Prince's pair.
    assert leading_error(tableau_of("Dopri5")) == pytest.approx(3.99e-4, rel=2e-3)
    ratio = leading_error(tableau_of("Dopri5")) / leading_error(tableau_of("Tsit5"))
    assert ratio == pytest.approx(2.9, abs=0.05)
