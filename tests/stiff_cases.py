"""Stiff problems with their ends, for tests.

References: SciPy's Radau at rtol 1e-11, atol 1e-11 times the scale of each problem. Problems are
those of Hairer & Wanner, *Solving ODEs II*, and of the test set of Bari.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """A problem, its scale (that of atol), and where it ends."""

    f: Any
    y0: list[float]
    t1: float
    args: Any
    scale: float
    end: list[float]


def robertson(xp, t, y, k):
    a, b, c = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
    return xp.stack([c - a, a - b - c, b])


def van_der_pol(xp, t, y, mu):
    return xp.stack([y[1], mu * ((1.0 - y[0] ** 2) * y[1]) - y[0]])


def oregonator(xp, t, y, k):
    return xp.stack([
        k[0] * (y[1] + y[0] * (1.0 - k[1] * y[0] - y[1])),
        (y[2] - (1.0 + y[0]) * y[1]) / k[0],
        k[2] * (y[0] - y[2]),
    ])  # fmt: skip


def hires(xp, t, y, k):
    bound = k * y[5] * y[7] - 1.81 * y[6]
    return xp.stack([
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -k * y[5] * y[7] + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        bound,
        -bound,
    ])  # fmt: skip


RATES = [0.04, 3e7, 1e4]
CASES = {
    "robertson": Case(robertson, [1.0, 0.0, 0.0], 1e5, RATES, 1e-6,
        [0.0178659211421158, 7.274751468442964e-08, 0.9821340061103861]),
    "robertson, long": Case(robertson, [1.0, 0.0, 0.0], 1e11, RATES, 1e-6,
        [2.0833401546205094e-08, 8.333360790011816e-14, 0.9999999791664946]),
    "van der pol": Case(van_der_pol, [2.0, 0.0], 3000.0, 1000.0, 1.0,
        [-1.5106069368192336, 0.0011783800005806294]),
    "oregonator": Case(oregonator, [1.0, 2.0, 3.0], 360.0, [77.27, 8.375e-6, 0.161], 1e-3,
        [1.000814870318523, 1228.178521549901, 132.0554942846629]),
    "hires": Case(hires, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057], 321.8122, 280.0, 1e-3,
        [0.0007371312573325968, 0.00014424857263162436, 5.888729740968132e-05,
         0.0011756513432832048, 0.0023863561988322285, 0.00623896825274533,
         0.0028499983951866792, 0.0028500016048133418]),
}  # fmt: skip


def field(backend, f):
    return lambda t, y, args: f(backend.namespace(y), t, y, args)


def call(backend, case):
    """f, y0, t0, t1, args."""
    y0, args = backend.array(case.y0), backend.array(case.args)
    return field(backend, case.f), y0, 0.0, case.t1, args


def keywords(case, rtol=1e-6, **more):
    return {"solver": "rodas5p", "rtol": rtol, "atol": rtol * case.scale, **more}
