"""The keywords of ``solve`` in one object, and checks that need nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._errors import InputError

__all__ = ["Options"]


@dataclass(frozen=True, eq=False)
class Options:
    """The keywords of :func:`solve`."""

    solver: Any = "tsit5"
    dt: Any = None
    rtol: Any = 1e-4
    atol: Any = 1e-6
    controller: Any = None
    saveat: Any = None
    event: Any = None
    adjoint: Any = "auto"
    memory: Any = None
    max_steps: Any = None
    per_sample: bool = False
    progress: Any = False
    throw: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        for name, what in (("event", "events"), ("per_sample", "per-sample steps")):
            if getattr(self, name):
                raise InputError(f"`{name}` is set, but this version has no {what}; leave it out.")
        if not isinstance(self.compile, bool):
            raise InputError(f"`compile` is {self.compile!r}; pass True or False.")
