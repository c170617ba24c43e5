"""What the adapters of eager libraries share: states are flat, and steps in one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from retrograde._backend.interface import EagerBackend
from retrograde._backend.specialise import StepRequest, Steps, generic
from retrograde._base.types import Array, Device, DType, Field, Scale, State, Table
from retrograde._solvers.runge_kutta.solver import ExplicitRungeKutta

from .attempt import flat_stepper
from .stages import FlatCotangents, FlatLayout, FlatStages

if TYPE_CHECKING:
    from retrograde._backend.interface import AbstractBackend
    from retrograde._backend.protocols import Layout, StepAdjoint, StepStages
    from retrograde._backend.samples import SampleLayout
    from retrograde._integrate.problem import Problem
    from retrograde._solvers.base import AbstractSolver
    from retrograde._solvers.runge_kutta.solver import Stepper
    from retrograde._solvers.runge_kutta.tableau import Tableau


class FlatBackend(EagerBackend):
    """An eager library whose states are flat vectors."""

    locks: ClassVar[bool] = False
    """Whether arrays are NumPy's: made read-only, and written into, without a call of ours."""
    scale_into: Callable[[Array, float, Array], object]
    """``(table, h, out)``: the table times h, into out."""

    # --- what the flat form is made of
    def matrix(self, rows: int, columns: int, dtype: DType, device: Device) -> Array:
        """Zeros, rows major."""
        return self.zeros((rows, columns), dtype, device)

    def zeros(self, shape: int | tuple[int, ...], dtype: DType, device: Device) -> Array:
        """Zeros."""
        return self.xp.zeros(shape, dtype=dtype)

    def concat(self, arrays: Sequence[Array]) -> Array:
        """Flat arrays, one behind the other."""
        return self.xp.concat(arrays)

    def coefficients(self, values: Array, dtype: DType, device: Device) -> Array:
        """Numbers as an array."""
        return self.xp.asarray(values, dtype=dtype)

    def product(self, row: Array, rows: Array, out: Array = None) -> Callable[[], Array]:
        """A call that forms ``row @ rows``, anew or into ``out``."""
        return partial(row.dot, rows) if out is None else partial(row.dot, rows, out)

    def dot(self, row: Array, rows: Array) -> Array:
        """``row @ rows``, once."""
        return row.dot(rows)

    def timer(self, layout: FlatLayout) -> Callable[[float], Array]:
        """The ``time`` of a layout, in the cheapest form."""
        return layout.time

    def flat_inner(self, x: State, y: State) -> Array:
        """The real pairing of two states, flat or leaves, as a 0-d array."""
        return self.xp.vdot(self._flat(x), self._flat(y)).real

    def _flat(self, x: State) -> Array:
        if not isinstance(x, tuple | list):
            return x
        return x[0].reshape(-1) if len(x) == 1 else self.concat([part.reshape(-1) for part in x])

    # --- states, stages, cotangents
    def flat_layout(self, leaves: Sequence[Array]) -> FlatLayout:
        """How states are carried but where generic forms are asked for."""
        return FlatLayout(self, leaves)

    def flat_stages(self, layout: FlatLayout, tableau: Tableau, scale: Scale | None) -> FlatStages:
        """The stages of a step over them."""
        return FlatStages(layout, tableau, scale)

    def layout(self, leaves: Sequence[Array]) -> Layout:
        return super().layout(leaves) if generic() else self.flat_layout(leaves)

    def stages(self, layout: Layout, tableau: Tableau, scale: Scale | None = None) -> StepStages:
        if isinstance(layout, FlatLayout):
            return self.flat_stages(layout, tableau, scale)
        return super().stages(layout, tableau, scale)

    def adjoint(self, layout: Layout, tableau: Tableau) -> StepAdjoint:
        if isinstance(layout, FlatLayout):
            return FlatCotangents(layout, tableau)
        return super().adjoint(layout, tableau)

    def sample_stages(
        self, layout: SampleLayout, tableau: Tableau, scale: Scale | None = None
    ) -> StepStages:
        from .samples import FlatSampleStages  # for batches alone

        return FlatSampleStages(layout, tableau, scale)

    def sample_adjoint(self, layout: SampleLayout, tableau: Tableau) -> StepAdjoint:
        from .samples import FlatSampleCotangents

        return FlatSampleCotangents(layout, tableau)

    def sample_product(self, row: Array, rows: Array) -> Callable[[], Array]:
        """A call that forms ``row @ rows`` of the stages of a batch anew."""
        return self.product(row, rows)

    def times_into(self, x: Array, w: Array, out: Array) -> None:
        """``x * w``, written into ``out``."""
        self.xp.multiply(x, w, out)

    def specialise(
        self, solver: AbstractSolver, problem: Problem, request: StepRequest
    ) -> Steps | None:
        if solver.implicit and not request.compile:
            from .rosenbrock import implicit_steps  # with methods that others have no use for

            if (found := implicit_steps(solver)) is not None:
                return found
        if not isinstance(solver, ExplicitRungeKutta) or request.compile:
            return super().specialise(solver, problem, request)
        tableau = solver.tableau
        if not (request.error and tableau.fsal and problem.single):
            return None

        def stepper(
            bk: AbstractBackend, layout: Layout, field: Field, scale: Scale | None = None
        ) -> Stepper:
            if not isinstance(layout, FlatLayout):  # an integration that autodiff records
                return solver.stepper(bk, layout, field, scale)
            space = self.flat_stages(layout, tableau, scale)
            return flat_stepper(tableau, space, layout, field)

        return Steps(stepper, solver.step_vjp)

    def map_state(self, fn: Callable[[Array], Array], y: State) -> State:
        return tuple(map(fn, y)) if isinstance(y, tuple) else fn(y)

    def real_rows(self, rows: int | None, width: int, layout: Layout) -> Table:
        return {} if rows is None else self.matrix(rows, width, layout.real_dtype, layout.device)
