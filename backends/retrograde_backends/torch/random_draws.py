"""PyTorch: fields that draw random numbers (dropout, noise), made functions of time.

A solve calls its field again and again at one time: for the last stage of a step and the first of
the next, for tries that were rejected, for replays and for inverted steps. A field that draws anew
each time is none that any of these could agree on, and a gradient by steps taken again would be
that of other numbers than the solve saw. So what f draws in one solve is a function of time: before
each call the generators are set to a seed made of one number that the solve draws and of the place
of this time among those met, in the order of the integration, and after it they are put back.
``torch.utils.checkpoint`` keeps the generators' states to the same end (``preserve_rng_state``); a
state of the CPU's is 5,056 bytes, and steps of adaptive solves would need two each.

Whether f draws shows at the generators' states: around the call that looks at what f returns, and
around the solve itself, which is begun again where f draws first at a later time. Generators that f
brings itself are not seen here; the planner compares two calls of f (``_planner.problem_size``).
"""

from __future__ import annotations

import dataclasses
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from retrograde._autodiff import VectorField
from retrograde._base.errors import UnsupportedByBackend
from retrograde._base.types import Array, Device, Function, Scalar, Tree

from .forward_mode import unwrapped

if TYPE_CHECKING:
    from retrograde._backend.protocols import Layout, Program
    from retrograde._integrate.problem import Problem

DRAWN_TIME = 14
"""12 bytes a time and its place, and what Python's arrays keep beyond their length."""

NEAR = 8
"""Times that differ by fewer roundings are one: t + h, and the start of the next step."""


class Draws:
    """The random numbers of one solve.

    Parameters
    ----------
    device : torch.device
        Whose generator is held, beside the CPU's.
    """

    def __init__(self, device: Device) -> None:
        self.generators = generators(device)
        self.seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
        self.begin()

    def begin(self) -> None:
        """Before an integration: the times met so far are forgotten."""
        self.times, self.places, self.scale = array("d"), array("I"), 0.0

    @contextmanager
    def held(self, t: Array) -> Iterator[None]:
        """The generators as they are at time t, until the end of the call."""
        eps = torch.finfo(t.dtype).eps if isinstance(t, torch.Tensor) else 2.0**-52
        seed = hash((self.seed, self._place(_number(t), eps))) & (2**63 - 1)
        before = [g.get_state() for g in self.generators]
        for g in self.generators:
            g.manual_seed(seed)
        try:
            yield
        finally:
            for g, kept in zip(self.generators, before, strict=True):
                g.set_state(kept)

    def _place(self, t: float, eps: float) -> int:
        """The place of t, or of a time met before that differs by rounding.

        Not the time itself: where sums are formed in another order, adaptive steps end elsewhere
        by rounding.
        """
        times, i = self.times, bisect_left(self.times, t)
        self.scale = max(self.scale, abs(t))
        for j in (i - 1, i):
            if 0 <= j < len(times) and abs(times[j] - t) <= NEAR * eps * self.scale:
                return self.places[j]
        times.insert(i, t)
        self.places.insert(i, len(self.places))
        return len(times) - 1


class Drawing:
    """A function of time first whose random numbers are those of a solve at that time."""

    def __init__(self, fn: Function, draws: Draws) -> None:
        self.__wrapped__, self.draws = fn, draws

    def __call__(self, t: Scalar, *rest: Array) -> Tree:
        with self.draws.held(t):
            return self.__wrapped__(t, *rest)


def drawing(fn: Function, draws: Draws) -> Function:
    """fn with its random numbers from ``draws``; of a VectorField, its vjp's too."""
    if not isinstance(fn, VectorField):
        return Drawing(fn, draws)
    vjp = None if fn.vjp is None else Drawing(fn.vjp, draws)
    return dataclasses.replace(fn, f=Drawing(fn.f, draws), vjp=vjp)


def hold(problem: Problem, fn: Function | None = None) -> None:
    """Let f, and ``SaveAt.fn``, draw as functions of time."""
    device = problem.layout.device
    if not problem.drawn:
        problem.draws, problem.drawn, problem.first = [Draws(device)], DRAWN_TIME, []
        problem.wrap(lambda f: drawing(f, problem.draws[0]))
    if fn is not None:
        problem.draws.append(Draws(device))
        call = problem.output_calls.get(id(fn), fn)
        problem.output_calls[id(fn)] = drawing(call, problem.draws[-1])


def begin(problem: Problem) -> None:
    """Before an integration."""
    for draws in problem.draws if problem.drawn else ():
        draws.begin()


def held(program: Program, run: Function) -> Tree:
    """``run()`` of a program, again where f began to draw within and nothing held it."""
    loop: Any = program.loop
    problem = getattr(loop, "problem", None)
    if problem is None:
        return _loop(program, run)
    if problem.drawn:
        begin(problem)
        return run()
    before = problem.f
    with undrawn(problem.layout) as moved:
        result = run()
    if not moved or problem.f is not before:
        return result
    del result
    if getattr(loop.solver, "compiled", False):
        refuse_compiled()
    for part in loop.outputs.parts:
        hold(problem, part.saveat.fn)
    return run()


def _loop(program: Program, run: Function) -> Tree:
    """The same of a public loop, whose body knows no time."""
    loop: Any = program.loop
    arrays = [x for x in loop.params if isinstance(x, torch.Tensor)]
    if not arrays or getattr(program.adjoint, "differentiable", True):
        return run()
    own = generators(arrays[0].device)
    before = _states(own)
    result = run()
    needed = not torch.is_grad_enabled() or any(x.requires_grad for x in arrays)
    if needed and _moved(own, before):
        raise UnsupportedByBackend(
            "`body` draws random numbers, and its steps are taken again for the gradient. Draw "
            "them before the loop (rows of `xs`, or a part of the carry), or record every step "
            "(kind='bounded')."
        )
    return result


@contextmanager
def undrawn(layout: Layout) -> Iterator[list[bool]]:
    """Where what is drawn is put back; the list has an entry where something was."""
    own, moved = generators(layout.device), []  # type: ignore[var-annotated]
    kept = _states(own)
    yield moved
    if _moved(own, kept):
        moved.append(True)
        for g, state in zip(own, kept, strict=True):
            g.set_state(state)


def refuse_compiled() -> None:
    """Raise UnsupportedByBackend: a compiled program draws by itself."""
    raise UnsupportedByBackend(
        "`compile` is True, but `f` draws random numbers, which a program that is run again for "
        "the gradient draws anew; hand them in by `args`, or leave `compile` out."
    )


def generators(device: Device) -> list[Array]:
    """The default generators of the CPU and of a device."""
    found = [torch.default_generator]
    own = getattr(getattr(torch, device.type, None), "default_generators", ())
    if own:
        found.append(own[device.index or 0])
    return found


def _states(own: list[Array]) -> list[Array]:
    """States of generators; plain tensors within transforms of ``torch.func``, too."""
    return [unwrapped(g.get_state()) for g in own]


def _moved(own: list[Array], before: list[Array]) -> bool:
    """Whether anything was drawn since."""
    return not all(torch.equal(a, b) for a, b in zip(_states(own), before, strict=True))


def _number(t: Scalar) -> float:
    return float(unwrapped(t.detach())) if isinstance(t, torch.Tensor) else float(t)
