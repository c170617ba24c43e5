"""JAX: x**p of a power known beforehand, in a third of the time of a logarithm and an exponential.

A controller raises the error of every try to such powers, and nothing of the next try can begin
before: in the solve of a small system the two functions were two fifths of all time (35 of 94 ns a
try; this takes 12, jax 0.10 on x86-64). With x = 2**k m, sqrt(1/2) <= m < sqrt(2), the power is
(2**k)**p, looked up, times m**p, a polynomial of degree 19 that interpolates at Chebyshev's points
(Trefethen 2013, *Approximation Theory and Approximation Practice*, thm 8.2: its error falls like
5.8**-20 here). It is evaluated pair by pair (Estrin 1960), five multiply-adds deep.
"""

from __future__ import annotations

import decimal
import functools
import itertools
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ._jax_loops import read_row

__all__ = ["fixed_power", "powers_of"]

LOWEST = -64
"""Exponent of two of the smallest x."""

_FORMATS: dict[str, tuple[Any, int, int, int]] = {
    "float64": (np.int64, 52, 1024, 19),
    "float32": (np.int32, 23, 128, 9),
}
"""An integer as wide, bits of the mantissa, the exponent of inf, and the polynomial's degree."""

_CENTRE = (0.5**0.5 + 2**0.5) / 2


def powers_of(dtype: Any) -> bool:
    """Whether :func:`fixed_power` is for numbers of this dtype."""
    return str(dtype) in _FORMATS


def fixed_power(x: Any, p: float) -> Any:
    """x**p for x >= 2**-64; nan where x is nan or infinite.

    Its relative error is that of rounding, some units in the last place, for \\|p\\| <= 1/2.

    Parameters
    ----------
    x : jax.Array, shape ()
    p : float
    """
    integer, digits, highest, degree = _FORMATS[str(x.dtype)]
    root_half = int(np.asarray(0.5**0.5, x.dtype).view(integer))
    bits = lax.bitcast_convert_type(x, integer)
    k = (bits - root_half) >> digits
    m = lax.bitcast_convert_type(bits - (k << digits), x.dtype)
    table = jnp.asarray(np.exp2(np.arange(LOWEST, highest, dtype=float)) ** p, x.dtype)
    # nan and inf lie beyond the table, where any index gives its nearest entry
    whole = read_row(table, (k - LOWEST).astype(np.int32)) + (x - x)
    return whole * _polynomial(m - _CENTRE, _coefficients(p, degree))


@functools.cache
def _coefficients(p: float, degree: int) -> tuple[float, ...]:
    """Of (c + u)**p in u, c the centre of the interval of m: by Newton's form, in 40 digits."""
    half, count = 2**0.5 - _CENTRE, degree + 1
    angles = ((2 * i + 1) * math.pi / (2 * count) for i in range(count))
    with decimal.localcontext(decimal.Context(prec=40)):
        nodes = [Decimal(half * math.cos(angle)) for angle in angles]
        slopes = [(Decimal(_CENTRE) + u) ** Decimal(p) for u in nodes]
        for i in range(1, count):
            for j in range(count - 1, i - 1, -1):
                slopes[j] = (slopes[j] - slopes[j - 1]) / (nodes[j] - nodes[j - i])
        found = [Decimal(0)] * count
        for u, slope in zip(reversed(nodes), reversed(slopes), strict=True):
            found = [slope - u * found[0], *(a - u * b for a, b in itertools.pairwise(found))]
    return tuple(map(float, found))


def _polynomial(u: Any, terms: Sequence[Any]) -> Any:
    while len(terms) > 1:
        pairs = itertools.zip_longest(terms[::2], terms[1::2])
        terms = [low if high is None else low + high * u for low, high in pairs]
        u = u * u
    return terms[0]
