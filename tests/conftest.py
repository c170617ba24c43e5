"""The one ``backend`` fixture: every array library behind one small harness.

A test that takes ``backend`` runs once for each id of :data:`IDS` that is there. The others are
listed with their reasons at the end of a run, unless an id stands in ``RETROGRADE_REQUIRE`` (commas
or stages between ids), where its absence is an error. What a test needs it says by capability::

    @pytest.mark.needs(Capability.HIGHER_ORDER)

so there is no second list of what runs where. Fields are written once, against the namespace of
the y that they are given: ``xp = backend.namespace(y)``.

A test of many settings names them, and those that stand for all where a case is dear::

    @pytest.mark.settings(solver=SOLVERS, wish=WISHES, few={"jax": [("euler", "rows")]})

NumPy takes every tuple of settings, another eager library its few, or tuples in which any two
settings meet (:func:`pairs`; for the strict library, which has NumPy's numbers, each setting once),
and the rest is slow; JAX takes its few, for each is a program to compile, and of the rest what is
named as ``slow=`` or is not many. Where some libraries say it all,
``@pytest.mark.libraries("numpy jax:jit", slow="torch")`` names them (a device goes with its
library). ``@pytest.mark.quick("euler-rows")`` names by their ids the cases of a test that stand for
all; the others are slow. Without these marks a test runs on all libraries, one of its cases on the
strict one and on JAX, with jit in half of the tests; more of them are slow.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import itertools
import os
import sys
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import retrograde as rg
from retrograde._backend.registry import adapter, backend_for
from retrograde.backend import Capability

JAX = ("jax", "jax:jit")
UNOPTIMISED = "jax_disable_most_optimizations"
MOST = 12
"""Settings of a test that are compiled one and all for ``-m slow``."""
IDS = ("numpy", "strict", "torch", "jax", "jax:jit", "cupy", "torch:cuda", "jax:cuda")
REQUIRED = frozenset(os.environ.get("RETROGRADE_REQUIRE", "").replace(",", " ").split())
if "jax:cuda" not in REQUIRED:
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: it looks at it only once
for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # of each worker: they share the cores


def pytest_configure(config: pytest.Config) -> None:
    gc.set_threshold(20_000, 10, 10)  # while JAX traces nearly all of it lives: 5 % of the time
    config.addinivalue_line("markers", "needs(*capabilities): skip backends without them")
    config.addinivalue_line("markers", "quick(*ids): the others of these cases are slow")
    config.addinivalue_line("markers", "libraries(names, *, slow): the ids that say it all")
    config.addinivalue_line("markers", "optimised: JAX compiles as for users, also by default")
    config.addinivalue_line("markers", "settings(*, few, slow, **values): which of them run where")


@pytest.hookimpl(tryfirst=True)  # before those that are slow are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``-m device`` runs the backends alone that ``RETROGRADE_REQUIRE`` names."""
    mark_slow(items)
    if config.option.markexpr != "device" or not REQUIRED:
        return
    chosen: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        (chosen if params.get("backend", "") in {"", *REQUIRED} else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = chosen


@pytest.fixture(autouse=True, scope="module")
def _programs_of_jax(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the default run XLA spends no time on optimising what runs once.

    What these tests hold (mathematics, plans, errors) is the same in a program that is optimised,
    and half of a compilation is saved: LLVM's dear passes, and the emitters of fused loops by MLIR.
    Files that are about the programs themselves (kernels, bytes, what is lowered) say
    ``pytestmark = pytest.mark.optimised``; they and ``-m slow`` compile as for users.
    """
    jax, default = sys.modules.get("jax"), request.config.option.markexpr == "not slow"
    if jax is None or not default or request.node.get_closest_marker("optimised") is not None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        if _without_emitters(jax, patch) is False:
            patch.undo()
        jax.config.update(UNOPTIMISED, True)
        yield
        jax.config.update(UNOPTIMISED, False)


def _without_emitters(jax: Any, patch: pytest.MonkeyPatch) -> bool:
    """Compile without XLA's fusion emitters; whether this JAX lets us.

    There is an option for it, but no public place to set it for every program at once.
    """
    try:
        compiler = importlib.import_module("jax._src.compiler")
        options = functools.partial(_with_options, compiler.get_compile_options)
        patch.setattr(compiler, "get_compile_options", options)
        return bool(jax.jit(lambda x: x + 1)(0) == 1)
    except Exception:  # a JAX that has another place for it, or an XLA that has no such option
        return False


def _with_options(plain: Any, *args: Any, **keywords: Any) -> Any:
    given = keywords.pop("env_options_overrides", None) or {}
    cheap = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
    return plain(*args, env_options_overrides={**cheap, **given}, **keywords)


@pytest.fixture(autouse=True, scope="module")
def _what_lives_is_no_garbage() -> None:
    """What lives when tests of a file begin (imports, compiled programs of files before) need not
    be seen again by full collections, of which tests of memory make many."""
    gc.collect()
    gc.freeze()


def mark_slow(items: list[pytest.Item]) -> None:
    """Cases that others stand for."""
    tests: dict[tuple[str, str], dict[str, list[pytest.Item]]] = {}
    for item in items:
        quick, callspec = item.get_closest_marker("quick"), getattr(item, "callspec", None)
        if quick is not None and callspec is not None and callspec.id not in quick.args:
            item.add_marker(pytest.mark.slow)
        chosen = any(item.get_closest_marker(name) for name in ("settings", "libraries", "quick"))
        chosen |= any(mark.args[0] == "backend" for mark in item.iter_markers("parametrize"))
        if callspec is None or chosen or callspec.params.get("backend") not in (*JAX, "strict"):
            continue
        library = callspec.params["backend"].partition(":")[0]
        cases = tests.setdefault((item.nodeid.partition("[")[0], library), {})
        cases.setdefault(item.nodeid.replace("jax:jit", "jax"), []).append(item)
    for (_, library), cases in tests.items():
        order = sorted(cases, key=lambda case: zlib.crc32(case.encode()))
        kept = ["strict"] if library == "strict" else [JAX[_odd(order[0])]]
        for case, name in itertools.zip_longest(order, kept, fillvalue=""):
            for item in cases.get(case, ()):
                if item.callspec.params["backend"] != name:  # type: ignore[attr-defined]
                    item.add_marker(pytest.mark.slow)


def _odd(case: str) -> int:
    return zlib.crc32(case.encode()) % 2


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What ran where: a line for the backends tested, a line for each one skipped."""
    found = {name: _find(name) for name in IDS if name in _found}
    tested = " ".join(name for name, x in found.items() if not isinstance(x, str))
    if found:
        terminalreporter.write_line(f"backends tested: {tested}")
    for reason in (x for x in found.values() if isinstance(x, str)):
        terminalreporter.write_line(f"backend skipped: {reason}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case for each library and device that is there; the others are told at the end."""
    if "backend" not in metafunc.fixturenames:
        return
    if any(m.args[0] == "backend" for m in metafunc.definition.iter_markers("parametrize")):
        return  # a test that names its own
    ids = IDS if not REQUIRED or metafunc.config.option.markexpr != "device" else REQUIRED
    present = [name for name in IDS if name in ids and not isinstance(_find(name), str)]
    late: list[Any] = []
    if (libraries := metafunc.definition.get_closest_marker("libraries")) is not None:
        fast, slow = (_devices(x) for x in (*libraries.args, libraries.kwargs.get("slow", "")))
        late = [pytest.param(name, marks=pytest.mark.slow) for name in present if name in slow]
        present = [name for name in present if name in fast]
    settings = metafunc.definition.get_closest_marker("settings")
    if settings is None:
        metafunc.parametrize("backend", present + late, indirect=True)
        return
    values = dict(settings.kwargs)
    few, dear = values.pop("few"), values.pop("slow", {})
    rest = metafunc.config.option.markexpr in ("", "slow")  # what is not run is not even made
    cases = [x for name in present for x in _cases(name, list(values.values()), few, rest)]
    more = [(name, *_tuple(case)) for name in present for case in dear.get(name, ()) if rest]
    known = {getattr(case, "values", case) for case in cases}
    cases += [pytest.param(*case, marks=pytest.mark.slow) for case in more if case not in known]
    metafunc.parametrize(["backend", *values], cases, indirect=["backend"])


def _tuple(case: Any) -> tuple[Any, ...]:
    """A setting of a test that has one alone may be named without its tuple."""
    return case if isinstance(case, tuple) else (case,)


def _devices(names: str) -> set[str]:
    """Ids with those that have a device: CuPy goes with NumPy."""
    found = set(names.split())
    cupy = {"cupy"} if "numpy" in found else set()
    return found | {f"{name.partition(':')[0]}:cuda" for name in found} | cupy


def _cases(name: str, axes: list[Any], few: dict[str, list[Any]], rest: bool) -> list[Any]:
    """Settings of a test on one library, as parameters."""
    every, eager = list(itertools.product(*axes)), _harness(name).eager
    default = None if eager else few.get("jax:jit", []) if name == "jax:cuda" else []
    named = few.get(name.removesuffix(":cuda"), default)
    if named is None:
        named = every if name == "numpy" else (once if name == "strict" else pairs)(*axes)
    elif len(axes) == 1:
        named = [(case,) for case in named]
    rest = rest and (eager or (name in few and len(every) <= MOST))
    more = [case for case in every if case not in named] if rest else []
    slow = [pytest.param(name, *case, marks=pytest.mark.slow) for case in more]
    return [(name, *case) for case in named] + slow


def once(*axes: Any) -> list[tuple[Any, ...]]:
    """Few tuples of a value of each axis, in which every value is."""
    axes = tuple(list(axis) for axis in axes)
    longest = max(len(axis) for axis in axes)
    return [tuple(axis[i % len(axis)] for axis in axes) for i in range(longest)]


def pairs(*axes: Any) -> list[tuple[Any, ...]]:
    """Few tuples of a value of each axis, in which every two values of two axes meet.

    Greedy over the full product, in its order: the same ones in every run.
    """
    every = list(itertools.product(*axes))
    met = {case: set(itertools.combinations(enumerate(case), 2)) for case in every}
    left, few = set().union(*met.values()), []
    while left:
        few.append(max(every, key=lambda case: len(met[case] & left)))
        left -= met[few[-1]]
    return few or every


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Harness:
    """One array library."""
    harness = _harness(request.param)
    for mark in request.node.iter_markers("needs"):
        for capability in mark.args:
            if capability not in harness.bk.capabilities:
                pytest.skip(f"{harness.bk.name} has no {capability}")
    return harness


@pytest.fixture(scope="session")
def reference() -> Harness:
    """NumPy, to compare with."""
    return _harness("numpy")


class Gradient(NamedTuple):
    """Values and gradients of one loss, as NumPy arrays in the trees of the inputs."""

    ys: Any
    y0: Any
    args: Any
    t0: Any = None
    t1: Any = None
    ts: Any = None


class Harness:
    """One array library: arrays in and out, and gradients as its users ask for them.

    Attributes
    ----------
    bk : AbstractBackend
    xp : namespace
    jit : bool
        Whether ``gradient`` and ``compiled`` go through ``jax.jit``.
    """

    jit = False

    def __init__(self, bk: Any, xp: Any, device: Any = None) -> None:
        self.bk, self.xp, self.device = bk, xp, device

    @property
    def eager(self) -> bool:
        """Whether loops are Python's, so that calls of a field can be counted."""
        return Capability.TRACED not in self.bk.capabilities

    # --- arrays
    def array(self, values: Any, dtype: str = "float64") -> Any:
        """An array of this library, of a dtype given by its name."""
        return self.xp.asarray(values, dtype=getattr(self.xp, dtype), device=self.device)

    def to_numpy(self, tree: Any) -> Any:
        """The same tree with NumPy arrays; what is no array stays."""
        return self.map(self.one_to_numpy, tree)

    def one_to_numpy(self, x: Any) -> Any:
        return np.asarray(x)

    def map(self, fn: Any, tree: Any) -> Any:
        """``fn`` on every array of a tree."""
        leaves, treedef = self.bk.flatten(tree)
        return self.bk.unflatten(treedef, [fn(x) if self.bk.is_array(x) else x for x in leaves])

    def namespace(self, x: Any) -> Any:
        """The namespace to compute with: the array's own (it may record), or the library's."""
        own = getattr(x, "__array_namespace__", None)
        return self.xp if own is None else own()

    def compiled(self, fn: Any) -> Any:
        """``fn``, under jit where this backend is."""
        return fn

    def assert_close(
        self, actual: Any, expected: Any, rtol: float = 1e-12, atol: float = 0.0
    ) -> None:
        """Library, device, dtype and shape as expected, and values within the tolerance.

        ``actual`` is a tree of this library's arrays, ``expected`` one of NumPy arrays.
        """
        actual, expected = self.bk.flatten(actual)[0], _harness("numpy").bk.flatten(expected)[0]
        assert len(actual) == len(expected)
        home = self.bk.device_of(self.array(0.0))
        for x, y in zip(actual, expected, strict=True):
            assert self.bk.is_array(x), f"{type(x)} is no array of {self.bk.name}"
            assert self.bk.device_of(x) == home
            x, y = self.one_to_numpy(x), np.asarray(y)
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
            np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)

    def second(self, fn: Any, x: Any) -> tuple[Any, Any, Any]:
        """Value and first two derivatives of ``fn(x) -> 0-d array`` at a 0-d array x."""
        raise NotImplementedError

    # --- gradients of Re <weights, ys>
    def gradient(
        self,
        f: Any,
        y0: Any,
        t0: Any,
        t1: Any,
        args: Any = None,
        weights: Any = None,
        *,
        times: bool = False,
        **keywords: Any,
    ) -> Gradient:
        """ys, and the gradient of sum(weights * ys), the way users of this library get it.

        Weights are a tree of NumPy arrays like ys, ones by default. ``times`` asks for t0, t1
        and saved times too. Complex gradients are dL/da + i dL/db everywhere.
        """
        return self.solve_vjp(f, y0, t0, t1, args, weights, times=times, **keywords)

    def solve_vjp(
        self,
        f: Any,
        y0: Any,
        t0: Any,
        t1: Any,
        args: Any = None,
        weights: Any = None,
        *,
        times: bool = False,
        **keywords: Any,
    ) -> Gradient:
        """The same by ``rg.solve_vjp``, which every library has."""
        sol, pullback = rg.solve_vjp(f, y0, t0, t1, args, **keywords)
        g = pullback(self.map(self._flip, self.cotangent(sol.ys, weights)))
        g = self.to_numpy(
            g._replace(y0=self.map(self._flip, g.y0), args=self.map(self._flip, g.args))
        )
        return Gradient(self.to_numpy(sol.ys), g.y0, g.args, *(g[2:5] if times else ()))

    def cotangent(self, ys: Any, weights: Any) -> Any:
        """Weights as arrays of this library; ones by default."""
        leaves, treedef = self.bk.flatten(ys)
        given = [1.0] * len(leaves) if weights is None else _numpy_leaves(weights)
        dtype = str(leaves[0].dtype).rpartition(".")[-1]
        full = [
            np.broadcast_to(w, tuple(x.shape)).tolist() for w, x in zip(given, leaves, strict=True)
        ]
        return self.bk.unflatten(treedef, [self.array(w, dtype) for w in full])

    def _flip(self, x: Any) -> Any:
        """From PyTorch's convention of complex cotangents to this library's, and back."""
        return x

    def _inputs(self, y0: Any, args: Any, t0: Any, t1: Any, ts: Any) -> tuple[list[Any], Any]:
        """Flat inputs to differentiate, and the call that puts them back."""
        bk = self.bk
        leaves, treedef = bk.flatten((y0, args, t0, t1, ts))
        where = [i for i, x in enumerate(leaves) if bk.is_array(x) and bk.floating(x)]

        def rebuild(flat: Any, rest: Any = leaves) -> Any:
            new = list(rest)
            for i, x in zip(where, flat, strict=True):
                new[i] = x
            return bk.unflatten(treedef, new)

        return [leaves[i] for i in where], rebuild

    def _native(
        self, f: Any, call: tuple[Any, ...], weights: Any, times: bool, keywords: Any
    ) -> Any:
        """``loss(flat) -> (loss, ys)`` of the flat inputs, and how gradients are read."""
        y0, t0, t1, args = call
        saveat = keywords.pop("saveat", None) or rg.SaveAt()
        ts = saveat.ts
        if times:
            dtype = str(self.bk.real_dtype(self.bk.flatten(y0)[0][0])).rpartition(".")[-1]
            t0, t1 = self.array(t0, dtype), self.array(t1, dtype)
            ts = None if ts is None else self.array(ts, dtype)
        flat, rebuild = self._inputs(y0, args, t0, t1, ts if times else None)

        def loss(flat: Any) -> Any:
            y0, args, t0, t1, at = rebuild(flat)
            wish = dataclasses.replace(saveat, ts=ts if at is None else at)
            ys = rg.solve(f, y0, t0, t1, args, saveat=wish, **keywords).ys
            w = self.bk.flatten(self.cotangent(ys, weights))[0]
            parts = zip(w, self.bk.flatten(ys)[0], strict=True)
            return sum(self.xp.sum(self.xp.real(self.xp.conj(a) * y)) for a, y in parts), ys

        def read(grads: Any) -> Gradient:
            blank = [None] * len(self.bk.flatten((y0, args, t0, t1, ts if times else None))[0])
            y, a, *rest = rebuild([self.one_to_numpy(self._flip(g)) for g in grads], blank)
            return Gradient(None, y, a, *(rest if times else ()))

        return flat, loss, read


class TorchHarness(Harness):
    """``loss.backward()``."""

    def second(self, fn: Any, x: Any) -> tuple[Any, Any, Any]:
        x = x.detach().clone().requires_grad_()
        value = fn(x)
        first = self.xp.autograd.grad(value, x, create_graph=True)[0]
        return value, first, self.xp.autograd.grad(first, x)[0]

    def one_to_numpy(self, x: Any) -> Any:
        return x.detach().cpu().numpy()

    def gradient(self, f, y0, t0, t1, args=None, weights=None, *, times=False, **keywords):  # type: ignore[no-untyped-def]
        flat, loss, read = self._native(f, (y0, t0, t1, args), weights, times, keywords)
        flat = [x.detach().clone().requires_grad_() for x in flat]
        value, ys = loss(flat)
        value.backward()
        grads = [self.xp.zeros_like(x) if x.grad is None else x.grad for x in flat]
        return read(grads)._replace(ys=self.to_numpy(ys))


class JaxHarness(Harness):
    """``jax.value_and_grad``, under ``jax.jit`` where the id says so."""

    def __init__(self, bk: Any, xp: Any, device: Any, jit: bool) -> None:
        super().__init__(bk, xp, device)
        self.jit = jit

    def compiled(self, fn: Any) -> Any:
        return importlib.import_module("jax").jit(fn) if self.jit else fn

    def second(self, fn: Any, x: Any) -> tuple[Any, Any, Any]:
        jax = importlib.import_module("jax")
        first = jax.grad(fn)
        return self.compiled(lambda x: (fn(x), first(x), jax.grad(first)(x)))(x)

    def _flip(self, x: Any) -> Any:
        return self.xp.conj(x) if self.bk.floating(x) == "complex" else x

    def gradient(self, f, y0, t0, t1, args=None, weights=None, *, times=False, **keywords):  # type: ignore[no-untyped-def]
        jax = importlib.import_module("jax")
        flat, loss, read = self._native(f, (y0, t0, t1, args), weights, times, keywords)
        (_, ys), grads = self.compiled(jax.value_and_grad(loss, has_aux=True))(flat)
        return read(grads)._replace(ys=self.to_numpy(ys))


class CupyHarness(Harness):
    """Copies from the device."""

    def one_to_numpy(self, x: Any) -> Any:
        return x.get()


def _numpy_leaves(tree: Any) -> list[Any]:
    return _harness("numpy").bk.flatten(tree)[0]


_found: dict[str, Harness | str] = {}


def _harness(name: str) -> Harness:
    """The harness of an id; skips (or fails, where it is required) if it is not to be had."""
    found = _find(name)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def _find(name: str) -> Harness | str:
    """The harness of an id, or why there is none."""
    if name not in _found:
        try:
            _found[name] = _make(name)
        except (ImportError, RuntimeError) as error:
            if name in REQUIRED:
                raise
            _found[name] = f"{name}: {error}"
    return _found[name]


def _make(name: str) -> Harness:
    library, _, where = name.partition(":")
    xp: Any
    if library == "strict":
        xp = importlib.import_module("array_api_strict")
        return Harness(backend_for(xp.asarray(0.0)), xp)
    xp = importlib.import_module(library)
    if library == "torch":
        if where == "cuda" and not xp.cuda.is_available():
            raise RuntimeError("no CUDA device")
        return TorchHarness(adapter(library), xp, where or "cpu")
    if library == "jax":
        xp.config.update("jax_enable_x64", True)
        device = xp.devices("cuda" if where == "cuda" else "cpu")[0]
        return JaxHarness(adapter(library), xp.numpy, device, where == "jit")
    if library == "cupy":
        xp.cuda.runtime.getDeviceCount()
        return CupyHarness(adapter(library), xp)
    return Harness(adapter(library), xp)
