"""``on_step``: the user's callable hears of each try of a step, on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._base.types import Bool, Carry, CountedBody, Function, Index, Inputs, Scalar, State, Tree

if TYPE_CHECKING:
    from .._backend.protocols import Clock
    from .._controllers import Grid
    from .integrator import Integrator


def teller(
    loop: Integrator, inputs: Inputs
) -> Callable[[Scalar, State, Scalar, Bool], None] | None:
    """``tell(t, carried, h, accepted)`` of a try; None where nobody is to be told."""
    call, bk, problem, layout = loop.on_step, loop.bk, loop.problem, loop.layout
    if call is None:
        return None

    def on_host(t: Scalar, y: Tree, h: Scalar, accepted: Bool) -> None:
        if float(h) != 0.0:  # else of a sample that waits for others
            call(float(t), y, float(h), bool(accepted))

    def tell(t: Scalar, carried: State, h: Scalar, accepted: Bool) -> None:
        y = problem.tree(bk.stop_gradient(tuple(layout.unpack(loop.state(carried)))))
        y = y if problem.casts is None else problem.casts.y.down(y)
        bk.call_back(on_host, loop.user_time(inputs, t), y, h, accepted)

    return tell


def told_try(attempt: Function, tell: Function) -> Function:
    """A try that is told of (``try_step``)."""

    def reported(t: Scalar, h: Scalar, memory: tuple[Scalar, ...], y: State, state: Any) -> Any:
        tried = attempt(t, h, memory, y, state)
        tell(t, y, tried[2], tried[0])
        return tried

    return reported


def told_steps(
    step: CountedBody, grid: Grid, tell: Function, clock: Clock, count: Index | None
) -> CountedBody:
    """Steps of a grid that are told of; ``count``: how many this sample of a batch takes."""

    def reported(i: Index, s: Carry) -> Carry:
        t, h = grid.step(i)
        tell(t, s[0], h if count is None else clock.where(i < count, h, 0.0), True)
        return step(i, s)

    return reported
