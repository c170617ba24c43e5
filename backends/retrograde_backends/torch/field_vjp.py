"""Vector-Jacobian products of a vector field by PyTorch's autograd, one stage a call.

What is differentiated stands apart from the user's graph: y, t and the leaves of args are
detached shadows; tensors that f closes over can't be replaced, so autograd is asked for their
gradients by name. Nothing is ever added into a user's ``.grad``.

What the vjp of one evaluation of f holds, from its start to its pull and in the pull: what autograd
saves is seen by its hooks, what it makes on the way by the dispatcher: a gradient by
``p[i]`` is a tensor of zeros as large as p, and a sum of two of them a third.
"""

from __future__ import annotations

import contextlib
import functools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch.autograd.graph import get_gradient_edge
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from retrograde._autodiff.field_vjp import UserPullback
from retrograde._backend.stages import Stages
from retrograde._base.errors import InputError, UnsupportedByBackend
from retrograde._base.types import (
    EVERYWHERE,
    Array,
    Bind,
    Field,
    Function,
    Leaves,
    NeedsGradient,
    ParamSums,
    Scalar,
    State,
    Tree,
)
from retrograde._solvers.runge_kutta.solver import StepCotangents, Stepper, StepVJP

from .captured import edge, unknown_leaf
from .memory import LiveStorages
from .types import Ref

if TYPE_CHECKING:
    from retrograde._autodiff.linearise import FieldDerivatives
    from retrograde._backend.protocols import FieldVJP, Layout, Pull
    from retrograde._loops.loop import LeafLayout
    from retrograde._solvers.runge_kutta.solver import Sources
    from retrograde._solvers.runge_kutta.tableau import Tableau

    from .adapter import TorchBackend
    from .flat import TorchLayout


def _gradients(
    outputs: Sequence[Array], cotangents: Sequence[Array], inputs: Sequence[Array]
) -> Leaves:
    """``torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)``.

    The engine is called as that function calls it, without its checks in Python: they take 28 us
    of the 150 us of a small vjp, and the shapes here are known to fit.
    """
    return tuple(
        torch.autograd.Variable._execution_engine.run_backward(
            tuple(outputs), tuple(cotangents), False, False, tuple(inputs), True, False
        )
    )


class TorchPullback:
    """vjp of a vector field, stage by stage, in the form of ``_autodiff.field_vjp.TapePullback``.

    Parameters
    ----------
    layout : TorchLayout
    bind : callable
        ``bind(params) -> field(t, leaves) -> leaves``.
    params : sequence of tensor
        Those that require a gradient are captured by f and stay as they are.
    wanted : NeedsGradient
    """

    def __init__(
        self,
        layout: Layout | LeafLayout,
        bind: Bind,
        params: Sequence[Array],
        wanted: NeedsGradient,
    ) -> None:
        self.layout, self.time = layout, wanted.time
        self.pulls = 0
        """As of ``_autodiff.field_vjp.TapePullback``, like the next."""
        self.derivatives: FieldDerivatives | None = None
        self.mass: FieldVJP | None = None
        self.sides: tuple[Scalar, Scalar] = EVERYWHERE
        self.twice = False
        """Whether f was seen to have second derivatives."""
        self.notice: Callable[[Exception], None] | None = None
        self.timed = self.time
        self.where = tuple(i for i, w in enumerate(wanted.params) if w)
        self.captured = tuple(x.requires_grad for x in params)
        shadows = list(params)
        for i in self.where:
            if not self.captured[i]:
                shadows[i] = params[i].detach().requires_grad_()
        self.field = bind(shadows)
        self.wanted = tuple(shadows[i] for i in self.where)
        self.tracked = [x for x in shadows if x.requires_grad]
        self.count = len(params)

    @functools.cached_property
    def known(self) -> set[tuple[Ref, int]]:
        """Edges of what may be reached; a plan, which pulls nothing, never asks for them."""
        return {edge(x) for x in self.tracked}

    def zero(self) -> ParamSums:
        """An accumulator for the wanted parameters; None until something arrives."""
        return [None] * len(self.where)

    def finish(self, acc: ParamSums) -> tuple[Array | None, ...]:
        """Cotangents of all parameters; None where not wanted, or captured and never used."""
        out: list[Array] = [None] * self.count
        for i, x, g in zip(self.where, self.wanted, acc, strict=True):
            out[i] = _zeros_like(x) if g is None and not self.captured[i] else g
        return tuple(out)

    def __call__(self, t: Array, y: State) -> tuple[Sequence[Array], Pull]:
        """Leaves of f(t, y), and the pull."""
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in self.layout.unpack(y))
            if self.timed:
                t = t.detach().requires_grad_()
            k = self._called(t, leaves)
        timed = self.timed
        fresh, ends = (*leaves, t) if timed else leaves, self.ends(k)

        def pull(ct: Sequence[Array], acc: list[Array]) -> tuple[Any, Any, list[Array]]:
            grads, acc = self.pull(ends, ct, fresh, acc)
            pairs = zip(grads, leaves, strict=False)
            mu = [_zeros_like(x) if g is None else g for g, x in pairs]
            if not timed:
                return mu, math.nan if self.time else None, acc
            return mu, 0.0 if grads[-1] is None else self.layout.bk.held(grads[-1]), acc

        return tuple(x.detach() for x in k), pull

    def second(
        self,
        t: Array,
        y: State,
        ks: Sequence[State],
        lams: Sequence[State],
        acc: list[Array],
        taus: Sequence[Scalar] | None = None,
    ) -> tuple[Any, Any, list[Array]]:
        """The pull of ``sum_i <lam_i, J k_i + tau_i f_t>``: of a sum of vjps that are recorded."""
        unpack, timed = self.layout.unpack, taus is not None or self.timed
        with differentiable_twice(), torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in unpack(y))
            t = t.detach().requires_grad_() if timed else t
            value = self.field(t, leaves)
            fresh = (*leaves, t) if timed else leaves
            ends = [i for i, x in enumerate(value) if x.requires_grad]
            if not self.twice:
                check_twice(value, leaves)
                self.twice = True
            cts = [torch.stack([unpack(lam)[i] for lam in lams]) for i in ends]
            pulled = _batched(tuple(value[i] for i in ends), fresh, cts) if ends else []
            k = [torch.stack(parts) for parts in zip(*map(unpack, ks), strict=True)]
            if timed:
                k.append(_tangents(taus or [0.0] * len(ks), t))
            pairs = [(g, d) for g, d in zip(pulled, k, strict=False) if g is not None]
            total = sum(torch.sum((g.conj() * d).real) for g, d in pairs)
        if not (isinstance(total, torch.Tensor) and total.requires_grad):
            grads: Sequence[Any] = [None] * len(fresh)
        else:
            one = torch.ones_like(total)
            with differentiable_twice():
                grads, acc = self.pull(self.ends([total]), [one], fresh, acc)
        mu = [_zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=False)]
        if not self.time:
            return mu, None, acc
        ct = grads[-1] if timed else None
        return mu, 0.0 if ct is None else self.layout.bk.held(ct), acc

    def _called(self, t: Scalar, leaves: Sequence[Array]) -> Tree:
        """f's leaves; of t as a constant from where f can't take one that requires a gradient."""
        if not self.timed:
            return self.field(t, leaves)
        try:
            with Reads(t):
                return self.field(t, leaves)
        except Exception as error:
            if self.notice is None:
                raise
            k = self.field(t.detach(), leaves)
            self.timed = False  # so it was t
            self.notice(error)
            return k

    @staticmethod
    def ends(k: Sequence[Array]) -> list[Array]:
        """Where the graph of each leaf begins, which keeps no values; None where it has none."""
        return [get_gradient_edge(x) if x.requires_grad else None for x in k]

    def pull(
        self, ends: Sequence[Array], ct: Sequence[Array], fresh: Sequence[Array], acc: list[Array]
    ) -> tuple[Sequence[Array], list[Array]]:
        """Gradients with respect to ``fresh``, those of the parameters added into ``acc``."""
        self.pulls += 1
        pairs = [(x, c) for x, c in zip(ends, ct, strict=True) if x is not None and c is not None]
        if not pairs:
            return [None] * len(fresh), acc
        outputs, cotangents = zip(*pairs, strict=True)
        stranger = unknown_leaf(outputs, self.known, fresh)
        if stranger is not None:
            raise InputError(
                f"`f` reached a tensor of shape {tuple(stranger.shape)} that requires a gradient "
                "and that it did not use at t0; pass it through `args`."
            )
        grads = _gradients(outputs, cotangents, (*fresh, *self.wanted))
        n = len(fresh)
        for i, g in enumerate(grads[n:]):
            if g is not None:
                # the first is copied: autograd may hand out the cotangent itself
                acc[i] = g.clone() if acc[i] is None else acc[i].add_(g)
        return grads[:n], acc


ONCE = (
    "`f` uses an operation that PyTorch differentiates once only, and the gradient of a Rosenbrock "
    "method (of any, by adjoint='direct') needs f's second derivatives ({}). Use 'kvaerno5', or "
    "pass `rg.VectorField(f, vjp=...)`."
)


@contextlib.contextmanager
def differentiable_twice() -> Iterator[None]:
    """A block that needs second derivatives of f: what PyTorch has none of is told."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if not any(word in str(error) for word in ("twice", "double back", "not implemented")):
            raise
        raise UnsupportedByBackend(ONCE.format(error)) from error


def check_twice(value: Sequence[Array], by: Sequence[Array]) -> None:
    """Raise where f has a function of the user's with ``@once_differentiable``.

    That tells by a node of its graph, where a cotangent asks for derivatives; batched ones don't.
    """
    ends = [x for x in value if x.requires_grad]
    if not ends:
        return
    with differentiable_twice(), torch.enable_grad():
        w = [torch.zeros_like(x, requires_grad=True) for x in ends]
        pulled = torch.autograd.grad(ends, by, w, create_graph=True, allow_unused=True)
    nodes = [x.grad_fn for x in pulled if x is not None and x.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if node.name().endswith("::Error"):
            raise UnsupportedByBackend(ONCE.format("`@once_differentiable`"))
        new = {x for x, _ in node.next_functions if x is not None} - seen
        seen |= new
        nodes += new


def _tangents(taus: Sequence[Scalar], t: torch.Tensor) -> torch.Tensor:
    """Tangents of a time: numbers, or, of a batch's times, one for each sample."""
    parts = [torch.as_tensor(x, dtype=t.dtype, device=t.device) for x in taus]
    return torch.stack([x.expand(t.shape) for x in parts])


def _batched(
    value: Sequence[Array], by: Sequence[Array], cts: Sequence[Array]
) -> list[Array | None]:
    """Each row of cotangents pulled back, to be differentiated again."""
    grad = functools.partial(torch.autograd.grad, value, by, create_graph=True, allow_unused=True)
    try:
        return list(grad(grad_outputs=list(cts), is_grads_batched=True))
    except RuntimeError:  # an operation without a rule for vmap
        rows = [grad(grad_outputs=[c[i] for c in cts]) for i in range(len(cts[0]))]
        columns = zip(*rows, strict=True)
        return [None if c[0] is None else torch.stack(list(c)) for c in columns]


class Reads(TorchFunctionMode):
    """Raises where a number is read of what depends on t: its derivative would be lost unseen."""

    NUMBERS: ClassVar[frozenset[Function]] = frozenset(
        {torch.Tensor.item, torch.Tensor.__float__, torch.Tensor.tolist, torch.Tensor.__complex__}
    )

    def __init__(
        self,
        t: Scalar,
        where: str = "a gradient by `t0`, `t1` or `saveat.ts` is asked for",
        cure: str = "Use functions of PyTorch on t, or `t.detach()` to leave its part out.",
    ) -> None:
        super().__init__()
        self.t, self.where, self.cure = t, where, cure

    def __torch_function__(
        self, func: Function, types: object, args: Sequence[Array] = (), kwargs: Ref = None
    ) -> Tree:
        if func in self.NUMBERS and args[0].requires_grad and self._moves(args[0]):
            raise UnsupportedByBackend(
                "`f` reads its time as a plain number (`float(t)`, `math.cos(t)`, `t.item()`), "
                f"which has no derivative, where {self.where}. {self.cure}"
            )
        return func(*args, **(kwargs or {}))

    def _moves(self, x: Array) -> bool:
        """Whether x depends on t."""
        if x is self.t:
            return True
        found = torch.autograd.grad(x.sum(), self.t, retain_graph=True, allow_unused=True)
        return found[0] is not None


@contextlib.contextmanager
def without_hooks(tensors: Sequence[Array]) -> Iterator[None]:
    """Hold the gradient hooks of tensors back: they are for the whole gradient, not its parts."""
    held = [(x._backward_hooks, dict(x._backward_hooks)) for x in tensors if x._backward_hooks]
    for hooks, _ in held:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, kept in held:
            hooks.update(kept)


def _zeros_like(x: Array) -> Tree:
    return torch.zeros_like(x, requires_grad=False)


class RecordedStepVJP(StepVJP):
    """Exact vjps of steps, where neither their inside nor times have cotangents."""

    vjp: TorchPullback

    def __init__(
        self, tableau: Tableau, bk: TorchBackend, layout: TorchLayout, vjp: TorchPullback,
        **_: object,
    ) -> None:  # fmt: skip
        self.tableau, self.layout, self.vjp = tableau, layout, vjp
        leaves = bk.direct_layout(layout)
        self.space = bk.direct_stages(leaves, tableau, None)
        self.forward = Stepper(tableau, self.space, leaves, vjp.field)

    def replay(self, field: Field) -> Stepper:
        """Steps forward, over stages of their own."""
        space = self.layout.bk.stages(self.layout, self.tableau)
        return Stepper(self.tableau, space, self.layout, field)

    def pull(
        self,
        t: Scalar,
        h: Scalar,
        y: State,
        g: State,
        acc: ParamSums,
        outputs: Callable[..., Sources] | None = None,
        size: bool = True,
    ) -> tuple[StepCotangents, State]:
        """Pull the cotangent g of y1 back to y; there are no outputs inside the step."""
        layout, cts = self.layout, self.layout.unpack(g)
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_() for x in layout.unpack(y))
            end = self.forward.step(t, h, leaves, None, error=False).y1
        cast(Stages, self.space).k = []  # the graph alone holds slopes, as long as it needs them
        # y is a term of its step's end, so none is missing
        found, acc = self.vjp.pull(self.vjp.ends(end), cts, leaves, acc)
        self.vjp.pulls += self.forward.inner - 1  # at once
        pairs = zip(found, cts, strict=True)
        own = [x.clone() if x.data_ptr() == c.data_ptr() else x for x, c in pairs]
        return StepCotangents(layout.pack(own), acc, 0.0, 0.0), None


def tape_bytes(vjp: TorchPullback, t: Array, y: State) -> tuple[int, int, Sequence[Array] | None]:
    """Bytes of one linearisation, those of it in a recorded integration, and f's leaves there."""
    weak: Tree = StorageWeakRef
    storages: dict[Ref, int] = {}
    y = tuple(x.clone() for x in y) if isinstance(y, tuple) else y.clone()
    parts = vjp.layout.unpack(y)  # a stage's state, which its pull holds
    kept: set[int] = set()
    begins: dict[int, list[tuple[int, int]]] = {}  # of parts, by storage
    for i, part in enumerate(parts):
        begins.setdefault(part.untyped_storage()._cdata, []).append((part.storage_offset(), i))
    for found in begins.values():
        found.sort()

    def note(x: Array) -> Tree:
        storage = x.untyped_storage()
        if (own := begins.get(storage._cdata)) is not None:
            kept.add(own[bisect_right(own, (x.storage_offset(), len(parts))) - 1][1])
        else:
            storages[weak(storage)] = storage.nbytes()
        return x.detach()  # an output itself would be held by its own graph

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        k, pull = vjp(t, y)
    k0 = [x.clone() for x in k]
    del k, pull
    # what outlives the tape (constants that f closes over) is no part of it
    size = sum(n for ref, n in storages.items() if ref.expired())
    held = sum(parts[i].numel() * parts[i].element_size() for i in kept)
    return size + vjp.layout.nbytes, size + held, k0


def pull_bytes(vjp: TorchPullback, k: Sequence[Array], pull: Function) -> int:
    """Bytes alive at most in a pull: sums of parameters' cotangents, and what autograd makes."""
    own = isinstance(vjp, UserPullback)
    with LiveStorages() as storages, without_hooks([] if own else vjp.tracked):
        acc = vjp.zero() if own else [torch.zeros_like(x) for x in vjp.wanted]
        pull([x.detach() for x in k], acc)
    return int(storages.peak)
