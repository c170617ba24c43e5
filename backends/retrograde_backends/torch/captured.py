"""Which tensors a function closes over, so that their gradients are never lost.

A function is called once with gradients on. The graph of its result ends in the leaves that it
reached (module parameters, globals, whatever they are kept in); a node made before the call is
the edge of a captured tensor that was computed from others, found by a second call that watches
the operands of every operation. Leaves that another branch would reach come from a scan of
modules, closure cells, defaults and attributes. What both miss, the reverse pass notices: it
walks the graph of every pull and refuses a tensor that it does not know.

A node's age is its sequence number, which counts per thread: tensors made in another thread
look new, and are then traced to their leaves.

What f is given must stay as it is: tensors count what is written into them, so that a look at the
count after f's call tells. Those of ``inference_mode`` count nothing: f gets copies of them.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from retrograde._base.errors import InputError
from retrograde._base.types import Array, Function, Scalar, State, Tree

from .types import Ref

_LONGEST = 256
"""Entries of a container that the scan looks into."""

_MOST = 1000
"""Objects that it looks at; it is a help, the reverse pass's check is the guarantee."""


def captured_tensors(fn: Function, run: Callable[[], Sequence[Array]]) -> list[Array]:
    """Tensors that require a gradient and that ``fn`` closes over.

    Parameters
    ----------
    fn : callable
        For the scan.
    run : callable
        Calls ``fn`` with constants; returns the leaves of its result.

    Raises
    ------
    InputError
        If such a tensor can't be told apart from what it was computed from.
    """
    marker = _age()
    reached, edges = _walk(run(), marker)
    found = {id(x): x for x in reached}
    before: set[int] = set()
    if edges:
        inner = _tensors_at(edges, run)
        before = _ancestors(inner)
        if before & (found.keys() | {id(x) for x in inner}):
            raise InputError(
                "`f` closes over a tensor and over another one computed from it, so that their "
                "gradients can't be told apart; pass them through `args`."
            )
        found |= {id(x): x for x in inner}
    for x in _scan(fn, set(), 0):
        if id(x) not in before:
            found.setdefault(id(x), x)
    return list(found.values())


def unknown_leaf(results: Iterable[Array], known: set[Any], fresh: Sequence[Array]) -> Ref:
    """A leaf that results depend on, outside of the edges ``known`` and the leaves ``fresh``."""
    seen, own = {*known, (None, 0)}, {id(x) for x in fresh}
    stack = []
    for k in results:
        place = edge(k) if isinstance(k, torch.Tensor) else (k.node, k.output_nr)
        if place not in seen:
            stack.append(place[0])
    while stack:
        node = stack.pop()
        ends = node.next_functions
        if not ends:
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in own:
                return leaf
        for place in ends:
            if place not in seen:
                seen.add(place)
                stack.append(place[0])
    return None


def edge(x: Array) -> tuple[Any, int]:
    """Where in the graph the gradient of a tensor is formed: (node, output)."""
    if x.grad_fn is None:
        place = torch.autograd.graph.get_gradient_edge(x)
        return place.node, place.output_nr
    return x.grad_fn, x.output_nr


def _age() -> int:
    """The sequence number of a node made now."""
    x = torch.zeros((), requires_grad=True).clone()
    return int(x.grad_fn._sequence_nr())  # type: ignore[union-attr]


def _walk(results: Sequence[Array], marker: int) -> tuple[list[Array], dict[Any, None]]:
    """Leaves that results were made of, and the edges (node, output) older than the marker."""
    leaves: list[Array] = []
    old: dict[Any, None] = {}
    stack = [edge(k) for k in results if k.requires_grad]
    seen = set()
    while stack:
        place = stack.pop()
        node = place[0]
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.append(leaf)
        elif node._sequence_nr() < marker:
            old[place] = None
        elif node not in seen:
            seen.add(node)
            stack += [place for place in node.next_functions if place[0] is not None]
    return leaves, old


def _tensors_at(edges: dict[Any, None], run: Callable[[], Sequence[Array]]) -> list[Array]:
    """The tensors that stand at some edges of the graph."""
    watch = _Operands()
    with watch:
        results = run()
    watch.note(results)
    if not edges.keys() <= watch.found.keys():
        raise InputError(
            "`f` closes over a tensor with a gradient that can't be identified; pass it through "
            "`args`."
        )
    return [watch.found[place] for place in edges]


class _Operands(TorchFunctionMode):
    """Notes the operands of every operation by their place in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Hashable, Tree] = {}

    def note(self, x: Array) -> None:
        """x if it is a tensor with a history, or what it holds."""
        if isinstance(x, torch.Tensor):
            if x.grad_fn is not None:
                self.found.setdefault((x.grad_fn, x.output_nr), x)
        elif isinstance(x, (tuple, list)):
            for item in x:
                self.note(item)

    def __torch_function__(
        self, func: Function, types: object, args: Tree = (), kwargs: dict[str, Any] | None = None
    ) -> Tree:
        kwargs = kwargs or {}
        self.note(args)
        self.note(list(kwargs.values()))
        return func(*args, **kwargs)


def _ancestors(tensors: Sequence[Array]) -> set[int]:
    """Ids of the leaves and of the tensors among ``tensors`` that others were computed from."""
    places = {edge(x): id(x) for x in tensors}
    found, seen = set(), set()
    stack = [place for x in tensors for place in x.grad_fn.next_functions]
    while stack:
        place = stack.pop()
        node = place[0]
        if node is None or place in seen:
            continue
        seen.add(place)
        leaf = getattr(node, "variable", None)
        found.add(places.get(place, 0) if leaf is None else id(leaf))
        stack += node.next_functions
    return found


def _scan(x: Array, seen: set[int], depth: int) -> Iterator[Array]:
    """Leaf tensors that require a gradient and that x holds on to."""
    if id(x) in seen or depth > 4 or len(seen) > _MOST:
        return
    seen.add(id(x))
    if isinstance(x, torch.Tensor):
        if x.requires_grad and x.is_leaf:
            yield x
        return
    if isinstance(x, torch.nn.Module):
        yield from (p for p in x.parameters() if p.requires_grad)
    for part in _parts(x):
        yield from _scan(part, seen, depth + 1)


def _parts(x: Array) -> Iterable[Array]:
    """What a function, container or object refers to."""
    if isinstance(x, types.FunctionType):
        return _references(x)
    if isinstance(x, types.MethodType):
        return x.__self__, x.__func__
    if isinstance(x, functools.partial):
        return x.func, *x.args, *x.keywords.values()
    if isinstance(x, torch.nn.Module):
        own = (vars(module).items() for module in x.modules())
        return [v for items in own for k, v in items if not k.startswith("_")]
    if isinstance(x, dict):
        return list(x.values()) if len(x) <= _LONGEST else ()
    if isinstance(x, (tuple, list, set, frozenset)):
        return x if len(x) <= _LONGEST else ()
    if isinstance(x, (type, types.ModuleType)) or type(x).__module__ == "builtins":
        return ()
    parts = list(getattr(x, "__dict__", {}).values())
    call = type(x).__dict__.get("__call__")
    return [*parts, call] if isinstance(call, types.FunctionType) else parts


def _references(fn: types.FunctionType) -> list[Array]:
    """Closure cells, defaults, and the globals that the code names."""
    parts: list[Array] = list(fn.__defaults__ or ())
    parts += (fn.__kwdefaults__ or {}).values()
    for cell in fn.__closure__ or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:  # an empty cell
            continue
    names = fn.__code__.co_names
    return parts + [fn.__globals__[name] for name in names if name in fn.__globals__]


def changed(whose: str = "`f` changed its argument `y`") -> InputError:
    """The error for a write into what was only lent."""
    return InputError(f"{whose} in place; return a new tensor instead.")


def guarded(field: Function) -> Function:
    """``field(t, y)`` of a state (a tensor, or a tuple of them) that it must leave as it was."""

    def call(t: Scalar, y: State) -> Tree:
        if isinstance(y, tuple):
            y = tuple(x.clone() if x.is_inference() else x for x in y)
            look = watch(y, "`f` changed its argument `y`")
            k = field(t, y)
            look()
            return k
        if y.is_inference():
            return field(t, y.clone())
        before = y._version
        k = field(t, y)
        if y._version != before:
            raise changed()
        return k

    return call


def watch(leaves: Sequence[Array], whose: str) -> Callable[[], None]:
    """A function that raises InputError if tensors were changed in place since."""
    tensors = [x for x in leaves if isinstance(x, torch.Tensor) and not x.is_inference()]
    versions = [x._version for x in tensors]

    def look() -> None:
        if versions != [x._version for x in tensors]:
            raise changed(whose)

    return look
