"""PyTorch on the CPU: Rosenbrock steps of few numbers are NumPy's, but for f and its derivatives.

Tensors and NumPy's arrays share memory, and calls of NumPy and LAPACK between small arrays take a
third of the time. So the steps are NumPy's own (``flat.rosenbrock``), over a field that hands
tensors of the same memory to f.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from retrograde._autodiff.columns import Known
from retrograde._backend.registry import adapter
from retrograde._base.types import Array, Leaves, Scalar, Scale, State
from retrograde._solvers.base import AbstractStepper, Step

from ..flat.rosenbrock import FlatRosenbrockStages, flat_rosenbrock
from .flat import shared

if TYPE_CHECKING:
    from retrograde._backend.interface import AbstractBackend
    from retrograde._backend.linear import Linear
    from retrograde._backend.protocols import Layout, LinearField
    from retrograde._backend.reals import Reals
    from retrograde._backend.specialise import Steps
    from retrograde._solvers.rosenbrock.step import Linearised, Stepper
    from retrograde._solvers.rosenbrock.tableau import RosenbrockTableau

    from ..flat.adapter import FlatBackend


class HostField:
    """A field of tensors as one of NumPy's arrays.

    Parameters
    ----------
    field : callable
        As a problem binds it.
    linear : Linear
        PyTorch's, that knows its Jacobian.
    """

    def __init__(self, field: LinearField, linear: Linear) -> None:
        self.field, self.linear = field, linear
        self.equations = field.equations  # type: ignore[attr-defined]
        found = getattr(field, "call", None)
        if found is not None:
            self.call = _on_host(found[0]), found[1]

    def __call__(self, t: Array, y: State) -> Leaves:
        share = torch.from_numpy
        return tuple(map(_array, self.field(share(t), share(y))))

    def linearise(
        self, reals: Reals, t: Array, y: State, *, timed: bool, slope: State | None = None
    ) -> Known:
        """J and df/dt at (t, y), by PyTorch."""
        share = torch.from_numpy
        known = None if slope is None else share(slope)
        (matrix,), slopes = self.linear.derivatives(self.field, share(t), share(y), known)
        return Known(shared(matrix), lambda: None if slopes is None else shared(slopes))


def _array(x: torch.Tensor) -> np.ndarray:
    """A result of f's, which may be recorded where f asks for it, in NumPy."""
    found: np.ndarray = x.detach().resolve_neg().numpy()
    return found


def _on_host(f: Callable[..., torch.Tensor]) -> Callable[..., np.ndarray]:
    share = torch.from_numpy

    def call(t: np.ndarray, y: np.ndarray, args: object) -> np.ndarray:
        return _array(f(share(t), share(y), args))

    return call


class HostStepper(AbstractStepper):
    """NumPy's stepper between tensors."""

    def __init__(self, inner: Stepper) -> None:
        self.inner = inner
        self.tells_calls, self.tells_algebra = inner.tells_calls, inner.tells_algebra

    def step(
        self, t: Scalar, h: Scalar, carried: State, state: Linearised | None, *, error: bool
    ) -> Step:
        y1, *rest = self.inner.step(t, h, shared(carried), state, error=error)
        return Step(torch.from_numpy(y1), *rest)

    def interpolate(self, theta: Scalar) -> State:
        return torch.from_numpy(self.inner.interpolate(theta))


def host_steps(steps: Steps, tableau: RosenbrockTableau) -> Steps:
    """The same steps, in NumPy where states are few numbers in its memory."""

    def stepper(
        bk: AbstractBackend, layout: Layout, field: LinearField, scale: Scale | None = None
    ) -> AbstractStepper:
        if not _near(bk, layout, field, scale):
            return steps.stepper(bk, layout, field, scale)
        numpy = cast("FlatBackend", adapter("numpy"))
        dtype = bk.to_host(layout.zeros()).dtype
        own = numpy.flat_layout([np.zeros(shape, dtype) for shape in layout.shapes])
        own = own if layout.origin is None else own.at(layout.origin)
        stages = FlatRosenbrockStages(tableau, own, HostField(field, bk.linear(layout)))
        if scale is not None:
            scale = Scale(_moved(scale.rtol), _moved(scale.atol))
        return HostStepper(flat_rosenbrock(stages, scale))

    return steps._replace(stepper=stepper)


def _near(bk: AbstractBackend, layout: Layout, field: LinearField, scale: Scale | None) -> bool:
    """Whether NumPy may, and can, take the steps: dense systems of real numbers."""
    known = field.equations  # type: ignore[attr-defined]
    plain = known.mass is None and known.structure in (None, "dense")
    plain = plain and (scale is None or scale.norm is None)
    real = layout.dtype == layout.real_dtype
    return plain and real and bk.host(layout) is not None and bk.hosts_now()


def _moved(tolerance: Scalar) -> Scalar:
    return shared(tolerance) if isinstance(tolerance, torch.Tensor) else tolerance
