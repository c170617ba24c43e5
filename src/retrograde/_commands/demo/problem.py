"""Data, equations and starting guesses of the demo.

The Lotka-Volterra equations for the logarithms u, v of hares and lynxes (thousands of pelts),

    u' = alpha - beta exp(v),    v' = delta exp(u) - gamma,

so that counts stay positive whatever an optimiser tries, and every orbit is closed and bounded
(Lotka 1925, Elements of Physical Biology, ch. VIII). The misfit is a sum of squares of log
counts: errors of counts are proportional to counts.

References
----------
C. Elton, M. Nicholson (1942), doi:10.2307/1358, whence the series; B. Carpenter (2018),
"Predator-prey population dynamics: the Lotka-Volterra model in Stan", who fits the same data.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import NamedTuple

from ..._base.types import Array, Namespace, VectorFieldFn


class Unknown(NamedTuple):
    """One fitted quantity: its name, what it is, its unit, and the range of first guesses."""

    name: str
    meaning: str
    unit: str
    low: float
    high: float


UNKNOWNS = (
    Unknown("alpha", "growth of hares", "per year", 0.2, 2.0),
    Unknown("beta", "hares lost to a thousand lynxes", "per year", 0.005, 0.1),
    Unknown("gamma", "death of lynxes", "per year", 0.2, 2.0),
    Unknown("delta", "lynxes gained from a thousand hares", "per year", 0.005, 0.1),
    Unknown("hare(1900)", "hares at the start", "thousand pelts", 10.0, 60.0),
    Unknown("lynx(1900)", "lynxes at the start", "thousand pelts", 2.0, 20.0),
)

BOX = 2.718281828459045
"""The optimiser may leave the range of first guesses by this factor on either side."""

SPAN = 20.0
"""Length of the series [years]."""

OBSERVATIONS = 42
"""Counts in it: hare and lynx in each of 21 years."""


class Series(NamedTuple):
    """The observations.

    Attributes
    ----------
    years : array, shape (21,) [year]
        Counted from 1900.
    logs : array, shape (21, 2)
        Natural logarithms of the counts of hare and lynx [thousand pelts].
    """

    years: Array
    logs: Array


def series(xp: Namespace) -> Series:
    """The pelts of hare and lynx, 1900 to 1920, as float64 arrays."""
    lines = files("retrograde").joinpath("data/lynx_hare.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    counts = [[float(row["hare"]), float(row["lynx"])] for row in rows]
    years = xp.asarray([float(row["year"]) - 1900.0 for row in rows], dtype=xp.float64)
    return Series(years, xp.log(xp.asarray(counts, dtype=xp.float64)))


def lotka_volterra(xp: Namespace) -> VectorFieldFn:
    """The vector field of the log counts.

    Returns
    -------
    callable
        ``field(t, y, rates)`` with y of shape (2, starts) and rates of shape (4, starts)
        [1 / year].
    """

    def field(t: Array, y: Array, rates: Array) -> Array:
        hare, lynx = xp.exp(y[0]), xp.exp(y[1])
        return xp.stack((rates[0] - rates[1] * lynx, rates[3] * hare - rates[2]))

    return field


def guesses(np: Namespace, starts: int) -> Array:
    """Logarithms of the first guesses, shape (6, starts): the same ones in every run.

    Points of the additive sequence of the plastic number's powers, which fill a box evenly for
    any count (M. Roberts 2018, "The unreasonable effectiveness of quasirandom sequences").
    """
    root = 1.0
    for _ in range(40):  # the real root of x**7 = x + 1
        root = (1.0 + root) ** (1.0 / 7.0)
    steps = np.asarray([root ** -(k + 1) for k in range(6)])
    unit = (0.5 + steps[:, None] * np.arange(1, starts + 1)[None, :]) % 1.0
    low, high = np.log(np.asarray([[u.low, u.high] for u in UNKNOWNS])).T
    return low[:, None] + (high - low)[:, None] * unit


def bounds(np: Namespace, starts: int) -> list[tuple[float, float]]:
    """Bounds of the flattened unknowns of all starts, as SciPy takes them."""
    pairs = [(float(np.log(u.low / BOX)), float(np.log(u.high * BOX))) for u in UNKNOWNS]
    return [pair for pair in pairs for _ in range(starts)]
