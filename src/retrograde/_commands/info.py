"""What array libraries are here, and how to get those that are not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points

from .._backend.registry import BUILT_IN, adapter
from .._backend.specialise import generic
from .._base import __version__
from .._base.memory import format_bytes

INSTALL = {
    "numpy": "pip install retrograde",
    "jax": 'pip install "retrograde[jax]"',
    "torch": 'pip install "retrograde[torch]"',
    "cupy": 'pip install "retrograde[cupy13]" for CUDA 13, "retrograde[cupy12]" for CUDA 12',
}
"""How to install a library that has an adapter here."""

EXTRAS = {"scipy": "demo", "tqdm": "demo", "matplotlib": "plot"}


def missing(name: str) -> str | None:
    """Why an array library can't be used, in one line; None where it can be looked at."""
    if name in INSTALL and importlib.util.find_spec(name) is None:
        return f"not installed: {INSTALL[name]}"
    return None


def run() -> int:
    """Print each library's version, devices, memory, capabilities."""
    for line in _lines():
        print(line)
    return 0


def _lines() -> Iterator[str]:
    yield f"retrograde {__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}"
    if generic():
        yield "RETROGRADE_GENERIC is set: no adapter's own form of a step is taken"
    others = {point.name for point in entry_points(group="retrograde.backends")} - set(BUILT_IN)
    for name in dict.fromkeys([*INSTALL, *sorted(others)]):
        yield ""
        why = missing(name)
        try:
            yield from [f"{name}: {why}"] if why else _library(name)
        except Exception as error:  # a broken library must not hide the others
            yield f"{name}: can't be used: {' '.join(str(error).split()) or repr(error)}"
    yield ""
    for module, extra in EXTRAS.items():
        how = f'not installed: pip install "retrograde[{extra}]"'
        yield f"{module}: {'found' if importlib.util.find_spec(module) else how}"


def _library(name: str) -> list[str]:
    bk = adapter(name)
    version = getattr(sys.modules.get(name), "__version__", "of unknown version")
    free, total, source = bk.memory()
    yes = sorted(bk.capabilities)
    gradients = "solve's own, and solve_vjp" if "native-gradient" in yes else "solve_vjp"
    return [
        f"{name} {version}",
        f"  devices       {', '.join(bk.devices())}",
        f"  memory        {format_bytes(free)} free of {format_bytes(total)} ({source})",
        f"  gradients     {gradients}",
        f"  capabilities  {', '.join(yes) or 'those of every array library'}",
    ]
