"""What is imported when: nothing dear at the start, and floors that never look up.

A module imports only from strictly lower floors or its own room; the table is the house's plan.
"""

from __future__ import annotations

import ast
import functools
import os
import pathlib
import re
import subprocess
import sys

import pytest

import retrograde

ROOT = pathlib.Path(retrograde.__file__).parent
LIBRARIES = {"numpy", "jax", "jaxlib", "torch", "cupy", "array_api_compat", "optree", "scipy"}
FLOORS = {
    1: "_base",
    2: "_checkpointing _controllers _solvers",
    3: "_backend",
    4: "_autodiff _integrate",
    5: "_adjoints",
    6: "_planner",
    7: "_api _loops",
    8: "__init__ backend interpolate measure",
    9: "_commands __main__",
}
"""Folders (and loose files) by floor; the ground is 1."""
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}


def room(path):
    """The room of a file: its folder under the package, or itself."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@functools.cache
def parsed(path):
    """A module, read once for all tests here."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path):
    """Rooms that a module imports when it is loaded or later, type checking left out."""
    return list(_imports(path))


def _imports(path):
    tree = parsed(path)
    checking = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    package = ("retrograde", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = (*base, *(node.module or "").split(".")) if node.module else base
            if full[:1] == ("retrograde",):
                yield from [full[1]] if len(full) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "retrograde" and len(parts) > 1:
                    yield parts[1]


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("here", sorted({room(path) for path in MODULES}))
def test_imports_come_from_lower_floors(here):
    for other in {name for path in MODULES if room(path) == here for name in imports(path)}:
        if other not in FLOOR:  # a public name of the package itself
            assert FLOOR[here] == 9, f"{here} imports retrograde.{other}"
            continue
        kin = other == here or (here, other) in (
            ("__init__", "interpolate"), ("__init__", "measure"), ("__main__", "_commands"),
        )  # fmt: skip
        assert FLOOR[other] < FLOOR[here] or kin, (
            f"{here} (floor {FLOOR[here]}) imports {other} ({FLOOR[other]})"
        )


@functools.cache
def graph():
    """Modules of both packages, and what each imports from them when it is loaded."""
    roots = (ROOT, ROOT.parents[1] / "backends" / "retrograde_backends")
    if not roots[1].is_dir():
        roots = (ROOT, ROOT.parent / "retrograde_backends")
    files = {}
    for root in roots:
        for path in root.rglob("*.py"):
            parts = (root.name, *path.relative_to(root).with_suffix("").parts)
            files[".".join(parts).removesuffix(".__init__")] = path
    found = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = set()
        for node in parsed(path).body:
            if isinstance(node, ast.Import):
                found[name] |= {a.name for a in node.names if a.name in files}
            elif isinstance(node, ast.ImportFrom):
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(
                    [*(up if node.level else []), *([node.module] if node.module else [])]
                )
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    found[name] |= {full if full in files else base} & set(files)
        found[name].discard(name)
    return found


def test_a_chain_of_imports_is_at_most_16_files_long():
    """Whoever follows one call through the house opens that many files at most."""
    imported, length = graph(), {}

    def chain(name, above=()):
        if name in above:
            return ()
        if name not in length:
            chains = (chain(other, (*above, name)) for other in imported[name])
            length[name] = (name, *max(chains, key=len, default=()))
        return length[name]

    longest = max((chain(name) for name in imported), key=len)
    assert len(longest) <= 16, " -> ".join(longest)


@pytest.mark.parametrize("library", ["numpy", "cupy", "jax", "torch"])
def test_an_adapter_loads_no_other_library(library):
    """What an adapter imports, however far, is no folder of another library's adapter."""
    imported, seen, stack = graph(), set(), [f"retrograde_backends.{library}"]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack += imported[name]
    folders = {name.split(".")[1] for name in seen if name.startswith("retrograde_backends.")}
    assert folders <= {library, "flat", *(["numpy"] if library == "cupy" else [])}


OWN_WORDS = {"seam", "march", "sweep", "spaces", "asked", "told"}
"""Of a house that was: names of the code are the field's."""


def test_names_are_the_fields():
    for path in MODULES:
        names = {
            getattr(x, kind, None)
            for x in ast.walk(parsed(path))
            for kind in ("id", "attr", "name", "arg")
        }
        assert not names & OWN_WORDS, path


def test_loop_and_adjoints_never_meet():
    """An adjoint receives the integrator as an argument; neither imports the other."""
    for path in MODULES:
        text = path.read_text()
        if room(path) == "_integrate":
            assert "_adjoints" not in imports(path)
        elif room(path) == "_adjoints":  # its type apart
            run = re.sub(r"\nif TYPE_CHECKING:\n(    .*\n|\n)+", "", text)
            assert "_integrate.integrator import" not in run
            assert "import integrator" not in run


def test_no_array_library_is_imported_in_the_core():
    frameworks = LIBRARIES - {"optree", "array_api_compat", "scipy"}
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & frameworks, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] not in frameworks, path


def fresh(code, env=None):
    """Standard output of a fresh interpreter."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def test_import_loads_no_array_library():
    code = "import sys, retrograde; {}; print(*{{m.split('.')[0] for m in sys.modules}})"
    assert not set(fresh(code.format("retrograde.solve")).split()) & LIBRARIES


def test_names_are_loaded_when_they_are_used():
    code = (
        "import sys, retrograde as rg;"
        "print(sum('retrograde' in m for m in sys.modules)); rg.solve;"
        "pages = lambda: {m.rpartition('.')[2] for m in sys.modules if '._solvers.' in m};"
        "first = pages(); rg.Dopri8; print(*sorted(pages() - first), 'tsit5' in first);"
        "print(all(name in dir(rg) and hasattr(rg, name) for name in rg.__all__));"
        "exec('from retrograde import *'); print(solve is rg.solve is rg.__dict__['solve'])"
    )
    assert fresh(code).splitlines() == ["2", "dopri8 True", "True", "True"]


def test_a_solve_without_a_gradient_loads_no_planner_and_no_implicit_method():
    code = (
        "import sys, numpy as np, retrograde as rg;"
        "rg.solve(lambda t, y, a: -y, np.ones(2), 0.0, 1.0);"
        "parts = [m.split('.') for m in sys.modules if m.startswith('retrograde')];"
        "print(*{'.'.join(p[1:]) for p in parts})"
    )
    assert not set(fresh(code).split()) & {
        "_planner.choose", "_adjoints.direct", "_adjoints.step_vjp", "_backend.linear",
        "_solvers.rosenbrock", "_solvers.switching.auto", "flat.rosenbrock",
    }  # fmt: skip


def test_numpy_alone_is_loaded_for_numpy():
    code = (
        "import sys, numpy as np, retrograde as rg;"
        "rg.solve(lambda t, y, a: -y, np.ones(2), 0.0, 1.0);"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    assert not set(fresh(code).split()) & {"jax", "torch", "cupy", "scipy"}


def test_import_is_quick(tmp_path):
    """Best of five, with ``solve`` loaded: under 0.15 s of processor time.

    Modules are met compiled, as pip leaves them: where Python is told to write no bytecode, more
    than half the time would be the compiler's.
    """
    code = (
        "import time; start = time.process_time(); import retrograde; retrograde.solve;"
        "print(time.process_time() - start)"
    )
    there = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    there["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    assert min(float(fresh(code, there)) for _ in range(5)) < 0.15
