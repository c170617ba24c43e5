"""LAPACK for NumPy's arrays, called directly: a tenth of the time of ``scipy.linalg.lu_factor``.

It comes with SciPy, which need not be there: ``numpy.linalg.inv`` serves then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from retrograde._backend.banded import BandLinear
from retrograde._backend.linear import DenseLinear, Factors, Linear, Matrix, linear_algebra
from retrograde._base.types import Array, Bool, State

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout
    from retrograde._backend.structure import Products, Structure


class NumpyLinear(DenseLinear):
    """Linear systems by inverses, in NumPy's cheapest calls."""

    def _times(self, a: Array, x: Array) -> Array:
        return (a @ x[..., None])[..., 0] if self.batch else a.dot(x)

    def _transposed(self, a: Array) -> Array:
        return a.swapaxes(-1, -2)


class LapackLinear(NumpyLinear):
    """Linear systems by LU factors of one matrix: LAPACK's ``getrf`` and ``getrs``."""

    def __init__(self, lapack: Any, layout: Layout, pattern: Products | None) -> None:
        super().__init__(layout, pattern=pattern)
        kind = "d" if layout.real_dtype == np.float64 else "s"
        self.getrf, self.getrs = getattr(lapack, f"{kind}getrf"), getattr(lapack, f"{kind}getrs")
        self.bare = self.reals.flat and not self.reals.complex
        """Whether a state is what LAPACK takes."""

    def factor(self, matrix: Matrix) -> Factors:
        a = matrix[0]
        turned = not a.flags.f_contiguous  # rows major: the factors of its transpose
        lu, pivots, info = self.getrf(a.T if turned else a)
        return lu, pivots, info, turned

    def ok(self, factors: Factors) -> Bool:
        return factors[2] == 0

    def solve(self, factors: Factors, b: State) -> State:
        return self._plain(factors, b) if self.bare else super().solve(factors, b)

    def bound(self, factors: Factors) -> Callable[[State], State]:
        if not self.bare:
            return super().bound(factors)
        getrs, (lu, pivots, _, turned) = self.getrs, factors
        return lambda b: getrs(lu, pivots, b, turned)[0]

    def solve_transposed(self, factors: Factors, b: State) -> State:
        if self.bare:
            return self._plain(factors, b, transposed=True)
        return super().solve_transposed(factors, b)

    def _plain(self, factors: Factors, b: Array, transposed: bool = False) -> Array:
        lu, pivots, _, turned = factors
        return self.getrs(lu, pivots, b, turned != transposed)[0]

    def _solved(self, factors: Factors, b: Array, *, transposed: bool) -> Array:
        return self._plain(factors, b, transposed)


class LapackBand(BandLinear):
    """Banded systems by LU factors with pivots: LAPACK's ``gbtrf`` and ``gbtrs``."""

    def __init__(self, lapack: Any, layout: Layout, pattern: Products) -> None:
        super().__init__(layout, pattern)
        kind = "d" if layout.real_dtype == np.float64 else "s"
        self.gbtrf, self.gbtrs = getattr(lapack, f"{kind}gbtrf"), getattr(lapack, f"{kind}gbtrs")
        self.bare = self.reals.flat and not self.reals.complex

    def factor(self, matrix: Matrix) -> Factors:
        lower, upper = self.lower, self.upper
        # columns major, with room for what pivots bring
        ab = np.zeros((2 * lower + upper + 1, self.n), self.layout.real_dtype, order="F")
        ab[lower:] = matrix[0]
        lu, pivots, info = self.gbtrf(ab, lower, upper, overwrite_ab=True)
        return lu, pivots, info

    def ok(self, factors: Factors) -> Bool:
        return factors[2] == 0

    def bound(self, factors: Factors) -> Callable[[State], State]:
        if not self.bare:
            return super().bound(factors)
        gbtrs, lower, upper, (lu, pivots, _) = self.gbtrs, self.lower, self.upper, factors
        return lambda b: gbtrs(lu, lower, upper, b, pivots)[0]

    def _solved(self, factors: Factors, b: Array, *, transposed: bool) -> Array:
        lu, pivots, _ = factors
        return self.gbtrs(lu, self.lower, self.upper, b, pivots, trans=int(transposed))[0]


def _lapack() -> Any:
    """SciPy's face of LAPACK, or None."""
    try:
        from scipy.linalg import lapack
    except ImportError:
        return None
    return lapack


def numpy_linear(layout: Layout, structure: Structure) -> Linear:
    """Linear systems in states of this layout, in the form that serves arrays of NumPy best."""
    return linear_algebra(layout, structure, dense=_dense, band=_band)


def _dense(layout: Layout, *, batch: bool = False, pattern: Products | None = None) -> DenseLinear:
    lapack = None if batch else _lapack()
    if lapack is None:
        return NumpyLinear(layout, batch=batch, pattern=pattern)
    return LapackLinear(lapack, layout, pattern)


def _band(layout: Layout, pattern: Products) -> BandLinear:
    lapack = _lapack()
    return BandLinear(layout, pattern) if lapack is None else LapackBand(lapack, layout, pattern)
