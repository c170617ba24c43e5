"""Public loops against equinox's, on the same bodies with the same checkpoints; PyTorch's bytes.

Ratios are peer / ours for times and compilation, ours / peer for bytes and calls of the body: above
1, or at most 1, is a win. Timed in turn in one process, medians of the ratio in a round.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import retrograde as rg
from retrograde.measure import peak_gradient_bytes

ROUNDS = 15


class Work(NamedTuple):
    """A body, its start, its parameter, steps and checkpoints."""

    body: Callable[[Any, Any], Any]
    y: Any
    p: Any
    steps: int
    slots: int


def works(jax: Any) -> dict[str, Work]:
    """The bodies; slots are what equinox takes by default for so many steps."""
    jnp = jax.numpy

    def cheap(y: Any, p: Any) -> Any:
        return y + 0.001 * (p * y - y**3)

    def network(h: Any, w: Any) -> Any:
        return jnp.tanh(w @ h + 0.1)

    def elementwise(y: Any, p: Any) -> Any:
        return y + 0.001 * jnp.sin(p * y)

    half, p = jnp.asarray(0.3), jnp.asarray(1.7)
    scalar = {f"scalar, n = {n}": Work(cheap, half, p, n, c) for n, c in
              ((100, 13), (1000, 44), (10_000, 141), (100_000, 446))}  # fmt: skip
    w = 0.05 * jax.random.normal(jax.random.key(0), (256, 256))
    grid = jnp.linspace(0.0, 1.0, 100_000)
    return {
        **scalar,
        "8 x 8 network": Work(network, jnp.ones(8), w[:8, :8], 1000, 44),
        "256 x 256 network": Work(network, jnp.ones(256), w, 1000, 32),
        "100,000 elements": Work(elementwise, grid, p, 200, 19),
    }


NAMES = (
    "scalar, n = 100", "scalar, n = 1000", "scalar, n = 10000", "scalar, n = 100000",
    "8 x 8 network", "256 x 256 network", "100,000 elements",
)  # fmt: skip


def scan(run: Any, work: Work, **keywords: Any) -> Callable[[Any, Any], Any]:
    """A loss over a loop of known length."""

    def loss(y: Any, p: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            return work.body(c, p), None

        return run(step, y, None, work.steps, checkpoints=work.slots, **keywords)[0].sum()

    return loss


def while_loop(run: Any, work: Work, **keywords: Any) -> Callable[[Any, Any], Any]:
    """The same over a loop whose length the library does not know."""

    def loss(y: Any, p: Any) -> Any:
        import jax.numpy as jnp

        def step(c: Any) -> Any:
            return c[0] + 1, work.body(c[1], p)

        start = jnp.asarray(0), y
        out = run(lambda c: c[0] < work.steps, step, start, checkpoints=work.slots, **keywords)
        return out[1].sum()

    return loss


class Equinox:
    """Gradients of checkpointed loops in JAX."""

    params = (NAMES, ("scan", "while_loop"))
    param_names = ("body", "loop")
    timeout = 300

    def setup(self, body: str, loop: str) -> None:
        try:
            import equinox.internal as peer
            import jax
        except ImportError as error:
            raise NotImplementedError(str(error)) from error
        jax.config.update("jax_enable_x64", True)
        self.jax, self.work = jax, works(jax)[body]
        make = scan if loop == "scan" else while_loop
        theirs = getattr(peer, loop)
        self.losses = (
            make(getattr(rg, loop), self.work),
            make(theirs, self.work, kind="checkpointed"),
        )
        self.compiled = [self.compile(loss)[0] for loss in self.losses]
        self.check()

    def compile(self, loss: Any) -> tuple[Any, float]:
        """A compiled gradient, and the seconds that it took to trace and compile."""
        start = time.process_time()
        gradient = self.jax.jit(self.jax.grad(lambda y, p: loss(y, p), (0, 1)))
        compiled = gradient.lower(self.work.y, self.work.p).compile()
        return compiled, time.process_time() - start

    def plain(self) -> Any:
        """The gradient by the library's own scan, every step stored."""

        def loss(y: Any, p: Any) -> Any:
            step: Any = lambda c, _: (self.work.body(c, p), None)  # noqa: E731
            return self.jax.lax.scan(step, y, None, self.work.steps)[0].sum()

        return self.jax.jit(self.jax.grad(loss, (0, 1)))(self.work.y, self.work.p)

    def run(self, program: Any) -> Any:
        return self.jax.block_until_ready(program(self.work.y, self.work.p))

    def check(self) -> None:
        """Refuse to time what is not equal."""
        for a, b in zip(*map(self.run, self.compiled), strict=True):
            error = self.jax.numpy.abs(a - b).max() / self.jax.numpy.abs(b).max()
            assert error < 1e-12, error

    def track_time(self, body: str, loop: str) -> float:
        ratios = []
        for _ in range(ROUNDS):
            times = []
            for program in self.compiled:
                start = time.perf_counter()
                self.run(program)
                times.append(time.perf_counter() - start)
            ratios.append(times[1] / times[0])
        return statistics.median(ratios)

    def track_compile(self, body: str, loop: str) -> float:
        """Of what was compiled once already: caches of tables and of JAX's own are warm."""
        ratios = []
        for _ in range(3):
            mine, peer = (self.compile(loss)[1] for loss in self.losses)
            ratios.append(peer / mine)
        return statistics.median(ratios)

    def track_bytes(self, body: str, loop: str) -> float:
        mine, peer = (p.memory_analysis().temp_size_in_bytes for p in self.compiled)
        return float(mine / peer)


class Bound:
    """A gradient of 1,000 steps in JAX under a bound 100 times as large; 1 is no cost."""

    params = (("checkpointed", "bounded"), (1, 10_000))
    param_names = ("kind", "unknowns")
    timeout = 300

    def setup(self, kind: str, unknowns: int) -> None:
        try:
            import jax
        except ImportError as error:
            raise NotImplementedError(str(error)) from error
        jax.config.update("jax_enable_x64", True)
        self.jax, self.y = jax, jax.numpy.linspace(0.1, 0.9, unknowns)
        self.compiled = [self.compile(kind, bound) for bound in (1000, 100_000)]
        for program in self.compiled:
            self.jax.block_until_ready(program(self.y))

    def compile(self, kind: str, bound: int) -> Any:
        def loss(y: Any) -> Any:
            def step(c: Any) -> Any:
                return c[0] + 1, c[1] + 0.001 * self.jax.numpy.sin(c[1])

            start = self.jax.numpy.asarray(0), y
            more = {"max_steps": bound, "kind": kind}
            return rg.while_loop(lambda c: c[0] < 1000, step, start, **more)[1].sum()

        return self.jax.jit(self.jax.grad(loss)).lower(self.y).compile()

    def track_time(self, kind: str, unknowns: int) -> float:
        ratios = []
        for _ in range(9):
            times = []
            for program in self.compiled:
                start = time.perf_counter()
                self.jax.block_until_ready(program(self.y))
                times.append(time.perf_counter() - start)
            ratios.append(times[1] / times[0])
        return statistics.median(ratios)


class Recorded:
    """A loop of 10,000 steps in PyTorch in a twentieth of the bytes that autograd saves."""

    params = (64, 8)
    param_names = ("width",)
    timeout = 300

    def setup(self, width: int) -> None:
        try:
            import torch
        except ImportError as error:
            raise NotImplementedError(str(error)) from error
        self.torch, self.steps = torch, 10_000
        torch.manual_seed(0)
        self.w = torch.randn(width, width, dtype=torch.float64) / width**0.5
        self.h = torch.randn(64, width, dtype=torch.float64)
        self.budget = self.steps * 64 * width * 8 // 20

    def body(self, h: Any, w: Any) -> Any:
        return h + 0.01 * self.torch.tanh(h @ w)

    def plain(self) -> Any:
        def loss(h: Any, w: Any) -> Any:
            for _ in range(self.steps):
                h = self.body(h, w)
            return h.sum()

        return self.gradient(loss)

    def ours(self) -> Any:
        def loss(h: Any, w: Any) -> Any:
            def step(h: Any, _: Any) -> Any:
                return self.body(h, w), None

            return rg.scan(step, h, None, self.steps, memory=self.budget)[0].sum()

        return self.gradient(loss)

    def gradient(self, loss: Any) -> Any:
        h, w = (x.clone().requires_grad_() for x in (self.h, self.w))
        return self.torch.autograd.grad(loss(h, w), (h, w))

    def track_time(self, width: int) -> float:
        """Ours over autograd's own; at most 1.6 where the body is the bulk of it."""
        ratios = []
        for _ in range(5):
            times = []
            for run in (self.ours, self.plain):
                start = time.process_time()
                run()
                times.append(time.process_time() - start)
            ratios.append(times[0] / times[1])
        return statistics.median(ratios)

    def track_bytes(self, width: int) -> float:
        """Ours over autograd's own; at most 0.05."""

        def forward() -> Any:
            with self.torch.no_grad():
                h = self.h
                for _ in range(self.steps):
                    h = self.body(h, self.w)
                return h

        sizes = [peak_gradient_bytes(forward, run, backend="torch").bytes
                 for run in (self.ours, self.plain)]  # fmt: skip
        return sizes[0] / sizes[1]


for _name, _unit in (
    ("track_time", "peer/ours"), ("track_compile", "peer/ours"), ("track_bytes", "ours/peer"),
):  # fmt: skip
    getattr(Equinox, _name).unit = _unit
Bound.track_time.unit = "large/small"  # type: ignore[attr-defined]
Recorded.track_time.unit = Recorded.track_bytes.unit = "ours/peer"  # type: ignore[attr-defined]
