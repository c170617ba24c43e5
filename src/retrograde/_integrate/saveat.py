"""What users want a solve to return: :class:`SaveAt`, and trees of several.

How rows are collected, step by step, is ``outputs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .._base.errors import InputError
from .._base.plain_input import refuse
from .._base.types import Table, Times, Tree, VectorFieldFn


@dataclass(frozen=True, eq=False)
class SaveAt:
    """Which times of a solve to return.

    Parameters
    ----------
    t0, t1 : bool
        The initial and the final state. With nothing else asked for, t1 is returned.
    ts : sequence of float or array, shape (k,) [time] or None
        Times between t0 and t1, in the order in which the solve meets them. One that rounding has
        carried a few units in the last place beyond an end is that end.
    steps : bool
        Every accepted step's end.
    fn : callable or None
        ``fn(t, y, args) -> tree of floating arrays`` is returned in place of y.
    dense : bool
        Keep what ``sol.evaluate(t)`` and ``sol.derivative(t)`` need for any t between t0 and t1:
        states at as many nodes of every step as the solver's interpolant has a degree.
    subs : tuple, list or dict of SaveAt, or None
        Several at once, in place of the others: ``sol.ts`` and ``sol.ys`` have this structure.
        ``saveat=(rg.SaveAt(...), rg.SaveAt(...))`` is the same.

    Notes
    -----
    Rows come in the order t0, ts or steps, t1. Under tracing ``steps`` returns max_steps rows,
    padded with inf. Rows that a failed solve did not reach are nan. A saved time that is a step's
    end, t1 among them, has the numbers of the state there.

    Examples
    --------
    >>> import retrograde as rg
    >>> f = lambda t, y, args: -y
    >>> rg.solve(f, [1.0], 0.0, 1.0, saveat=rg.SaveAt(t0=True, t1=True)).ts.tolist()
    [0.0, 1.0]
    >>> energy = rg.SaveAt(ts=[0.5, 1.0], fn=lambda t, y, args: (y**2).sum())
    >>> rg.solve(f, [1.0, 2.0], 0.0, 1.0, saveat=energy).ys.round(3).tolist()
    [1.839, 0.677]
    >>> both = {"energy": energy, "end": rg.SaveAt(t1=True)}
    >>> sol = rg.solve(f, [1.0, 2.0], 0.0, 1.0, saveat=both)
    >>> sol.ts["end"].tolist(), sol.ys["energy"].shape, sol.ys["end"].shape
    ([1.0], (2,), (1, 2))
    """

    t0: bool = False
    t1: bool = False
    ts: Times | None = None
    steps: bool = False
    fn: VectorFieldFn | None = None
    dense: bool = False
    subs: Tree = None

    def __post_init__(self) -> None:
        if self.ts is not None and self.steps:
            raise InputError("`saveat` asks for `ts` and `steps` at once; choose one of the two.")
        if self.ts is not None:
            if check_times_form("saveat.ts", self.ts, 2) == 0:  # (B, k): those of samples
                raise InputError("`saveat.ts` is empty; pass at least one time, or leave it out.")
        if self.fn is not None and not callable(self.fn):
            raise InputError("`saveat.fn` is not callable; pass fn(t, y, args) -> tree.")
        if self.subs is not None:
            _check_subs(self)

    @property
    def final(self) -> bool:
        """Whether the state at t1 gets a row of its own."""
        return (self.t1 and not self.steps) or not (self.t0 or self.steps or self.ts is not None)

    def check_times(self, ts: Sequence[float], t0: float, t1: float) -> None:
        """Raise InputError unless ts run from t0 towards t1 without leaving the interval."""
        sign = 1.0 if t1 >= t0 else -1.0
        before = t0
        for i, t in enumerate(ts):
            if not math.isfinite(t):
                raise InputError(f"`saveat.ts[{i}]` is {t!r}; pass finite times.")
            if (t - t0) * sign < 0 or (t1 - t) * sign < 0:
                raise InputError(
                    f"`saveat.ts[{i}]` is {t!r}, outside of t0 = {t0!r} to t1 = {t1!r}; drop it, "
                    "or extend the solve (`t1=ts[-1]`)."
                )
            if (t - before) * sign < 0:
                raise InputError(
                    f"`saveat.ts[{i}]` is {t!r} after {before!r}; sort `ts` in the direction of "
                    "the solve."
                )
            before = t


def is_several(saveat: Tree) -> bool:
    """Whether it is a tuple, list or dict of SaveAt."""
    if isinstance(saveat, dict):
        saveat = list(saveat.values())
    return isinstance(saveat, (tuple, list)) and any(
        isinstance(x, SaveAt) or is_several(x) for x in saveat
    )


def flattened(saveat: Tree) -> tuple[list[SaveAt], Tree]:
    """Every SaveAt of a tree of them, and the tree with their places (None: one alone)."""
    found: list[SaveAt] = []
    tree = _placed(saveat, found)
    return found, None if tree == 0 else tree


def _placed(x: Tree, found: list[SaveAt]) -> Tree:
    """The tree with places among those found, which are added to."""
    if isinstance(x, SaveAt) and x.subs is None:
        found.append(x)
        return len(found) - 1
    x = x.subs if isinstance(x, SaveAt) else x
    if isinstance(x, dict):
        return {key: _placed(part, found) for key, part in x.items()}
    parts = [_placed(part, found) for part in x]
    return parts if isinstance(x, list) else tuple(parts)


def is_dense(saveat: Tree) -> bool:
    """Whether any of a tree of SaveAt asks for dense output."""
    if isinstance(saveat, SaveAt):
        return saveat.dense or (saveat.subs is not None and is_dense(saveat.subs))
    if isinstance(saveat, dict):
        saveat = list(saveat.values())
    return isinstance(saveat, (tuple, list)) and any(map(is_dense, saveat))


def filled(places: Tree, values: Sequence[Tree]) -> Tree:
    """The tree of :func:`flattened` with a value in each place."""
    if places is None or isinstance(places, int):
        return values[places or 0]
    if isinstance(places, dict):
        return {key: filled(part, values) for key, part in places.items()}
    return type(places)(filled(part, values) for part in places)


def parted(places: Tree, tree: Tree, name: str) -> list[Tree]:
    """The values in the places of a tree, in their order: the inverse of :func:`filled`."""
    if places is None or isinstance(places, int):
        return [tree]
    keys = list(places) if isinstance(places, dict) else range(len(places))
    same = type(tree) is type(places) if isinstance(places, dict) else hasattr(tree, "__len__")
    if not same or (set(tree) != set(keys) if isinstance(places, dict) else len(tree) != len(keys)):
        raise InputError(
            f"{name} has the structure {_sketch(tree)}, but that of `saveat` is "
            f"{_sketch(places)}; make them equal."
        )
    return [x for key in keys for x in parted(places[key], tree[key], name)]


def _sketch(tree: Tree) -> str:
    if isinstance(tree, dict):
        return f"a dict with keys {list(tree)}"
    if isinstance(tree, (tuple, list)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return f"a {type(tree).__name__}"


def _check_subs(saveat: SaveAt) -> None:
    """Raise InputError unless ``subs`` stands alone and holds nothing but SaveAt."""
    own = (saveat.t0, saveat.t1, saveat.ts is not None, saveat.steps, saveat.fn is not None)
    if any(own):
        raise InputError(
            "`saveat` has `subs` and rows of its own (`t0`, `t1`, `ts`, `steps` or `fn`); put "
            "these into another SaveAt in `subs`."
        )
    _check_nested(saveat.subs)


def _check_nested(x: Tree) -> None:
    if not isinstance(x, (tuple, list, dict)) or not x:
        raise InputError(
            f"`saveat.subs` holds {x!r}; pass a tuple, list or dict of rg.SaveAt(...)."
        )
    for part in x.values() if isinstance(x, dict) else x:
        if not isinstance(part, SaveAt):
            _check_nested(part)


def check_times_form(name: str, ts: Table, axes: int = 1) -> int:
    """How many times there are; InputError unless they have the form of times in a row."""
    refuse(name, ts)
    shape = getattr(ts, "shape", None)
    if shape is None and isinstance(ts, Sequence) and not isinstance(ts, str):
        for kind, t in {type(t): t for t in ts}.items():
            refuse(name, t)
            if issubclass(kind, (list, tuple, str)) or getattr(t, "shape", ()) != ():
                raise InputError(
                    f"`{name}` has an entry of type {kind.__name__} that is no single time; "
                    "pass a flat list of numbers or an array of shape (k,)."
                )
        shape = (len(ts),)
    if shape is None or not 1 <= len(shape) <= axes:
        what = f"of shape {tuple(shape)}" if shape is not None else repr(ts)
        raise InputError(f"`{name}` is {what}; pass a list of times or an array, shape (k,).")
    return int(shape[-1])
