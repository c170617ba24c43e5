"""JAX on a CPU: banded systems block by block (Thomas' algorithm), in loops that XLA keeps tight.

A solve of 500 blocks of 2 takes 16 us so; on devices, where a turn of a loop is a launch, blocks
are reduced pairwise (``_backend.banded``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from retrograde._backend.banded import BandLinear, Blocks
from retrograde._backend.linear import Factors, Matrix
from retrograde._backend.structure import Products
from retrograde._base.types import Array, DType, Leaves

from .linear import UNROLLED, eliminated
from .xla_cpu.eligible import default_device

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout


class JaxBand(BandLinear):
    """Banded systems by block cyclic reduction."""

    conjugated = True
    tables = np  # known when a program is made: constants of it

    def _table(self, values: Sequence[Any], dtype: DType) -> Array:
        return np.asarray(values, dtype)

    def _inverse(self, a: Array) -> Array:
        return eliminated(a) if a.shape[-1] <= UNROLLED else jnp.linalg.inv(a)


class ScannedBand(JaxBand):
    """Banded systems by block elimination, one block after the other."""

    def _block_picks(self) -> Blocks:  # as many as there are: no power of two
        return self._pick_blocks(-(-self.n // max(self.lower, self.upper, 1)))

    def factor(self, matrix: Matrix) -> Factors:
        _, _, picks, padding = self.blocks
        low, on, high = (self._picked(matrix[0], pick) for pick in picks)

        def turn(before: Leaves, block: Leaves) -> tuple[Leaves, Leaves]:
            inverse, high = before
            low, on, next_high = block
            part = self._small_product(low, inverse)
            found = self._inverse(on - self._small_product(part, high))
            return (found, next_high), (part, found)

        zero = jnp.zeros_like(on[0])
        _, (part, inverse) = jax.lax.scan(turn, (zero, zero), (low, on + padding, high))
        return part, inverse, high

    def _solved(self, factors: Factors, b: Array, *, transposed: bool) -> Array:
        part, inverse, high = factors
        x = self._cut(b)
        if transposed:  # of W = (lower) (upper): upper' z = b, lower' x = z
            before = jnp.concatenate([jnp.zeros_like(high[:1]), high[:-1]]).mT
            after = jnp.concatenate([part[1:], jnp.zeros_like(part[:1])]).mT
            x = self._substituted(x, before, inverse.mT)
            x = self._substituted(x, after, None, reverse=True)
        else:
            x = self._substituted(x, part, None)
            x = self._substituted(x, high, inverse, reverse=True)
        return x.reshape(-1)[: self.n]

    def _substituted(
        self, b: Array, low: Array, inverse: Array | None, *, reverse: bool = False
    ) -> Array:
        """x_k = inverse_k (b_k - low_k x_{k-1}), block by block."""
        times = self._small

        def turn(x: Array, block: Leaves) -> tuple[Array, Array]:
            b, low, *rest = block
            x = b - times(low, x)
            x = times(rest[0], x) if rest else x
            return x, x

        blocks = (b, low) if inverse is None else (b, low, inverse)
        found: Array = jax.lax.scan(turn, jnp.zeros_like(b[0]), blocks, reverse=reverse)[1]
        return found

    def _small_product(self, a: Array, b: Array) -> Array:
        """A product of matrices within a loop, likewise: an operation of its own takes .1 us."""
        w = a.shape[-1]
        return jnp.sum(a[:, :, None] * b[None, :, :], axis=1) if w <= 8 else self.bk.matmul(a, b)

    def _small(self, a: Array, x: Array) -> Array:
        """A product within a loop: a sum, which is fused, of a few numbers."""
        return jnp.sum(a * x[None, :], axis=-1) if a.shape[-1] <= 8 else self._times(a, x)


def jax_band(layout: Layout, pattern: Products) -> BandLinear:
    """The form that serves the device at hand."""
    kind = ScannedBand if default_device().platform == "cpu" else JaxBand
    return kind(layout, pattern)
