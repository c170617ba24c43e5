"""Packages that only an extra brings, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from ._errors import RetrogradeError

__all__ = ["MissingExtra", "require"]


class MissingExtra(RetrogradeError):
    """A package is missing that comes with an extra; the message is the command."""


def require(module: str, extra: str) -> Any:
    """Import what only an extra brings.

    Raises
    ------
    MissingExtra
        With the one command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise MissingExtra(f'this needs {name}: pip install "retrograde[{extra}]"') from None
