"""The solution of a batch whose samples have steps of their own, and what its cotangents are.

The results that a gradient may be asked of are the leaves of the program: the rows of each output,
the time at which each sample ended, the times and states of events, the ends of steps. Whatever
else has a derivative (times of rows, the knots of dense output) is made of these and of the times
that the solve was given; step sizes are constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from .._base.errors import InputError
from .._base.types import Array, Aux, Inputs, Leaves, Table, Tree
from .._integrate.dense import DenseOutput
from .._integrate.events import Hit
from .._integrate.moving_times import moves, zero_of
from .._integrate.samples import dense as sample_dense
from .._integrate.saveat import filled, parted
from .._integrate.solution import Solution, Status

if TYPE_CHECKING:
    from .._backend.interface import AbstractBackend
    from .._integrate.outputs import Output
    from .._integrate.samples.loop import SampleIntegrator
    from .._integrate.samples.record import SampleFinal


class Results(NamedTuple):
    """The leaves of a program by what they are.

    Attributes
    ----------
    rows : list of tuple of array
        Of each output, leaves (k, B, *shape).
    end : array, shape (B,), or ()
        When each sample ended, where there are events.
    hits : list of (array, leaves, leaves)
        Times of each event, (k, B), states before, and after it.
    knots : array, shape (n, B), or ()
        When steps ended, where each has rows.
    """

    rows: list[Leaves]
    end: Array
    hits: list[tuple[Array, Leaves, Leaves]]
    knots: Array

    @classmethod
    def of(cls, loop: SampleIntegrator, leaves: Leaves) -> Results:
        """From the leaves in a row."""
        out, width = loop.outputs, len(loop.problem.layout.shapes)
        rows, rest = out.split(leaves), list(leaves[out.width :])
        end, hits = (), []
        if loop.events is not None:
            end = rest.pop(0)
            for event in loop.events.given:
                t, count = rest.pop(0), width if event.reset is None else 2 * width
                own, rest = rest[:count], rest[count:]
                hits.append((t, tuple(own[:width]), tuple(own[width:])))
        return cls(rows, end, hits, rest[0] if rest else ())

    def leaves(self) -> Leaves:
        """In a row."""
        found = [x for part in self.rows for x in part]
        found += [] if isinstance(self.end, tuple) else [self.end]
        found += [x for t, left, right in self.hits for x in (t, *left, *right)]
        return (*found, *(() if isinstance(self.knots, tuple) else (self.knots,)))


def result_leaves(loop: SampleIntegrator, inputs: Inputs, final: SampleFinal) -> Leaves:
    """The leaves of a solve that has ended."""
    rows, end, hits, knots = loop.row_leaves(inputs, final), (), [], ()
    if loop.events is not None:
        end, hits = loop.user_times(inputs, final.t), list(loop.hit_leaves(inputs, final))
    if loop.outputs.stepped:
        knots = loop.user_times(inputs, final.times)
    return Results([rows], end, hits, knots).leaves()


class SampleSolution:
    """What a program's leaves make, and what cotangents of that are of them.

    Parameters
    ----------
    loop : SampleIntegrator
    inputs : Inputs
    leaves : tuple of array
    aux : tuple
        Times of the rows of each output, and the SampleFinal.
    """

    def __init__(self, loop: SampleIntegrator, inputs: Inputs, leaves: Leaves, aux: Aux) -> None:
        self.loop, self.inputs, self.bk, self.xp = loop, inputs, loop.bk, loop.bk.xp
        self.engine = cast("AbstractBackend", loop.bk)
        self.parts = loop.outputs.parts[: len(loop.outputs.parts) - loop.outputs.dense]
        self.leaves, self.results = leaves, Results.of(loop, leaves)
        self.times, self.final = aux

    def solution(self, stats: dict[str, Tree], plan: Tree) -> Solution[Tree]:
        """All of it."""
        loop, bk, final, out = self.loop, self.bk, self.final, self.loop.outputs
        problem, places = loop.problem, out.treedef
        ys = [
            problem.tree(rows) if part.saveat.fn is None else bk.unflatten(part.treedef, rows)
            for part, rows in zip(self.parts, self.results.rows, strict=False)
        ]
        ts = [self._moving(k) for k in range(len(self.parts))]
        t = loop.user_times(self.inputs, final.t)
        dense, event = None, -1
        hits: tuple[Hit, ...] = ()
        if out.dense:
            dense = self.dense()
        if loop.events is not None:
            event = final.hits.ended
            hits = tuple(self._hit(j) for j in range(len(loop.events.given)))
        return Solution(
            filled(places, ts), filled(places, ys), stats, final.status, t, plan, dense, event,
            hits,
        )  # fmt: skip

    def _hit(self, j: int) -> Hit:
        t, left, right = self.results.hits[j]
        tree = self.loop.problem.tree
        return Hit(t, tree(left), tree(right) if right else None, self.final.hits.counts[j, ...])

    # --- times as functions of those that were given
    def _zero(self, t: Tree) -> Array:
        """Zeros with the derivatives of times, those that are not finite left out."""
        bk, xp = self.engine, self.xp
        if not (bk.is_array(t) and moves(bk, t)):
            return 0.0
        t = xp.astype(t, self.loop.layout.real_dtype)
        return zero_of(bk, xp.where(xp.isfinite(t), t, xp.zeros_like(t)))

    def _moving(self, k: int) -> Array:
        """Times of the rows of output k, with their derivatives."""
        part, times, xp, own = self.parts[k], self.times[k], self.xp, self.results
        parts: list[Tree] = [self.inputs.t0] * part.saveat.t0
        if part.inside == "ts":
            parts.append(self._saved(part))
        elif part.inside:
            parts.append(own.knots)
        parts += [self.inputs.t1 if isinstance(own.end, tuple) else own.end] * part.saveat.final
        zeros, first = [self._zero(x) for x in parts], 0
        if all(isinstance(x, float) for x in zeros):
            return times
        found = []
        for j, zero in enumerate(zeros):
            inner = bool(part.inside) and j == int(part.saveat.t0)
            count = times.shape[0] - part.saveat.t0 - part.saveat.final if inner else 1
            found.append(zero + xp.zeros_like(times[first : first + count, :]))
            first += count
        return times + xp.concat(found, axis=0)

    def _saved(self, part: Output) -> Tree:
        """The saved times of an output as they were given, times in front."""
        ts: Array = getattr(self.inputs.ts, "tensor", self.inputs.ts)
        if not self.bk.is_array(ts):
            return ()
        if len(ts.shape) == 1:
            return ts[:, None]
        return self.xp.permute_dims(ts[:, part.first : part.last + 1], (1, 0))

    def dense(self) -> DenseOutput:
        """Dense output, whose knots count from t0."""
        loop, xp, own = self.loop, self.xp, self.results
        part = loop.outputs.parts[-1]
        real = loop.layout.real_dtype
        knots, sizes = loop.knots(self.final)
        rows = [xp.moveaxis(x, 1, 0) for x in own.rows[-1]]
        given = loop.times(self.inputs).origin
        origin: Array = xp.astype(loop.clock.real(0.0) if given is None else given, real)
        start, moved = self._zero(self.inputs.t0), self._zero(own.knots)
        if not (isinstance(start, float) and isinstance(moved, float)):
            origin = origin + start
            moved = moved if isinstance(moved, float) else xp.permute_dims(moved, (1, 0))
            start = xp.zeros_like(origin)[:, None] + xp.reshape(start + 0.0 * origin, (-1, 1))
            ends = moved + xp.zeros_like(sizes) - start
            ends = xp.where(xp.isfinite(knots[:, 1:]), ends, xp.zeros_like(ends))
            begins = xp.concat([xp.zeros_like(start), ends], axis=1)
            knots = knots + begins
            last = xp.astype(self.last(), real)
            sizes = sizes + last * (ends - begins[:, :-1])
        if not self.final.times.shape[0]:  # no sample took a step, but there is always room for one
            none = xp.zeros_like(knots)
            knots, sizes = xp.concat([knots, none + math.inf], axis=1), none + 1.0
            shape = [(x.shape[0], len(part.nodes), *x.shape[2:]) for x in rows]
            rest = [xp.broadcast_to(0.0 * x, s) for x, s in zip(rows, shape, strict=True)]
            rows = [xp.concat(pair, axis=1) for pair in zip(rows, rest, strict=True)]
        failed = ~loop.ended_well(self.final)
        if bool(xp.any(failed)):
            rows = [self._spoiled(x, failed) for x in rows]
        return DenseOutput(loop.problem.tree(rows), knots, sizes, origin, part.nodes, None)

    def _spoiled(self, x: Array, failed: Array) -> Array:
        mark = self.xp.reshape(failed, (-1, *[1] * (len(x.shape) - 1)))
        return self.xp.where(mark, self.xp.full_like(x, math.nan), x)

    def last(self) -> Array:
        """Which steps, (B, n), ended on t1, so that their sizes move with it."""
        xp, final = self.xp, self.final
        steps = xp.arange(final.times.shape[0], dtype=final.n.dtype, device=self.loop.clock.device)
        done = final.status == int(Status.converged)
        return (steps[None, :] == final.n[:, None] - 1) & done[:, None]

    # --- cotangents
    def pulled(
        self,
        given: tuple[Tree, Tree, tuple[Tree, Tree] | None, Sequence[Hit | None] | None],
        sol: Solution[Tree],
    ) -> tuple[Leaves, TimeCotangents]:
        """Cotangents of the leaves, and of the times that the solve was given, from those of
        ``sol.ys``, ``sol.ts``, ``sol.evaluate(t)`` and ``sol.events`` (checked, None for zero)."""
        ys, ts, evaluated, events = given
        places, bk, zero = self.loop.outputs.treedef, self.bk, self.loop.clock.real(0.0)
        empty = Results.of(self.loop, tuple(map(bk.zeros_like, self.leaves)))
        rows, end, hits, knots = list(empty.rows), empty.end, list(empty.hits), empty.knots
        if ys is not None:
            for k, tree in enumerate(parted(places, ys, "the cotangent")):
                rows[k] = tuple(bk.flatten(tree)[0])
        for j, hit in enumerate(events or ()):
            if hit is not None:
                hits[j] = self._of_hit(hits[j], hit)
        moved = TimeCotangents(zero, zero, [])
        if ts is not None:
            moved, end, knots = self._of_times(parted(places, ts, "`ts`"), end, knots)
        if evaluated is not None:
            if sol.dense is None:
                raise InputError(
                    "`evaluated` needs dense output; pass `saveat=rg.SaveAt(dense=True)`."
                )
            own, more, start = self._of_dense(sol.dense, *evaluated)
            rows[-1], knots = own, knots + more
            moved = moved._replace(t0=moved.t0 + start)
        return Results(rows, end, hits, knots).leaves(), moved

    def _of_hit(self, zero: tuple[Array, Leaves, Leaves], hit: Hit) -> tuple[Array, Leaves, Leaves]:
        t, left, right = zero
        flat = self.bk.flatten
        left = left if hit.ys is None else tuple(flat(hit.ys)[0])
        right = right if hit.after is None else tuple(flat(hit.after)[0])
        return t if hit.ts is None else hit.ts, left, right

    def _of_times(
        self, given: Sequence[Array | None], end: Array, knots: Array
    ) -> tuple[TimeCotangents, Array, Array]:
        """Cotangents of times given, and of where samples and steps ended, from rows' times."""
        zero = self.loop.clock.real(0.0)
        t0, t1, saved = zero, zero, []
        for part, ct in zip(self.parts, given, strict=True):
            if ct is None:
                continue
            first, last = int(part.saveat.t0), int(part.saveat.final)
            inner = ct[first : ct.shape[0] - last, :]
            if first:
                t0 = t0 + ct[0, :]
            if last and isinstance(end, tuple):
                t1 = t1 + ct[-1, :]
            elif last:
                end = end + ct[-1, :]
            if part.inside == "ts":
                saved.append((part, inner))
            elif part.inside:
                knots = knots + inner
        return TimeCotangents(t0, t1, saved), end, knots

    def _of_dense(self, dense: DenseOutput, t: Tree, ct: Tree) -> tuple[Leaves, Array, Array]:
        """Cotangents of the rows of dense output, of where steps ended, and of t0."""
        bk, xp, part = self.bk, self.xp, self.loop.outputs.parts[-1]
        found, knots, sizes, origin = sample_dense.pull(dense, t, tuple(bk.flatten(ct)[0]))
        most = self.results.rows[-1][0].shape[0]
        rows = tuple(xp.moveaxis(x, 1, 0)[:most, ...] for x in found)
        count = self.results.knots.shape[0]
        knots, sizes = knots[:, : count + 1], sizes[:, :count]
        sizes = sizes * xp.astype(self.last(), sizes.dtype)
        none = xp.zeros_like(knots[:, :1])
        total = knots + xp.concat([none, sizes], axis=1) - xp.concat([sizes, none], axis=1)
        assert part.inside
        ends = xp.permute_dims(total[:, 1:], (1, 0))
        return rows, ends, total[:, 0] + origin - xp.sum(total, axis=1)

    def saved_gradients(self, ts: Table, more: TimeCotangents) -> Tree:
        """Cotangents of the saved times of each output in the forms in which they were given."""
        xp, loop = self.xp, self.loop
        found: list[Array | None] = []
        timed = [part for part in self.parts if part.inside == "ts"]
        if not timed:
            return None
        extra = {part.first: ct for part, ct in more.saved}
        for part, by_sample in zip(self.parts, loop.forms, strict=True):
            if part.inside != "ts":
                found.append(None)
                continue
            own = ts if len(timed) == 1 else ts[:, part.first : part.last + 1]
            if len(timed) > 1 and not by_sample:
                own = xp.sum(own, axis=0)
            if part.first in extra:
                ct = extra[part.first]
                own = own + (xp.permute_dims(ct, (1, 0)) if by_sample else xp.sum(ct, axis=1))
            found.append(own)
        return filled(loop.outputs.treedef, found)


class TimeCotangents(NamedTuple):
    """Cotangents of the times that a solve was given, by way of the times of rows alone.

    Attributes
    ----------
    t0, t1 : array, shape (B,)
    saved : list of (Output, array of shape (k, B))
    """

    t0: Array
    t1: Array
    saved: list[tuple[Output, Array]]
