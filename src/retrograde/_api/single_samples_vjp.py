"""``solve_vjp(..., per_sample=True)`` by single solves (``single_samples``), pullbacks joined.

Cotangents of what samples share are summed. A sample that failed has the gradient nan, unless all
its cotangents are zero: then it has none, and what it shares keeps that of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .._backend.registry import backend_beside
from .._base.errors import InputError
from .._base.plain_input import parameters
from .._base.types import Array, Function, Time, Tree
from .._integrate.events import Hit
from .._integrate.outputs import cotangent_leaves
from .._integrate.saveat import filled, parted
from .._integrate.solution import Gradients, Solution, without_times
from .single_samples import DONE, Batch, SingleSolves

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend

_Given: TypeAlias = tuple[Tree, Tree, "tuple[Tree, Tree] | None", "list[Hit | None] | None"]
"""Cotangents of ``sol.ys``, ``sol.ts``, ``sol.evaluate(t)`` and ``sol.events``; None for zero."""


def checked(bk: AbstractBackend, places: Tree, sol: Solution[Tree], given: _Given) -> _Given:
    """Cotangents of a batch as arrays like what the solution has."""
    ys, ts, evaluated, events = given
    if all(x is None for x in given):
        raise InputError("the cotangent holds None; pass an array or a tree like `sol.ys`.")

    def like(tree: Tree, ct: Tree, name: str) -> Tree:
        leaves, treedef = bk.flatten(tree)
        return bk.unflatten(treedef, cotangent_leaves(bk, tuple(leaves), tree, ct, name))

    def rows(tree: Tree, ct: Tree, name: str, called: str) -> Tree:
        pairs = zip(parted(places, tree, called), parted(places, ct, called), strict=True)
        return filled(places, [like(*pair, name) for pair in pairs])

    def hit(own: Hit, ct: Hit | None) -> Hit | None:
        if ct is None:
            return None
        pairs = (own.ts, ct.ts), (own.ys, ct.ys), (own.after, ct.after)
        at, ys, after = (
            None if x is None or y is None else like(x, y, f"sol.events[...].{name}")
            for (x, y), name in zip(pairs, ("ts", "ys", "after"), strict=True)
        )
        return Hit(at, ys, after, own.count)

    if evaluated is not None:
        t, ct = evaluated
        evaluated = t, like(sol.evaluate(t), ct, "sol.evaluate(t)")
    if events is not None:
        if len(events) != len(sol.events):
            raise InputError(
                f"`events` has {len(events)} entries; give one for each of the {len(sol.events)} "
                "events, None for zero."
            )
        events = [hit(*pair) for pair in zip(sol.events, events, strict=True)]
    return (
        None if ys is None else rows(sol.ys, ys, "sol.ys", "the cotangent"),
        None if ts is None else rows(sol.ts, ts, "sol.ts", "`ts`"),
        evaluated,
        events,
    )


class JoinedPullback:
    """``pullback(cotangent of sol.ys) -> Gradients`` of a batch, in an eager library.

    Parameters
    ----------
    solves : SingleSolves
        Of ``solve_vjp``.
    batch : Batch
    """

    def __init__(self, solves: SingleSolves, batch: Batch) -> None:
        pairs = solves.each(batch)
        self.sols = [None if x is None else x[0] for x in pairs]
        self.pulls: list[Any] = [None if x is None else x[1] for x in pairs]
        self.solution = solves.join(batch, self.sols)
        self.bk, self.places, self.marks = solves.bk, solves.places, tuple(solves.marks)
        self.mapped, self.count = batch.mapped, len(batch.ts)

    def __call__(
        self,
        cotangent: Tree,
        ts: Tree = None,
        *,
        evaluated: tuple[Tree, Tree] | None = None,
        events: Sequence[Hit | None] | None = None,
    ) -> Gradients:
        """Gradients from the cotangents of ``sol.ys``, ``sol.ts``, ``sol.evaluate(t)`` and
        ``sol.events``."""
        given: _Given = cotangent, ts, evaluated, None if events is None else list(events)
        given = checked(self.bk, self.places, self.solution, given)
        found: list[Gradients | None] = []
        unused = []
        for i, (sol, pull) in enumerate(zip(self.sols, self.pulls, strict=True)):
            own = self._of_sample(i, sol, given)
            failed = sol is None or sol.status not in DONE
            unused.append(failed and self._zero(own))
            ys, times, value, hits = own
            keywords: dict[str, Any] = {"evaluated": value} if value is not None else {}
            keywords |= {"events": hits} if hits is not None else {}
            found.append(None if pull is None else pull(ys, times, **keywords))
        return self._joined(found, unused)

    # --- cotangents
    def _of_sample(self, i: int, sol: Solution[Tree] | None, given: _Given) -> _Given:
        """What sample i's pullback is given."""
        ys, ts, evaluated, events = given
        rows, times = (None, None) if sol is None else (sol.ys, sol.ts)
        if evaluated is not None:
            t, value = evaluated
            shape = tuple(getattr(t, "shape", ()))
            many = bool(shape) or isinstance(t, (list, tuple))
            own = self._map(lambda x: x[:, i, ...] if many else x[i, ...], value)
            evaluated = t[i, ...] if len(shape) == 2 else t, own
        if events is not None:
            hits = [None] * len(events) if sol is None else sol.events
            events = [
                None if ct is None else self._hit(i, ct, None if hit is None else hit.ts)
                for ct, hit in zip(events, hits, strict=True)
            ]
        return self._all(i, ys, rows), self._all(i, ts, times), evaluated, events

    def _all(self, i: int, given: Tree, like: Tree) -> Tree:
        """Sample i's rows of every SaveAt."""
        if given is None:
            return None
        parts = parted(self.places, given, "the cotangent")
        likes = [None] * len(parts) if like is None else parted(self.places, like, "the solution")
        return filled(
            self.places, [self._rows(i, *pair) for pair in zip(parts, likes, strict=True)]
        )

    def _hit(self, i: int, given: Hit, like: Tree) -> Hit:
        parts = given.ts, given.ys, given.after
        at, ys, after = (None if x is None else self._rows(i, x, like) for x in parts)
        return Hit(at, ys, after, given.count)

    def _rows(self, i: int, given: Tree, like: Tree) -> Tree:
        """As many rows as sample i has (``like``)."""
        count = None if like is None else self.bk.flatten(like)[0][0].shape[0]
        return self._map(lambda x: x[:count, i, ...], given)

    def _map(self, fn: Function, tree: Tree) -> Tree:
        leaves, treedef = self.bk.flatten(tree)
        return self.bk.unflatten(treedef, [fn(x) for x in leaves])

    def _zero(self, given: _Given) -> bool:
        ys, ts, evaluated, events = given
        hits = [(x.ts, x.ys, x.after) for x in events or () if x is not None]
        leaves = self.bk.flatten((ys, ts, evaluated and evaluated[1], hits))[0]
        return not any(bool(self.bk.xp.any(x != 0)) for x in leaves)

    # --- gradients
    def _joined(self, found: Sequence[Gradients | None], unused: Sequence[bool]) -> Gradients:
        """Gradients of the batch from those of its samples; None where they are not known."""
        xp = self.bk.xp
        first = next(x for x in found if x is not None)
        given, structure = self._leaves(first)
        columns: list[list[Array]] = [[] for _ in given]
        for g, zero in zip(found, unused, strict=True):
            own = given if g is None else self._leaves(g)[0]
            for column, x in zip(columns, own, strict=True):
                known = g is not None and not zero
                column.append(x if known else xp.full_like(x, 0.0 if zero else math.nan))
        whole = [xp.stack(column) for column in columns]
        flags = self._flags(first)
        leaves = [x if own else xp.sum(x, axis=0) for x, own in zip(whole, flags, strict=True)]
        y0, args, t0, t1, ts, jump_ts = self.bk.unflatten(structure, leaves)
        ts = None if tuple(first)[4] is None else filled(self.places, ts)
        g = Gradients(y0, args, t0, t1, ts, jump_ts)
        lost = vars(first).get("lost", ()) if hasattr(first, "__dict__") else ()
        return without_times(g, lost, vars(first)["why"]) if lost else g

    def _leaves(self, g: Gradients) -> tuple[list[Array], Tree]:
        y0, args, t0, t1, ts, jump_ts = tuple(g)
        parts = [None] * self.count if ts is None else parted(self.places, ts, "`ts`")
        leaves, structure = self.bk.flatten((y0, args, t0, t1, parts, jump_ts))
        return leaves, structure

    def _flags(self, g: Gradients) -> list[bool]:
        """Which leaves are of what every sample has for itself."""
        problem = next(x for x in self.pulls if x is not None).program.loop.problem
        y0, _, t0, t1, ts, jump_ts = tuple(g)
        parts = [None] * self.count if ts is None else parted(self.places, ts, "`ts`")
        pairs = zip(problem.where, problem.differentiable, strict=False)
        flags = [True] * len(self.bk.flatten(y0)[0])
        flags += [self.marks[i] for i, has in pairs if has]
        own = zip(self.mapped[1:], (t0, t1, *parts), strict=False)
        flags += [mapped for mapped, x in own if x is not None]
        return flags if jump_ts is None else [*flags, False]

    # --- elsewhere
    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "bk"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.bk = backend_beside(self.solution.ts, self.solution.ys)


class MappedPullback:
    """The same in a traced library: its own vjp of the mapped solves.

    Parameters
    ----------
    solves : SingleSolves
        Of ``solve``.
    call : tuple
        y0, t0, t1 and args.
    """

    def __init__(self, solves: SingleSolves, call: tuple[Tree, Time, Time, Tree]) -> None:
        self.solves, self.call = solves, call
        bk = solves.bk
        y0, t0, t1, args = call
        tried = parameters(bk, args, y0, given=False)
        for k, one in enumerate(tried):
            try:
                self._run(solves.batch(y0, t0, t1, one))
                return
            except Exception:  # f can't take its numbers as arrays, or there is another fault
                if k + 1 == len(tried):
                    raise

    def _run(self, batch: Batch) -> None:
        bk = self.solves.bk
        like = bk.flatten(batch.y0)[0][0]

        def time(t: Tree) -> Array:
            return bk.array(t, bk.real_dtype(like), bk.device_of(like))

        self.where = [i for i, x in enumerate(batch.values) if bk.is_array(x) and bk.floating(x)]
        times = [time(batch.t0), time(batch.t1)]
        saved = [time(x) if len(x) else () for x in batch.ts]
        self.treedef, self.leaves = batch.treedef, len(batch.values)
        own = [batch.values[i] for i in self.where]

        def solved(y0: Tree, times: list[Array], saved: list[Array], own: list[Array]) -> Tree:
            values = list(batch.values)
            for i, x in zip(self.where, own, strict=True):
                values[i] = x
            t0, t1 = times
            now = batch._replace(y0=y0, t0=t0, t1=t1, ts=saved, values=values)
            sol = self.solves.mapped(now)
            hits = [(hit.ts, hit.ys, hit.after) for hit in sol.events]
            return (sol.ys, sol.ts, sol.dense, hits), sol

        (self.results, self.pull, self.solution) = bk.recorded_vjp(
            solved, (batch.y0, times, saved, own)
        )

    def __call__(
        self,
        cotangent: Tree,
        ts: Tree = None,
        *,
        evaluated: tuple[Tree, Tree] | None = None,
        events: Sequence[Hit | None] | None = None,
    ) -> Gradients:
        """Gradients from the cotangents of ``sol.ys``, ``sol.ts``, ``sol.evaluate(t)`` and
        ``sol.events``."""
        bk, sol = self.solves.bk, self.solution
        given: _Given = cotangent, ts, evaluated, None if events is None else list(events)
        ys, ts, evaluated, events = checked(bk, self.solves.places, sol, given)
        own, treedef = bk.flatten(self.results)
        own_ys, own_ts, dense, own_hits = bk.unflatten(treedef, [bk.xp.zeros_like(x) for x in own])
        if evaluated is not None:
            t, ct = evaluated
            _, back, _ = bk.recorded_vjp(lambda x: (x.evaluate(t), None), (sol.dense,))
            (dense,) = back(ct)
        hits = [
            own if ct is None else tuple(
                x if y is None else y for x, y in zip(own, (ct.ts, ct.ys, ct.after), strict=True)
            )
            for own, ct in zip(own_hits, events or [None] * len(own_hits), strict=True)
        ]  # fmt: skip
        cts = own_ys if ys is None else ys, own_ts if ts is None else ts, dense, hits
        y0, (t0, t1), saved, own = self.pull(cts)
        values: list[Array | None] = [None] * self.leaves
        for i, x in zip(self.where, own, strict=True):
            values[i] = x
        given_ts = [None if isinstance(x, tuple) else x for x in saved]
        found = None if all(x is None for x in given_ts) else filled(self.solves.places, given_ts)
        return Gradients(y0, bk.unflatten(self.treedef, values), t0, t1, found)

    # --- elsewhere
    def __getstate__(self) -> dict[str, Any]:
        return {"solves": self.solves, "call": self.call}

    def __setstate__(self, state: dict[str, Any]) -> None:
        y0, t0, t1, args = state["call"]
        solves = state["solves"]
        solves.bk = backend_beside(y0, args, (t0, t1))
        MappedPullback.__init__(self, solves, state["call"])


Pulled: TypeAlias = "tuple[Solution[Tree], Callable[..., Gradients[Tree]]]"


def single_samples_vjp(solves: SingleSolves, call: tuple[Tree, Time, Time, Tree]) -> Pulled:
    """The solution of a batch, and its pullback; ``call``: y0, t0, t1 and args."""
    pullback: Any
    pullback = (
        MappedPullback(solves, call)
        if solves.traced
        else JoinedPullback(solves, solves.batch(*call))
    )
    return solves.checked(pullback.solution), pullback
