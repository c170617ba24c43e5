"""JAX: the vjp of f, the loops of DirectAdjoint, and tangents by all numbers of some arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp

from retrograde._autodiff.second import terms_of
from retrograde._backend.reals import Reals
from retrograde._base.errors import UnsupportedByBackend
from retrograde._base.types import (
    EVERYWHERE,
    Array,
    Aux,
    Bind,
    Bool,
    Buffer,
    Function,
    Index,
    Leaves,
    NeedsGradient,
    ParamSums,
    Scalar,
    State,
    Tree,
)

from .transforms import forward_mode
from .xla_cpu.eligible import ALLOWED, JOINING
from .xla_cpu.kernel import outlined
from .xla_cpu.shifts_and_sums import unfused_sum

if TYPE_CHECKING:
    from retrograde._autodiff.linearise import FieldDerivatives
    from retrograde._backend.protocols import FieldVJP, Layout, Pull
    from retrograde._controllers.base import Grid
    from retrograde._loops.loop import LeafLayout


class Pullback:
    """vjp of f by ``jax.vjp``, over what is wanted alone."""

    derivatives: FieldDerivatives | None = None
    mass: FieldVJP | None = None
    sides: tuple[Scalar, Scalar] = EVERYWHERE
    scales = True
    """Whether what is added to the accumulator can have a weight."""

    def __init__(
        self,
        layout: Layout | LeafLayout,
        bind: Bind,
        params: Sequence[Array],
        wanted: NeedsGradient,
    ) -> None:
        self.layout, self.bind, self.params = layout, bind, params
        self.shapes = [x.shape for x in params]
        self.wanted, self.time, self.over = wanted.params, wanted.time, wanted
        self.call: Function | None = None
        """The whole pull, f once more in it, as a call of its own."""

    def with_parameters(self, form: Callable[[Sequence[Array]], Sequence[Array]]) -> Pullback:
        """The same over parameters in a form; :meth:`finish` gives cotangents of those given."""
        self.params = form(self.params)
        return self

    def chosen(self, params: Sequence[Array]) -> list[Array]:
        """The wanted ones."""
        return [x for x, w in zip(params, self.wanted, strict=True) if w]

    def zero(self) -> ParamSums:
        return [jnp.zeros_like(x) for x in self.chosen(self.params)]

    def finish(self, acc: ParamSums) -> tuple[Array | None, ...]:
        rest, pairs = iter(acc), zip(self.wanted, self.shapes, strict=True)
        return tuple(next(rest).reshape(shape) if w else None for w, shape in pairs)

    def outlined(self) -> Pullback:
        """The same as calls of their own: f is linearised where it is pulled, once more."""

        def pulled(t: Array, y: State, params: Leaves, ct: Leaves) -> Tree:
            return Pullback(self.layout, self.bind, params, self.over).some(t, y, ct)

        self.call = outlined(pulled)
        return self

    def __call__(self, t: Array, y: State) -> tuple[Leaves, Pull]:
        params, call = tuple(self.params), self.call
        part: Function | None = None
        if call is not None:
            k = self.bind(params)(t, self.layout.unpack(y))
        else:
            k, part = self.linearise(t, y)

        def found(ct: Leaves) -> Tree:
            whole = all(x is not None for x in ct)
            if call is not None and (whole or self.separate(t, y, ct)):
                return call(t, y, params, ct)
            if whole and part is not None:
                return unfused_sum(part, self.layout.unpack(y))(ct)
            return self.some(t, y, ct)

        def pull(
            ct: Sequence[Array], acc: ParamSums, weight: Scalar = None
        ) -> tuple[Leaves, Scalar, ParamSums]:
            *first, mu, cts = found(tuple(ct))
            cts = cts if weight is None else [weight * x for x in cts]
            return mu, first[0] if first else None, [a + x for a, x in zip(acc, cts, strict=True)]

        return k, pull

    def second(
        self,
        t: Array,
        y: State,
        ks: Sequence[State],
        lams: Sequence[State],
        acc: ParamSums,
        taus: Sequence[Scalar] | None = None,
    ) -> tuple[Leaves, Scalar, ParamSums]:
        """The pull of ``sum_i <lam_i, J k_i + tau_i f_t>``: the vjp of a sum of jvps."""
        reals, still = Reals(cast("Layout", self.layout)), self.layout.unpack(y)
        # cotangents are paired without conjugation here, rows with it
        lams = [jax.tree_util.tree_map(jnp.conj, lam) for lam in lams] if reals.complex else lams
        terms = terms_of(reals, ks, lams, taus)
        k, lam = (jnp.stack([getattr(x, name) for x in terms]) for name in ("k", "lam"))
        tau = jnp.stack([jnp.asarray(x.tau, t.dtype) for x in terms])

        def phi(t: Array, leaves: Leaves, chosen: Sequence[Array]) -> Array:
            field = self.bind(self.filled(chosen))
            timed = taus is not None
            point = (t, leaves) if timed else (leaves,)
            run = lambda *x: tuple(field(*x) if timed else field(t, *x))  # noqa: E731
            _, along = jax.linearize(run, *point)

            def product(k: Array, tau: Array) -> Array:
                d = reals.leaves(k)
                return reals.of_leaves(along(tau, d) if timed else along(d))

            return jnp.sum(lam * jax.vmap(product)(k, tau))

        value, pull = jax.vjp(phi, t, still, self.chosen(self.params))
        ct, mu, cts = pull(jnp.ones_like(value))
        return mu, ct if self.time else None, [a + x for a, x in zip(acc, cts, strict=True)]

    def filled(self, chosen: Sequence[Array]) -> list[Array]:
        """All parameters, of the wanted ones."""
        rest = iter(chosen)
        return [next(rest) if w else x for x, w in zip(self.params, self.wanted, strict=True)]

    def part(self, t: Scalar, there: Sequence[bool]) -> Function:
        """f of leaves to its leaves ``there``."""
        return lambda leaves: tuple(compress(self.bind(self.params)(t, leaves), there))

    def separate(self, t: Scalar, y: State, ct: Sequence[Array]) -> bool:
        """Whether the pull of some leaves of f is better a call: one of a part that joins nothing
        (a momentum handed on, say) is a term of the sum that follows."""
        part = self.part(t, [x is not None for x in ct])
        _, names = reached(part, self.layout.unpack(y))
        return not names <= ALLOWED - JOINING

    def some(self, t: Scalar, y: State, ct: Sequence[Array]) -> Tree:
        """The pull of cotangents of leaves of f, where None is zero; None for leaves of y that
        the rest of f does not depend on."""
        leaves, there = self.layout.unpack(y), [x is not None for x in ct]
        if all(there):
            return unfused_sum(self.linearise(t, y)[1], leaves)(ct)
        moved, _ = reached(self.part(t, there), leaves)
        pull = self.linearise(t, y, there, moved)[1]
        *first, mu, cts = unfused_sum(pull, leaves)(tuple(compress(ct, there)))
        rest = iter(mu)
        return *first, tuple(next(rest) if m else None for m in moved), cts

    def linearise(self, t: Scalar, y: State, there: Any = None, moved: Any = None) -> Tree:
        """``jax.vjp`` of f, or of the leaves ``there`` by those of y that are ``moved``."""
        still, chosen = self.layout.unpack(y), self.chosen(self.params)

        def fn(t: Scalar, leaves: Sequence[Array], chosen: Sequence[Array]) -> Tree:
            rest, given = iter(chosen), iter(leaves)
            params = [next(rest) if w else x for x, w in zip(self.params, self.wanted, strict=True)]
            if moved is not None:
                leaves = [next(given) if m else x for x, m in zip(still, moved, strict=True)]
            k = tuple(self.bind(params)(t, leaves))
            return k if there is None else tuple(compress(k, there))

        leaves = still if moved is None else tuple(compress(still, moved))
        if self.time:
            return jax.vjp(fn, t, leaves, chosen)
        return jax.vjp(lambda leaves, chosen: fn(t, leaves, chosen), leaves, chosen)


def reached(fn: Function, leaves: Sequence[Array]) -> tuple[list[bool], set[str]]:
    """Which of the arrays ``fn(arrays)`` depends on, and by what operations.

    A call depends on all that it takes.
    """
    jaxpr = jax.make_jaxpr(fn)(leaves).jaxpr
    found, names = {id(v) for v in jaxpr.outvars}, set()
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in found for v in eqn.outvars):
            found.update(map(id, eqn.invars))
            names.add(eqn.primitive.name)
    return [id(v) in found for v in jaxpr.invars], names


@jax.custom_jvp
def _poisoned(ok: Bool, x: Array) -> Array:
    """x, with a tangent of nan unless ok."""
    return x


@jax.custom_jvp
def _lost(ok: Bool, x: Array) -> Array:
    """x where ok, else nan, and so its tangent: that of ``where`` alone would be 0."""
    return jnp.where(ok, x, complex(jnp.nan, jnp.nan) if jnp.iscomplexobj(x) else jnp.nan)


@_poisoned.defjvp
def _poisoned_jvp(primals: Sequence[Array], tangents: Sequence[Array]) -> Tree:
    ok, x = primals
    return x, jnp.where(ok, 1.0, jnp.nan).astype(x.dtype) * tangents[1]


@_lost.defjvp
def _lost_jvp(primals: Sequence[Array], tangents: Sequence[Array]) -> Tree:
    return _lost(*primals), _poisoned_jvp(primals, tangents)[1]


class DirectHooks:
    """What DirectAdjoint needs: loops that jvp and vjp follow."""

    def nan_unless(self, ok: Bool, x: Array) -> Array:
        return _lost(ok, x)

    def poison_gradient(self, ok: Bool, x: Array) -> Array:
        return _poisoned(ok, x)

    def direct_layout(self, layout: Layout) -> Layout:
        return layout

    def scan_states(
        self, n: Index, bound: int | None, advance: Callable[[Index, State], State], y: State
    ) -> tuple[State, Buffer]:
        """A scan that jvp and vjp follow; steps behind n are skipped."""
        if isinstance(n, int):
            return jax.lax.scan(lambda y, i: (advance(i, y), y), y, jnp.arange(n))
        if bound is None:
            raise UnsupportedByBackend(
                "`adjoint` is DirectAdjoint, and the number of steps is traced: pass `max_steps`."
            )

        def body(y: State, i: Index) -> tuple[Tree, Tree]:
            # clamped, so that a skipped step stays finite where vmap runs both branches
            taken = jnp.minimum(i, jnp.maximum(n - 1, 0))
            return jax.lax.cond(i < n, lambda: advance(taken, y), lambda: y), y

        return jax.lax.scan(body, y, jnp.arange(bound, dtype=jnp.int32))

    def map_rows(self, row: Callable[[Index], Sequence[Array]], count: int) -> Leaves:
        return tuple(jax.vmap(row)(jnp.arange(count, dtype=jnp.int32)))

    def look_state(self, states: Buffer, i: Index, n: Index = None, final: State = None) -> State:
        last = states[0].shape[0] - 1
        found = tuple(x[jnp.minimum(i, last)] for x in states)
        if n is None:
            return found
        return tuple(jnp.where(i == n, a, b) for a, b in zip(final, found, strict=True))

    def step_of(self, grid: Grid, n: int, t: float) -> int:
        def earlier(i: Index) -> Bool:
            start, h = grid.step(i)
            return jnp.where(h > 0, t > start, t < start)

        found: int = jax.lax.fori_loop(0, n, lambda i, at: jnp.where(earlier(i), i, at), 0)
        return found

    def columns(
        self, run: Callable[[Sequence[Array]], tuple[Leaves, Aux]], arrays: Sequence[Array]
    ) -> tuple[tuple[Leaves, Aux], list[Leaves]]:
        seeds, first = [], 0
        total = sum(2 * x.size if jnp.iscomplexobj(x) else x.size for x in arrays)
        slices = []
        for x in arrays:
            units = jnp.eye(x.size, dtype=x.dtype)
            units = jnp.concatenate([units, 1j * units]) if jnp.iscomplexobj(x) else units
            count = len(units)
            rest = total - first - count
            units = jnp.pad(units, ((first, rest), (0, 0)))
            seeds.append(units.reshape(total, *x.shape))
            slices.append(slice(first, first + count))
            first += count

        def along(seed: Sequence[Array]) -> Tree:
            with forward_mode():
                leaves, tangents, final = jax.jvp(run, (list(arrays),), (seed,), has_aux=True)
            return (leaves, final), tangents

        out, rows = jax.vmap(along, out_axes=(None, 0), axis_size=total)(seeds)
        return out, [tuple(x[part] for x in rows) for part in slices]

    def blank(self, rows: Leaves, n: Index, fill: Scalar) -> Leaves:
        def filled(x: Array) -> Array:
            there = (jnp.arange(x.shape[0]) < n).reshape((-1,) + (1,) * (x.ndim - 1))
            rest = jnp.asarray(fill, x.real.dtype)
            if jnp.iscomplexobj(x):  # nan in both parts
                rest = jax.lax.complex(rest, jnp.where(rest == rest, 0.0, rest))
            return jnp.where(there, x, rest)

        return tuple(filled(x) for x in rows)
