"""Every public name says what each of its parameters is, and shows a call that runs.

The examples themselves run with the tests (``--doctest-modules``).
"""

from __future__ import annotations

import inspect
import itertools

import pytest

import retrograde as rg
from retrograde import backend, interpolate, measure

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (rg, backend, interpolate, measure)
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
}


def described(doc):
    """Names with a description below them: numpydoc's ``name, name : type``."""
    lines = doc.splitlines()
    found = set()
    for line, below in itertools.pairwise(lines):
        if line and line[0] not in " `-" and below.startswith("    "):
            found |= {name.strip(" *") for name in line.partition(" : ")[0].split(",")}
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_an_example(name):
    thing = PUBLIC[name]
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert ">>> " in (own or ""), f"{name} has no example"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_is_described(name):
    thing = PUBLIC[name]
    try:
        parameters = inspect.signature(thing).parameters.values()
    except ValueError:  # an enum's, an exception's
        return
    names = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if inspect.isclass(thing) and not hasattr(thing, "__dataclass_fields__"):
        if not hasattr(thing, "_fields") and "__init__" not in vars(thing):
            return  # inherited
    missing = names - described(inspect.getdoc(thing) or "")
    assert not missing, f"{name}: {sorted(missing)} not described"
