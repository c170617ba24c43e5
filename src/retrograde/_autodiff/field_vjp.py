"""Pullbacks of a vector field for the reverse pass: by the tape, or by the user's own vjp.

The accumulator of parameter cotangents is threaded through the pulls, so that an adapter may
add in place: it belongs to the pass.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from .._backend.protocols import Capability
from .._backend.reals import Reals
from .._base.errors import InputError
from .._base.types import (
    EVERYWHERE,
    Array,
    Bind,
    Function,
    Leaves,
    NeedsGradient,
    Scalar,
    State,
    Tree,
    VectorFieldFn,
)
from .second import Cotangents, Second, Term, complexified, second_product, terms_of
from .split import SplitPullback

if TYPE_CHECKING:
    from .._backend.protocols import FieldVJP, Layout, Pull
    from .._integrate.problem import Problem
    from .._loops.loop import LeafLayout
    from .linearise import FieldDerivatives
    from .vector_field import VectorField
    from .vjp import Pullback


class _Pullback:
    """Accumulators shared by the two forms below."""

    def __init__(
        self, layout: Layout | LeafLayout, params: Sequence[Array], wanted: NeedsGradient
    ) -> None:
        self.layout = layout
        self.bk = layout.bk
        self.params = params
        self.where = tuple(i for i, w in enumerate(wanted.params) if w)
        self.time = wanted.time
        self.pulls = 0
        """How many vjps of f there were."""
        self.account = False
        """Whether pulls tell the bytes of their tapes."""
        self.timed = True
        """Whether f can be differentiated by its time, as far as that was seen."""
        self.derivatives: FieldDerivatives | None = None
        """How f is linearised, where a solver needs Jacobians."""
        self.sides: tuple[Scalar, Scalar] = EVERYWHERE
        """The times beside which f may jump: between them differences in time are taken."""
        self.mass: FieldVJP | None = None
        """The vjp of the mass matrix, where that has a gradient."""

    @functools.cached_property
    def reals(self) -> Reals:
        """The numbers of states."""
        return Reals(cast("Layout", self.layout))

    def zero(self) -> list[Array]:
        """An accumulator of zeros for the wanted parameters."""
        return [self.bk.zeros_like(self.params[i]) for i in self.where]

    def finish(self, acc: list[Array]) -> tuple[Array | None, ...]:
        """Cotangents of all parameters; None where not wanted."""
        out: list[Array | None] = [None] * len(self.params)
        for i, x in zip(self.where, acc, strict=True):
            out[i] = x
        return tuple(out)

    def add(self, acc: list[Array], cotangents: Sequence[Array]) -> list[Array]:
        """The accumulator with one pull's cotangents added."""
        accumulate = self.bk.accumulate
        return [accumulate(a, x) for a, x in zip(acc, cotangents, strict=True)]

    def second(
        self,
        t: Array,
        y: State,
        ks: Sequence[State],
        lams: Sequence[State],
        acc: list[Array],
        taus: Sequence[Scalar] | None = None,
    ) -> Second:
        """The pull of ``sum_i <lam_i, J k_i + tau_i f_t>`` at (t, y), a sum of second derivatives.

        It gives what a pull gives: (mu, ct_t, acc).
        """
        assert self.derivatives is not None, "made for a solver that needs no Jacobian"
        terms = terms_of(self.reals, ks, lams, taus)
        return self.sum_of_seconds(self.derivatives.second, (t, y), terms, acc)

    def sum_of_seconds(
        self, kind: str, point: tuple[Array, State], terms: Sequence[Term], acc: list[Array]
    ) -> Second:
        """The same of terms, in a way."""
        return second_product(cast("TapePullback", self), kind, point, terms, acc)


class TapePullback(_Pullback):
    """vjp by the tape, for libraries without autodiff.

    Parameters
    ----------
    layout
        Layout of the state.
    bind : callable
        ``bind(params) -> field(t, leaves) -> leaves``.
    params : sequence of array
    wanted : NeedsGradient
    """

    def __init__(
        self,
        layout: Layout | LeafLayout,
        bind: Bind,
        params: Sequence[Array],
        wanted: NeedsGradient,
    ) -> None:
        # a good part of the package's import, for some libraries only
        from .vjp import Signature, vjp

        super().__init__(layout, params, wanted)
        self.bind, self.tape_vjp, self.describe = bind, vjp, Signature
        self.signature: Signature | None = None
        self.notice: Callable[[Exception], None] | None = None
        """Told why, once, where f takes its time as a plain number; None: then that is an error."""
        # its time is recorded although nothing may ask for it: beside an array of its own library,
        # that of a strict one refuses a variable
        self.twin: TapePullback | None = None

    def __call__(self, t: Array, y: State) -> tuple[list[Array], Pull]:
        """Leaves of f(t, y), and the pull."""
        leaves = self.layout.unpack(y)
        if not self.timed:
            k, tape_pull = self._recorded(t, leaves, timed=False)
        else:
            try:
                k, tape_pull = self._recorded(t, leaves, timed=True)
            except Exception as error:
                if self.time and self.notice is None:
                    raise
                k, tape_pull = self._recorded(t, leaves, timed=False)
                self.timed = False  # so it was t that could not be recorded
                if self.time and self.notice is not None:
                    self.notice(error)
        timed, count = self.timed, len(leaves)

        def pull(ct: Sequence[Array], acc: list[Array]) -> tuple[Leaves, Scalar, list[Array]]:
            self.pulls += 1
            cts = tape_pull(ct)
            found, time = cts.pop(0) if timed else math.nan, None
            if self.time:
                time = self.bk.held(found) if timed else found
            return tuple(cts[:count]), time, self.add(acc, cts[count:])

        pull.tape = tape_pull  # type: ignore[attr-defined]
        return k, pull

    def pull_complex(self, t: Array, leaves: Leaves, ct: Sequence[Array]) -> Cotangents:
        """The pull at complex (t, y), and complex parameters."""
        if self.twin is None:
            self.twin = copy.copy(self)
            self.twin.signature, self.twin.params = None, complexified(self)
        cts = self.twin._recorded(t, leaves, timed=self.timed)[1](ct)
        found, count = cts.pop(0) if self.timed else math.nan, len(leaves)
        return Cotangents(cts[:count], found, cts[count:])

    def _recorded(
        self, t: Array, leaves: Sequence[Array], *, timed: bool
    ) -> tuple[list[Array], Pullback]:
        """Leaves of f, and their pullback to t (if ``timed``), the state and what is wanted."""
        count, where, params, bind = len(leaves), self.where, list(self.params), self.bind

        def fn(*rest: Array) -> Sequence[Array]:
            at, rest = (rest[0], rest[1:]) if timed else (t, rest)
            for i, x in zip(where, rest[count:], strict=True):
                params[i] = x
            return bind(params)(at, rest[:count])

        arrays = [*leaves, *(self.params[i] for i in where)]
        if timed:
            arrays.insert(0, t)
        xp, known = self.layout.xp, self.signature
        solves = self.bk.is_array(t)  # what a loop hands on in its place is no array
        if solves and (known is None or len(known.inputs) != len(arrays)):
            # a solve's arrays are alike, stage for stage
            known = self.signature = self.describe(arrays, xp)
        return self.tape_vjp(fn, arrays, xp, account=self.account, signature=known)


class UserPullback(_Pullback):
    """The vjp that came with a :class:`~retrograde.VectorField`."""

    def __init__(
        self, problem: Problem, f: VectorField, params: Sequence[Array], wanted: NeedsGradient
    ) -> None:
        super().__init__(problem.layout, params, wanted)
        self.problem = problem
        self.f = f
        call = problem.call if f is problem.f else f
        self.absent: set[int] = set()
        """Parameters that came as plain numbers and for which the vjp returned None."""
        self.args = args = problem.arguments(params)
        flatten, tree = problem.bk.flatten, problem.state_tree
        self.call = problem.bk.guard(lambda t, y: flatten(call(t, tree(y), args))[0])

    def __call__(self, t: Array, y: State) -> tuple[list[Array], Pull]:
        """Leaves of f(t, y), and the pull."""
        problem, args, bk = self.problem, self.args, self.bk
        k = self.call(t, y)
        tree = problem.tree(bk.lent(problem.layout.unpack(y)))

        def pull(ct: Sequence[Array], acc: list[Array]) -> tuple[Leaves, Scalar, list[Array]]:
            self.pulls += 1
            if any(c is None for c in ct):
                zeros = problem.layout.unpack(problem.layout.zeros())
                ct = [z if c is None else c for z, c in zip(zeros, ct, strict=True)]
            ct_t, ct_y, ct_args = self._triple(self.f.vjp(t, tree, args, problem.tree(ct)))  # type: ignore[misc]
            mu, treedef = bk.flatten(ct_y)
            if treedef != problem.treedef:
                mu = bk.flatten(problem.fit(ct_y))[0]
            if len(mu) != len(problem.layout.shapes):
                raise InputError(
                    "`vjp` returned a cotangent of y whose structure is not y's; return "
                    "(ct_t, ct_y, ct_args) with ct_y like y."
                )
            for x, like in zip(mu, ct, strict=True):
                self._check_like("y", x, like)
            if self.where:
                cts = self._wanted(ct_args)
                for x, i in zip(cts, self.where, strict=True):
                    self._check_like("args", x, self.params[i])
                acc = self.add(acc, cts)
            return tuple(mu), self._time(ct_t), acc

        return k, pull

    def pull_complex(self, t: Array, leaves: Leaves, ct: Sequence[Array]) -> Cotangents:
        """The pull at complex (t, y), and complex parameters."""
        problem, vjp = self.problem, self.f.vjp
        assert vjp is not None
        args = problem.arguments(complexified(self))
        ct_t, ct_y, ct_args = vjp(t, problem.tree(leaves), args, problem.tree(ct))
        params = self._wanted(ct_args) if self.where else []
        return Cotangents(self.bk.flatten(ct_y)[0], ct_t, params)

    def sum_of_seconds(
        self, kind: str, point: tuple[Array, State], terms: Sequence[Term], acc: list[Array]
    ) -> Second:
        if kind != "library":
            return super().sum_of_seconds(kind, point, terms, acc)
        return self.bk.second_of_pull(self, self.reals, point, terms, acc)

    def finish(self, acc: list[Array]) -> tuple[Array | None, ...]:
        found = super().finish(acc)
        return tuple(None if i in self.absent else x for i, x in enumerate(found))

    def _time(self, ct_t: Scalar) -> Scalar:
        if not self.time:
            return None
        return self.bk.held(ct_t) if self.bk.is_array(ct_t) else float(ct_t or 0.0)

    @staticmethod
    def _triple(found: tuple[Scalar, Tree, Tree]) -> tuple[Scalar, Tree, Tree]:
        if isinstance(found, (tuple, list)) and len(found) == 3:
            return found
        what = f"{len(found)} values" if isinstance(found, (tuple, list)) else type(found).__name__
        raise InputError(f"`vjp` returned {what}; return (ct_t, ct_y, ct_args).")

    @staticmethod
    def _check_like(name: str, x: Array, like: Array) -> None:
        """Sums broadcast and round silently, so that a cotangent is held to its primal."""
        shape, dtype = getattr(x, "shape", ()), getattr(x, "dtype", like.dtype)
        if shape != like.shape or dtype != like.dtype:
            raise InputError(
                f"`vjp` returned a cotangent of {name} of shape {tuple(shape)} and dtype {dtype}, "
                f"but {name} has {tuple(like.shape)} and {like.dtype}; make them equal."
            )

    def _wanted(self, ct_args: Tree) -> list[Array]:
        """The cotangents asked for, out of those of args."""
        leaves, treedef = self.bk.flatten(ct_args)
        where = self.problem.where
        same = len(leaves) == self.problem.leaf_count
        out = [leaves[where[i]] if same and i < len(where) else None for i in self.where]
        for n, i in enumerate(self.where):
            if i >= len(where):  # what other functions close over
                out[n] = self.bk.zeros_like(self.params[i])
            elif out[n] is None and i in self.problem.numbers:
                self.absent.add(i)
                out[n] = self.bk.zeros_like(self.params[i])
        if any(not self.bk.is_array(x) for x in out):
            raise InputError(
                f"`vjp` returned {treedef} for the cotangents of args; return the structure of "
                "`args`, with zeros where f does not depend on a leaf."
            )
        return out


def field_pullback(
    problem: Problem, params: Sequence[Array], wanted: NeedsGradient, *, prepared: bool = True
) -> FieldVJP:
    """The vjp of the vector field: the user's, the library's, or the tape's.

    ``prepared``: sums of cotangents may have the form in which the adapter binds parameters.

    It is a callable ``vjp(t, Y) -> (leaves, pull)`` with ``pull(ct, acc) -> (mu, ct_t, acc)``
    (mu: leaves; ct_t: a scalar of the clock, or None if no time derivative is wanted),
    ``zero() -> acc`` and ``finish(acc) -> cotangents of params``.
    """
    if problem.mass_fn is None or not any(wanted.params):
        return _of_field(problem, params, wanted, prepared=prepared)
    vjp = _of_field(problem, params, wanted, prepared=False)
    vjp.mass = output_pullback(problem, problem.mass_fn, params, wanted)
    return vjp


def _of_field(
    problem: Problem, params: Sequence[Array], wanted: NeedsGradient, *, prepared: bool
) -> FieldVJP:
    """The same without what a mass matrix depends on."""
    f, program = problem.f, problem.program
    if problem.split is not None:
        parts = [output_pullback(problem, fn, params, wanted) for fn in problem.split]
        if problem.pullbacks is not None:
            problem.pullbacks += parts
        return SplitPullback(parts[0], parts[1], wanted)
    if program is not None and not (getattr(f, "vjp", None) is not None):
        return program.vjp(params, wanted, prepared=prepared)
    vjp = _pullback(problem, f, problem.bind_leaves, params, wanted)
    if problem.pullbacks is not None:
        problem.pullbacks.append(vjp)
    if problem.derivatives is not None:
        vjp.derivatives = problem.derivatives
    return vjp


def _pullback(
    problem: Problem, f: VectorFieldFn, bind: Bind, params: Sequence[Array], wanted: NeedsGradient
) -> FieldVJP:
    bk = problem.bk
    if getattr(f, "vjp", None) is not None:
        return UserPullback(problem, cast("VectorField", f), params, wanted)
    vjp: FieldVJP
    if Capability.AUTODIFF in bk.capabilities:
        vjp = bk.pullback(problem.layout, bind, params, wanted)
    else:
        vjp = TapePullback(problem.layout, bind, params, wanted)
    if hasattr(vjp, "notice"):
        vjp.notice = problem.note_untimed if problem.notes_untimed else None
    return vjp


def output_pullback(
    problem: Problem, fn: Function, params: Sequence[Array], wanted: NeedsGradient
) -> FieldVJP:
    """The vjp of ``SaveAt.fn``, in the form of :func:`field_pullback`."""
    return _pullback(problem, fn, lambda p: problem.bind_output(fn, p), params, wanted)
