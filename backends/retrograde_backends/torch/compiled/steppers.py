"""PyTorch: passes whose steps and pulls are each one call of a compiled program.

They are ``runge_kutta.solver.Stepper`` and ``StepVJP`` without stages of their own, of implicit
steps too: what these keep of a step's inside are slopes as well. Only what a
saved time inside a step asks for is formed outside of the programs.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from retrograde._base.errors import InputError
from retrograde._base.types import (
    Array,
    Bool,
    Carry,
    Field,
    Function,
    Leaves,
    ParamSums,
    Scalar,
    Scale,
    State,
    Tree,
)
from retrograde._solvers.base import Step, made
from retrograde._solvers.runge_kutta.solver import StepCotangents, Stepper, StepVJP

from ..flat import TorchLayout
from ..memory import on_host, uploaded
from .cache import Run
from .step import bare_step, inside_step, pull_step, slopes_step, whole_step

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout
    from retrograde._solvers.runge_kutta.solver import Sources

    from ..field_vjp import TorchPullback
    from .solver import Programs


class _Clock:
    """Start and size of a step as one tensor: written in place, for no call costs less.

    On a device by two kernels that have them as arguments: a copy would be waited for.
    """

    def __init__(self, layout: Layout) -> None:
        self.device, self.origin = layout.device, layout.origin or 0.0
        self.values = array("d", (0.0, 0.0))
        if on_host(self.device):
            self.cells: Array = None
            self.tensor = torch.frombuffer(self.values, dtype=torch.float64)
        else:
            self.tensor = torch.zeros(2, dtype=torch.float64, device=self.device)
            self.cells = self.tensor.unbind()

    def __call__(self, t: Scalar, h: Scalar) -> Array:
        if torch.is_grad_enabled():  # a graph keeps it, and the times may have a history
            return torch.stack([self._placed(x) for x in (self.origin + t, h)])
        if self.cells is None:
            self.values[0], self.values[1] = self.origin + t, h
        else:
            for cell, x in zip(self.cells, (self.origin + t, h), strict=True):
                cell.fill_(x)
        return self.tensor

    def _placed(self, x: Array) -> Tree:
        if isinstance(x, torch.Tensor):
            return x.to(self.device, torch.float64)
        return torch.scalar_tensor(x, dtype=torch.float64, device=self.device)


class CompiledStepper(Stepper):
    """Steps, each one call of a program."""

    def __init__(
        self, programs: Programs, layout: Layout, field: Function, scale: Scale | None
    ) -> None:
        self.programs, self.layout, self.field = programs, layout, field
        self.known = programs.known(field)
        self.fsal = programs.fsal
        self.calls, self.implicit = programs.calls, programs.implicit
        self.tells_algebra = self.tells_calls = self.implicit
        self.weights = programs.tableau.weights
        self.extra = programs.extra
        self.flat = isinstance(layout, TorchLayout)
        self.width = 1 if self.flat else len(layout.shapes)
        self.clock = _Clock(layout)
        self.scale = scale
        self._whole: Run | None = None
        self._bare: Run | None = None
        self._inside: Run | None = None
        self.at: Array = None
        self.size = 0.0
        self.start_of: State = None
        self.last: Sequence[Array] = ()

    def init(self, t: Scalar, carried: Any, slope: Any = None) -> Tree:
        """f(t, y) as a state is, for an FSAL method, else None."""
        if not self.fsal:
            return None
        slope = self.field(self.layout.time(t), carried) if slope is None else slope
        return _plain(self.layout.pack(slope)) if self.flat else slope

    def step(self, t: Scalar, h: Scalar, carried: Any, state: Carry, *, error: bool) -> Step:
        if not error:
            y1, failed = self._end(t, h, carried)
            return made((y1, None, None, None, failed, self.calls[0]))
        self.size, self.start_of, self.at = h, carried, t
        run, n = self._whole or self._new_whole(), self.width
        if self.flat:
            known = () if state is None else (state,)
            self.last = out = run(self.clock(t, h), _plain(carried), *known)
            y1, k1 = out[0], out[1] if self.fsal else None
        else:
            self.last = out = run(self.clock(t, h), *carried, *(state or ()))
            y1, k1 = tuple(out[:n]), tuple(out[n : 2 * n]) if self.fsal else None
        at = 2 * n if self.fsal else n
        if self.scale is None:
            failed = self.implicit and out[at]
            return made((y1, None, k1, state, failed, self.calls[1]))
        e2 = out[at].item()  # the one number that is read
        failed = self.implicit and not math.isfinite(e2) and bool(out[at + 1])
        return made((y1, e2, k1, state, failed, self.calls[1]))

    def _new_whole(self) -> Run:
        scale, flags = self.scale, (self.scale is not None, self.programs.dense)
        program = self.programs.program(whole_step, self.layout, *flags)
        self._whole = Run(program, (self.known, _tolerances(self.layout, scale)))
        return self._whole

    def _end(self, t: Scalar, h: Scalar, y: State) -> tuple[Tree, Bool]:
        """y1 of a step where neither error nor inside is asked for, and whether it failed."""
        if self._bare is None:
            self._bare = Run(self.programs.program(bare_step, self.layout), self.known)
        out = self._bare(self.clock(t, h), *((_plain(y),) if self.flat else y))
        y1 = out[0] if self.flat else tuple(out[: self.width])
        return y1, self.implicit and out[self.width]

    def extra_stages(self, due: Bool = True) -> None:
        """Evaluate the interpolant's own stages of the last step, where ``due``."""
        if not self.extra or not due:
            return
        if self._inside is None:
            self._inside = Run(self.programs.program(inside_step, self.layout), self.known)
        y = (_plain(self.start_of),) if self.flat else self.start_of
        self.last = self._inside(self.clock(self.at, self.size), *y, *self.last[-self.width :])

    def interpolate(self, theta: Scalar) -> Tree:
        """y(t + theta h) of the last step."""
        weights = [self.size * w for w in self.weights(theta)]
        rows = self.last[-self.width :]
        if self.flat:
            return _combined(self.start_of, weights, rows[0])
        pairs = zip(self.start_of, rows, strict=True)
        return tuple(_combined(y, weights, k) for y, k in pairs)


class CompiledStepVJP(StepVJP):
    """Exact vjps of steps, each one call of a program over flat states."""

    vjp: TorchPullback

    def __init__(
        self, programs: Programs, layout: Layout, vjp: TorchPullback, *, time: bool
    ) -> None:
        self.programs, self.layout, self.vjp, self.time = programs, layout, vjp, time
        self.clock = _Clock(layout)
        tableau = programs.tableau
        self.stages, self.weights = programs.inside, tableau.weights
        self.extra = programs.extra
        self.weight_derivatives = tableau.weight_derivatives
        self._pull: Run | None = None
        self._slopes: Run | None = None
        self._nothing: State = None
        self.step: Leaves = ()
        self.values: Sequence[Array] | None = None

    def replay(self, field: Field) -> Stepper:
        """Steps forward."""
        return CompiledStepper(self.programs, self.layout, field, None)

    def pull(
        self,
        t: Scalar,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        outputs: Callable[..., Sources] | None = None,
        size: bool = True,
    ) -> tuple[StepCotangents, State]:
        """Pull the cotangent g of y1 back to y (see ``runge_kutta.solver.StepVJP``)."""
        inside, ct_t, ct_h, extra = None, 0.0, 0.0, None
        if outputs is not None:
            self.step, self.values = (t, h, y), None
            g, acc, inside, ct_t, ct_h, extra = outputs(self, g, acc)
        q, qy = inside or (None, None)
        if self._pull is None:
            self._pull = self._new_pull()
        if q is None and self.programs.dense:  # one program for steps with rows and without
            q = self._zero_sources()
        moving = (self.clock(t, h), _plain(y), _plain(g))
        out = self._pull(*moving, q) if self.programs.dense else self._pull(*moving)
        g = out[0] if qy is None else out[0] + qy
        if self.time and out[1] is not None:
            host = on_host(self.layout.device)
            a, b = out[1].tolist() if host else out[1].unbind()
            ct_t, ct_h = ct_t + a, ct_h + b
        for i, part in enumerate(out[2 if self.time else 1 :]):
            if part is not None:
                # the first may be an output that autograd shares; it is ours to add into
                acc[i] = part.clone() if acc[i] is None else acc[i].add_(part)
        return StepCotangents(g, acc, ct_t, ct_h), extra

    def _new_pull(self) -> Run:
        vjp = self.vjp
        known = {id(x) for x in vjp.tracked}

        def check(flat: Sequence[Array]) -> None:
            for x in flat:
                if isinstance(x, torch.Tensor) and x.requires_grad and id(x) not in known:
                    raise InputError(
                        f"`f` reached a tensor of shape {tuple(x.shape)} that requires a gradient "
                        "and that it did not use at t0; pass it through `args`."
                    )

        program = self.programs.program(pull_step, self.layout, self.time, self.programs.dense)
        return Run(program, (self.programs.known(vjp.field), vjp.wanted), check)

    # --- outputs of the step that is pulled
    def extra_stages(self, due: Bool = True) -> None:
        """Nothing to do: its programs have all stages where the inside may be asked for."""

    def result(self) -> State:
        """y at its end."""
        return self._values()[0]

    def interpolate(self, theta: Scalar) -> State:
        """y(t + theta h)."""
        _, h, y = self.step
        return _combined(y, [h * w for w in self.weights(theta)], self._values()[1])

    def slope(self, theta: Scalar) -> State:
        """The interpolant's derivative with respect to time."""
        rows = self._values()[1]
        weights = self.weight_derivatives(theta)
        return torch.mv(rows.T, uploaded(weights, rows.dtype, rows.device))

    def _values(self) -> Sequence[Array]:
        """(y1, the stages' slopes) of the step: taken once more, by those outputs that ask."""
        if self.values is None:
            if self._slopes is None:
                program = self.programs.program(slopes_step, self.layout)
                self._slopes = Run(program, self.programs.known(self.vjp.field))
            t, h, y = self.step
            self.values = self._slopes(self.clock(t, h), _plain(y))
        return self.values

    def sources(self) -> State:
        """Cotangents of the inside of a step, zero."""
        return self._zero_sources().clone(), self.layout.zeros()

    def _zero_sources(self) -> Tree:
        if self._nothing is None:
            layout = self.layout
            shape = (self.stages, layout.size)
            self._nothing = torch.zeros(shape, dtype=layout.dtype, device=layout.device)
        return self._nothing

    def add_source(self, inside: State, theta: Scalar, h: Scalar, ct: State) -> State:
        """The same with the cotangent ct of y(t + theta h) added."""
        q, qy = inside
        for i, w in enumerate(self.weights(theta)):
            if w:
                q[i].add_(ct, alpha=h * w)
        return q, qy.add_(ct)


def _combined(y: State, weights: Sequence[Scalar], rows: Array) -> Array:
    """``y + sum_i w_i k_i`` over stacked slopes."""
    w: Scalar
    if any(isinstance(x, torch.Tensor) for x in weights):
        w = torch.stack([torch.as_tensor(x) for x in weights]).to(rows.device, rows.dtype)
    else:
        w = uploaded(weights, rows.dtype, rows.device)
    if rows.ndim == 2:
        return torch.addmv(y, rows.T, w)
    return y + torch.mv(rows.reshape(rows.shape[0], -1).T, w).reshape(y.shape)


def _tolerances(layout: Layout, scale: Scale | None) -> Leaves | None:
    """rtol and atol as tensors, so that a new value is no new program."""
    if scale is None:
        return None
    numbers = (scale.rtol, scale.atol)
    return tuple(layout.bk.real_array(x, layout) if _is_number(x) else x for x in numbers)


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float))


def _plain(x: Array) -> Tree:
    """x as the programs expect it: a flat vector in order, no view that conjugates lazily."""
    if x.is_complex():
        x = x.resolve_conj().resolve_neg()
    return x.contiguous()
