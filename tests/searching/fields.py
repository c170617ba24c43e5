"""Vector fields and trees, written once for all libraries and for the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


# --- fields: written once, (xp, t, leaves of y, parameters by name) -> leaves of dy/dt
class Field(NamedTuple):
    """A vector field with the shapes that it takes.

    ``make(rng) -> (leaves, params)`` draws a state and parameters.
    """

    call: Callable[..., Any]
    make: Callable[[np.random.Generator], Any]
    timed: bool = False


def linear(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    around = [ls[-1], *ls[:-1]]
    return [-p["k"] * x + 0.3 * p["c"] * xp.sum(z) for x, z in zip(ls, around, strict=True)]


def product(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    return [p["a"] @ ls[0] - 0.5 * ls[0]]


def lotka_volterra(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    y, r = ls[0], p["r"]
    meals = y[0, ...] * y[1, ...]
    return [xp.stack([r[0] * y[0, ...] - r[1] * meals, r[3] * meals - r[2] * y[1, ...]])]


def forced(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    return [-p["k"] * x + p["a"] * xp.sin(3.0 * (t - p["phase"]) + x) for x in ls]


def varying(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    s = t - p["start"]
    rate = p["r"][0] + p["r"][1] * s + p["r"][2] * xp.cos(2.0 * s)
    return [rate * x / (1.0 + x * x) for x in ls]


def network(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    y = ls[0]
    return [xp.tanh(y @ p["w1"] + p["b1"]) @ p["w2"] - 0.1 * y]


def rotation(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    return [1j * (p["w"] * x) - 0.2 * x + 0.1 * x * x for x in ls]


def separable(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    q, v = ls
    return [v * p["m"], -p["k"] * xp.sin(q) + 0.3 * xp.cos(t - p["phase"])]


def ring(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    y = ls[0]
    return [(xp.roll(y, -1) - xp.roll(y, 2)) * xp.roll(y, 1) * p["c"] - y + p["force"]]


def pieces(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    y, z = ls
    push = p["s"] * (y[1] - y[0])
    whole = xp.stack([push, y[0] * (p["r"] - y[2]) - y[1], y[0] * y[1] - 0.5 * y[2]])
    return [whole * 0.5, xp.exp(-z * z) * y[2] - 0.2 * z]


def logistic(xp: Any, t: Any, ls: Any, p: Any) -> Any:
    total = sum(xp.sum(x**2) for x in ls)
    return [p["r"] * x * (1.0 - x / p["cap"]) / xp.sqrt(1.0 + total) for x in ls]


SHAPES = ((), (1,), (3,), (2, 3), (5,), (2, 1, 2))


def _shapes(rng: np.random.Generator, most: int = 3) -> list[tuple[int, ...]]:
    return [SHAPES[rng.integers(len(SHAPES))] for _ in range(rng.integers(1, most + 1))]


def _like(rng: np.random.Generator, shapes: Any, scale: float = 1.0) -> list[Any]:
    return [np.asarray(scale * rng.uniform(-1.0, 1.0, shape)) for shape in shapes]


def _network(rng: np.random.Generator) -> Any:
    n, m, batch = rng.integers(1, 5), rng.integers(1, 7), ((), (3,))[rng.integers(2)]
    w = {"w1": rng.normal(size=(n, m)), "b1": rng.normal(size=(m,)), "w2": rng.normal(size=(m, n))}
    return _like(rng, [(*batch, n)]), {k: 0.7 * x for k, x in w.items()}


def _product(rng: np.random.Generator) -> Any:
    n, rest = rng.integers(1, 6), ((), (2,))[rng.integers(2)]
    return _like(rng, [(n, *rest)]), {"a": rng.uniform(-1, 1, (n, n))}


def _lotka_volterra(rng: np.random.Generator) -> Any:
    y = rng.uniform(0.5, 1.5, (2, *((), (3,), (2, 2))[rng.integers(3)]))
    return [y], {"r": rng.uniform(0.5, 1.5, 4)}


def _rotation(rng: np.random.Generator) -> Any:
    shapes = _shapes(rng)
    pairs = zip(_like(rng, shapes), _like(rng, shapes), strict=True)
    w = rng.uniform(0.5, 2.0) + (1j * rng.uniform(-0.3, 0.3) if rng.integers(2) else 0.0)
    return [x + 1j * y for x, y in pairs], {"w": np.asarray(w)}


def _separable(rng: np.random.Generator) -> Any:
    shape = SHAPES[rng.integers(len(SHAPES))]
    return _like(rng, [shape] * 2), _numbers(rng, m=1.0, k=1.2, phase=0.0)


def _numbers(rng: np.random.Generator, **about: float) -> dict[str, Any]:
    return {name: np.asarray(x + 0.3 * rng.uniform(-1, 1)) for name, x in about.items()}


FIELDS = {
    "linear": Field(linear, lambda r: (_like(r, _shapes(r)), _numbers(r, k=0.8, c=0.5))),
    "product": Field(product, _product),
    "lotka_volterra": Field(lotka_volterra, _lotka_volterra),
    "forced": Field(
        forced, lambda r: (_like(r, _shapes(r)), _numbers(r, k=0.7, a=1.0, phase=0.0)), True
    ),
    "varying": Field(
        varying,
        lambda r: (_like(r, _shapes(r)), {**_numbers(r, start=0.0), "r": r.uniform(-1, 1, 3)}),
        True,
    ),
    "network": Field(network, _network),
    "rotation": Field(rotation, _rotation),
    "separable": Field(separable, _separable, True),
    "ring": Field(ring, lambda r: (_like(r, [(r.integers(3, 7),)]), _numbers(r, c=0.7, force=1.0))),
    "pieces": Field(pieces, lambda r: (_like(r, [(3,), (2,)]), _numbers(r, s=1.5, r=2.0))),
    "logistic": Field(logistic, lambda r: (_like(r, _shapes(r), 0.5), _numbers(r, r=1.0, cap=2.0))),
}


# --- trees
class Pair(NamedTuple):
    """A tree of two."""

    a: Any
    b: Any


FORMS: dict[int, dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]]] = {
    1: {
        "array": (lambda a: a, lambda y: [y]),
        "tuple": (lambda a: (a,), list),
        "dict": (lambda a: {"y": a}, lambda y: [y["y"]]),
        "nested": (lambda a: [{"y": (a,)}], lambda y: [y[0]["y"][0]]),
    },
    2: {
        "tuple": (lambda a, b: (a, b), list),
        "list": (lambda a, b: [a, b], list),
        "dict": (lambda a, b: {"z": a, "a": b}, lambda y: [y["z"], y["a"]]),
        "nested": (lambda a, b: ((a,), {"b": b}), lambda y: [y[0][0], y[1]["b"]]),
        "namedtuple": (Pair, list),
    },
    3: {
        "tuple": (lambda a, b, c: (a, b, c), list),
        "nested": (
            lambda a, b, c: {"q": [a, (b,)], "p": Pair(c, None)},
            lambda y: [y["q"][0], y["q"][1][0], y["p"].a],
        ),
    },
}


def field_of(
    problem: Any, namespace: Callable[[Any], Any], closed: Any = None
) -> Callable[..., Any]:
    """``f(t, y, args)``; ``closed`` is the parameter that it closes over."""
    call = FIELDS[problem.field].call
    make, parts = FORMS[len(problem.leaves)][problem.form]

    def f(t: Any, y: Any, args: Any) -> Any:
        p = args["p"] if closed is None else {**args["p"], problem.closed: closed}
        ls = parts(y)
        slopes = make(*call(namespace(ls[0]), t, ls, p))
        return dict(reversed(slopes.items())) if isinstance(slopes, dict) else slopes

    return f


def output_of(
    problem: Any, namespace: Callable[[Any], Any], closed: Any = None
) -> Callable[..., Any] | None:
    """``SaveAt.fn``, which closes over the same."""
    _, parts = FORMS[len(problem.leaves)][problem.form]

    def sums(t: Any, y: Any, args: Any) -> Any:
        ls = parts(y)
        return sum(namespace(x).sum(x * x) for x in ls)

    def tree(t: Any, y: Any, args: Any) -> Any:
        ls = parts(y)
        p = args["p"] if closed is None else {**args["p"], problem.closed: closed}
        factor = sum((namespace(ls[0]).sum(p[name]) for name in problem.params), start=1.0)
        return {"b": ls[0] * factor + 0.1 * (t - problem.t0), "a": (ls[-1],)}

    return {"": None, "sums": sums, "tree": tree}[problem.fn]


def row_leaves(problem: Any, ys: Any) -> list[Any]:
    """Leaves of ``sol.ys`` or of one row."""
    if problem.fn == "sums":
        return [ys]
    if problem.fn == "tree":
        return [ys["b"], *ys["a"]]
    return FORMS[len(problem.leaves)][problem.form][1](ys)
