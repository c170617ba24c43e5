"""What JAX's programs are made of, as types: no behaviour."""

from __future__ import annotations

from typing import Any, TypeAlias

Jaxpr: TypeAlias = Any
"""A program, open or closed (``jax.extend.core``)."""

Eqn: TypeAlias = Any
"""One operation of a program."""

Var: TypeAlias = Any
"""What an operation reads or writes: a variable, or a literal."""

Axes: TypeAlias = Any
"""Which axis of each array is the batch's, if any is."""

Lowering: TypeAlias = Any
"""What MLIR's rules are given, and what they give."""

Ref: TypeAlias = Any
"""Settings of a primitive: shapes, axes, programs."""
