"""The product with second derivatives that the exact vjp of a Rosenbrock step needs, once a step.

Asked for is the cotangent, by y, t and parameters, of ``sum_i <lam_i, J k_i + tau_i f_t>``. It is
the derivative of vjps along directions, so no tape of second order is needed where the first one
can be followed off the real axis:

- ``-Im pull(t + i e tau, y + i e k)(lam) / e``, exact to rounding where f is analytic (the tape
  conjugates, hence the sign; a ``vjp`` of the user's for real y may not);
- else central differences of vjps, which is ``"1e-9"`` in double precision; a plan names it.

Which one is seen once, at (t0, y0) and near it: both are taken of a random direction. A ``vjp`` of
the user's that drops imaginary parts fails that, as does an f that is not analytic.

Of s products along s vectors of n < s numbers, n along unit vectors are the same sum.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .._base.errors import InputError, UnsupportedByBackend
from .._base.types import Array, Leaves, ParamSums, Scalar, State

if TYPE_CHECKING:
    from .._backend.protocols import FieldVJP
    from .._backend.reals import Reals
    from .field_vjp import TapePullback, UserPullback

Second = tuple[Leaves, Scalar, ParamSums]


class Term(NamedTuple):
    """``<lam, J k + tau f_t>``: a direction in (t, y), and a cotangent of f, as rows of reals."""

    k: Array
    tau: Scalar
    lam: Array


class Cotangents(NamedTuple):
    """By the leaves of y, by t (None where it is not asked for), and by the wanted parameters."""

    y: Sequence[Array]
    t: Scalar
    params: Sequence[Array]


def terms_of(
    reals: Reals, ks: Sequence[State], lams: Sequence[State], taus: Sequence[Scalar] | None
) -> list[Term]:
    """The sum's terms, in as few directions as there are."""
    taus = [0.0] * len(ks) if taus is None else list(taus)
    k, lam = [reals.of(x) for x in ks], [reals.of(x) for x in lams]
    timed = not all(isinstance(x, (int, float)) and x == 0 for x in taus)
    n, s = reals.size, len(ks)
    if n + timed >= s or not reals.whole:
        return [Term(*term) for term in zip(k, taus, lam, strict=True)]
    xp, layout = reals.xp, reals.layout
    unit = xp.eye(n, dtype=layout.real_dtype, device=layout.device)
    sums = layout.bk.matmul(xp.matrix_transpose(xp.stack(k)), xp.stack(lam))
    terms = [Term(unit[j, ...], 0.0, sums[j, ...]) for j in range(n)]
    if timed:
        total = sum(tau * x for tau, x in zip(taus, lam, strict=True))
        terms.append(Term(xp.zeros_like(k[0]), 1.0, total))
    return terms


def second_product(
    vjp: TapePullback | UserPullback,
    kind: str,
    point: tuple[Array, State],
    terms: Sequence[Term],
    acc: ParamSums,
) -> Second:
    """The sum of products at a point (t, y), as a pull gives it.

    kind : ``"complex step"``, ``"plain complex step"`` (of what does not conjugate), or
    ``"differences"``
    """
    reals = vjp.reals
    mu: list[Array] = []
    ct: Scalar = None
    for term in terms:
        if kind == "differences":
            parts = _by_differences(vjp, reals, *point, term)
        else:
            sign = -1.0 if kind == "complex step" else 1.0
            parts = [_by_complex_step(vjp, reals, *point, term, sign)]
        for part in parts:  # summed at once: parameters may be large
            mu = [a + x for a, x in zip(mu, part.y, strict=True)] if mu else list(part.y)
            ct = part.t if ct is None or part.t is None else ct + part.t
            acc = vjp.add(acc, part.params)
        del parts
    if ct is not None:
        ct = vjp.bk.held(ct) if vjp.bk.is_array(ct) else float(ct)
    return tuple(mu), ct, acc


# --- off the real axis
def complex_settings(reals: Reals) -> tuple[float, Array]:
    """The step e, and the dtype of what it leads to."""
    double = reals.layout.bk.itemsize(reals.layout.real_dtype) >= 8
    xp = reals.xp
    return (1e-30, xp.complex128) if double else (1e-20, xp.complex64)


def complexified(vjp: TapePullback | UserPullback) -> list[Array]:
    """Parameters, the wanted ones complex: cotangents of real ones are real."""
    reals, params = vjp.reals, list(vjp.params)
    dtype = complex_settings(reals)[1]
    for i in vjp.where:
        params[i] = reals.xp.astype(params[i], dtype)
    return params


def _by_complex_step(
    vjp: TapePullback | UserPullback, reals: Reals, t: Array, y: State, term: Term, sign: float
) -> Cotangents:
    xp, (e, dtype) = reals.xp, complex_settings(reals)
    row = xp.astype(reals.of(y), dtype) + (1j * e) * xp.astype(term.k, dtype)
    at = t  # where f takes it as a plain number
    if vjp.timed:
        at = xp.astype(xp.asarray(t), dtype) + 1j * e * term.tau
    lam = [xp.astype(x, dtype) for x in reals.leaves(term.lam)]
    found = vjp.pull_complex(at, reals.leaves(row), lam)
    vjp.pulls += 1

    def part(x: Array) -> Array:
        if hasattr(x, "dtype"):
            complex_ = xp.isdtype(x.dtype, "complex floating")
            return xp.imag(x) * (sign / e) if complex_ else xp.zeros_like(x)
        return sign * complex(x).imag / e

    ct = part(found.t) if vjp.time else None
    return Cotangents([part(x) for x in found.y], ct, [part(x) for x in found.params])


# --- differences of vjps
def _by_differences(
    vjp: TapePullback | UserPullback, reals: Reals, t: Array, y: State, term: Term
) -> list[Cotangents]:
    """The direction of y and that of t apart: their sizes have nothing in common."""
    xp, row = reals.xp, reals.of(y)
    eps = float(xp.finfo(reals.layout.real_dtype).eps) ** (1 / 3)
    lam, parts = reals.leaves(term.lam), []
    most, longest = float(xp.max(xp.abs(row))) or 1.0, float(xp.max(xp.abs(term.k)))
    if longest > 0:
        size = xp.abs(row) + 1e-3 * most
        h = eps / float(xp.max(xp.abs(term.k) / size))
        ends = [(t, reals.state(row + s * term.k)) for s in (-h, h)]
        parts.append(_difference(vjp, ends, lam, 2 * h))
    if term.tau:
        at, (low, high) = float(t), map(float, map(vjp.bk.number, vjp.sides))
        d = min(eps * max(abs(at), 1.0), 0.25 * (high - low))
        # beside a jump of f from one side: twice the near difference less half of the far one
        places: tuple[tuple[float, float, float], ...] = ((-1.0, 1.0, 1.0),)
        if not low <= at - d <= at + d <= high:
            side = 1.0 if at - d < low else -1.0
            places = ((0.0, side, 2.0), (0.0, 2.0 * side, -1.0))
        for first, last, weight in places:
            ends = [(xp.asarray(t) + s * d, y) for s in (first, last)]
            span = float(ends[1][0]) - float(ends[0][0])
            parts.append(_difference(vjp, ends, lam, span / (weight * float(term.tau))))
    return parts or [_difference(vjp, [(t, y), (t, y)], lam, 1.0)]


def _difference(
    vjp: FieldVJP, ends: Sequence[tuple[Array, State]], lam: Leaves, span: float
) -> Cotangents:
    """Of the pulls of lam at two points, over what lies between."""
    low, high = (vjp(*end)[1](lam, vjp.zero()) for end in ends)

    def slope(a: Array, b: Array) -> Array:
        if a is None and b is None:  # nothing reached that parameter
            return None
        return b / span if a is None else -a / span if b is None else (b - a) / span

    mu = [slope(a, b) for a, b in zip(low[0], high[0], strict=True)]
    params = [slope(a, b) for a, b in zip(low[2], high[2], strict=True)]
    return Cotangents(mu, slope(low[1], high[1]), params)


# --- the choice
def second_kind(
    vjp: TapePullback | UserPullback, t: Array, points: Sequence[State], noise: Sequence[Array]
) -> str:
    """The complex step where it gives what differences give, else those.

    noise : three random rows, for a direction and two cotangents
    """
    reals = vjp.reals
    near = 1e-6 if float(reals.xp.finfo(reals.layout.real_dtype).eps) < 1e-10 else 1e-2
    term = Term(noise[0], 1.0, noise[1])
    kinds = ["complex step", "plain complex step"]
    with vjp.bk.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an imaginary part that is dropped
        try:
            for y in points:
                scale = _norm(reals, vjp(t, y)[1](reals.leaves(noise[1]), vjp.zero()))
                other = second_product(vjp, "differences", (t, y), [term], vjp.zero())
                most = near * (scale + _norm(reals, other))
                for kind in list(kinds):
                    exact = second_product(vjp, kind, (t, y), [term], vjp.zero())
                    if _norm(reals, exact, other) > most:
                        kinds.remove(kind)
        except (TypeError, ValueError, AttributeError, InputError, UnsupportedByBackend):
            kinds = []
    return kinds[0] if kinds else "differences"


def _norm(reals: Reals, a: Second, b: Second | None = None) -> float:
    """The largest number of a pull, or of a difference of two; nan where one is not finite."""
    xp = reals.xp
    parts, others = [*a[0], *a[2]], [] if b is None else [*b[0], *b[2]]
    if b is not None:
        parts = [x - y for x, y in zip(parts, others, strict=True)]
    return max(float(xp.max(xp.abs(x))) for x in parts)
