"""What PyTorch's graphs are made of, as types: no behaviour."""

from __future__ import annotations

from typing import Any, TypeAlias

Ctx: TypeAlias = Any
"""What ``torch.autograd.Function`` keeps between its two passes."""

Graph: TypeAlias = Any
"""A program that ``torch.compile`` has traced, or runs."""

Ref: TypeAlias = Any
"""A setting of PyTorch's own: a mode, a mesh, a generator."""
