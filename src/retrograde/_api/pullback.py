"""The pullback of ``solve_vjp``: an object that can be called, copied and sent elsewhere.

It is kept as the call that it belongs to and what the forward pass left. Where it arrives, the
call is prepared anew: functions and structures that a library makes of f (traces, compiled
programs) stay where they are. What the library's own autodiff recorded stays as well: there the
solve is run once more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .._base.types import Inputs, NeedsGradient, Tree
from .._integrate.outputs import cotangent_leaves
from .._integrate.solution import Gradients, without_times
from .arguments import prepare
from .solve_program import DifferentiableSolve

__all__ = ["Pullback"]


class Pullback:
    """``pullback(cotangent of sol.ys) -> Gradients``.

    Parameters
    ----------
    call : tuple
        f, y0, t0, t1, args and the Options of the solve.
    program : Program
    inputs : Inputs
    """

    def __init__(self, call: tuple[Any, ...], program: DifferentiableSolve, inputs: Inputs) -> None:
        self.call, self.program, self.inputs = call, program, inputs
        self.residuals: Any = None
        self.ys: Tree = None

    def forward(self) -> Any:
        """Solve; (output leaves, what else the solve tells)."""
        bk, program = self.program.loop.bk, self.program
        self.recorded: Any = None
        if program.adjoint.differentiable:
            self.leaves, aux, self.recorded = bk.autodiff_vjp(program, self.inputs)
        else:
            with bk.quiet():
                self.leaves, aux, self.residuals = bk.run_forward(program, self.inputs)
        return self.leaves, aux

    def __call__(self, cotangent: Tree) -> Gradients:
        loop = self.program.loop
        bk, problem, layout = loop.bk, loop.problem, loop.problem.layout
        cts = self._pull(cotangent_leaves(bk, self.leaves, self.ys, cotangent))
        time = partial(bk.scalar_array, layout=layout)
        ts = bk.times_array(cts.ts, layout) if loop.outputs.inside == "ts" else None
        g = Gradients(
            problem.state_tree(cts.y0), problem.gradient_tree(cts.params), time(cts.t0),
            time(cts.t1), ts,
        )  # fmt: skip
        if problem.untimed is None:
            return g
        times = zip(g._fields[2:], g[2:], strict=True)  # nan: what hangs on f's derivative by t
        lost = [k for k, x in times if x is not None and bk.concrete(bk.xp.any(x != x))]
        return without_times(g, lost, problem.untimed)

    def _pull(self, cotangents: Any) -> Inputs:
        program, loop = self.program, self.program.loop
        if self.recorded is not None:
            found: Inputs = self.recorded(cotangents)
            return found
        wanted = NeedsGradient(loop.problem.differentiable, True, True, loop.outputs.inside == "ts")
        with loop.bk.quiet():
            cts: Inputs = loop.bk.run_reverse(
                program, self.inputs, self.residuals, cotangents, wanted
            )
        program.tell(cts)
        return cts

    # --- elsewhere
    def __getstate__(self) -> dict[str, Any]:
        names = ("call", "leaves", "residuals", "ys")
        return {name: getattr(self, name) for name in names} | {"plan": self.program.plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        plan = state.pop("plan")
        self.__dict__.update(state)
        f, y0, t0, t1, args, options = self.call
        loop, inputs = prepare(f, y0, t0, t1, args, options, native=False)
        loop.problem.notice = loop.problem.note_untimed
        self.inputs = loop.bk.detach(loop.problem, inputs)
        self.program = DifferentiableSolve(loop, plan.adjoint, plan)
        self.recorded = None
        if plan.adjoint.differentiable:
            self.forward()
        else:
            self.program.resume()
