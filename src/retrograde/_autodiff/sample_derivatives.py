"""How f of a batch is linearised, for methods that need the Jacobian of every sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from .._base.types import Array, Function
from .linearise import LOST, ComplexPoint, ComplexStep, FieldDerivatives

if TYPE_CHECKING:
    from .linearise import Linearise


class NotTogether(Exception):
    """f of a batch can't be linearised after all: its samples are to be solved one by one."""


class SampleDerivatives(FieldDerivatives):
    """The same of a batch, by the library or by complex steps: those of all samples at once, which
    no vjp stands in for."""

    @property
    def second(self) -> str:
        """As it was seen of one sample, or the batch would not be solved at once."""
        return "library" if self.kind == "library" else "complex step"

    def bind(self, params: Sequence[Array], field: Function) -> Linearise:
        if self.kind == "library":
            return super().bind(params, field)
        return partial(_Point, ComplexStep(field))


class _Point(ComplexPoint):
    """f at the times and states of all samples.

    Raises
    ------
    NotTogether
        Where f takes no complex numbers.
    """

    def jvp(self, d: Array) -> Array:
        try:
            return super().jvp(d)
        except LOST as error:
            raise NotTogether from error

    def by_time(self) -> Array | None:
        try:
            return super().by_time()
        except LOST as error:
            raise NotTogether from error
