"""Solvers of separable systems: a pair (q, p) whose halves drive each other."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .._errors import InputError
from .program_solver import ProgramSolver

__all__ = ["SeparableSolver"]


class SeparableSolver(ProgramSolver):
    """A solver of ``dq/dt = v(t, p), dp/dt = a(t, q)``, whose y is the pair (q, p).

    f stays one function of the pair and is called at mixed states (a new q with an old p); the
    half of its result that a line of the method does not need is thrown away. Programs name the
    halves of y, q first.
    """

    parted: ClassVar[bool] = True

    def check(self, problem: Any) -> None:
        bk, tree, name = problem.bk, problem.structure(), type(self).__name__
        if not isinstance(tree, (tuple, list)) or len(tree) != 2:
            raise InputError(
                f"`solver` {name} needs `y0` as a pair (q, p), but it is {problem.describe()}; "
                "pass `y0=(q, p)` with f returning (dq/dt, dp/dt), or another solver."
            )
        halves = [[problem.layout.shapes[i] for i in bk.flatten(half)[0]] for half in tree]
        leaves, sizes = [len(x) for x in halves], [sum(map(math.prod, x)) for x in halves]
        if leaves[0] != leaves[1] or sizes[0] != sizes[1]:
            raise InputError(
                f"`solver` {name} needs halves of `y0` = (q, p) that are alike, but q has "
                f"{leaves[0]} leaves of {sizes[0]} elements in all and p {leaves[1]} of "
                f"{sizes[1]}; give each q its p."
            )
